"""One update of a training, as a pure function: what trainer, studies, preflight and benchmarks all compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from big_vision_dual.models import init as models_init
from big_vision_dual.train import losses, schema

PyTree = Any
Batch = dict[str, Any]  # of jax.Array, or of jax.ShapeDtypeStruct


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


class Update(NamedTuple):
    """state: after the update. loss: of the batch before it, nats. gradient, step: trees like the parameters."""

    state: TrainState
    loss: jax.Array
    gradient: PyTree
    step: PyTree


def init(config: Any, model: Any, tx: optax.GradientTransformation, seed: Any = None) -> TrainState:
    """The state before the first update. Traceable, so that shapes and shardings come before memory.

    config: a mapping; reads seed, input_shape, mup, init_head_bias and ema. seed: in place of the config's; may be
    traced. Raises `ValueError` for an init_head_bias where there is no head with a bias.
    """
    seed = schema.value(config, "seed") if seed is None else seed
    params = models_init.params(config, model, seed)
    bias = config.get("init_head_bias")
    if bias is not None:
        if "bias" not in params.get("head", {}):
            raise ValueError(f"config.init_head_bias={bias}, but the model has no leaf head/bias; leave it out.")
        params["head"]["bias"] = jnp.full_like(params["head"]["bias"], bias)
    return initial(params, tx, seed, ema=bool(config.get("ema")))


def initial(params: PyTree, tx: optax.GradientTransformation, seed: Any, ema: bool) -> TrainState:
    """The state before the first update of given parameters."""
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        params=params,
        opt_state=tx.init(params),
        rng=jax.random.key_data(jax.random.key(seed)),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
    )


def update(config: Any, model: Any, tx: optax.GradientTransformation) -> Callable[[TrainState, Batch], Update]:
    """(state, batch) -> `Update`. Can be jitted, sharded, differentiated and mapped over states (`jax.vmap`).

    config: a mapping; reads loss, label_smoothing, mixup, input.accum_freq, ema and input_shape.
    batch: 'image' (B, H, W, C) float32 and 'labels' (B, classes) float32, or of a language model 'tokens' (B, L + 1)
    int32. Raises `ValueError` for mixup of tokens.
    """
    gradient_of = _gradient(config, model)
    mixup_p, decay = schema.value(config, "mixup.p"), schema.value(config, "ema.decay")
    if config.get("mixup") and models_init.of_tokens(config):
        raise ValueError("config.mixup averages examples, which tokens do not allow; leave it out.")

    def one(state: TrainState, batch: Batch) -> Update:
        mixup_key, dropout_key = jax.random.split(_key(state))
        if mixup_p:
            batch = losses.mixup(mixup_key, batch, mixup_p)
        loss, gradient = gradient_of(state.params, batch, dropout_key)
        step, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, step)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optax.incremental_update(params, ema_params, 1.0 - decay)
        after = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params)
        return Update(after, loss, gradient, step)

    return one


def _key(state: TrainState) -> jax.Array:
    """The random key of the update that leads from `state` to the next."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def _gradient(config: Any, model: Any) -> Callable:
    """(params, batch, key) -> (loss, gradient) of the mean over the batch, in `accum_freq` micro-batches."""
    gradient = jax.value_and_grad(losses.training(config, model))
    accum = schema.value(config, "input.accum_freq")

    def accumulated(params: PyTree, batch: Batch, key: jax.Array) -> tuple[jax.Array, PyTree]:
        def add(total: PyTree, numbered: tuple[jax.Array, Batch]) -> tuple[PyTree, None]:
            index, micro_batch = numbered
            part = gradient(params, micro_batch, jax.random.fold_in(key, index))
            return jax.tree.map(lambda t, p: t + p / accum, total, part), None

        zeros = (jnp.zeros([], jnp.float32), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(accum), _micro_batches(batch, accum)))
        return total

    return gradient if accum == 1 else accumulated


def _micro_batches(batch: Batch, accum: int) -> Batch:
    """(B, ...) -> (accum, B / accum, ...), each device keeping its own examples: micro-batch j has j, j + accum..."""
    return {key: jnp.swapaxes(value.reshape(-1, accum, *value.shape[1:]), 0, 1) for key, value in batch.items()}
