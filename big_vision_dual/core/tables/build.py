"""Tables from a norm tree. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from big_vision_dual.core.norms import Module, Target, dry_run
from big_vision_dual.core.tables.schema import Row, TargetNormTable


def build(
    module: Module,
    *,
    model_name: str = "",
    model: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] = (),
    norms: Mapping[str, Any] | None = None,
) -> TargetNormTable:
    """Dry-runs a norm tree with budget 1; copies of a block that share a leaf become one stacked row.

    The keywords say what the table is of, see `TargetNormTable`; they change no number.
    """
    rows = tuple(_row(targets) for targets in _by_leaf(dry_run(module)))
    shape = tuple(int(size) for size in input_shape)
    given = dict(model or {}), shape, dict(norms or {})
    return TargetNormTable(model_name, *given, module.mass, module.sensitivity, rows)


def _by_leaf(targets: Iterable[Target]) -> list[list[Target]]:
    leaves: dict[tuple, list[Target]] = {}
    for target in targets:
        leaves.setdefault((target.atom.path, target.atom.slice), []).append(target)
    return list(leaves.values())


def _row(targets: list[Target]) -> Row:
    atom = targets[0].atom
    if atom.layer is None:
        values: list[Any] = [targets[0].atom.mass, targets[0].sensitivity, targets[0].target_norm]
        return Row(atom.path, atom.kind, atom.fan_in, atom.fan_out, (), atom.shape, *values, slice=atom.slice)
    ordered = sorted(targets, key=lambda target: target.atom.layer or (0, 0))
    values = [
        tuple(target.atom.mass for target in ordered),
        tuple(target.sensitivity for target in ordered),
        tuple(target.target_norm for target in ordered),
    ]
    part = None if atom.slice is None else (atom.slice[0] + 1, *atom.slice[1:])
    fan_in, fan_out = (tuple(axis + 1 for axis in axes) for axes in (atom.fan_in, atom.fan_out))
    return Row(atom.path, atom.kind, fan_in, fan_out, (0,), (len(ordered), *atom.shape), *values, slice=part)
