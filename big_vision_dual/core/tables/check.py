"""Does a table fit a parameter tree?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from big_vision_dual.core import trees
from big_vision_dual.core.tables.schema import Row, TableError, TargetNormTable


def check(table: TargetNormTable, params: Mapping[str, Any]) -> None:
    """Raises `TableError` that lists missing and extra paths and wrong shapes, both sides.

    params: arrays or `jax.ShapeDtypeStruct`s; leaves without a shape (`optax.MaskedNode`) are passed over.
    """
    leaves = trees.flatten(params)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items() if hasattr(leaf, "shape")}
    rows = table.by_path()
    problems = [
        _listing("parameters without a row", (path for path in shapes if path not in rows)),
        _listing("rows without a parameter", (path for path in rows if path not in leaves)),
        _listing("other shapes", _wrong_shapes(rows, shapes)),
    ]
    found = [problem for problem in problems if problem]
    if found:
        what = table.model.get("variant", "")
        raise TableError(
            f"the table of {table.model_name} {what} {list(table.input_shape)} does not fit these parameters: "
            f"{'; '.join(found)}. Build the table of this model: bvd norms build --config X, or tables.flat(params)."
        )


def _wrong_shapes(rows: Mapping[str, tuple[Row, ...]], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[str]:
    for path, atoms in rows.items():
        whole = _leaf_shape(atoms)
        if path in shapes and shapes[path] != whole:
            yield f"{path} is {whole} in the table, {shapes[path]} here"


def _leaf_shape(rows: tuple[Row, ...]) -> tuple[int, ...]:
    """The shape of a leaf from its rows; slices must tile their axis."""
    if rows[0].slice is None:
        return rows[0].shape
    parts = sorted(row.slice for row in rows if row.slice is not None)
    axis, end = parts[0][0], 0
    for other_axis, start, stop in parts:
        if other_axis != axis or start != end:
            raise TableError(f"the slices of {rows[0].path} leave a gap or overlap: {parts}. Build the table anew.")
        end = stop
    shape = rows[0].shape
    return (*shape[:axis], end, *shape[axis + 1 :])


def _listing(what: str, items: Iterable[str], most: int = 8) -> str:
    listed = list(items)
    more = f", and {len(listed) - most} more" if len(listed) > most else ""
    return f"{len(listed)} {what}: {', '.join(listed[:most])}{more}" if listed else ""
