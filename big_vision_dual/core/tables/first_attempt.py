"""What the first public dualized ViT's code did to its table besides its conventions: two steps, each on a table.

Both are reproduced to be compared with, not recommended (docs/first_attempt.md says where they come from).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from big_vision_dual.core.tables.schema import Row, TargetNormTable

_SHARED = re.compile(r"(.*/LayerNorm)_0(/.*)")


def share_layer_norms(table: TargetNormTable, untared: Callable[[Row], float] = lambda _: 1.0) -> TargetNormTable:
    """Both LayerNorms of a block as one object, which that code made them: our algebra refuses such a tree.

    Setting the mass of all blocks (`tare`, a factor r on every atom of theirs) reached the object twice, so its mass is
    r^2; and the dry run visited it twice, so LayerNorm_1's budget, the later one, also stands for LayerNorm_0. The
    total mass, computed before, did not follow. untared: the mass of an atom before `tare`.
    """
    rows = table.by_key()
    pairs = {f"{m[1]}_0{m[2]}": f"{m[1]}_1{m[2]}" for m in map(_SHARED.fullmatch, rows) if m}
    kept = {later: _tared_again(rows[later], untared(rows[later])) for later in pairs.values() if later in rows}
    first = {key: kept[later] for key, later in pairs.items() if later in kept}

    def of(row: Row) -> Row:
        source = kept.get(row.key) or first.get(row.key)
        values = ("mass", "sensitivity", "target_norm")
        return row if source is None else dataclasses.replace(row, **{name: getattr(source, name) for name in values})

    return dataclasses.replace(table, rows=tuple(map(of, table.rows)))


def _tared_again(row: Row, before: float) -> Row:
    ratio = _map(row.mass, lambda mass: mass / before)
    values: dict[str, Any] = {
        name: _map(getattr(row, name), lambda x, r: x * r, ratio) for name in ("mass", "target_norm")
    }
    return dataclasses.replace(row, **values)


def _map(value: Any, function: Callable[..., float], *others: Any) -> Any:
    """function(value, ...) of numbers, or layer by layer of tuples."""
    return tuple(map(function, value, *others)) if isinstance(value, tuple) else function(value, *others)


def biases_per_head(table: TargetNormTable) -> TargetNormTable:
    """Biases of shape (heads, d_head), as of query, key and value, as one Bias a head: each head moves at full size."""

    def of(row: Row) -> Row:
        if row.atom != "Bias" or len(row.fan_out) != 2 or row.fan_out[1] != row.fan_out[0] + 1:
            return row
        return dataclasses.replace(row, batch=(*row.batch, row.fan_out[0]), fan_out=row.fan_out[1:])

    return dataclasses.replace(table, rows=tuple(map(of, table.rows)))
