"""Measures what a target_norm table only declares: feature changes, sensitivities and the growth of weights.

The algebra's promise (arXiv 2405.14813, proposition 3): an atom of mass share m that takes its dualized step at
learning rate lr changes the features by at most lr * m. So the criterion is an upper bound, and an atom breaks it when
the measured change exceeds its share by more than `factor`. The slack is for what the algebra only estimates: LayerNorm
counts as s = 1, but amplifies where its input has an RMS below 1. Atoms far below their share are no fault (a softmax
over nearly equal logits passes little): the lower side is reported, not flagged.
"""

from __future__ import annotations

import dataclasses
import itertools
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
from big_vision_dual.train import losses, optim, start
from big_vision_dual.train.progress import Work

FACTOR = 8.0
KINDS = ("change", "sensitivity", "growth")
TOGETHER = "all atoms together"
_EPSILON = 1e-2  # learning rate of the finite difference: inside the linear regime, 1e3 above float32 rounding
PROBE = 32  # images or windows of text


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


def audit(config: Mapping[str, Any], *, factor: float = FACTOR, steps: int = 20, at: int | str = 0) -> list[Finding]:
    """All findings of a dualized config: changes and sensitivities after `at` steps, growth after `steps`.

    Training is at the config's own learning rate, constant. The promise holds for weights of unit norm: later changes
    grow with the weights, unless a constraint holds these (docs/size.md).

    config: data as studies take it, see `dataset.load`. A scanned model is audited unrolled. Sensitivities are those
      of a model whose record names its blocks (`family.Blocks`); of another there are none.
    at: a number of steps; or a checkpoint, whose weights then stand for the growth too: the workdir of a run (its
      newest), a folder 'WORKDIR/checkpoints/STEP', or a weights file as `models.weights.read` takes it.
    Raises `ValueError` for a config that is not dualized, `CheckpointError` where there is
    no checkpoint, `WeightsError` for one of another model.
    """
    config = grid.replace(config, {"total_steps": steps, "schedule": {}})
    of_model = family.of(config["model_name"])
    config = grid.replace(config, {f"model.{name}": value for name, value in of_model.unrolled.items()})
    program = Program.of(config)
    if program.table is None or not optim.is_dualized(config):
        raise ValueError(
            f"audit wants a dualized config, not optax_name {config['optax_name']!r}; see configs/*_dual.py."
        )
    data = program.data()
    fresh = jax.jit(program.params)(np.uint32(config["seed"]))
    params = _trained(program, data, at) if isinstance(at, int) else start.weights_at(at, fresh, config["model"])
    step = at if isinstance(at, int) else 0
    batch = jax.tree.map(lambda x: x[:PROBE], program.source.batch(data["train"], step, config["seed"]))
    table, inputs = program.table, losses.inputs(batch)
    blocks = of_model.blocks(program.model, params, inputs) if of_model.blocks else None
    amplified = amplification.measure(program.model, blocks, table, params, inputs) if blocks else ()
    grown = _trained(program, data, steps) if isinstance(at, int) else params
    measurements = itertools.chain(
        (_sensitivity(each, factor) for each in amplified),
        _changes(program, table, params, batch, factor),
        _growth(table, grown, factor),
    )
    findings = []
    with Work("measurements", (len(blocks.first) if blocks else 0) + 2 * len(table.rows) + 1) as work:
        for finding in measurements:
            findings.append(finding)
            work.advance()
    return findings


def _trained(program: Program, data: Any, steps: int) -> Any:
    """Parameters after so many steps."""
    if steps == 0:
        return jax.jit(program.params)(np.uint32(program.config["seed"]))
    given = program.numbers_of(program.config)
    state, _ = jax.jit(program.advance)(jax.jit(program.init)(given), given, data, jnp.int32(0), jnp.int32(steps))
    return state.params


def _sensitivity(found: amplification.Amplification, factor: float) -> Finding:
    flagged = not 1 / factor <= found.measured / found.declared <= factor
    return Finding("sensitivity", found.name, found.declared, found.measured, flagged)


def changes(program: Program, table: TargetNormTable, params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """(A + 1,): RMS change of the logits per unit learning rate, the largest over examples, for each row's step, and
    for all together. To be traced."""
    inputs = losses.inputs(batch)
    tx = dualize.scale_by_dualize(table, momentum=0.0)
    grads = jax.grad(losses.training(program.config, program.model))(params, batch, jax.random.key(0))
    steps, _ = tx.update(grads, tx.init(params), params)
    step_of, before = groups.split(steps, table), program.logits(params, inputs)

    def change(chosen_A: jax.Array) -> jax.Array:
        atoms = {row.key: chosen_A[i] * step_of[row.key] for i, row in enumerate(table.rows)}
        moved = jax.tree.map(lambda p, u: p - _EPSILON * u, params, groups.join(atoms, params, table))
        return jnp.max(amplification.size(program.logits(moved, inputs) - before)) / _EPSILON

    each = jnp.eye(len(table.rows))
    return jax.lax.map(change, jnp.concatenate([each, jnp.ones_like(each[:1])]))


def shares(table: TargetNormTable) -> dict[str, float]:
    """{row.key: its share of the mass}, what `changes` may reach; 1 for all together."""
    return {row.key: amplification.number(row.mass) / table.mass for row in table.rows} | {TOGETHER: 1.0}


def _changes(
    program: Program, table: TargetNormTable, params: Any, batch: Mapping[str, jax.Array], factor: float
) -> Iterator[Finding]:
    measured_A = np.asarray(jax.jit(lambda params: changes(program, table, params, batch))(params))
    for (name, share), measured in zip(shares(table).items(), measured_A, strict=True):
        yield Finding("change", name, share, float(measured), bool(measured > factor * share))


def _growth(table: TargetNormTable, params: Any, factor: float) -> Iterator[Finding]:
    """Norm of each atom after training, against the unit that it starts at or (a bias) may reach. A rate has none."""
    rows = table.by_key()
    for key, norm in dualize.measure.atom_norms(params, table).items():
        if rows[key].atom != "Rate":
            yield Finding("growth", key, 1.0, float(norm), float(norm) > factor)
