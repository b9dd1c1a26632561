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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from big_vision_dual import dualize
from big_vision_dual.dualize import groups
from big_vision_dual.studies import grid
from big_vision_dual.studies.program import Program
from big_vision_dual.tables import Row, TargetNormTable

FACTOR = 8.0
KINDS = ("change", "sensitivity", "growth")
_EPSILON = 1e-2  # learning rate of the finite difference: inside the linear regime, 1e3 above float32 rounding
_POWER_STEPS = 12
_PROBE = 32  # images


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
    config = grid.replace(config, {"model.scan": False, "total_steps": steps, "schedule": {}})
    program = Program.of(config)
    if program.table is None:
        raise ValueError(
            f"audit wants a dualized config, not optax_name {config['optax_name']!r}; see configs/*_dual.py."
        )
    params = jax.jit(program.params)(np.uint32(config["seed"]))
    data = program.data()
    batch = jax.tree.map(lambda x: x[:_PROBE], program.source.batch(data["train"], 0, config["seed"]))
    return [
        *_changes(program, program.table, params, batch, factor),
        *_sensitivities(program, program.table, params, batch["image"], factor),
        *_growth(program, program.table, data, factor),
    ]


def _changes(
    program: Program, table: TargetNormTable, params: Any, batch: Mapping[str, jax.Array], factor: float
) -> Iterator[Finding]:
    """RMS change of the logits per unit learning rate, the largest over images, for each atom's own step."""
    images = batch["image"]
    tx = dualize.scale_by_dualize(table, momentum=0.0)

    @jax.jit
    def measure(params: Any) -> jax.Array:
        grads = jax.grad(program.loss)(params, batch, jax.random.key(0))
        steps, _ = tx.update(grads, tx.init(params), params)
        step_of, before = groups.split(steps, table), program.logits(params, images)

        def change(chosen_A: jax.Array) -> jax.Array:
            atoms = {row.key: chosen_A[i] * step_of[row.key] for i, row in enumerate(table.rows)}
            moved = jax.tree.map(lambda p, u: p - _EPSILON * u, params, groups.join(atoms, params, table))
            return jnp.max(_size(program.logits(moved, images) - before)) / _EPSILON

        return jax.lax.map(change, jnp.eye(len(table.rows)))

    for row, measured in zip(table.rows, np.asarray(measure(params)), strict=True):
        share = _number(row.mass) / table.mass
        yield Finding("change", row.key, share, float(measured), bool(measured > factor * share))


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """A part of the model: what `read` finds, as a function of a perturbation of module `name`'s input or output.

    like: the intermediate that the perturbation has the shape of.
    """

    name: str
    of_input: bool
    like: str
    read: Callable[..., jax.Array]

    def __call__(self, program: Program, params: Any, images: jax.Array, delta: jax.Array) -> jax.Array:
        def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name != self.name or context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            return (
                next_fun(args[0] + delta, *args[1:], **kwargs) if self.of_input else next_fun(*args, **kwargs) + delta
            )

        with nn.intercept_methods(intercept):
            return self.read(*program.model.apply({"params": params}, images, train=False))


def _sensitivities(
    program: Program, table: TargetNormTable, params: Any, images: jax.Array, factor: float
) -> Iterator[Finding]:
    """Amplification of small perturbations from the stem to the logits, and by each block but the last."""
    whole = _Stretch("embedding", False, "stem", lambda logits, _: logits)
    stretches = [("stem to logits", _number(_row(table, "embedding/kernel").sensitivity), whole)]
    downstream = [
        _number(_row(table, f"Transformer/encoderblock_{i}/LayerNorm_0/scale").sensitivity)
        for i in range(program.model.depth)
    ]
    for i, (here, following) in enumerate(itertools.pairwise(downstream)):
        block = _Stretch(f"encoderblock_{i}", True, "with_posemb", _block_output(i))
        stretches.append((f"block {i}", here / following, block))
    for name, declared, stretch in stretches:
        measured = _amplification(program, params, images, stretch)
        yield Finding("sensitivity", name, declared, measured, not 1 / factor <= measured / declared <= factor)


def _block_output(index: int) -> Callable[..., jax.Array]:
    return lambda _, out: out["encoder"][f"block{index:02d}"]["+mlp"]


def _amplification(program: Program, params: Any, images: jax.Array, stretch: _Stretch) -> float:
    """Largest over images of the largest singular value of the Jacobian, by power iteration.

    Norms are RMS over tokens and features together: in them, too, the mean over tokens has s = 1.
    """

    @jax.jit
    def largest(params: Any, images: jax.Array) -> jax.Array:
        shape = program.model.apply({"params": params}, images, train=False)[1][stretch.like].shape
        _, forward = jax.linearize(lambda delta: stretch(program, params, images, delta), jnp.zeros(shape))
        backward = jax.linear_transpose(forward, jnp.zeros(shape))

        def sharpen(_: int, delta: jax.Array) -> jax.Array:
            return _unit(backward(forward(_unit(delta)))[0])

        delta = jax.lax.fori_loop(0, _POWER_STEPS, sharpen, jax.random.normal(jax.random.key(0), shape))
        return jnp.max(_size(forward(delta)) / _size(delta))

    return float(largest(params, images))


def _size(x: jax.Array) -> jax.Array:
    """RMS of each image's part, (B,)."""
    return jnp.sqrt(jnp.mean(jnp.square(x.reshape(len(x), -1)), axis=-1))


def _unit(x: jax.Array) -> jax.Array:
    return x / _size(x).reshape(-1, *[1] * (x.ndim - 1))


def _growth(program: Program, table: TargetNormTable, data: Any, factor: float) -> Iterator[Finding]:
    """Norm of each atom after the training, against the unit that it starts at or (biases) may reach."""
    given = program.numbers_of(program.config)

    @jax.jit
    def train(state: Any, given: Any, data: Any) -> dict[str, jax.Array]:
        state, _ = program.advance(state, given, data, jnp.int32(0), jnp.int32(program.total_steps))
        return dualize.measure.atom_norms(state[0], table)

    for key, norm in train(jax.jit(program.init)(given), given, data).items():
        yield Finding("growth", key, 1.0, float(norm), float(norm) > factor)


def _row(table: TargetNormTable, path: str) -> Row:
    return table.by_path()[path][0]


def _number(value: float | tuple[float, ...]) -> float:
    assert isinstance(value, float | int), "an unrolled model has one atom a row"
    return float(value)
