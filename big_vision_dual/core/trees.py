"""Names of the leaves of any pytree, and ordered regex patterns over them.

A leaf's name is the keys from the root to it, joined by "/", as JAX's key paths have them: mappings, lists, tuples,
dataclasses, `nnx.State`. A box around an array (`flax.linen.with_partitioning`, `nnx.Param`) adds nothing to the name,
so that a boxed tree and its arrays have the same names. None and `optax.MaskedNode` stand for what is masked out: a
leaf, or the whole tree below them. A slash inside a key is kept ("mlp/~/linear"), but written "%2F" where it would
make two leaves share a name.

JAX is imported when a tree is walked: patterns need none of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_BOXES = {"flax.core.meta.AxisMetadata", "flax.nnx.variablelib.Variable"}


@dataclasses.dataclass(frozen=True)
class Walk:
    """What is in a tree, in JAX's order: {name: leaf}, and the names of what is masked out."""

    leaves: dict[str, Any]
    masked: frozenset[str]

    def covers(self, name: str) -> bool:
        """Whether the tree has a leaf of this name, or masks it or a part that holds it."""
        return name in self.leaves or bool(self.masked and not self.masked.isdisjoint(_within(name)))


def walk(tree: Any) -> Walk:
    """Raises `ValueError` where two leaves cannot be told apart by name."""
    import jax

    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: _is_masked(node) or _is_box(node))
    leaves, masked = {}, set()
    for name, (_, node) in zip(_names([path for path, _ in nodes]), nodes, strict=True):
        inside = jax.tree.leaves(node)
        if len(inside) > 1:
            raise ValueError(f"{name} is one parameter with {len(inside)} arrays inside. Give each array its own.")
        if name in leaves:
            raise ValueError(f"the tree has two leaves that would both be called {name!r}. Rename a key of one.")
        if inside:
            leaves[name] = inside[0]
        else:
            masked.add(name)
    return Walk(leaves, frozenset(masked))


def flatten(tree: Any) -> dict[str, Any]:
    """Any tree -> {name: leaf}, in JAX's order of leaves (mappings by sorted key)."""
    return walk(tree).leaves


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{name: leaf} -> nested dict; the inverse of `flatten` for nested dicts without slashes in their keys."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Applies `function(name, leaf)` to every leaf and keeps the structure."""
    return like(tree, [function(name, leaf) for name, leaf in flatten(tree).items()])


def names(tree: Any) -> Any:
    """A tree of the same structure with each leaf's name in its place."""
    return like(tree, list(flatten(tree)))


def like(tree: Any, leaves: Sequence[Any]) -> Any:
    """A tree with the structure of `tree` and these leaves, in the order of `flatten`."""
    import jax

    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


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


def _is_masked(node: Any) -> bool:
    return node is None or (isinstance(node, tuple) and not node)


def _is_box(node: Any) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" in _BOXES for base in type(node).__mro__)


def _names(paths: Sequence[Sequence[Any]]) -> list[str]:
    """One name a key path; slashes inside keys stay unless that makes names meet."""
    keys = [[_key(entry) for entry in path] for path in paths]
    plain = ["/".join(parts) for parts in keys]
    slashed = [any("/" in part for part in parts) for parts in keys]
    if not any(slashed):
        return plain
    taken: dict[str, int] = {}
    for name in plain:
        taken[name] = taken.get(name, 0) + 1

    def ambiguous(name: str) -> bool:
        return taken[name] > 1 or any(part in taken for part in _within(name) if part != name)

    return [
        "/".join(part.replace("/", "%2F") for part in parts) if has_slash and ambiguous(name) else name
        for name, parts, has_slash in zip(plain, keys, slashed, strict=True)
    ]


def _key(entry: Any) -> str:
    import jax

    return jax.tree_util.keystr((entry,), simple=True)


def _within(name: str) -> list[str]:
    """The name itself, each part of it that ends before a slash, and "", the root."""
    parts = name.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts) + 1)]
