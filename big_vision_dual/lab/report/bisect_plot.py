"""Effects of switches as bars, norms of parameters and sizes of atoms over a training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from big_vision_dual.lab.report import pictures
from big_vision_dual.lab.studies.size import Sizes

Bar = tuple[str, float, float, float]  # label, estimate, low, high
_SHOWN = ("embedding/kernel", "query/kernel", "Dense_1/kernel", "head/kernel")  # of the pictures of sizes


def effects(panels: Mapping[str, Sequence[Bar]], path: str | os.PathLike[str]) -> None:
    """One panel an end: change of loss with its 95 % interval; to the right of 0 is worse."""
    rows = max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(5.5 * len(panels), 1.2 + 0.28 * rows), layout="constrained")
    for axes, (title, bars) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        labels, values, low, high = zip(*bars, strict=True)
        places = np.arange(len(bars))
        axes.errorbar(values, places, xerr=[np.subtract(values, low), np.subtract(high, values)], fmt="o", capsize=3)
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(places, labels, fontsize=8)
        axes.locator_params(axis="x", nbins=6)  # longer ticks than that run into each other
        axes.invert_yaxis()
        axes.set(title=title, xlabel="change of training loss (right: worse)")
    pictures.save(figure, path)


def growth(runs: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike[str]) -> None:
    """{label: (steps (T,), l2 norms of the parameters relative to the start, seeds by T)}, both axes logarithmic."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (label, (steps_T, norms_SxT)) in enumerate(runs.items()):
        axes.plot(steps_T, norms_SxT.mean(axis=0), color=f"C{index}", label=label)
        axes.fill_between(steps_T, norms_SxT.min(axis=0), norms_SxT.max(axis=0), color=f"C{index}", alpha=0.2)
    axes.set(xlabel="step", ylabel="l2 norm of the parameters / at start", yscale="log")
    axes.legend(fontsize=8)
    pictures.save(figure, path)


def sizes(runs: Mapping[str, Sizes], path: str | os.PathLike[str]) -> None:
    """{run: sizes}: measured (lines, mean over seeds) and predicted (dashes) sizes of a few kernels, a panel a run."""
    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for panel, (name, run) in zip(panels, runs.items(), strict=False):
        for index, entry in enumerate(entry for entry in run.entries if entry[0].endswith(_SHOWN)):
            place = run.entries.index(entry)
            label = entry[0].split("/")[-2] + ("" if entry[1] is None else f" {entry[1]}")
            panel.plot(run.steps_T, run.measured_SxTxE[:, :, place].mean(axis=0), color=f"C{index}", label=label)
            panel.plot(run.steps_T, run.predicted_TxE[:, place], "--", color=f"C{index}")
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, high / 2), max(high, 2 * low))  # what a hyperball holds still shall look so
        panel.set_title(name, fontsize=9)
    for panel in panels[len(runs) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=7)
    figure.supxlabel("step")
    figure.supylabel("size: measured (line), predicted (dashes)")
    pictures.save(figure, path)
