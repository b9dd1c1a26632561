"""Does a table fit a parameter tree?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from big_vision_dual.core import trees
from big_vision_dual.core.tables.schema import Row, TableError, TargetNormTable


def check(table: TargetNormTable, params: Any) -> None:
    """Raises `TableError` that lists missing and extra paths and wrong shapes, both sides.

    params: any tree of arrays or `jax.ShapeDtypeStruct`s; what is masked out (`optax.MaskedNode`) is passed over.
    """
    tree = trees.walk(params)
    shapes = {path: leaf_shape(path, leaf) for path, leaf in tree.leaves.items()}
    rows = table.by_path()
    problems = [
        _listing("parameters without a row", (path for path in shapes if path not in rows)),
        _listing("rows without a parameter", (path for path in rows if not tree.covers(path))),
        _listing("other shapes", _wrong_shapes(rows, shapes)),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise TableError(
            f"the table of {table.title} does not fit these parameters: {'; '.join(found)}. "
            "Name the parameters' own paths and shapes in its norm tree (bvd.build_table), or for a model of ours "
            "build it with bvd norms build --config X, or take bvd.flat_table(params)."
        )


def leaf_shape(path: str, leaf: Any) -> tuple[int, ...]:
    """Raises `TableError` for a leaf that is no array and no number."""
    if isinstance(leaf, (int, float)):
        return ()
    shape = getattr(leaf, "shape", None)
    if not isinstance(shape, tuple):
        raise TableError(f"{path} is a {type(leaf).__name__}; possible: arrays, numbers, jax.ShapeDtypeStruct.")
    return tuple(int(size) for size in shape)


def _wrong_shapes(rows: Mapping[str, tuple[Row, ...]], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    for path, atoms in rows.items():
        whole = _whole_shape(atoms)
        if path in shapes and shapes[path] != whole:
            yield f"{path} is {whole} in the table, {shapes[path]} here"


def _whole_shape(rows: tuple[Row, ...]) -> tuple[int, ...]:
    """The shape of a leaf from its rows; slices must tile their axis."""
    if len(rows) == 1 and rows[0].slice is None:
        return rows[0].shape
    parts = sorted(row.slice or (0, 0, 0) for row in rows)
    axis, end = parts[0][0], 0
    for (other_axis, start, stop), row in zip(parts, rows, strict=True):
        if other_axis != axis or start != end or len(row.shape) != len(rows[0].shape):
            raise TableError(f"the slices of {rows[0].path} leave a gap or overlap: {parts}. Build the table anew.")
        end = stop
    shape = rows[0].shape
    return (*shape[:axis], end, *shape[axis + 1 :])


def _listing(what: str, items: Iterable[str], most: int = 8) -> str:
    listed = list(items)
    more = f", and {len(listed) - most} more" if len(listed) > most else ""
    return f"{len(listed)} {what}: {', '.join(listed[:most])}{more}" if listed else ""
