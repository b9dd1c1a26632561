"""A muP table for people: one line a parameter, or one for all layers whose rules are the same."""

from __future__ import annotations

import re

import rich.table

from big_vision_dual.models.mup import MupRow, MupTable

_LAYER = re.compile(r"_\d+/")


def table(mup: MupTable, leaves: bool = False) -> rich.table.Table:
    """Class, initial deviation and multipliers of each leaf; leaves: no layers are folded into one line."""
    view = rich.table.Table(
        title=f"{mup.model_name}, muP {mup.rules}: base width {mup.base_width}, Adam's epsilon {mup.adam_eps:g}",
        caption="factors on lr, on AdamW's lr * wd and on the leaf's input; 'drawn': as the model draws it",
    )
    view.add_column("leaf", overflow="fold")
    for column in ("class", "init std", "lr", "wd", "input"):
        view.add_column(column, justify="left" if column == "class" else "right", no_wrap=True)
    lines = [_cells(row) for row in mup.rows]
    for path, *cells in lines if leaves else dict.fromkeys((_LAYER.sub("_*/", path), *rest) for path, *rest in lines):
        view.add_row(path, *cells)
    return view


def _cells(row: MupRow) -> tuple[str, ...]:
    std = "drawn" if row.init_std is None else f"{row.init_std:.4g}"
    return row.path, row.cls, std, *(f"{x:.4g}" for x in (row.lr_mult, row.wd_mult, row.output_mult))
