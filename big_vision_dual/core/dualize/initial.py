"""Initial values of unit modular norm, from a table."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize import groups as groups_lib
from big_vision_dual.core.tables.schema import TargetNormTable


def initialize(params: Any, table: TargetNormTable | str, key: jax.Array, *, polar: str = "svd") -> Any:
    """Parameters of unit norm, each atom in its own; structure, shapes and dtypes of `params`.

    Matrices (Linear, MaxLinear, Embed and the convolutions) are normal draws that are projected: with polar 'svd' all
    singular values of a Linear are equal, with 'newton_schulz_6' they are as Modula draws them, in [.87, 1] of that.
    A Bias becomes 0, a Scale 1; a Rate keeps its values, which are those of its model. Each atom's draw depends on
    `key`, its name and its shape alone. Raises `TableError` where the table does not fit the parameters.
    """
    table = tables.resolve(table)
    tables.check(table, params)
    rows, fresh = table.by_key(), {}
    for name, old in groups_lib.split(params, table).items():
        kind = geometry.ATOMS[rows[name].atom].projects_to
        if kind == "sphere":
            own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
            fresh[name] = jax.random.normal(own_key, old.shape, jnp.float32)
        else:
            fresh[name] = jnp.ones_like(old) if rows[name].atom == "Scale" else jnp.zeros_like(old)
        if kind == "itself":
            fresh[name] = old
    for group in groups_lib.make([rows[name] for name in fresh]).values():
        if geometry.ATOMS[group.atom].projects_to == "sphere":
            gains = jnp.asarray(group.gains)
            fresh |= group.unpack(geometry.project(group.atom, group.pack(fresh), gains, polar))
    dtypes = {name: old.dtype for name, old in groups_lib.split(params, table).items()}
    return groups_lib.join({name: value.astype(dtypes[name]) for name, value in fresh.items()}, params, table)
