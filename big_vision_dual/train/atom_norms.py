"""How large each group of atoms, its update and its gradient are, in the atoms' own norms."""

from __future__ import annotations

from typing import Any

import jax

from big_vision_dual.core.dualize import measure as norms
from big_vision_dual.core.tables.schema import TargetNormTable

PyTree = Any


def measure(params: PyTree, grads: PyTree, updates: PyTree, table: TargetNormTable) -> dict[str, jax.Array]:
    """{'{weight,update,gradient}_norm/GROUP': mean over the group}, for gradients the dual norm; groups as in
    `dualize.measure.group_name`.
    """
    measured = {
        "weight_norm": norms.atom_norms(params, table),
        "update_norm": norms.atom_norms(updates, table),
        "gradient_norm": norms.dual_norms(grads, table),
    }
    return {
        f"{what}/{group}": mean
        for what, of_atoms in measured.items()
        for group, (_, mean) in norms.summary(of_atoms, table).items()
    }
