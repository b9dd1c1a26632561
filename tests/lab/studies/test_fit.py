"""Optima, slopes and intervals against cases with known answers."""

import numpy as np
import pytest

from big_vision_dual.lab.studies import fit

LRS = np.arange(-6.0, 1.0)


def test_the_vertex_of_a_parabola_is_found_between_grid_points():
    assert fit.parabola(LRS, 0.3 * (LRS + 2.4) ** 2 + 1.1) == pytest.approx((-2.4, 1.1))


def test_diverged_points_and_points_far_away_do_not_bend_it():
    losses = 0.3 * (LRS + 2.4) ** 2 + 1.1
    losses[-1], losses[-2] = np.inf, np.inf
    losses[0] = 50.0  # 4 octaves from the lowest
    assert fit.parabola(LRS, losses) == pytest.approx((-2.4, 1.1))


def test_a_narrow_window_keeps_a_cliff_out():
    losses = 0.01 * (LRS + 2.0) ** 2 + 2.2
    losses[-1] = 5.0  # 2 octaves from the lowest
    assert fit.parabola(LRS, losses)[1] < losses.min() - 0.1
    assert fit.parabola(LRS, losses, window=1.0) == pytest.approx((-2.0, 2.2))


def test_where_no_bottom_is_inside_the_lowest_point_counts_and_says_so():
    falling = fit.optimum(LRS, np.stack([5 - LRS, 5.1 - LRS], axis=1))
    assert falling.at_edge
    assert falling.log2_lr == 0.0


def test_the_bootstrap_interval_spans_the_seeds():
    bottoms = np.array([-2.5, -2.2, -1.9])
    best = fit.optimum(LRS, 0.3 * (LRS[:, None] - bottoms) ** 2 + 1)
    assert best.log2_lr == pytest.approx(-2.2)
    assert (best.interval.low, best.interval.high) == pytest.approx((-2.5, -1.9))
    assert not best.at_edge


def test_a_power_law_has_its_exponent_as_slope_and_noise_widens_the_interval():
    sizes = np.log2([16, 16, 32, 32, 64, 64])
    exact = fit.slope_interval(sizes, 0.7 * sizes + 3)
    assert (exact.low, exact.value, exact.high) == pytest.approx((0.7, 0.7, 0.7))
    noisy = fit.slope_interval(sizes, 0.7 * sizes + 3 + np.array([0.1, -0.1] * 3))
    assert noisy.low < 0.7 < noisy.high
    assert noisy.value == pytest.approx(0.7)


def test_a_paired_mean_has_students_interval():
    interval = fit.mean_interval(np.array([0.1, 0.2, 0.3]))
    assert interval.value == pytest.approx(0.2)
    assert interval.high - interval.value == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)  # t with 2 degrees


def test_five_intervals_that_hold_at_once_are_as_wide_as_bonferroni_says():
    alone = fit.mean_interval(np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]))
    together = fit.jointly(alone, count=5, seeds=6)
    error = np.std([0.1, 0.2, 0.3] * 2, ddof=1) / np.sqrt(6)
    assert together.high - together.value == pytest.approx(4.0321 * error, rel=1e-4)  # t table, 5 degrees, 1 %
    assert fit.jointly(alone, count=1, seeds=6).low == pytest.approx(alone.low)
