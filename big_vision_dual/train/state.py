"""Everything a run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """State after `step` updates; what a checkpoint holds and what the step donates.

    step: int32, updates done. params: float32 tree. opt_state: of the optax transformation.
    rng: uint32 key data of the run's seed, constant; randomness of a step is a function of (rng, step).
    ema_params: exponential moving average of params, or None.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    rng: jax.Array
    ema_params: PyTree | None


def initial(params: PyTree, tx: optax.GradientTransformation, seed: int, ema: bool) -> TrainState:
    """The state before the first update. Traceable, so that shapes and shardings come before memory."""
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        opt_state=tx.init(params),
        rng=jax.random.key_data(jax.random.key(seed)),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def step_key(state: TrainState) -> jax.Array:
    """The random key of the update that leads from `state` to the next."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
