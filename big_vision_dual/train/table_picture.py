"""A table of target norms as a picture: one bar a row, for those who look at a run from afar."""

from __future__ import annotations

import io

from big_vision_dual.core.tables import TargetNormTable

_INCHES_PER_ROW = 0.16


def png(table: TargetNormTable) -> bytes:
    """Bars of target norms on a logarithmic axis, rows in the order of the forward pass, a colour per kind of atom."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = table.rows[::-1]
    kinds = sorted({row.atom for row in rows})
    figure = Figure(figsize=(8, 1 + _INCHES_PER_ROW * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, kind in enumerate(kinds):
        places = [place for place, row in enumerate(rows) if row.atom == kind]
        axes.barh(places, [rows[place].target_norm for place in places], color=f"C{number}", label=kind)
    axes.set_yticks(range(len(rows)), [row.key for row in rows], fontsize=5)
    axes.set(xscale="log", xlabel="target norm", title=table.model_name, ylim=(-1, len(rows)))
    axes.legend()
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=100)
    return target.getvalue()
