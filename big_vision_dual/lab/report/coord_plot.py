"""Coordinate checks as pictures: one panel a step, one line a module, as the muP papers draw them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from big_vision_dual.lab.report import pictures

Values = Mapping[str, np.ndarray]  # {module: sizes by steps}, the mean over seeds, step 0 included

_LABELS = {"change": "RMS change since init", "rms": "RMS", "mean_abs": "mean absolute value"}


def draw(
    settings: Mapping[str, Values], sizes: Sequence[int], axis: str, statistic: str, path: str | os.PathLike[str]
) -> None:
    """Rows: settings; columns: steps from 1 on. A statistic of `lab.studies.coord_check` against size, a line a module.

    The same module of all layers has one colour and one entry in the legend.
    """
    some = next(iter(settings.values()))
    steps = next(iter(some.values())).shape[1] - 1
    colours = {kind: f"C{i % 10}" for i, kind in enumerate(dict.fromkeys(map(_kind, some)))}
    figure = Figure(figsize=(2.2 * steps + 2, 2.4 * len(settings) + 0.6), layout="constrained")
    rows = figure.subplots(len(settings), steps, sharex=True, sharey="row", squeeze=False)
    for panels, (setting, values) in zip(rows, settings.items(), strict=True):
        for step, panel in enumerate(panels, 1):
            for module, value_ZxT in values.items():
                kind = _kind(module)
                style = {"color": colours[kind], "label": kind, "markersize": 3, "linewidth": 1, "alpha": 0.7}
                panel.plot(sizes, value_ZxT[:, step], _style(module), **style)
            panel.set(xscale="log", yscale="log", title=f"{setting}, step {step}")
            panel.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
            panel.minorticks_off()
        panels[0].set_ylabel(_LABELS[statistic])
    for panel in rows[-1]:
        panel.set_xlabel(axis)
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(dict(zip(labels, handles, strict=True)).values(), colours, loc="outside right upper", fontsize=7)
    pictures.save(figure, path)


def _kind(module: str) -> str:
    """'layer03 delta' -> 'delta'."""
    return re.sub(r"^(layer|block)\d+ ", "", module)


def _style(module: str) -> str:
    return "s--" if module == "logits" else "^:" if module.endswith("logits") else "o-"
