"""Which constraint keeps the algebra's promise along a training, that unit steps move the logits by 1 at most?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.lab.studies import grid, norm_audit, settings, size, sweep
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import family

LR = size.TABLES["well_normed"][1]
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "none": size.CONSTRAINTS["none"],
    "wd 1e-3": {"wd": 1e-3},
    **{name: fields for name, fields in size.CONSTRAINTS.items() if name.startswith("radius")},
    "hyperball": size.CONSTRAINTS["hyperball"],
    "own-norm hyperball": {"wd": 0.0, "weight_constraint": {"kind": "hyperball", "norm": "own"}},
    "project": {"wd": 0.0, "weight_constraint": "project"},
}


class Promised(Program):
    """A program that also measures, before and along its training, how far unit steps move the logits of 32 examples.

    together: of all atoms at once, at most 1 as the algebra promises. worst: the largest change of one atom over its
    share of the mass.
    """

    def advance(self, state: Any, given: Any, data: Any, start: Any, stop: Any) -> tuple[Any, dict[str, jax.Array]]:
        state, measured = super().advance(state, given, data, start, stop)
        return state, measured | self._promise(state, data)

    def evaluate(self, state: Any, data: Any) -> dict[str, jax.Array]:
        return super().evaluate(state, data) | self._promise(state, data)

    def _promise(self, state: Any, data: Any) -> dict[str, jax.Array]:
        assert self.table is not None, "what is promised is a table's"
        batch = self.to_model({name: x[0, : norm_audit.PROBE] for name, x in data["validation"].items()})
        changes_A = norm_audit.changes(self, self.table, state.params, batch)
        shares_A = np.array(list(norm_audit.shares(self.table).values()))
        return {"together": changes_A[-1], "worst": jnp.max(changes_A[:-1] / shares_A[:-1])}


def run(
    base: Mapping[str, Any], seeds: int, results: Results, constraints: Sequence[str] = tuple(CONSTRAINTS)
) -> dict[str, list[Record]]:
    """{constraint: a record a seed}, with curves and starts of what `Promised` measures; well-normed, unrolled."""
    unrolled = {f"model.{name}": value for name, value in family.of(base["model_name"]).unrolled.items()}
    config = grid.replace(settings.dualize(base), {"lr": LR, **unrolled})
    trials = [
        trial
        for name in constraints
        for trial in grid.product(
            grid.replace(config, CONSTRAINTS[name]), {"seed": range(seeds)}, point={"constraint": name}
        )
    ]
    records, _ = sweep.run(trials, results, program=Promised)
    return {name: records[i * seeds : (i + 1) * seeds] for i, name in enumerate(constraints)}
