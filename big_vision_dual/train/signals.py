"""Stops a run between two steps when it is asked to, so that it can save and exit."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped by a signal, everything saved; the same command continues the run."""


class Stopped(SystemExit):
    """The run saved its state after a signal. Uncaught, the process exits with `EXIT_CODE`."""

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


class StopRequest:
    """Context in which the first SIGTERM or SIGINT asks for a stop; a second SIGINT interrupts at once.

    On a pod, JAX's preemption service watches for SIGTERM (which is also Google Cloud's notice) on every
    host, and all hosts agree on the step to stop at; SIGINT then keeps its usual meaning.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()

    def at(self, step: int) -> bool:
        """Whether to stop after `step`. Every host must ask at every step."""
        if not jax.distributed.is_initialized():
            return self._event.is_set()
        return multihost_utils.reached_preemption_sync_point(step)
