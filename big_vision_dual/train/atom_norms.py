"""How large atoms, their updates and their gradients are, in the atoms' own norms."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from big_vision_dual.core.dualize import measure as norms
from big_vision_dual.core.tables.schema import TargetNormTable

PyTree = Any
SIZE = "size"
"""Of weights, see `step_size`."""
UPDATE_SIZE = "update_size"
"""Of steps: times `step_size.unit_rms` the RMS of an entry."""
_MOST_ROWS = 400  # of a whole training: more columns than a heat map can show


def measure(
    params: PyTree, grads: PyTree, updates: PyTree, table: TargetNormTable
) -> tuple[dict[str, jax.Array], dict[str, dict[str, jax.Array]]]:
    """({'{weight,update,gradient}_norm/GROUP': mean over the group}, {'weight_norm': {row.key: norms}, ...,
    'size': {row.key: sizes}}).

    For gradients the dual norm; groups as in `dualize.measure.group_name`.
    """
    of_atoms = {
        "weight_norm": norms.atom_norms(params, table),
        "update_norm": norms.atom_norms(updates, table),
        "gradient_norm": norms.dual_norms(grads, table),
    }
    sizes = {SIZE: norms.atom_sizes(params, table), UPDATE_SIZE: norms.atom_sizes(updates, table)}
    means = {
        f"{what}/{group}": mean
        for what, measured in of_atoms.items()
        for group, (_, mean) in norms.summary(measured, table).items()
    }
    return means, of_atoms | sizes


def period(log_every: int, total_steps: int) -> int:
    """Steps between two rows of `FILE`: every logged step, thinned out so that a training has 400 rows at most."""
    return log_every * max(1, -(-total_steps // (log_every * _MOST_ROWS)))


def listed(norms_of_atoms: dict[str, np.ndarray], table: TargetNormTable) -> list[Any]:
    """The norms in the order of the table's rows, with 5 digits; None for a row that has none."""
    return [_rounded(norms_of_atoms.get(row.key)) for row in table.rows]


def _rounded(value: np.ndarray | None) -> Any:
    if value is None or np.ndim(value) == 0:
        return None if value is None else float(f"{value:.5g}")
    return [_rounded(part) for part in value]
