"""Loss and accuracy of runs as one picture, for a document; the page (`run_page`) has everything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_dual.lab.report import pictures

Rows = Sequence[Mapping[str, float]]


def draw(runs: Mapping[str, Rows], path: str | os.PathLike[str]) -> None:
    """Two panels, training loss and test accuracy. runs: {label: metric rows}."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    curves(loss, accuracy, runs)
    pictures.save(figure, path)


def curves(loss: Any, accuracy: Any, runs: Mapping[str, Rows]) -> None:
    """Draws the runs into two axes: training loss, logarithmic, and 'val/acc@1'."""
    for label, rows in runs.items():
        loss.plot(*_curve(rows, "training_loss"), label=label)
        accuracy.plot(*_curve(rows, "val/acc@1"), marker="o", label=label)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    accuracy.set(xlabel="step", ylabel="test accuracy")
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)


def _curve(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in found], [value for _, value in found]
