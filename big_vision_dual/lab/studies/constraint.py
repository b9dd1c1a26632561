"""What each constraint does at its own best learning rate, and whether the best (lr, radius) stays as training grows.

Both train as the ViT recipes do, with masses that stay (`settings.BALANCED_MASSES`), so that what was found can be run
again; for thousands of steps, since fewer do not show decay.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_dual.lab.studies import fit, grid, lr_transfer, settings, size, sweep
from big_vision_dual.lab.studies.results import Record, Results

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "none": size.CONSTRAINTS["none"],
    **size.CONSTRAINTS,
    "wd 1e-3": {"wd": 1e-3},
    "cautious wd 1e-3": {"wd": 1e-3, "weight_constraint": {"kind": "decay", "cautious": True}},
    "cautious radius 25": {"wd": 0.0, "weight_constraint": {"kind": "radius", "radius": 25.0, "cautious": True}},
}
LOG2_LRS = (-6, -5, -4, -3, -2)
HELD_OUT = ("[:90%]", "[90%:]")  # of the training split: what a rate is tuned on
_EXTENSIONS = 2  # octaves that a constraint's grid may grow by, while its best rate is at the edge

FACTORS = {"steps": 4, "depth": 8, "width": 8}
LRS, RADII = tuple(2.0**x for x in (-4, -3, -2)), (10.0, 30.0, 90.0)
NEIGHBOURS = {"the best": (1, 1), "lr / 2": (0.5, 1), "2 lr": (2, 1), "R / 3": (1, 1 / 3), "3 R": (1, 3)}
"""{name: factors on the learning rate and the radius that are best at the base's size}."""


@dataclasses.dataclass(frozen=True)
class Best:
    """A constraint at its best learning rate. loss_S, test_loss_S, accuracy_S: of fresh seeds, there.

    growth_S: l2 norm of all parameters, end over start. tuned: {log2 lr: held-out loss of the seed that tuned it}.
    """

    log2_lr: int
    tuned: Mapping[int, float]
    loss_S: np.ndarray
    test_loss_S: np.ndarray
    accuracy_S: np.ndarray
    growth_S: np.ndarray

    @property
    def at_edge(self) -> bool:
        return self.log2_lr in (min(self.tuned), max(self.tuned))


def at_their_best(
    base: Mapping[str, Any], seeds: int, results: Results, constraints: Sequence[str] = tuple(CONSTRAINTS)
) -> dict[str, Best]:
    """{constraint: what it does}: rates tuned on seed 0 and held-out images of the training split, then seeds 1 and on.

    Raises `ValueError` where the training split is a part already.
    """
    tuning, tuned = _held_out(base), {name: {} for name in constraints}
    wanted = {name: list(LOG2_LRS) for name in constraints}
    while any(wanted.values()):
        trials = [trial for name, octaves in wanted.items() for trial in _trials(tuning, name, octaves, [0])]
        for record in sweep.run(trials, results)[0]:
            tuned[record["point"]["constraint"]][round(np.log2(record["point"]["lr"]))] = _number(record, "val_loss")
        wanted = {name: _beyond(losses) for name, losses in tuned.items()}
    best = {name: min(losses, key=losses.__getitem__) for name, losses in tuned.items()}
    fresh = range(1, seeds + 1)
    records, _ = sweep.run([trial for name in best for trial in _trials(base, name, [best[name]], fresh)], results)
    found = {}
    for index, (name, log2_lr) in enumerate(best.items()):
        own = records[index * seeds : (index + 1) * seeds]
        train_S, val_S, accuracy_S = (
            np.array([_number(r, what) for r in own]) for what in ("train_loss", "val_loss", "val_accuracy")
        )
        growth_S = np.array([r["result"]["l2_params"] / r["result"]["start"]["l2_params"] for r in own])
        found[name] = Best(log2_lr, tuned[name], train_S, val_S, accuracy_S, growth_S)
    return found


def _trials(base: Mapping[str, Any], name: str, log2_lrs: Sequence[int], seeds: Sequence[int]) -> list[grid.Trial]:
    config = grid.replace(settings.apply("dualize_balanced", base), CONSTRAINTS[name])
    return grid.product(config, {"lr": [2.0**x for x in log2_lrs], "seed": seeds}, point={"constraint": name})


def _held_out(base: Mapping[str, Any]) -> grid.Config:
    """The base config, training on nine tenths of its split and validating on the tenth."""
    given = base["input"]["data"]
    if "[" in given["split"]:
        raise ValueError(f"config.input.data.split is {given['split']!r}; possible: a whole split, to be held out of.")
    kept, held_out = ({**given, "split": given["split"] + part} for part in HELD_OUT)
    return grid.replace(base, {"input.data": kept, "evals.val.data": held_out})


def _beyond(losses: Mapping[int, float]) -> list[int]:
    """The next octave, where the best of those run is at the edge; none after so many extensions, or inside."""
    best, low, high = min(losses, key=losses.__getitem__), min(losses), max(losses)
    if len(losses) >= len(LOG2_LRS) + _EXTENSIONS or best not in (low, high):
        return []
    return [low - 1] if best == low else [high + 1]


def _number(record: Record, what: str) -> float:
    """A result; inf of a run that diverged."""
    return record["result"][what] if record["result"]["finite"] else np.inf


@dataclasses.dataclass(frozen=True)
class Transfer:
    """losses at the base's size by (lr, radius), and at each larger size by `NEIGHBOURS`; training losses of S seeds.

    Those of runs that diverged are inf.
    """

    base: Mapping[tuple[float, float], np.ndarray]
    grown: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def best(self) -> tuple[float, float]:
        """(lr, radius) of the lowest mean loss at the base's size."""
        return min(self.base, key=lambda point: self.base[point].mean())

    def regret(self, size: str) -> np.ndarray:
        """(S,): by how much the base's best is above the lowest of itself and its neighbours at another size."""
        losses = self.grown[size]
        return losses["the best"] - min(losses.values(), key=np.mean)


def transfer(base: Mapping[str, Any], seeds: int, results: Results) -> Transfer:
    """A grid of rates and radii at the base's size; its best and neighbours at `FACTORS` times width, depth, steps."""
    sizes = sized(base)
    points = list(itertools.product(LRS, RADII))
    at_base = Transfer(_losses(base, "base", points, range(seeds), results), {})
    lr, radius = at_base.best
    near = {name: (lr * of_lr, radius * of_radius) for name, (of_lr, of_radius) in NEIGHBOURS.items()}
    parts = [
        {size: _losses(config, size, list(near.values()), [seed], results) for size, config in sizes.items()}
        for seed in range(seeds)  # one after another: what an interrupted study has is whole seeds
    ]
    grown = {
        size: {name: np.concatenate([part[size][point] for part in parts]) for name, point in near.items()}
        for size in sizes
    }
    return Transfer(at_base.base, grown)


def _losses(
    base: Mapping[str, Any], size: str, points: Sequence[tuple[float, float]], seeds: Sequence[int], results: Results
) -> dict[tuple[float, float], np.ndarray]:
    """{(lr, radius): training losses (S,)}."""
    trials = []
    for lr, radius in points:
        fields = {"wd": 0.0, "lr": lr, "weight_constraint": {"kind": "radius", "radius": radius}}
        config = grid.replace(settings.apply("dualize_balanced", base), fields)
        trials += grid.product(config, {"seed": seeds}, point={"size": size, "lr": lr, "radius": radius})
    values = [_number(record, "train_loss") for record in sweep.run(trials, results)[0]]
    return dict(zip(points, np.reshape(values, (len(points), len(seeds))), strict=True))


def sized(base: Mapping[str, Any]) -> dict[str, grid.Config]:
    """{name: the base grown along one axis}."""
    fields = {axis: "total_steps" if axis == "steps" else lr_transfer.field(base, axis) for axis in FACTORS}
    return {
        f"{axis} x {factor}": grid.replace(base, {fields[axis]: factor * grid.get(base, fields[axis])})
        for axis, factor in FACTORS.items()
    }


def difference(best: Best, reference: Best) -> tuple[fit.Interval, fit.Interval]:
    """(change of training loss, change of accuracy) against another constraint, paired over seeds."""
    return (
        fit.mean_interval(best.loss_S - reference.loss_S),
        fit.mean_interval(best.accuracy_S - reference.accuracy_S),
    )
