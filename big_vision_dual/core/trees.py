"""Parameter paths and ordered regex patterns over nested mappings. Standard library only.

A *path* is Flax's: the keys from the root to a leaf joined by "/". Anything that is not a mapping is a
leaf, so `optax.MaskedNode`, arrays and `jax.ShapeDtypeStruct` all count as leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> {path: leaf}, in the order of the tree."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} -> nested dict; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Applies `function(path, leaf)` to every leaf and keeps the nesting."""
    return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def first_match(rules: Sequence[tuple[str, T]], paths: Iterable[str], what: str) -> dict[str, T]:
    """{path: value of the first rule whose regex matches the whole path}, Big Vision's convention.

    Raises `ValueError` naming `what`, the paths that no rule covers and the patterns tried.
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    matched: dict[str, T] = {}
    uncovered = []
    for path in paths:
        for pattern, value in compiled:
            if pattern.fullmatch(path):
                matched[path] = value
                break
        else:
            uncovered.append(path)
    if uncovered:
        shown = ", ".join(uncovered[:5]) + (", ..." if len(uncovered) > 5 else "")
        raise ValueError(
            f"{what}: {len(uncovered)} parameters match no pattern: {shown}. "
            f"Patterns, first match wins: {[pattern for pattern, _ in rules]}. "
            'Add a last rule (".*", value) to cover the rest.'
        )
    return matched
