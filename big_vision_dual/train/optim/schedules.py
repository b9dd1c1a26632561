"""Learning-rate schedules by name, with warm-up and cooldown: functions of a 0-based step."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train.optim import arguments, durations

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
_DURATIONS = [f"{prefix}_{unit}" for prefix in ("warmup", "cooldown") for unit in durations.UNITS]


@dataclasses.dataclass(frozen=True)
class _Clock:
    """What a decay may depend on. step: 0-based, traced; peak: value at the end of the warm-up."""

    step: jax.typing.ArrayLike
    warmup: int
    total: int
    batch_size: int
    peak: float

    @property
    def progress(self) -> jax.Array:
        """From 0 at the end of the warm-up to 1 at the end of training."""
        return jnp.clip((self.step - self.warmup) / max(1, self.total - self.warmup), 0.0, 1.0)


def _linear(clock: _Clock, *, power: float = 1.0, end: float = 0.0, linear_end: float | None = None) -> jax.Array:
    end = end if linear_end is None else linear_end
    return end + (clock.peak - end) * (1.0 - clock.progress) ** power


def _cosine(clock: _Clock) -> jax.Array:
    return clock.peak * 0.5 * (1.0 + jnp.cos(jnp.pi * clock.progress))


def _rsqrt(
    clock: _Clock, *, timescale: float = 10_000, timescale_examples: float | None = None, shift: float = 0
) -> jax.Array:
    """Zhai et al., arXiv 2106.04560, section 3.5; timescale and shift are in steps."""
    timescale = timescale if timescale_examples is None else timescale_examples / clock.batch_size
    since_warmup = jnp.maximum(clock.step - clock.warmup, 0)
    return clock.peak / jnp.sqrt(1 + (since_warmup + shift) / timescale)


def _stair(clock: _Clock, *, steps: Sequence[int] = (), mults: Sequence[float] = ()) -> jax.Array:
    """From step steps[i] on, mults[i] times the peak."""
    if len(steps) != len(mults) or list(steps) != sorted(steps):
        raise ValueError(
            f"stair schedule: steps {list(steps)} must ascend, with one entry of mults {list(mults)} for each."
        )
    stairs_passed = jnp.sum(clock.step >= jnp.array(steps, jnp.int32))
    return clock.peak * jnp.array([1.0, *mults], jnp.float32)[stairs_passed]


_DECAYS = {"linear": _linear, "polynomial": _linear, "cosine": _cosine, "rsqrt": _rsqrt, "stair": _stair}


def make(
    config: Any,
    *,
    total_steps: int,
    batch_size: int,
    data_size: int | None = None,
) -> Schedule:
    """The schedule that a `config.schedule` describes: step (0-based, int or traced) -> float32 factor.

    config: a mapping of
      decay_type: 'linear' = 'polynomial' (power, end or linear_end), 'cosine', 'rsqrt' (timescale |
        timescale_examples, shift), 'stair' (steps, mults; the default, constant without steps);
      mult: the peak value, default 1; scale_with_batchsize: the peak times batch_size / 256;
      {warmup,cooldown}_{steps,epochs,examples,percent}: factors min(1, step / warmup) and
        min(1, (total - step) / cooldown), so that the first update of a warm-up is 0.
    Raises ValueError for an unknown decay_type or key, and for a warm-up as long as the training.
    """
    config = dict(config)
    decay = _decay(config)
    warmup, cooldown = (
        durations.steps(prefix, config, data_size, batch_size, total_steps, default=0)
        for prefix in ("warmup", "cooldown")
    )
    if total_steps > 1 and warmup >= total_steps:
        raise ValueError(
            f"the warm-up of {warmup} steps fills the whole training of {total_steps} steps; "
            "shorten it, or give it as a share with warmup_percent."
        )
    peak = config.get("mult", 1.0) * (batch_size / 256 if config.get("scale_with_batchsize") else 1.0)
    options = {key: value for key, value in config.items() if key in inspect.signature(decay).parameters}

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        value = decay(_Clock(step, warmup, total_steps, batch_size, peak), **options)
        if warmup:
            value = value * jnp.minimum(1.0, step / warmup)
        if cooldown:
            value = value * jnp.minimum(1.0, (total_steps - step) / cooldown)
        return jnp.asarray(value, jnp.float32)

    schedule(0)  # a decay checks its options when it is called: let a bad config fail here
    return schedule


def _decay(config: dict[str, Any]) -> Callable[..., jax.Array]:
    """The decay that `config` names, once its keys are checked."""
    decay_type = config.get("decay_type", "stair")
    if decay_type not in _DECAYS:
        near = did_you_mean(str(decay_type), _DECAYS)
        raise ValueError(f"unknown decay_type {decay_type!r}{near}; possible: {sorted(_DECAYS)}.")
    decay = _DECAYS[decay_type]
    common = ["decay_type", "mult", "scale_with_batchsize", *_DURATIONS]
    arguments.check(decay, {"clock": None, **config}, f"config.schedule ({decay_type})", common)
    return decay
