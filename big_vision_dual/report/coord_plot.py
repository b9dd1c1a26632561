"""Coordinate checks as pictures: one panel a step, one line a module, as the muP papers draw them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

Values = Mapping[str, np.ndarray]  # {module: sizes by steps}, the mean over seeds, step 0 included

_LABELS = {"change": "RMS change since init", "rms": "RMS", "mean_abs": "mean absolute value"}


def draw(
    settings: Mapping[str, Values], sizes: Sequence[int], axis: str, statistic: str, path: str | os.PathLike[str]
) -> None:
    """Rows: settings; columns: steps from 1 on. A statistic of `studies.coord_check` against size, a line a module."""
    steps = next(iter(next(iter(settings.values())).values())).shape[1] - 1
    figure = Figure(figsize=(2.2 * steps + 2, 2.4 * len(settings) + 0.6), layout="constrained")
    rows = figure.subplots(len(settings), steps, sharex=True, sharey="row", squeeze=False)
    for panels, (setting, values) in zip(rows, settings.items(), strict=True):
        for step, panel in enumerate(panels, 1):
            for module, value_ZxT in values.items():
                panel.plot(sizes, value_ZxT[:, step], _style(module), label=module, markersize=3, linewidth=1)
            panel.set(xscale="log", yscale="log", title=f"{setting}, step {step}")
            panel.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
            panel.minorticks_off()
        panels[0].set_ylabel(_LABELS[statistic])
    for panel in rows[-1]:
        panel.set_xlabel(axis)
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.savefig(path, dpi=110)


def _style(module: str) -> str:
    return "s--" if module == "logits" else "^:" if module.endswith("logits") else "o-"
