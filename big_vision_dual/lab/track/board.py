"""The leaderboard of a race: what each entry reached, in how many steps, and which differences stand."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_dual.lab.track.race import Outcome
from big_vision_dual.lab.track.rules import Track

P = 0.001  # one-sided: below it a difference counts (modded-nanoGPT's track 3)
LOSS = "test_loss"  # by which entries are compared


@dataclasses.dataclass(frozen=True)
class Stat:
    """mean, sigma (of one run, n - 1 degrees of freedom; NaN for n = 1) and n."""

    mean: float
    sigma: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        if not values:
            return cls(math.nan, math.nan, 0)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))

    def __format__(self, spec: str) -> str:
        """'mean ± sigma', or '-' for no values."""
        if not self.n:
            return "-"
        return f"{self.mean:{spec}}" + (f" ± {self.sigma:{spec}}" if math.isfinite(self.sigma) else "")


@dataclasses.dataclass(frozen=True)
class Row:
    """An entry at a budget. results: by name, over the finite final runs. misses: of the runs, that had no target loss.

    seconds: to the target, mean steps times the fastest seconds a step; NaN where unknown. marks: what is wrong.
    """

    entry: str
    fields: Mapping[str, Any]
    results: Mapping[str, Stat]
    steps_to_target: Stat
    misses: int
    step_seconds: float
    marks: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return self.steps_to_target.mean * self.step_seconds

    @property
    def loss(self) -> Stat:
        return self.results[LOSS]


@dataclasses.dataclass(frozen=True)
class Standing:
    """A budget's rows, the best first. target: held-out loss, NaN without references. ahead: p of `z_test` by pair.

    curves: {entry: (step, mean held-out loss) of the finite final runs}.
    """

    budget: str
    steps: int
    target: float
    rows: tuple[Row, ...]
    ahead: Mapping[tuple[str, str], float]
    curves: Mapping[str, tuple[list[int], list[float]]]


@dataclasses.dataclass(frozen=True)
class Board:
    """A track's leaderboards. unfinished: {budget: entries without all of their final runs}."""

    track: Track
    standings: tuple[Standing, ...]
    unfinished: Mapping[str, tuple[str, ...]]


def z_test(a: Stat, b: Stat) -> float:
    """p of the one-sided test that a's true mean is below b's, sigmas taken as known (as track 3 does).

    z = (mean_b - mean_a) / sqrt(sigma_a^2/n_a + sigma_b^2/n_b), p = erfc(z / sqrt 2) / 2. NaN for fewer than 2 runs.
    """
    if min(a.n, b.n) < 2:
        return math.nan
    error, gap = math.sqrt(a.sigma**2 / a.n + b.sigma**2 / b.n), b.mean - a.mean
    if error == 0:
        return 0.5 if gap == 0 else float(gap < 0)
    return math.erfc(gap / error / math.sqrt(2)) / 2


def make(track: Track, outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> Board:
    """The leaderboard of what a race has run."""
    standings, unfinished = [], {}
    names = list(dict.fromkeys(outcome.entry for outcome in outcomes))
    for budget, limits in track.budgets.items():
        finished = [o for o in outcomes if o.budget == budget and o.finals]
        unfinished[budget] = tuple(name for name in names if name not in {o.entry for o in finished})
        if finished:
            standings.append(_standing(track, budget, limits.steps, finished, seconds))
    return Board(track, tuple(standings), {budget: names for budget, names in unfinished.items() if names})


def _standing(
    track: Track, budget: str, steps: int, outcomes: Sequence[Outcome], seconds: Mapping[str, float]
) -> Standing:
    reached = [_stat(o, "held_out_loss").mean for o in outcomes if o.entry in track.references and _finite(o)]
    target = min(reached, default=math.nan)
    rows = sorted((_row(o, target, seconds) for o in outcomes), key=lambda row: (not row.loss.n, row.loss.mean))
    ahead = {(a.entry, b.entry): z_test(a.loss, b.loss) for a in rows for b in rows if a is not b}
    curves = {o.entry: _mean_curve(o) for o in outcomes if _finite(o)}
    return Standing(budget, steps, target, tuple(rows), ahead, curves)


def _row(outcome: Outcome, target: float, seconds: Mapping[str, float]) -> Row:
    finals = outcome.finals or ()
    names = ("train_loss", "held_out_loss", "test_loss", "test_accuracy")
    crossings = [_crossing(record["result"]["curve"], target) for record in _finite(outcome)]
    hits = [step for step in crossings if step is not None]
    clock = [seconds[record["digest"]] for record in finals if record["digest"] in seconds]
    return Row(
        outcome.entry, outcome.fields, {name: _stat(outcome, name) for name in names}, Stat.of(hits),
        len(finals) - len(hits), min(clock, default=math.nan), _marks(outcome),
    )  # fmt: skip


def _marks(outcome: Outcome) -> tuple[str, ...]:
    marks = []
    if outcome.found.diverged:
        marks.append("every trial diverged")
    if outcome.found.open:
        marks.append(f"trials ended before both sides were worse: {', '.join(outcome.found.open)}")
    if broken := len(outcome.finals or ()) - len(_finite(outcome)):
        marks.append(f"NaN in {broken} of {len(outcome.finals or ())} final runs")
    return tuple(marks)


def _finite(outcome: Outcome) -> list[dict[str, Any]]:
    return [record for record in outcome.finals or () if record["result"]["finite"]]


def _stat(outcome: Outcome, name: str) -> Stat:
    return Stat.of([record["result"][name] for record in _finite(outcome)])


def _crossing(curve: Mapping[str, list[float]], target: float) -> int | None:
    """The first measured step whose held-out loss is at most the target."""
    pairs = zip(curve["step"], curve["held_out_loss"], strict=True)
    return next((int(step) for step, loss in pairs if loss <= target), None)


def _mean_curve(outcome: Outcome) -> tuple[list[int], list[float]]:
    curves = [record["result"]["curve"] for record in _finite(outcome)]
    losses = zip(*(curve["held_out_loss"] for curve in curves), strict=True)
    return [int(step) for step in curves[0]["step"]], [statistics.fmean(point) for point in losses]
