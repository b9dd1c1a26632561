# pyright: reportAttributeAccessIssue=false
"""Optima, slopes and intervals against cases with known answers."""

import numpy as np
import pytest
from scipy import stats

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
    two = fit.slope_interval(np.array([4.0, 5.0]), np.array([1.0, 3.0]))
    assert (two.low, two.value, two.high) == (-np.inf, 2, np.inf)  # and no warning


@pytest.mark.parametrize("points", [3, 4, 8, 30])
def test_the_slope_and_its_interval_are_scipys(points):
    rng = np.random.default_rng(points)
    x_N, noise_N = rng.uniform(4, 9, points), rng.standard_normal(points)
    found = fit.slope_interval(x_N, -0.4 * x_N + noise_N)
    theirs = stats.linregress(x_N, -0.4 * x_N + noise_N)
    half = stats.t.ppf(0.975, points - 2) * theirs.stderr
    assert (found.low, found.value, found.high) == pytest.approx(
        (theirs.slope - half, theirs.slope, theirs.slope + half)
    )
    columns = rng.standard_normal((points, 3))
    assert fit.slope(x_N, columns) == pytest.approx([stats.linregress(x_N, column).slope for column in columns.T])


def test_a_slopes_interval_holds_the_truth_as_often_as_it_says():
    """2,000 draws with slope .5: 95 % of them, standard deviation .5 %."""
    rng, x_N = np.random.default_rng(0), np.array([4.0, 5.0, 6.0, 7.0, 8.0])
    found = [fit.slope_interval(x_N, 0.5 * x_N + rng.standard_normal(5)) for _ in range(2000)]
    assert np.mean([each.low < 0.5 < each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_a_mean_interval_is_scipys():
    values_S = np.random.default_rng(1).standard_normal(7)
    low, high = stats.t.interval(0.95, 6, values_S.mean(), stats.sem(values_S))
    found = fit.mean_interval(values_S)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_parabola_needs_three_points_and_opens_upwards():
    assert fit.parabola(np.array([0.0, 1.0]), np.array([2.0, 1.0])) == (1.0, 1.0)
    assert fit.parabola(LRS, -((LRS + 2.4) ** 2)) == (-6.0, pytest.approx(-(3.6**2)))
    assert fit.parabola(LRS, 0.01 * (LRS - 3.0) ** 2) == (0.0, pytest.approx(0.09))  # a vertex outside the window
    assert fit.parabola(LRS, 0.01 * (LRS - 1.5) ** 2) == pytest.approx((1.5, 0.0))  # and one inside, beyond the grid


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
