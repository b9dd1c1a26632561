"""The demo's picture: loss, accuracy, and the dualized updates measured against their target norms."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from big_vision_dual.core.dualize.measure import group_name
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.report import pictures, run_picture
from big_vision_dual.lab.report.run_picture import Rows


def draw(runs: Mapping[str, Rows], lr: float, table: TargetNormTable, path: str | os.PathLike[str]) -> None:
    """Three panels. runs: {label: metric rows}, the dualized run last; lr: of that run, before its schedule."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    loss, accuracy, norms = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    run_picture.curves(loss, accuracy, runs)
    _update_norms(norms, list(runs.values())[-1], lr, table)
    pictures.save(figure, path)


def _update_norms(axes, rows: Rows, lr: float, table: TargetNormTable) -> None:
    """Update norms over the learning rate in force, at the middle of the run, beside what the table asks for."""
    measured = [row for row in rows if any(name.startswith("update_norm/") for name in row)]
    row = measured[len(measured) // 2]
    targets: dict[str, list[float]] = {}
    for atom in table.rows:
        targets.setdefault(group_name(atom), []).append(float(np.mean(atom.target_norm)))
    groups = [group for group in targets if f"update_norm/{group}" in row]
    places = np.arange(len(groups))
    updates = [row[f"update_norm/{group}"] / (lr * row["global_schedule"]) for group in groups]
    axes.bar(places, [np.mean(targets[group]) for group in groups], color="0.85", label="target norm")
    axes.plot(
        places, updates, "_", markersize=12, markeredgewidth=2, label=f"update / learning rate, step {row['step']}"
    )
    axes.set_xticks(places, groups, rotation=60, ha="right", fontsize=7)
    axes.set_title("dualized updates, each in its atom's own norm", fontsize=10)
    axes.legend()
