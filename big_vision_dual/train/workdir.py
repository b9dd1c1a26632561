"""The folder of a run: everything needed to know what was run, and to continue it."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from big_vision_dual.core import tables
from big_vision_dual.train.setup import Run

TABLE_FILE, CONFIG_FILE, VERSIONS_FILE = "norm_table.json", "config.json", "versions.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PACKAGES = ("big_vision_dual", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


class WorkdirError(RuntimeError):
    """A workdir that cannot be written to."""


@contextlib.contextmanager
def unwritable_named(path: epath.PathLike | None) -> Iterator[None]:
    """Raises WorkdirError in place of what the operating system says of a full disk or a folder it protects."""
    try:
        yield
    except OSError as error:
        inside = path is not None and str(error.filename).startswith(os.path.abspath(path))
        if path is None or not (inside or error.errno in _FULL):
            raise
        raise WorkdirError(
            f"cannot write to the workdir {os.fspath(path)}: {error}. Its checkpoints are intact: free some space "
            "there, or give a folder that you may write to, and run the same command again."
        ) from error


def located(path: epath.PathLike) -> epath.Path:
    """The folder of that name; a local path comes out absolute, as orbax wants it."""
    name = os.fspath(path)
    return epath.Path(name if "://" in name else os.path.abspath(os.path.expanduser(name)))


def open_workdir(path: epath.PathLike) -> epath.Path:
    """The folder `located` there, made where it is not."""
    folder = located(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe(run: Run, folder: epath.Path) -> list[epath.Path]:
    """Writes config.json, versions.json and the table used, if any; returns the files worth archiving."""
    files = [folder / CONFIG_FILE]
    if jax.process_index() == 0:
        files[0].write_text(json.dumps(run.config.to_dict(), indent=2, default=str) + "\n")
        (folder / VERSIONS_FILE).write_text(json.dumps(_versions(), indent=2) + "\n")
    if run.table is not None:
        files.append(folder / TABLE_FILE)
        if jax.process_index() == 0:
            files[-1].write_text(tables.dumps(run.table))
    return files


def _versions() -> dict[str, Any]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0].device_kind
    return {"python": platform.python_version(), **packages, "device": device, "devices": jax.device_count()}
