"""Text from a trained language model, one byte at a time by its recurrent `step`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from big_vision_dual.train import start


def load(path: epath.PathLike) -> tuple[Any, Any]:
    """(model, parameters) of a run's newest checkpoint.

    Raises `CheckpointError` for a folder without config or checkpoint, `ValueError` for a model without the methods
    `init_state` and `step` of `ssm.LanguageModel`.
    """
    run = start.run_of(path)
    if not hasattr(run.model, "init_state"):
        raise ValueError(f"{path} has a {run.config.model_name}, which is no recurrent language model; possible: a run "
                         "of mamba, mamba2 or another model with `init_state` and `step`.")  # fmt: skip
    state, _ = start.left_by(run, path, str(path))
    return run.model, state.params


def generate(
    model: Any, params: Any, prompt: jax.typing.ArrayLike, length: int, temperature: float, seed: int
) -> jax.Array:
    """`length` tokens after `prompt` (T,), int32; temperature 0 takes the likeliest. Work and memory: O(1) a token."""

    def read(state: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        logits_1xV, state = model.step(params, state, token[None])
        return state, logits_1xV[0]

    def write(carry: tuple[Any, jax.Array], key: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        state, logits_V = carry
        token = jnp.argmax(logits_V) if temperature == 0 else jax.random.categorical(key, logits_V / temperature)
        token = token.astype(jnp.int32)
        return read(state, token), token

    @jax.jit
    def whole(prompt_T: jax.Array) -> jax.Array:
        state, logits_TxV = jax.lax.scan(read, model.init_state(1), prompt_T)
        keys = jax.random.split(jax.random.key(seed), length)
        return jax.lax.scan(write, (state, logits_TxV[-1]), keys)[1]

    return whole(jnp.asarray(prompt, jnp.int32))
