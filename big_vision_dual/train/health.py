"""Finds the step, and the parameters, at which a run stopped being finite."""

from __future__ import annotations

import collections
from typing import Any

import jax
import numpy as np


class NonFiniteError(FloatingPointError):
    """A loss, gradient or parameter became inf or NaN."""


class Monitor:
    """Keeps every step's finite flags, on the device, until `check` reads them at the next logging step."""

    def __init__(self, params: Any):
        paths = jax.tree_util.tree_leaves_with_path(params)
        self._names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

    def add(self, step: int, outputs: dict[str, Any]) -> None:
        self._pending.append((step, {key: outputs[key] for key in ("loss", "finite_params", "finite_grads")}))

    def check(self, last_checkpoint: int | None) -> None:
        """Raises NonFiniteError for the first step since the last call that was not finite."""
        while self._pending:
            step, flags = self._pending.popleft()
            flags = jax.device_get(flags)
            if not (np.isfinite(flags["loss"]) and flags["finite_params"].all() and flags["finite_grads"].all()):
                raise NonFiniteError(self._describe(step, flags, last_checkpoint))

    def _describe(self, step: int, flags: dict[str, Any], last_checkpoint: int | None) -> str:
        kept = "there is no checkpoint yet" if last_checkpoint is None else f"step {last_checkpoint} is kept"
        return (
            f"training is not finite at step {step}: loss {flags['loss']}; "
            f"gradients: {self._bad(flags['finite_grads'])}; parameters before the step: "
            f"{self._bad(flags['finite_params'])}. Checkpoints: {kept}; the same command continues there, with "
            "a lower config.lr, a config.grad_clip_norm or a longer warm-up."
        )

    def _bad(self, finite: np.ndarray) -> str:
        bad = [name for name, good in zip(self._names, finite, strict=True) if not good]
        if not bad:
            return "all finite"
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        return f"{len(bad)} of {len(finite)} leaves, first {shown}"
