"""Momentum in checkpoints before 0.2: the stack of a group in parts of a few matrices, unless it was sharded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from big_vision_dual.core.dualize.graft import DualizeState


def as_saved(state: Any, saved: Mapping[str, str]) -> Any:
    """`state`, arrays or shapes, with each momentum in the parts that were saved; where none differ, the same.

    saved: {leaf's key path joined by '/': 'dtype[shape]'} of a checkpoint.
    """

    def in_parts(name: str, node: DualizeState) -> DualizeState:
        parts = _parts(saved, f"{name}/momentum" if name else "momentum")
        whole = node.momentum[0]
        fits = sum(shape[0] for shape in parts) == whole.shape[0] and {p[1:] for p in parts} == {whole.shape[1:]}
        if len(node.momentum) != 1 or len(parts) < 2 or not fits:
            return node
        sharding = getattr(whole, "sharding", None)
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        shapes: Any = tuple(jax.ShapeDtypeStruct(p, whole.dtype, sharding=sharding) for p in parts)
        return DualizeState(shapes)

    return _map_states(in_parts, state)


def joined(restored: Any, state: Any) -> Any:
    """What was read like `as_saved(state, ...)`, in the layout of `state`."""
    wanted = dict(_states(state))

    def whole(name: str, node: DualizeState) -> DualizeState:
        if len(node.momentum) == len(wanted[name].momentum):
            return node
        sharding = getattr(wanted[name].momentum[0], "sharding", None)
        return DualizeState((jax.jit(jnp.concatenate, out_shardings=sharding)(list(node.momentum)),))

    return _map_states(whole, restored)


def _parts(saved: Mapping[str, str], name: str) -> list[tuple[int, ...]]:
    """Shapes of name/0, name/1, ..."""
    shapes: list[tuple[int, ...]] = []
    while f"{name}/{len(shapes)}" in saved:
        text = saved[f"{name}/{len(shapes)}"]
        shapes.append(tuple(int(size) for size in re.findall(r"\d+", text.partition("[")[2])))
    return shapes


def _states(tree: Any) -> list[tuple[str, Any]]:
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, DualizeState))
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), node) for path, node in nodes]


def _map_states(function: Callable[[str, DualizeState], DualizeState], tree: Any) -> Any:
    """Applies `function(name, node)` to every DualizeState."""
    structure = jax.tree.structure(tree, is_leaf=lambda node: isinstance(node, DualizeState))
    nodes = [function(name, node) if isinstance(node, DualizeState) else node for name, node in _states(tree)]
    return jax.tree.unflatten(structure, nodes)
