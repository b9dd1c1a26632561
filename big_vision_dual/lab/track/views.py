"""A leaderboard as tables, a picture, one HTML page and JSON."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
import pathlib
from typing import Any

import rich.table
from matplotlib.figure import Figure

from big_vision_dual.core import files
from big_vision_dual.lab.track.board import Board, P, Row, Standing

_COLUMNS = (
    "entry",
    "test loss",
    "accuracy",
    "train loss",
    "steps to target",
    "seconds",
    "missed",
    "n",
    "ahead of",
    "at",
)
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .7em;text-align:right}"
    "td:first-child,th:first-child,td:last-child{text-align:left}img{max-width:100%}"
)


def tables(board: Board) -> list[rich.table.Table]:
    """One a budget."""
    made = []
    for standing in board.standings:
        view = rich.table.Table(*_COLUMNS, title=_title(board, standing), caption="\n".join(_notes(board, standing)))
        for row in standing.rows:
            view.add_row(*_cells(row, standing))
        made.append(view)
    return made


def write(board: Board, folder: pathlib.Path) -> list[pathlib.Path]:
    """leaderboard.{png,html,json,md} in a folder; those that were written. Nothing where nothing is finished."""
    if not board.standings:
        return []
    paths = {end: folder / f"leaderboard.{end}" for end in ("png", "html", "json", "md")}
    picture = io.BytesIO()
    _draw(board).savefig(picture, dpi=110, format="png", metadata={"Software": None})
    files.write(paths["png"], picture.getvalue())
    files.write(paths["html"], _page(board, picture.getvalue()))
    files.write(paths["json"], json.dumps(_plain(board), indent=1) + "\n")
    files.write(paths["md"], "\n".join(_markdown(board, standing) for standing in board.standings))
    return list(paths.values())


def _title(board: Board, standing: Standing) -> str:
    target = f"{standing.target:.4f}" if math.isfinite(standing.target) else "none: no reference has finished"
    return f"{board.track.name} {standing.budget}, {standing.steps} steps; target, a held-out loss: {target}"


def _notes(board: Board, standing: Standing) -> list[str]:
    notes = [f"mean ± sigma of a run; 'ahead of' in test loss by a one-sided z-test at p < {P}"]
    notes += [f"{row.entry}: {mark}" for row in standing.rows for mark in row.marks]
    if missing := board.unfinished.get(standing.budget):
        notes.append(f"not finished: {', '.join(missing)}")
    return notes


def _cells(row: Row, standing: Standing) -> tuple[str, ...]:
    beaten = [b for (a, b), p in standing.ahead.items() if a == row.entry and p < P]
    at = ", ".join(f"{name.rpartition('.')[2]} {_short(value)}" for name, value in row.fields.items())
    return (
        row.entry, f"{row.loss:.4f}", f"{row.results['test_accuracy']:.4f}", f"{row.results['train_loss']:.4f}",
        f"{row.steps_to_target:.0f}", f"{row.seconds:.1f}" if math.isfinite(row.seconds) else "-", str(row.misses),
        str(row.loss.n), ", ".join(beaten) or "-", at,
    )  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _markdown(board: Board, standing: Standing) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = line(("---", *["---:"] * (len(_COLUMNS) - 2), "---"))
    rows = [line(_cells(row, standing)) for row in standing.rows]
    notes = "\n".join(f"- {note}" for note in _notes(board, standing))
    return "\n".join([f"**{_title(board, standing)}**\n", line(_COLUMNS), rule, *rows, f"\n{notes}\n"])


def _page(board: Board, picture: bytes) -> str:
    def cells(values: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    parts = [f"<h1>Track {html.escape(board.track.name)}, version {board.track.version}</h1>"]
    for standing in board.standings:
        rows = "".join(cells(_cells(row, standing), "td") for row in standing.rows)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(board, standing))
        parts.append(f"<h2>{html.escape(_title(board, standing))}</h2><table>{cells(_COLUMNS, 'th')}{rows}</table>")
        parts.append(f"<ul>{notes}</ul>{_pairs(standing)}")
    encoded = base64.b64encode(picture).decode()
    parts.append(f"<img src='data:image/png;base64,{encoded}' alt='held-out loss and test loss of all entries'>")
    title = f"<title>{html.escape(board.track.name)}</title>"
    return f"<!doctype html><html><head><meta charset='utf-8'>{title}<style>{_STYLE}</style></head>" + (
        f"<body>{''.join(parts)}</body></html>"
    )


def _pairs(standing: Standing) -> str:
    """p of each pair, row ahead of column."""
    names = [row.entry for row in standing.rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for a in names:
        ps = "".join(f"<td>{'' if a == b else f'{standing.ahead[a, b]:.2g}'}</td>" for b in names)
        lines.append(f"<tr><td>{html.escape(a)}</td>{ps}</tr>")
    return (
        f"<p>p that a row's test loss is below a column's:</p><table><tr><th></th>{head}</tr>{''.join(lines)}</table>"
    )


def _plain(board: Board) -> dict[str, Any]:
    """As JSON: NaN is null."""
    track = {"name": board.track.name, "version": board.track.version, "digest": board.track.digest}
    standings = []
    for standing in board.standings:
        rows = [{**dataclasses.asdict(row), "seconds": row.seconds, "marks": list(row.marks)} for row in standing.rows]
        ahead = [{"entry": a, "of": b, "p": p} for (a, b), p in standing.ahead.items()]
        curves = {name: {"step": steps, "held_out_loss": loss} for name, (steps, loss) in standing.curves.items()}
        named = {"budget": standing.budget, "steps": standing.steps, "target": standing.target}
        standings.append({**named, "rows": rows, "ahead": ahead, "curves": curves})
    unfinished = {budget: list(names) for budget, names in board.unfinished.items()}
    return _no_nan({"track": track, "standings": standings, "unfinished": unfinished})


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _draw(board: Board) -> Figure:
    """A column a budget: held-out loss against steps with the target, and the final test losses with their sigma."""
    count = len(board.standings)
    names = sorted({row.entry for standing in board.standings for row in standing.rows})
    colors = {name: f"C{index % 10}" for index, name in enumerate(names)}
    figure = Figure(figsize=(6.2 * count, 7.5), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for column, standing in enumerate(board.standings):
        above, below = axes[0, column], axes[1, column]
        for row in standing.rows:
            if row.entry in standing.curves:
                steps, losses = standing.curves[row.entry]
                line = "--" if names.index(row.entry) >= 10 else "-"
                above.plot(steps, losses, line, color=colors[row.entry], label=row.entry)
        if math.isfinite(standing.target):
            above.axhline(standing.target, color="gray", linestyle=":")
        above.set(
            title=f"{board.track.name}, {standing.steps} steps", xlabel="step", ylabel="held-out loss", yscale="log"
        )
        above.legend(fontsize=7)
        shown = [row for row in reversed(standing.rows) if row.loss.n]
        for place, row in enumerate(shown):
            sigma = row.loss.sigma if math.isfinite(row.loss.sigma) else 0.0
            below.errorbar([row.loss.mean], [place], xerr=[sigma], fmt="o", color=colors[row.entry], capsize=3)
        below.set(xlabel="test loss, mean ± sigma of a run", xscale="log")
        below.set_yticks(range(len(shown)), [row.entry for row in shown])
    return figure
