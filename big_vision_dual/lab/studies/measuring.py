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
from big_vision_dual.models import norm_trees
from big_vision_dual.train import losses

EXAMPLES = 8
OUTPUTS = ("logits", "features")


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
    config: Mapping[str, Any], *, examples: int = EXAMPLES, output: str = "logits", steps: int = 0, **options: Any
) -> TargetNormTable:
    """The measured table of a config: its model and data, the atoms and masses of its declared table.

    examples: of the first training batch. output: 'logits', or 'features', what the head sees. steps: measured after so
    many steps of the config's own training instead of at initialization. options: of `core.measured.measured_table`.
    """
    setup = _Setup.of(config, examples, output, steps)
    options = {"atoms": norm_trees.build(config), "loss": setup.loss, **options}
    table = measured.measured_table(setup.apply, setup.params, setup.batch, **options)
    norms = {**table.norms, "output": output, "steps": steps, "seed": config.get("seed") or 0}
    return dataclasses.replace(table, norms=norms)


def step_shares(
    config: Mapping[str, Any],
    *,
    steps: int,
    factor: float,
    examples: int = EXAMPLES,
    output: str = "logits",
) -> list[Share]:
    """How much each atom moves the output in update number `steps` + 1 of a config's training, whatever its optimizer.

    The masses are those of the declared table. Largest ratio first.
    """
    setup = _Setup.of(config, examples, output, steps)
    table = norm_trees.build(config)
    changes = measured.output_changes(setup.apply, setup.params, setup.batch, setup.step, table)
    total = sum(float(np.sum(change.largest)) for change in changes.values())
    if total == 0:
        raise measured.MeasureError(
            f"update {steps + 1} moves no output: a head that starts at zero, or a learning rate of 0 (warm-up). Give "
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
    """A model at some point of its training: params there, the batch measured on, and the step taken next."""

    apply: measured.Apply
    loss: measured.Loss
    params: Any
    batch: Mapping[str, jax.Array]
    step: Any

    @classmethod
    def of(cls, config: Mapping[str, Any], examples: int, output: str, steps: int) -> _Setup:
        if output not in OUTPUTS:
            raise measured.MeasureError(f"output is {output!r}; possible: {', '.join(OUTPUTS)}.")
        if examples < 1 or steps < 0:
            raise measured.MeasureError(f"examples is {examples}, steps {steps}; possible: at least 1, and at least 0.")
        config = grid.replace(config, {"total_steps": max(config.get("total_steps") or 0, steps + 1)})
        program = Program.of(config)
        given, data = program.numbers_of(config), program.data()
        train, key = losses.training(config, program.model), jax.random.key(0)

        @jax.jit
        def advanced(given: Any, data: Any) -> tuple[Any, Any]:
            state = program.init(given)
            if steps:
                state, _ = program.advance(state, given, data, jnp.int32(0), jnp.int32(steps))
            return state.params, program.update(state, given, data).step

        params, step = advanced(given, data)
        batch = jax.tree.map(lambda x: x[:examples], program.source.batch(data["train"], 0, given["seed"]))
        return cls(_output(program.model, output), lambda params, batch: train(params, batch, key), params, batch, step)


def _output(model: Any, output: str) -> measured.Apply:
    def apply(params: Any, batch: Any) -> jax.Array:
        logits, out = model.apply({"params": params}, losses.inputs(batch), train=False)
        if output == "logits":
            return logits
        found = [name for name in ("pre_logits", "norm_f") if name in out]
        if not found:
            raise measured.MeasureError(f"{type(model).__name__} names no features; its activations are {sorted(out)}.")
        return out[found[0]]

    return apply
