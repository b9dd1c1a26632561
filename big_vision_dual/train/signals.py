"""Stops a run between two steps when it is asked to, so that it can save and exit; says at once that it has heard."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped by a signal, everything saved; the same command continues the run."""
INTERRUPTED = 130
"""128 + SIGINT: ended at once by a second Ctrl-C, without saving."""
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last when a terminal closes, or its ssh ends
_PATIENCE_SECONDS = 5.0
_HEARD = (
    b"\nStopping: the step under way (or the compilation) is finished, then everything is saved. "
    b"Ctrl-C again ends at once.\n"
)
_AT_ONCE = b"\nEnding at once, without saving: the same command continues at the newest checkpoint.\n"


class Stopped(SystemExit):
    """The run saved its state after a signal. Uncaught, the process exits with `EXIT_CODE`."""

    def __init__(self, step: int):
        super().__init__(EXIT_CODE)
        self.step = step


class StopRequest:
    """Context in which the first SIGTERM, SIGINT or SIGHUP asks for a stop; a second SIGINT interrupts at once.

    Where SIGHUP is ignored, as nohup has it, it stays so.

    On a pod, JAX's preemption service watches for SIGTERM (which is also Google Cloud's notice) on every
    host, and all hosts agree on the step to stop at; SIGINT then keeps its usual meaning.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> StopRequest:
        if not jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread():
            self._undo.enter_context(_answers())
            for number in _STOPS:
                before = signal.getsignal(number)
                if (number, before) != (signal.SIGHUP, signal.SIG_IGN):
                    self._undo.callback(signal.signal, number, before)
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

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


@contextlib.contextmanager
def _answers():
    """A thread that answers signals while the main thread is in native code, which compiles for minutes.

    Python runs a signal's handler only when the main thread is back in Python; the byte that `set_wakeup_fd` writes
    comes at once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    left = threading.Event()
    thread = threading.Thread(target=_answer, args=(reading, left), daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _answer(reading: int, left: threading.Event) -> None:
    heard = 0
    while byte := os.read(reading, 1):
        if byte[0] not in _STOPS:
            continue
        if not heard:
            _say(_HEARD)
        elif byte[0] == signal.SIGINT:
            _say(_AT_ONCE)
            if not left.wait(_PATIENCE_SECONDS):
                os._exit(INTERRUPTED)
        heard += 1


def _say(text: bytes) -> None:
    with contextlib.suppress(OSError):  # a terminal that has closed
        os.write(2, text)
