"""Gradient transformations that a config names in `optax_name`, besides optax's own."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision_dual.core import dualize
from big_vision_dual.core.errors import did_you_mean


def momentum_hp(
    momentum: jax.typing.ArrayLike = 0.9, dtype: Any = jnp.bfloat16, nesterov: bool = False
) -> optax.GradientTransformation:
    """Heavy-ball momentum with its accumulator in half precision."""
    return optax.trace(momentum, nesterov, dtype)


def scale_by_adafactor(
    min_dim_size_to_factor: int = 32,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    beta2_cap: float = 0.999,
    clipping_threshold: float | None = None,
    momentum: jax.typing.ArrayLike | None = 0.9,
    dtype_momentum: Any = jnp.bfloat16,
    eps: float = 1e-30,
) -> optax.GradientTransformation:
    """Adafactor as modified for large ViTs (Zhai et al., arXiv 2106.04560, section 3.4).

    Factored second moments with decay min(beta2_cap, 1 - t^-decay_rate), t counted from 1, optional clipping
    of each leaf's RMS, and a first moment in half precision without bias correction.
    """

    def capped_decay(step: jax.typing.ArrayLike, exponent: Any) -> jax.Array:
        return jnp.minimum(beta2_cap, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -exponent)

    stages = [
        optax.scale_by_factored_rms(
            decay_rate=decay_rate,
            step_offset=decay_offset,
            min_dim_size_to_factor=min_dim_size_to_factor,
            epsilon=eps,
            decay_rate_fn=capped_decay,
        )
    ]
    if clipping_threshold is not None:
        stages.append(optax.clip_by_block_rms(clipping_threshold))
    if momentum is not None:
        stages.append(optax.ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    return optax.chain(*stages)


DUALIZE = "big_vision_dual.scale_by_dualize"
_OURS: dict[str, Callable[..., optax.GradientTransformation]] = {
    DUALIZE: dualize.scale_by_dualize,
    "big_vision.momentum_hp": momentum_hp,
    "big_vision.scale_by_adafactor": scale_by_adafactor,
    "big_vision.sgd": optax.identity,
}


def find(optax_name: str) -> Callable[..., Any]:
    """The factory of a transformation: one of ours, or an attribute path on the `optax` module."""
    if optax_name in _OURS:
        return _OURS[optax_name]
    try:
        factory = operator.attrgetter(optax_name)(optax)
    except AttributeError:
        factory = None
    if not callable(factory):
        known = [*_OURS, *(name for name in dir(optax) if name.islower() and callable(getattr(optax, name)))]
        near = did_you_mean(optax_name, known)
        raise ValueError(
            f"unknown optax_name {optax_name!r}{near}; possible: {', '.join(_OURS)}, or an attribute path "
            "on the optax module such as 'scale_by_adam' or 'contrib.scale_by_muon'."
        )
    return factory
