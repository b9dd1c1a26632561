"""A window of `jax.profiler` over some steps, as config.profile says."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from etils import epath


class Profile:
    """Context that traces steps start ... start + steps - 1 into workdir/profile, for TensorBoard or Perfetto.

    window: dict(start=, steps=) in steps counted from 1; None traces nothing.
    """

    def __init__(self, window: Mapping[str, int] | None, workdir: epath.Path | None):
        if window and (workdir is None or set(window) != {"start", "steps"}):
            raise ValueError(f"config.profile={dict(window)}; possible: dict(start=, steps=), with a workdir.")
        self._first, self._count = (window["start"], window["steps"]) if window else (0, 0)
        self._folder = None if workdir is None else workdir / "profile"
        self._running = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        if self._count and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: jax.Array) -> None:
        """result: something the step computes; a trace ends when it is there."""
        if self._running and step == self._first + self._count - 1:
            result.block_until_ready()
            jax.profiler.stop_trace()
            self._running = False
