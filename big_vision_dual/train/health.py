"""Finds the step, and the parameters, at which a run stopped being finite, and keeps such a state from being saved."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import trees

_AT_MOST = 64  # steps whose flags wait: read at least this often, whether anything is logged or not
_REMEDY = "a lower config.lr, a config.grad_clip_norm or a longer warm-up"


class NonFiniteError(FloatingPointError):
    """A loss, gradient, parameter or the optimizer's state became inf or NaN."""


class Monitor:
    """Keeps every step's finite flags on the device, and reads them when they are asked for or have become many."""

    def __init__(self, params: Any):
        self._names = list(trees.flatten(params))
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

    def add(self, step: int, outputs: dict[str, Any], last_checkpoint: int | None) -> None:
        """Notes a step's outputs; every `_AT_MOST` steps it checks those that must be there by now."""
        self._pending.append((step, {key: outputs[key] for key in ("loss", "finite_params", "finite_grads")}))
        if len(self._pending) >= _AT_MOST:
            self._check(_AT_MOST // 2, last_checkpoint)

    def check(self, last_checkpoint: int | None) -> None:
        """Raises NonFiniteError for the first step since the last call that was not finite."""
        self._check(len(self._pending), last_checkpoint)

    def _check(self, count: int, last_checkpoint: int | None) -> None:
        for _ in range(count):
            step, flags = self._pending.popleft()
            flags = jax.device_get(flags)
            if not (np.isfinite(flags["loss"]) and flags["finite_params"].all() and flags["finite_grads"].all()):
                raise NonFiniteError(self._describe(step, flags, last_checkpoint))

    def _describe(self, step: int, flags: dict[str, Any], last_checkpoint: int | None) -> str:
        return (
            f"training is not finite at step {step}: loss {flags['loss']}; gradients: "
            f"{_bad(self._names, flags['finite_grads'])}; parameters after the step: "
            f"{_bad(self._names, flags['finite_params'])}. {_way_on(last_checkpoint)}"
        )


def check_state(state: Any, step: int, last_checkpoint: int | None) -> None:
    """Raises NonFiniteError where a state is not fit to be saved.

    All its arrays have to be finite; a scalar (such as the best loss that a schedule has seen) may be infinite.
    """
    sound = jax.device_get(_sound(state))
    if not all(sound.values()):
        names, flags = zip(*sound.items(), strict=True)
        raise NonFiniteError(
            f"the state after step {step} is not finite and is not saved: {_bad(names, flags)}. "
            f"{_way_on(last_checkpoint)}"
        )


@jax.jit
def _sound(state: Any) -> dict[str, jax.Array]:
    leaves = {path: leaf for path, leaf in trees.flatten(state).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return {path: jnp.all(jnp.isfinite(leaf)) if leaf.ndim else ~jnp.isnan(leaf) for path, leaf in leaves.items()}


def _way_on(last_checkpoint: int | None) -> str:
    if last_checkpoint is None:
        return f"There is no checkpoint yet: begin anew, with {_REMEDY}."
    return (
        f"Checkpoints: step {last_checkpoint} is kept; the same command with --config.resume_changed=True and "
        f"{_REMEDY} continues there, and with --config.resume_step=N at an older one."
    )


def _bad(names: Any, finite: Any) -> str:
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if not bad:
        return "all finite"
    shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
    return f"{len(bad)} of {len(finite)} leaves, first {shown}"
