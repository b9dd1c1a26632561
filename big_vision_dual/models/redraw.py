"""Replaces initial values by normal ones of given deviations, such as those of a muP table."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax

from big_vision_dual.core import trees


def redraw(params: Mapping[str, Any], stds: Mapping[str, float], key: jax.Array) -> dict[str, Any]:
    """`params` with each leaf in {path: std} drawn anew from N(0, std^2), independently of the others.

    A leaf's values depend on `key`, its path and its shape alone. Raises `ValueError` for a path that is no leaf.
    """
    leaves = trees.flatten(params)
    unknown = sorted(set(stds) - set(leaves))
    if unknown:
        raise ValueError(f"no parameters {unknown[:5]} to redraw; possible: {', '.join(leaves)}.")

    def draw(path: str, leaf: jax.Array) -> jax.Array:
        if path not in stds:
            return leaf
        leaf_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return stds[path] * jax.random.normal(leaf_key, leaf.shape, leaf.dtype)

    return trees.map_with_path(draw, params)
