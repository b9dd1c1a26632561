"""Measures what a target_norm table only declares: feature changes, sensitivities and the growth of weights.

The algebra's promise (arXiv 2405.14813, proposition 3): an atom of mass share m that takes its dualized step at
learning rate lr changes the features by at most lr * m. So the criterion is an upper bound, and an atom breaks it when
the measured change exceeds its share by more than `factor`. The slack is for what the algebra only estimates: LayerNorm
counts as s = 1, but amplifies where its input has an RMS below 1. Atoms far below their share are no fault (a softmax
over nearly equal logits passes little): the lower side is reported, not flagged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import dualize
from big_vision_dual.core.dualize import groups
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import amplification, grid
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.models import family
from big_vision_dual.train import losses, optim

FACTOR = 8.0
KINDS = ("change", "sensitivity", "growth")
_EPSILON = 1e-2  # learning rate of the finite difference: inside the linear regime, 1e3 above float32 rounding
_PROBE = 32  # images or windows of text


@dataclasses.dataclass(frozen=True)
class Finding:
    """One measurement beside what the table declares. what: one of `KINDS`.

    flagged: measured / declared is above the factor, or for a sensitivity below its inverse.
    """

    what: str
    name: str
    declared: float
    measured: float
    flagged: bool

    @property
    def ratio(self) -> float:
        return self.measured / self.declared


def audit(config: Mapping[str, Any], *, factor: float = FACTOR, steps: int = 20) -> list[Finding]:
    """All findings of a dualized config: at initialization, and after `steps` steps at its own learning rate.

    config: data as studies take it, see `dataset.load`. A scanned model is audited unrolled.
    """
    config = grid.replace(config, {"total_steps": steps, "schedule": {}})
    of_model = family.of(config["model_name"])
    config = grid.replace(config, {f"model.{name}": value for name, value in of_model.unrolled.items()})
    if of_model.blocks is None:
        raise ValueError(
            f"an audit needs to know the blocks of {config['model_name']}: give its module FAMILY = Family(blocks=...) "
            "(docs/your_model.md), or choose a config.model_name that has it."
        )
    program = Program.of(config)
    if program.table is None or not optim.is_dualized(config):
        raise ValueError(
            f"audit wants a dualized config, not optax_name {config['optax_name']!r}; see configs/*_dual.py."
        )
    params = jax.jit(program.params)(np.uint32(config["seed"]))
    data = program.data()
    batch = jax.tree.map(lambda x: x[:_PROBE], program.source.batch(data["train"], 0, config["seed"]))
    table, inputs = program.table, losses.inputs(batch)
    blocks = of_model.blocks(program.model, params, inputs)
    return [
        *(_sensitivity(found, factor) for found in amplification.measure(program.model, blocks, table, params, inputs)),
        *_changes(program, table, params, batch, factor),
        *_growth(program, table, data, factor),
    ]


def _sensitivity(found: amplification.Amplification, factor: float) -> Finding:
    flagged = not 1 / factor <= found.measured / found.declared <= factor
    return Finding("sensitivity", found.name, found.declared, found.measured, flagged)


def _changes(
    program: Program, table: TargetNormTable, params: Any, batch: Mapping[str, jax.Array], factor: float
) -> Iterator[Finding]:
    """RMS change of the logits per unit learning rate, the largest over examples, for each atom's own step."""
    inputs = losses.inputs(batch)
    tx = dualize.scale_by_dualize(table, momentum=0.0)

    @jax.jit
    def measure(params: Any) -> jax.Array:
        grads = jax.grad(losses.training(program.config, program.model))(params, batch, jax.random.key(0))
        steps, _ = tx.update(grads, tx.init(params), params)
        step_of, before = groups.split(steps, table), program.logits(params, inputs)

        def change(chosen_A: jax.Array) -> jax.Array:
            atoms = {row.key: chosen_A[i] * step_of[row.key] for i, row in enumerate(table.rows)}
            moved = jax.tree.map(lambda p, u: p - _EPSILON * u, params, groups.join(atoms, params, table))
            return jnp.max(amplification.size(program.logits(moved, inputs) - before)) / _EPSILON

        return jax.lax.map(change, jnp.eye(len(table.rows)))

    for row, measured in zip(table.rows, np.asarray(measure(params)), strict=True):
        share = amplification.number(row.mass) / table.mass
        yield Finding("change", row.key, share, float(measured), bool(measured > factor * share))


def _growth(program: Program, table: TargetNormTable, data: Any, factor: float) -> Iterator[Finding]:
    """Norm of each atom after training, against the unit that it starts at or (a bias) may reach. A rate has none."""
    rows, given = table.by_key(), program.numbers_of(program.config)

    @jax.jit
    def train(state: Any, given: Any, data: Any) -> dict[str, jax.Array]:
        state, _ = program.advance(state, given, data, jnp.int32(0), jnp.int32(program.total_steps))
        return dualize.measure.atom_norms(state.params, table)

    for key, norm in train(jax.jit(program.init)(given), given, data).items():
        if rows[key].atom != "Rate":
            yield Finding("growth", key, 1.0, float(norm), float(norm) > factor)
