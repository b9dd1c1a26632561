"""Keeps compiled programs on disk, so that a restart reaches its first step without compiling again."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import pathlib
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

OFF = "off"
_SETTING, _ENABLED = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
_UNWRITABLE = re.compile(r"Error writing persistent compilation cache entry for '[^']*': (.*)")
_UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']*)'")


@contextlib.contextmanager
def enabled(choice: str | None, workdir: epath.Path | None) -> Iterator[None]:
    """Context in which JAX keeps its programs in a folder; entries that turn out damaged are deleted and made anew, and
    a folder that cannot be written to is said once.

    choice: config.compile_cache: a folder, 'off', or None for the default: `compile_cache` beside a workdir in a
      bucket, where the next machine finds it, else ~/.cache/big_vision_dual. A folder that JAX was given already
      (JAX_COMPILATION_CACHE_DIR) stays. Raises NotADirectoryError where something else is in its place.
    """
    given = os.environ.get(_SETTING.upper()) or jax.config.values[_SETTING]
    folder = given or (None if choice == OFF or workdir is None else choice or _default(workdir))
    if folder is None:
        yield
        return
    if os.path.exists(folder) and not os.path.isdir(folder):  # false of a bucket, which has no folders
        raise NotADirectoryError(errno.ENOTDIR, "the place for compiled programs is no folder", folder)
    show = warnings.showwarning
    warnings.showwarning = functools.partial(_healing, show, folder, set())
    if not given:
        _use(folder)
    try:
        yield
    finally:
        warnings.showwarning = show
        if not given:
            _use(None)


def _use(folder: str | None) -> None:
    jax.config.update(_SETTING, folder)
    compilation_cache.reset_cache()  # JAX looks at the setting once, at the first program


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Context in which programs are neither kept nor looked up.

    For devices that are not there: their programs can be written but not be read, which takes a client of the device
    (jax 0.10.2: "PjRtCompiler must be constructed with a Client to call DeserializeLoadedExecutable").
    """
    before = jax.config.values[_ENABLED]
    try:
        _enable(False)
        yield
    finally:
        _enable(before)


def _enable(whether: bool) -> None:
    jax.config.update(_ENABLED, whether)
    compilation_cache.reset_cache()


def _default(workdir: epath.Path) -> str:
    if "://" in os.fspath(workdir):
        return os.fspath(workdir.parent / "compile_cache")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "big_vision_dual", f"compiled-{_machine()}")


def _machine() -> str:
    """A name for this kind of CPU: programs for another one could stop with an illegal instruction."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        facts = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        facts = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _healing(
    show: Callable[..., None], folder: str, said: set[str], message: Any, *details: Any, **options: Any
) -> None:
    """`warnings.showwarning`, less JAX's about an entry that it cannot read, and would neither use nor replace, and
    about each one that it cannot write."""
    unreadable, unwritable = _UNREADABLE.match(str(message)), _UNWRITABLE.match(str(message))
    if unwritable:
        if not said:
            logging.warning(
                "compiled programs cannot be kept in %s, the next start compiles: %s", folder, unwritable[1]
            )
        said.add(folder)
        return
    if not unreadable:
        show(message, *details, **options)
        return
    logging.warning("compiled anew, since it was damaged in %s: %s", folder, unreadable[1])
    for entry in epath.Path(folder).glob(f"{unreadable[1]}-*"):
        entry.unlink(missing_ok=True)
