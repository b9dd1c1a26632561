"""Where every array of a run lives: the device mesh, and the sharding of state and batches."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core import trees
from big_vision_dual.core.dualize import placement
from big_vision_dual.train.fields import FIELDS

PyTree = Any
AnyMesh = Mesh | AbstractMesh
DEFAULT_MESH, DEFAULT_STRATEGY = FIELDS["mesh"].default, FIELDS["sharding_strategy"].default


class ShardingError(ValueError):
    """A mesh or strategy that does not fit the devices or the parameters."""


def make_mesh(axes: Sequence[tuple[str, int]] = DEFAULT_MESH, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh with the named axes, one size of which may be -1 (what is left), over `devices` (default: all).

    Raises ShardingError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    names, sizes = zip(*axes, strict=True)
    known = math.prod(size for size in sizes if size != -1)
    sizes = tuple(len(devices) // known if size == -1 else size for size in sizes)
    if math.prod(sizes) != len(devices):
        raise ShardingError(
            f"config.mesh={list(axes)} needs {math.prod(sizes)} devices, but there are {len(devices)}. "
            f"Give sizes whose product is {len(devices)}, one of them -1 for what is left."
        )
    return jax.make_mesh(sizes, names, (AxisType.Auto,) * len(names), devices=devices)


def batch_sharding(mesh: AnyMesh, rules: Sequence[tuple[str, Any]] = ()) -> NamedSharding:
    """Sharding of axis 0 of a batch: over all mesh axes, or over those of the rule ('act_batch', axes)."""
    unknown = [name for name, _ in rules if name != "act_batch"]
    if unknown:
        raise ShardingError(f"config.sharding_rules names {unknown}; possible: 'act_batch'.")
    return NamedSharding(mesh, P(dict(rules).get("act_batch", mesh.axis_names)))


def infer(tree: PyTree, mesh: AnyMesh, strategy: Sequence[tuple[str, str]] = DEFAULT_STRATEGY) -> PyTree:
    """A NamedSharding for every leaf of `tree` (arrays or shapes).

    strategy: ordered [(regex, operation)]; the first whose regex matches the leaf's whole path counts, and
      a leaf that none matches is replicated. Paths begin with the field: params/..., opt_state/...,
      ema_params/.... Operations: 'replicate', 'fsdp(axis="data", min_size_to_shard_mb=4)', and
      'stack(axis="data")', where `scale_by_dualize(shard_axis=...)` keeps its momentum.
    """
    rules = [(re.compile(pattern), _operation(text)) for pattern, text in strategy]

    def of_leaf(name: str, leaf: Any) -> NamedSharding:
        operation = next((op for pattern, op in rules if pattern.fullmatch(name)), _replicate)
        return NamedSharding(mesh, operation(leaf, mesh))

    return trees.map_with_path(of_leaf, tree)


def _replicate(leaf: Any, mesh: AnyMesh) -> P:
    del leaf, mesh
    return P()


def _fsdp(leaf: Any, mesh: AnyMesh, axis: str | tuple[str, ...] = "data", min_size_to_shard_mb: float = 4) -> P:
    """The largest dimension that the mesh axis divides; leaves up to the minimal size stay whole."""
    size = _axis_size(mesh, axis)
    if leaf.size * leaf.dtype.itemsize <= min_size_to_shard_mb * 2**20:
        return P()
    for dimension in sorted(range(leaf.ndim), key=lambda d: -leaf.shape[d]):
        if leaf.shape[dimension] % size == 0:
            return P(*([None] * dimension), axis)
    return P()


def _stack(leaf: Any, mesh: AnyMesh, axis: str | tuple[str, ...] = "data") -> P:
    """The axis of a stack (B, n, m) that `dualize.placement` cuts its momentum along."""
    dimension = placement.sharded_axis(leaf.shape, _axis_size(mesh, axis)) if leaf.ndim == 3 else None
    return P() if dimension is None else P(*([None] * dimension), axis)


_OPERATIONS: dict[str, Callable[..., P]] = {"replicate": _replicate, "fsdp": _fsdp, "stack": _stack}


def _axis_size(mesh: AnyMesh, axis: str | tuple[str, ...]) -> int:
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    unknown = [name for name in names if name not in mesh.shape]
    if unknown:
        raise ShardingError(f"sharding over mesh axis {unknown}; possible: {list(mesh.shape)}.")
    return math.prod(mesh.shape[name] for name in names)


def _operation(text: str) -> Callable[[Any, AnyMesh], P]:
    """'fsdp(axis="data")' -> the function it names, with its keyword arguments bound."""
    try:
        call = ast.parse(text, mode="eval").body
        name = ast.unparse(call.func if isinstance(call, ast.Call) else call)
        keywords = call.keywords if isinstance(call, ast.Call) else []
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
        function = _OPERATIONS[name]
    except (SyntaxError, ValueError, KeyError) as error:
        raise ShardingError(
            f"config.sharding_strategy has {text!r}; possible: 'replicate', "
            """'fsdp(axis="data", min_size_to_shard_mb=4)', 'stack(axis="data")'."""
        ) from error
    return lambda leaf, mesh: function(leaf, mesh, **options)
