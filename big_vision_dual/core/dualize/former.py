"""Momentum in checkpoints before 0.2, in today's layout: the stack of a group was in parts of a few matrices, unless it
was sharded, and biases and scales were stacks (B, 1, m) too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from big_vision_dual.core.dualize.graft import DebiasedState, DualizeState


def as_saved(state: Any, saved: Mapping[str, str]) -> Any:
    """`state`, arrays or shapes, with each momentum in the parts that were saved; where none differ, the same.

    saved: {leaf's key path joined by '/': 'dtype[shape]'} of a checkpoint.
    """

    def like_saved(name: str, node: Any) -> Any:
        parts = _parts(saved, f"{name}/momentum" if name else "momentum")
        if not (_one_stack(parts, node.momentum) or _vectors(parts, node.momentum)):
            return node
        first = node.momentum[0]
        sharding = getattr(first, "sharding", None)
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        shapes: Any = tuple(jax.ShapeDtypeStruct(shape, first.dtype, sharding=sharding) for shape in parts)
        return node._replace(momentum=shapes)

    return _map_states(like_saved, state)


def _one_stack(parts: Sequence[tuple[int, ...]], momentum: Sequence[Any]) -> bool:
    """Whether the parts are a stack that is one array today."""
    whole = momentum[0].shape
    fits = sum(shape[0] for shape in parts) == whole[0] and {shape[1:] for shape in parts} == {whole[1:]}
    return len(momentum) == 1 < len(parts) and fits


def _vectors(parts: Sequence[tuple[int, ...]], momentum: Sequence[Any]) -> bool:
    """Whether the parts are the stacks (B, 1, m) of arrays that have their own shapes today."""
    shapes = [x.shape for x in momentum]
    stacks = all(len(part) == 3 and part[1] == 1 for part in parts)
    return parts != shapes and stacks and [math.prod(part) for part in parts] == [math.prod(own) for own in shapes]


def joined(restored: Any, state: Any) -> Any:
    """What was read like `as_saved(state, ...)`, in the layout of `state`."""
    wanted = dict(_states(state))

    def whole(name: str, node: Any) -> Any:
        today = wanted[name].momentum
        if [x.shape for x in node.momentum] == [x.shape for x in today]:
            return node

        def laid_out(momentum: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
            if len(momentum) > len(today):
                return (jnp.concatenate(momentum),)
            return tuple(part.reshape(own.shape) for part, own in zip(momentum, today, strict=True))

        shardings = tuple(getattr(own, "sharding", None) for own in today)
        return node._replace(momentum=jax.jit(laid_out, out_shardings=shardings)(list(node.momentum)))

    return _map_states(whole, restored)


def _parts(saved: Mapping[str, str], name: str) -> list[tuple[int, ...]]:
    """Shapes of name/0, name/1, ..."""
    shapes: list[tuple[int, ...]] = []
    while f"{name}/{len(shapes)}" in saved:
        text = saved[f"{name}/{len(shapes)}"]
        shapes.append(tuple(int(size) for size in re.findall(r"\d+", text.partition("[")[2])))
    return shapes


def _states(tree: Any) -> list[tuple[str, Any]]:
    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_state)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), node) for path, node in nodes]


def _is_state(node: Any) -> bool:
    return isinstance(node, DualizeState | DebiasedState)


def _map_states(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Applies `function(name, node)` to every DualizeState and DebiasedState."""
    nodes = [function(name, node) if _is_state(node) else node for name, node in _states(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=_is_state), nodes)
