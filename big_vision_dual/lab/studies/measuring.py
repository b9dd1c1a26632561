"""What steps do to the output of a config's model: measured tables, and the real steps of any optimizer audited.

The algebra's own measure: at learning rate lr an atom may move the output by lr times its share of the mass. An
optimizer that is not dualized has no such learning rate; of its steps the shares are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import measured
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import grid
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.lab.studies.target_norms import EXAMPLES, Subject
from big_vision_dual.models import norm_trees
from big_vision_dual.train import start


@dataclasses.dataclass(frozen=True)
class Share:
    """One atom's part of one real step.

    change: of the output, RMS over features, the largest over tokens and batch. share: of the sum over atoms. allowed:
    its share of the mass. flagged: share / allowed above the factor asked for.
    """

    name: str
    change: float
    share: float
    allowed: float
    flagged: bool

    @property
    def ratio(self) -> float:
        return self.share / self.allowed


def measured_table(
    config: Mapping[str, Any],
    *,
    examples: int = EXAMPLES,
    batches: int = 1,
    output: str = "logits",
    at: int | str = 0,
    **options: Any,
) -> TargetNormTable:
    """The measured table of a config: its model and data, the atoms and masses of its declared table.

    examples: of each of the first training batches. output: 'logits', or 'features', what the head sees. at: measured
    after so many steps of the config's own training, or at a checkpoint (`train.start.weights_at`). options: of
    `core.measured.measured_table`.
    """
    setup = _Setup.of(config, examples, batches, output, at)
    apply, loss, (batch, *more) = setup.subject
    options = {"atoms": norm_trees.build(config), "loss": loss, "more_batches": more, **options}
    table = measured.measured_table(apply, setup.params, batch, **options)
    where = {"output": output, "at": at, "seed": config.get("seed") or 0}
    return dataclasses.replace(table, norms={**table.norms, **where})


def step_shares(
    config: Mapping[str, Any],
    *,
    at: int | str,
    factor: float,
    examples: int = EXAMPLES,
    output: str = "logits",
) -> list[Share]:
    """How much each atom moves the output in update number `at` + 1 of a config's training, whatever its optimizer.

    The masses are those of the declared table. Largest ratio first. at: or a checkpoint, with a fresh optimizer.
    """
    setup = _Setup.of(config, examples, 1, output, at)
    table = norm_trees.build(config)
    changes = measured.output_changes(setup.subject.apply, setup.params, setup.subject.batches[0], setup.step, table)
    total = sum(float(np.sum(change.largest)) for change in changes.values())
    if total == 0:
        raise measured.MeasureError(
            f"the update at {at} moves no output: a head that starts at zero, or a learning rate of 0 (warm-up). Give "
            "more steps."
        )
    mass = sum(float(np.sum(row.mass)) for row in table.rows)
    found = []
    for row in table.rows:
        change, allowed = float(np.sum(changes[row.key].largest)), float(np.sum(row.mass)) / mass
        if allowed:
            share = change / total
            found.append(Share(row.key, change, share, allowed, share > factor * allowed))
    return sorted(found, key=lambda each: -each.ratio)


@dataclasses.dataclass(frozen=True)
class _Setup:
    """A model at some point of its training: params there, what is measured, and the step taken next."""

    subject: Subject
    params: Any
    step: Any

    @classmethod
    def of(cls, config: Mapping[str, Any], examples: int, batches: int, output: str, at: int | str) -> _Setup:
        steps = at if isinstance(at, int) else 0
        if examples < 1 or batches < 1 or steps < 0:
            raise measured.MeasureError(
                f"examples is {examples}, batches {batches}, at {at}; possible: at least 1, 1 and 0."
            )
        config = grid.replace(config, {"total_steps": max(config.get("total_steps") or 0, steps + 1)})
        program = Program.of(config)
        subject = Subject.of(config, program.model, program.source, examples=examples, batches=batches, output=output)
        given, data = program.numbers_of(config), program.data()
        fresh = jax.jit(program.params)(given["seed"])
        begun = fresh if isinstance(at, int) else start.weights_at(at, fresh, config["model"])

        @jax.jit
        def advanced(params: Any, given: Any, data: Any) -> tuple[Any, Any]:
            state = program.init(given).replace(params=params)
            if steps:
                state, _ = program.advance(state, given, data, jnp.int32(0), jnp.int32(steps))
            return state.params, program.update(state, given, data).step

        return cls(subject, *advanced(begun, given, data))
