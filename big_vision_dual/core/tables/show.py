"""A table as text and as HTML for a notebook cell. Standard library only."""

from __future__ import annotations

import html as html_lib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from big_vision_dual.core.tables.schema import Row, TargetNormTable

_MOST = 200  # rows shown
_HEADER = ("parameter", "atom", "shape", "mass", "sensitivity", "target norm")
_RIGHT = 3  # columns from here on are numbers


def text(table: TargetNormTable) -> str:
    """One row a line under a heading, and what a flat table guessed."""
    cells = [_HEADER, *_cells(table)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADER))]
    lines = ["  ".join(_padded(row, widths)).rstrip() for row in cells]
    return "\n".join([_heading(table), *lines, *_notes(table)])


def html(table: TargetNormTable) -> str:
    """The same as an HTML table; all texts are escaped."""
    escape = html_lib.escape
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEADER)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _cells(table))
    notes = "".join(f"<br>{escape(note)}" for note in _notes(table))
    return (
        f"<div><b>{escape(_heading(table))}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"{notes}</div>"
    )


def _heading(table: TargetNormTable) -> str:
    return (
        f"target norms of {table.title}: {len(table.rows)} rows, mass {table.mass:.4g}, "
        f"sensitivity {table.sensitivity:.4g}"
    )


def _cells(table: TargetNormTable) -> list[Sequence[str]]:
    shown = table.rows if len(table.rows) <= _MOST else table.rows[: _MOST - 1]
    cells: list[Sequence[str]] = [_row(row) for row in shown]
    if len(shown) < len(table.rows):
        cells.append((f"and {len(table.rows) - len(shown)} more", *[""] * (len(_HEADER) - 1)))
    return cells


def _row(row: Row) -> Sequence[str]:
    numbers = (_number(value) for value in (row.mass, row.sensitivity, row.target_norm))
    return (row.key or "(the tree)", row.atom, " x ".join(map(str, row.shape)) or "()", *numbers)


def _number(value: float | tuple[float, ...]) -> str:
    """One number, or the least and the largest of a stack."""
    values = value if isinstance(value, tuple) else (value,)
    least, largest = min(values, default=0), max(values, default=0)
    return f"{least:.4g}" if least == largest else f"{least:.4g} .. {largest:.4g}"


def _notes(table: TargetNormTable) -> list[str]:
    guessed = table.norms.get("guessed")
    guesses: Iterable[tuple[str, str]] = guessed.items() if isinstance(guessed, dict) else ()
    return [f"guessed: {path} is {what}" for path, what in guesses][:_MOST]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if column >= _RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
