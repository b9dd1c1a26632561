"""Gradient transformations that a config names in `optax_name`, besides optax's own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train.optim import arguments
from big_vision_dual.train.recipes import DUALIZE as DUALIZE


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


def muon(
    beta: jax.typing.ArrayLike = 0.9,
    consistent_rms: float | None = 0.2,
    nesterov: bool = True,
    fallback: Sequence[tuple[str, str]] = (),
    fallback_scale: Any = 1.0,
    b2: jax.typing.ArrayLike = 0.999,
) -> optax.GradientTransformation:
    """`optax.contrib.muon` set up for Flax models, without its learning rate and decay.

    All kernels are matrices, those of attention and patches too (axes as in `tables.flat`); the rest goes to Adam(beta,
    b2), as do the leaves that `fallback` gives ('adam'), (regex of the path, 'adam' | 'muon') pairs, the first counts.
    fallback_scale: Adam's learning rate over Muon's, may be traced. consistent_rms: see there.
    """
    if unknown := sorted({kind for _, kind in fallback} - {"adam", "muon"}):
        raise ValueError(f"fallback kinds {unknown}; possible: adam, muon.")

    def numbers(params: Any) -> Any:
        table = tables.flat(params)
        rows = {row.path: row for row in table.rows}
        kinds = trees.first_match([*fallback, (".*", "muon")], list(rows), "fallback")

        def of(path: str, _: Any) -> Any:
            row = rows[path]
            if row.atom != "Linear" or kinds[row.path] != "muon":
                return None
            return optax.contrib.MuonDimensionNumbers(row.fan_in, row.fan_out)

        return trees.map_with_path(of, params)

    return optax.contrib.muon(
        learning_rate=-1.0,  # contrib.muon descends; the chain's last link does that here
        adam_learning_rate=-fallback_scale,
        beta=beta,
        nesterov=nesterov,
        consistent_rms=consistent_rms,
        adam_b1=beta,
        adam_b2=b2,
        muon_weight_dimension_numbers=numbers,
    )


_OURS: dict[str, Callable[..., optax.GradientTransformation]] = {
    DUALIZE: dualize.scale_by_dualize,
    "big_vision_dual.muon": muon,
    "big_vision.momentum_hp": momentum_hp,
    "big_vision.scale_by_adafactor": scale_by_adafactor,
    "big_vision.sgd": optax.identity,
}


def make(optax_name: str, options: Mapping[str, Any]) -> optax.GradientTransformation:
    """`optax_name(**options)`, whose updates point uphill: the chain negates them.

    Raises `ValueError` for unknown or missing options, and for a transformation of optax that goes downhill already.
    """
    factory = find(optax_name)
    arguments.check(factory, options, f"config.optax ({optax_name})")
    try:
        tx = factory(**options)
    except TypeError as error:
        raise ValueError(f"config.optax={dict(options)}, for {optax_name}: {error}.") from error
    if optax_name not in _OURS and _descends(tx):
        near = did_you_mean(f"scale_by_{optax_name.rpartition('.')[2]}", _uphill())
        raise ValueError(
            f"optax_name={optax_name!r} goes downhill by itself, and so uphill in the chain, which multiplies by -lr; "
            f"possible: a transformation without a learning rate{near}, with config.lr and config.wd beside it."
        )
    return tx


def _descends(tx: optax.GradientTransformation) -> bool:
    """Whether a step from 0 with gradient 1 goes down; False for what cannot take that step, or is traced."""
    params: Any = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
    gradient = jax.tree.map(jnp.ones_like, params)
    try:
        updates: Any = tx.update(gradient, tx.init(params), params)[0]
        return float(jnp.sum(updates["kernel"])) < 0
    except (TypeError, ValueError):  # jax's own error for traced values is a TypeError
        return False


def _uphill() -> list[str]:
    """Names of transformations whose updates point uphill: ours and optax's."""
    return [*_OURS, *(name for name in dir(optax) if name.startswith("scale_by_") and "learning_rate" not in name)]


def find(optax_name: str) -> Callable[..., Any]:
    """The factory of a transformation: one of ours, or an attribute path on the `optax` module."""
    if optax_name in _OURS:
        return _OURS[optax_name]
    try:
        factory = operator.attrgetter(optax_name)(optax)
    except AttributeError:
        factory = None
    if not callable(factory):
        near = did_you_mean(optax_name, _uphill()) or did_you_mean(f"scale_by_{optax_name}", _uphill())
        raise ValueError(
            f"unknown optax_name {optax_name!r}{near}; possible: {', '.join(_OURS)}, or an attribute path "
            "on the optax module such as 'scale_by_adam' or 'scale_by_lion'."
        )
    return factory
