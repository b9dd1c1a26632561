"""Logging of a command, without what libraries print of errors that they raise as well."""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from big_vision_dual.core import errors


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """Context in which warnings are logged, but no traceback of orbax's threads unless BVD_TRACEBACK is set.

    A full disk makes orbax log a traceback in each of its threads, hundreds of lines in all, before the one error
    that says so reaches the caller; and tensorstore complains that orbax closed its event loop.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if os.environ.get(errors.TRACEBACK):
        yield
        return
    absl, hook = logging.getLogger("absl"), sys.unraisablehook
    absl.addFilter(_has_no_traceback)
    sys.unraisablehook = functools.partial(_unraisable, hook)
    try:
        yield
    finally:
        absl.removeFilter(_has_no_traceback)
        sys.unraisablehook = hook


def no_tpu() -> None:
    """Keeps JAX from asking a libtpu that only `bvd preflight` needs for TPUs that are not there: it prints errors.

    Has an effect before JAX is imported, where JAX_PLATFORMS is not set, there is no TPU, and no plugin for a GPU.
    """
    chips = [*glob.glob("/dev/accel*"), *glob.glob("/dev/vfio/[0-9]*")]
    installed = [importlib.util.find_spec(name) is not None for name in ("libtpu", "jax_plugins")]
    if not chips and installed == [True, False]:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


def _unraisable(hook: Callable[[Any], Any], unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)
