"""Logging of a command, without what libraries print of errors that they raise as well."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from big_vision_dual.core import errors

_CHATTER = "Given directory is read only"  # orbax, of a checkpoint that is only to be read


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """Context in which warnings are logged, but no chatter and traceback of orbax's unless BVD_TRACEBACK is set.

    A full disk makes orbax log a traceback in each of its threads, hundreds of lines in all, before the one error
    that says so reaches the caller. An error of the reading leaves orbax's other coroutines where they are; each
    prints one when it is collected, tensorstore when it finds the event loop closed, and asyncio logs one for each task
    that nobody asked. That may be as late as the end of the process, so it is kept quiet from here on, and not in this
    context alone.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if not isinstance(sys.unraisablehook, _ButOrbax):
        sys.unraisablehook = _ButOrbax(sys.unraisablehook)
    logging.getLogger("asyncio").addFilter(_not_orbax)
    if os.environ.get(errors.TRACEBACK):
        yield
        return
    absl = logging.getLogger("absl")
    absl.addFilter(_wanted)
    try:
        yield
    finally:
        absl.removeFilter(_wanted)


def no_tpu() -> None:
    """Keeps JAX from asking a libtpu that only `bvd preflight` needs for TPUs that are not there: it prints errors.

    Has an effect before JAX is imported, where JAX_PLATFORMS is not set, there is no TPU, and no plugin for a GPU.
    """
    chips = [*glob.glob("/dev/accel*"), *glob.glob("/dev/vfio/[0-9]*")]
    installed = [importlib.util.find_spec(name) is not None for name in ("libtpu", "jax_plugins")]
    if not chips and installed == [True, False]:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _wanted(record: logging.LogRecord) -> bool:
    return not record.exc_info and not str(record.msg).startswith(_CHATTER)


def _not_orbax(record: logging.LogRecord) -> bool:
    """Whether a record is of another error than one that came through orbax, or tracebacks are wanted."""
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.walk_tb(error.__traceback__) if error else ()
    return bool(os.environ.get(errors.TRACEBACK)) or not any(_of_orbax(frame.f_code) for frame, _ in frames)


def _of_orbax(code: Any) -> bool:
    return "orbax" in pathlib.PurePath(code.co_filename).parts


class _ButOrbax:
    """A sys.unraisablehook: what orbax's abandoned coroutines raise is left out, all else goes to the hook before."""

    def __init__(self, hook: Callable[[Any], Any]):
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        abandoned = code is not None and _of_orbax(code)
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if os.environ.get(errors.TRACEBACK) or not (abandoned or closed):
            self._hook(unraisable)
