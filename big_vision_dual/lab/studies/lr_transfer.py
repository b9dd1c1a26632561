"""Does the best learning rate stay where it is when the model grows? Sizes by learning rates by seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_dual.lab.studies import fit, grid, settings
from big_vision_dual.lab.studies.results import Record
from big_vision_dual.models import family

_ADAM, _DUALIZE = range(-11, -4), range(-6, 1)  # log2 lr, one octave apart


@dataclasses.dataclass(frozen=True)
class Curve:
    """Loss against learning rate at one size. loss_LxS: learning rates by seeds, inf where a trial diverged."""

    size: int
    log2_lr_L: np.ndarray
    loss_LxS: np.ndarray
    optimum: fit.Optimum

    @property
    def lowest(self) -> float:
        """The lowest measured loss, mean over seeds: a fitted one far below it is no loss that any run would have."""
        return float(self.loss_LxS.mean(axis=1).min())


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Curves of one setting, by size, and how their optimum moves.

    per_doubling: octaves of learning rate for each doubling of the size, least squares over all sizes.
    total: the same line from the smallest size to the largest. Each with its 95 % bootstrap interval over seeds.
    """

    setting: str
    axis: str
    curves: tuple[Curve, ...]
    per_doubling: fit.Interval
    total: fit.Interval


def octaves(setting: str, given: str | None = None) -> range:
    """log2 learning rates: 'LOW:HIGH', both included, or the setting's own default."""
    if given is None:
        return _DUALIZE if setting.startswith("dualize") else _ADAM
    try:
        low, high = map(int, given.split(":"))
        if low >= high:
            raise ValueError
    except ValueError:
        raise ValueError(f"log2 learning rates {given!r}; possible: LOW:HIGH such as -11:-4, LOW below HIGH.") from None
    return range(low, high + 1)


def field(base: Mapping[str, Any], axis: str) -> str:
    """The dotted field of the base config that an axis changes: 'width' or 'depth', as the model's record has it, or
    an option of the model's own. Raises `ValueError` for a model without a width or depth.
    """
    of_model = family.of(base["model_name"])
    name = {"width": of_model.width, "depth": of_model.depth}.get(axis, axis)
    if name is None:
        raise ValueError(f"{base['model_name']} has no {axis}; choose the other axis.")
    return f"model.{name}"


def sized(base: Mapping[str, Any], axis: str, size: int) -> grid.Config:
    """The base config at another size along an axis; raises as `field`."""
    return grid.replace(base, {field(base, axis): size})


def trials(
    base: Mapping[str, Any], setting: str, axis: str, sizes: Sequence[int], log2_lrs: Sequence[float], seeds: int
) -> list[grid.Trial]:
    """The grid of one setting."""
    made = []
    for size in sizes:
        config = settings.apply(setting, sized(base, axis, size))
        axes = {"lr": [2.0**x for x in log2_lrs], "seed": range(seeds)}
        made += grid.product(config, axes, point={"setting": setting, axis: size})
    return made


def analyse(records: Sequence[Record], setting: str, axis: str, window: float = fit.WINDOW) -> Transfer:
    """Optima and drift from the records of one setting. The loss is the training loss of the last tenth."""
    sizes = sorted({record["point"][axis] for record in records})
    tables = [losses([r for r in records if r["point"][axis] == size]) for size in sizes]
    fitted = [fit.optimum(lrs, losses, window) for lrs, losses in tables]
    curves = tuple(Curve(size, *table, best) for size, table, best in zip(sizes, tables, fitted, strict=True))
    log2_sizes = np.log2(sizes)
    slopes_R = fit.slope(log2_sizes, np.stack([curve.optimum.resampled for curve in curves]))
    best = fit.slope(log2_sizes, np.array([[curve.optimum.log2_lr] for curve in curves]))[0]
    doublings = float(log2_sizes[-1] - log2_sizes[0])
    per_doubling = fit.Interval.of(best, slopes_R)
    total = fit.Interval.of(best * doublings, slopes_R * doublings)
    return Transfer(setting, axis, curves, per_doubling, total)


def losses(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """(log2 learning rates (L,), training losses (L, S)) of records with all pairs of lr and seed; inf if diverged."""
    lrs = sorted({record["point"]["lr"] for record in records})
    seeds = sorted({record["point"]["seed"] for record in records})
    loss_LxS = np.full((len(lrs), len(seeds)), np.inf)
    for record in records:
        place = lrs.index(record["point"]["lr"]), seeds.index(record["point"]["seed"])
        loss_LxS[place] = record["result"]["train_loss"] if record["result"]["finite"] else np.inf
    return np.log2(lrs), loss_LxS
