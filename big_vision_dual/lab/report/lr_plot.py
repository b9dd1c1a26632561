"""Loss against learning rate, one line a size, and where the bottoms lie."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from big_vision_dual.lab.report import pictures
from big_vision_dual.lab.studies.lr_transfer import Curve


@dataclasses.dataclass(frozen=True)
class Line:
    """One size. loss_LxS: learning rates by seeds, inf where a trial diverged. best: log2 lr, and its interval."""

    label: str
    log2_lr_L: np.ndarray
    loss_LxS: np.ndarray
    best: tuple[float, float, float]
    lowest: float


def line(curve: Curve, axis: str) -> Line:
    """The line of one size of a study."""
    best = curve.optimum.interval
    numbers = (best.value, best.low, best.high)
    return Line(f"{axis} {curve.size}", curve.log2_lr_L, curve.loss_LxS, numbers, curve.optimum.loss)


def draw(panels: Mapping[str, Sequence[Line]], path: str | os.PathLike[str]) -> None:
    """One panel a setting: mean over seeds with the range of the seeds; the optimum with its interval as a bar."""
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axes, (title, lines) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
    ):
        for index, line in enumerate(lines):
            color = f"C{index}"
            loss_LxS = np.where(np.isfinite(line.loss_LxS), line.loss_LxS, np.nan)
            axes.plot(line.log2_lr_L, loss_LxS.mean(axis=1), "o-", color=color, label=line.label, markersize=3)
            axes.fill_between(line.log2_lr_L, loss_LxS.min(axis=1), loss_LxS.max(axis=1), color=color, alpha=0.15)
            best, low, high = line.best
            spread = [[max(0.0, best - low)], [max(0.0, high - best)]]
            axes.errorbar([best], [line.lowest], xerr=spread, fmt="*", color=color, capsize=3)
        axes.set(title=title, xlabel="log2 learning rate", ylabel="training loss, last tenth")
        axes.label_outer()
        axes.legend(fontsize=7)
    pictures.save(figure, path)
