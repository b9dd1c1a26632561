"""Statistics of the leaderboard against scipy, steps to the target, and misses."""

import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from big_vision_dual.lab.track import board, race, rules, space

TRACK = rules.load(str(pathlib.Path(__file__).parent / "tiny.py"))


def outcome(entry, curves, losses, budget="short", finite=True):
    """Final runs with these held-out curves at steps 2 and 4, and test losses."""
    found = space.search({"lr": space.octaves(0)}, lambda p: p[0] ** 2, trials=3)
    finals = tuple(
        {"digest": f"{entry}{i}", "result": {
            "finite": finite, "train_loss": 1.0, "held_out_loss": curve[-1], "test_loss": loss, "test_accuracy": 0.5,
            "curve": {"step": [2, 4], "held_out_loss": list(curve)}}}
        for i, (curve, loss) in enumerate(zip(curves, losses, strict=True))
    )  # fmt: skip
    return race.Outcome(entry, budget, found, {"lr": 1.0}, finals)


def test_the_z_test_is_scipys_with_sigmas_taken_as_known():
    rng = np.random.default_rng(0)
    for gap in (-0.5, 0.0, 0.3, 2.0):
        a, b = rng.normal(1.0, 0.3, 5), rng.normal(1.0 + gap, 0.2, 7)
        z = (b.mean() - a.mean()) / math.sqrt(a.var(ddof=1) / 5 + b.var(ddof=1) / 7)
        ours = board.z_test(board.Stat.of(list(a)), board.Stat.of(list(b)))
        assert ours == pytest.approx(stats.norm.sf(z), rel=1e-12)
    assert math.isnan(board.z_test(board.Stat.of([1.0]), board.Stat.of([1.0, 2.0])))
    assert board.z_test(board.Stat.of([1.0, 1.0]), board.Stat.of([2.0, 2.0])) == 0


def test_the_target_is_the_best_references_mean_and_runs_that_miss_it_are_counted():
    reference = outcome("adam", [(0.9, 0.5), (0.9, 0.7)], [0.5, 0.7])
    fast = outcome("fast", [(0.6, 0.4), (0.7, 0.65)], [0.4, 0.5])
    made = board.make(TRACK, [reference, fast], {"fast0": 0.5, "fast1": 0.2})
    (standing,) = made.standings
    assert standing.target == pytest.approx(0.6)
    row = {row.entry: row for row in standing.rows}
    assert (row["fast"].steps_to_target.mean, row["fast"].steps_to_target.n, row["fast"].misses) == (2.0, 1, 1)
    assert (row["adam"].steps_to_target.mean, row["adam"].misses) == (4.0, 1)
    assert row["fast"].seconds == pytest.approx(2 * 0.2)
    assert [row.entry for row in standing.rows] == ["fast", "adam"]
    assert standing.curves["fast"] == ([2, 4], pytest.approx([0.65, 0.525]))


def test_runs_that_are_not_finite_count_as_misses_and_not_in_the_means():
    broken = outcome("broken", [(0.1, 0.1), (0.1, 0.1)], [0.1, 0.1], finite=False)
    reference = outcome("adam", [(0.9, 0.5)], [0.5])
    (standing,) = board.make(TRACK, [broken, reference], {}).standings
    last = standing.rows[-1]
    assert (last.entry, last.misses, last.loss.n) == ("broken", 2, 0)
    assert last.marks == ("NaN in 2 of 2 final runs",)
