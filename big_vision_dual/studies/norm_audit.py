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

from big_vision_dual import dualize, losses
from big_vision_dual.dualize import groups
from big_vision_dual.models import transformer
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
        grads = jax.grad(losses.training(program.config, program.model))(params, batch, jax.random.key(0))
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


def _sensitivities(
    program: Program, table: TargetNormTable, params: Any, images: jax.Array, factor: float
) -> Iterator[Finding]:
    """Amplification of small perturbations from the stem to the logits, and by each block but the last.

    A block's declared sensitivity is the ratio of what is downstream of it and of the block after it.
    """
    model = program.model
    _, out = model.apply({"params": params}, images, train=False)

    def finding(name: str, declared: float, measured: jax.Array) -> Finding:
        return Finding("sensitivity", name, declared, float(measured), not 1 / factor <= measured / declared <= factor)

    whole = _amplification(lambda stem, params: _logits_from_stem(model, params, images, stem))
    yield finding("stem to logits", _number(_row(table, "embedding/kernel").sensitivity), whole(out["stem"], params))
    spec = transformer.BlockSpec(model.mlp_dim, model.num_heads, model.scaling)
    block = transformer.EncoderBlock(spec, model.depth, train=False)
    of_block = _amplification(lambda x, block_params: block.apply({"params": block_params}, x)[0])
    norms = [_row(table, f"Transformer/encoderblock_{i}/LayerNorm_0/scale") for i in range(model.depth)]
    inputs = [out["with_posemb"], *(out["encoder"][f"block{i:02d}"]["+mlp"] for i in range(model.depth - 1))]
    for i, (here, following) in enumerate(itertools.pairwise(norms)):
        declared = _number(here.sensitivity) / _number(following.sensitivity)
        yield finding(f"block {i}", declared, of_block(inputs[i], params["Transformer"][f"encoderblock_{i}"]))


def _logits_from_stem(model: Any, params: Any, images: jax.Array, stem: jax.Array) -> jax.Array:
    """The logits if the patch embedding had given `stem`."""

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        given = context.module.name == "embedding" and context.method_name == "__call__"
        return stem if given else next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        return model.apply({"params": params}, images, train=False)[0]


def _amplification(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """(x, *args) -> largest singular value of the Jacobian of `function` at x, the largest over the batch.

    By power iteration; each example of the batch must be independent of the others. Norms are RMS over tokens and
    features together: in them, too, the mean over tokens has s = 1.
    """

    @jax.jit
    def largest(x: jax.Array, *args: Any) -> jax.Array:
        _, forward = jax.linearize(lambda x: function(x, *args), x)
        backward = jax.linear_transpose(forward, x)

        def sharpen(_: int, delta: jax.Array) -> jax.Array:
            return _unit(backward(forward(delta))[0])

        start = _unit(jax.random.normal(jax.random.key(0), x.shape))
        return jnp.max(_size(forward(jax.lax.fori_loop(0, _POWER_STEPS, sharpen, start))))

    return largest


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
