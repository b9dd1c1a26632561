"""Norms of weights, updates and gradients, each atom in its own norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize import groups as groups_lib
from big_vision_dual.core.tables.schema import Row, TargetNormTable

Measure = Callable[[str, jax.Array, jax.Array], jax.Array]


def atom_norms(tree: Any, table: TargetNormTable) -> dict[str, jax.Array]:
    """{row.key: norm} of weights or updates, float32; one entry per batch index where a row has batch axes.

    Spectral norms are within 1 % and never below the truth (`geometry.spectral_norm`); the others are exact. An empty
    leaf has no norm.
    """
    return _measured(tree, table, geometry.weight_norm, jnp.max)


def atom_sizes(tree: Any, table: TargetNormTable) -> dict[str, jax.Array]:
    """{row.key: Frobenius norm over that of a unit dual}; shapes as in `atom_norms`, exact, and cheaper than these.

    The size that `step_size.settled` predicts: the RMS over singular values or vectors where a norm is the maximum.
    """
    return _measured(tree, table, geometry.size, geometry.rms)


def dual_norms(gradients: Any, table: TargetNormTable) -> dict[str, jax.Array]:
    """{row.key: dual norm} of gradients: nuclear norms by <polar(G), G>, within 1 %; shapes as in `atom_norms`."""
    return _measured(gradients, table, geometry.dual_norm, jnp.sum)


def group_name(row: Row) -> str:
    """'Linear/query', 'Bias/Dense_0', 'Scale/LayerNorm_1': atom kind, then the layer that owns the parameter.

    The owner is the last part of the path without the parameter's own name, so that equal layers of all blocks share a
    group, and a slice is its own. A parameter at the root ('pos_embedding') owns itself.
    """
    *owners, name = row.path.split("/")
    owner = owners[-1] if owners else name
    return f"{row.atom}/{owner}{row.key.removeprefix(row.path)}"


def summary(norms: Mapping[str, jax.Array], table: TargetNormTable) -> dict[str, tuple[jax.Array, jax.Array]]:
    """{group name: (largest, mean)} of `atom_norms` or `dual_norms`; over layers, heads and equal layers of blocks."""
    rows = table.by_key()
    grouped: dict[str, list[jax.Array]] = {}
    for key, value in norms.items():
        grouped.setdefault(group_name(rows[key]), []).append(jnp.ravel(value))
    joined = {name: jnp.concatenate(values) for name, values in grouped.items()}
    return {name: (jnp.max(values), jnp.mean(values)) for name, values in joined.items()}


def _measured(
    tree: Any, table: TargetNormTable, measure: Measure, over_taps: groups_lib.OverTaps
) -> dict[str, jax.Array]:
    atoms = groups_lib.split(tree, table)
    norms: dict[str, jax.Array] = {}
    for group in groups_lib.make(table.rows).values():
        present = group.only(atoms)
        if not present.layouts:
            continue
        values_B = measure(group.atom, present.pack(atoms), jnp.asarray(present.gains))
        norms |= present.per_row(values_B, over_taps)
    return norms
