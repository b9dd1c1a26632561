"""Tables from a norm tree, from a config, or from the leaves of any Flax model. No JAX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from big_vision_dual.core import trees
from big_vision_dual.core.norms import Module, Target, dry_run
from big_vision_dual.core.tables.schema import Row, TableError, TargetNormTable


def build(
    module: Module,
    *,
    model_name: str,
    model: Mapping[str, Any],
    input_shape: Sequence[int],
    norms: Mapping[str, Any],
) -> TargetNormTable:
    """Dry-runs a norm tree with budget 1; copies of a block that share a leaf become one stacked row."""
    rows = tuple(_row(targets) for targets in _by_leaf(dry_run(module)))
    shape = tuple(int(size) for size in input_shape)
    return TargetNormTable(model_name, dict(model), shape, dict(norms), module.mass, module.sensitivity, rows)


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


def flat(params: Mapping[str, Any], stacked: Sequence[str] = ("Transformer/encoderblock/.*",)) -> TargetNormTable:
    """A table for any Flax model from its leaves alone: equal masses, sensitivity 1.

    Kinds follow Flax's leaf names: bias and other vectors are Bias, scale is Scale, embedding is Embed,
    all else Linear, with query/key/value and out kernels of three axes split as Flax splits heads, and
    all axes but the last as fan-in otherwise (convolutions). stacked: regexes (fullmatch) of leaves whose
    axis 0 stacks layers. Axes end up explicit in the rows: `tables.save` the table to inspect or edit it.
    """
    leaves = {path: tuple(leaf.shape) for path, leaf in trees.flatten(params).items() if hasattr(leaf, "shape")}
    if not leaves:
        raise TableError("no parameters given: the tree has no leaf with a shape. Pass Flax's params dict.")
    depth = {path: shape[0] for path, shape in leaves.items() if any(re.fullmatch(p, path) for p in stacked)}
    total = sum(depth.get(path, 1) for path in leaves)
    rows = tuple(_flat_row(path, shape, path in depth, 1 / total) for path, shape in leaves.items())
    return TargetNormTable("flat", {}, (), {"conventions": "flat"}, float(total), 1.0, rows)


def _flat_row(path: str, shape: tuple[int, ...], is_stacked: bool, target_norm: float) -> Row:
    axes = tuple(range(len(shape)))
    batch, own = axes[:is_stacked], axes[is_stacked:]
    kind, n_in = _flat_kind(path, len(own))
    values: list[Any] = [1.0, 1.0, target_norm]
    if is_stacked:
        values = [(value,) * shape[0] for value in values]
    return Row(path, kind, own[:n_in], own[n_in:], batch, shape, *values)


def _flat_kind(path: str, rank: int) -> tuple[str, int]:
    """Atom kind and number of fan-in axes, from Flax's naming."""
    parent, _, name = f"/{path}".rpartition("/")
    if name == "scale":
        return "Scale", 0
    if name == "bias" or rank < 2:
        return "Bias", 0
    if "embedding" in name or name in ("cls", "probe"):
        return "Embed", rank - 1
    split_heads = rank == 3 and re.search(r"/(query|key|value)$", parent)
    return "Linear", 1 if split_heads else rank - 1
