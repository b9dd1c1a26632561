"""Runs as one self-contained HTML page: summary, curves, every atom group's norms, the table, config differences."""

from __future__ import annotations

import html
import math
import pathlib
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import qualitative

from big_vision_dual.lab.report.run_files import RunFiles, differing_fields
from big_vision_dual.lab.report.table_view import arrange

_NORMS = ("weight_norm/", "update_norm/", "gradient_norm/")
_LOG = ("loss", "l2_", "_norm/")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .7em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
)


def write(runs: Sequence[RunFiles], path: pathlib.Path) -> None:
    """Writes the page; it holds its own copy of plotly.js, so that it opens anywhere, offline too."""
    figures = _figures(list(runs))
    parts = [figure.to_html(full_html=False, include_plotlyjs=i == 0) for i, figure in enumerate(figures)]
    title = ", ".join(run.label for run in runs)
    body = [f"<h1>{html.escape(title)}</h1>", _summary(runs), _differences(list(runs)), *parts]
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><html><head>{head}</head><body>{''.join(body)}</body></html>")


def _figures(runs: list[RunFiles]) -> list[go.Figure]:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    single = [name for name in names if not name.startswith(_NORMS)]
    figures = [_curves(runs, name) for name in sorted(single, key=_importance)]
    figures += [
        _groups(run, prefix) for run in runs for prefix in _NORMS if any(n.startswith(prefix) for n in run.metrics)
    ]
    return figures + [_table(run) for run in runs if run.table is not None]


def _importance(name: str) -> int:
    """Losses and accuracies first, then sizes, then what belongs to the machine."""
    order = ("training_loss", "val/", "test/", "train/", "l2_", "global_schedule")
    return next((rank for rank, start in enumerate(order) if name.startswith(start)), len(order))


def _curves(runs: list[RunFiles], name: str) -> go.Figure:
    colors = dict(zip([run.label for run in runs], qualitative.D3 * len(runs), strict=False))
    figure = go.Figure(layout=_layout(name, name))
    for run in runs:
        steps, values = run.curve(name)
        figure.add_scatter(x=steps, y=values, name=run.label, line_color=colors[run.label], mode="lines+markers")
    return figure


def _groups(run: RunFiles, prefix: str) -> go.Figure:
    figure = go.Figure(
        layout=_layout(f"{run.label}: {prefix.removesuffix('/').replace('_', ' ')} by atom group", prefix)
    )
    for name in (name for name in run.metrics if name.startswith(prefix)):
        steps, values = run.curve(name)
        figure.add_scatter(x=steps, y=values, name=name.removeprefix(prefix), mode="lines")
    return figure


def _table(run: RunFiles) -> go.Figure:
    assert run.table is not None
    grid = arrange(run.table)
    logs = [[math.log10(value) if value else None for value in layer] for layer in grid.values]
    heat = go.Heatmap(
        z=logs, x=grid.columns, y=grid.layers, customdata=grid.values, colorbar_title="log10",
        hovertemplate="%{y} %{x}: %{customdata:.4g}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat, layout=dict(title=f"{run.label}: target norms", height=180 + 26 * len(grid.layers)))
    figure.update_yaxes(autorange="reversed")
    return figure


def _layout(title: str, name: str) -> dict:
    kind = "log" if any(part in name for part in _LOG) else "linear"
    return dict(title=title, height=380, xaxis_title="step", yaxis_type=kind, template="plotly_white")


def _summary(runs: Sequence[RunFiles]) -> str:
    names = [
        name for name in ("training_loss", "val/loss", "val/acc@1", "l2_params", "img/sec") if _any_has(runs, name)
    ]
    rows = [["run", "last step", *names]]
    for run in runs:
        values = [run.curve(name)[1] for name in names]
        rows.append([run.label, str(run.rows[-1]["step"]), *(f"{value[-1]:.4g}" if value else "" for value in values)])
    return _html_table(rows)


def _any_has(runs: Sequence[RunFiles], name: str) -> bool:
    return any(name in run.metrics for run in runs)


def _differences(runs: list[RunFiles]) -> str:
    fields = differing_fields(runs)
    if not fields:
        return ""
    rows = [["config field", *(run.label for run in runs)]]
    rows += [[field, *("" if value is None else str(value) for value in values)] for field, values in fields]
    return "<h2>What differs</h2>" + _html_table(rows)


def _html_table(rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(rows[0], 'th')}{''.join(line(row, 'td') for row in rows[1:])}</table>"
