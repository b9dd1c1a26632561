"""The folder of a run: everything needed to know what was run, and to continue it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from big_vision_dual import __version__
from big_vision_dual.core import files, tables
from big_vision_dual.train import changes, run_files
from big_vision_dual.train.setup import Run

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (errno.EISDIR, errno.EEXIST, errno.ENOTDIR)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")
_PATTERN = "[]*?\\"  # orbax looks for its files with glob, which reads these as patterns
_SAID = (
    (r"No space left|quota exceeded|File too large|ENOSPC|EDQUOT|EFBIG", _FULL),
    (r"Permission denied|Read-only file system|PERMISSION_DENIED|EACCES|EROFS", _FORBIDDEN),
    (r"Is a directory|Not a directory|File exists", _IN_THE_WAY),
    (r"No such file or directory|NOT_FOUND|ENOENT|Stale file handle", (errno.ENOENT, errno.ESTALE)),
)
_REMEDIES = {
    _FULL: "Free some space there, or raise config.ckpt_steps and config.keep_ckpt_steps",
    _IN_THE_WAY: "Something else is where that file or folder should be: move it away or give another workdir",
    _FORBIDDEN: "Give a folder that you may write to",
    (errno.ENOENT, errno.ESTALE): "The folder, or the disk that it is on, has gone: bring it back or give another one",
}
_OTHER_REMEDY = "See to that disk or bucket"


class WorkdirError(RuntimeError):
    """A workdir that cannot be used: not written to, held by another training, or of another config."""


@contextlib.contextmanager
def failures_named(path: epath.PathLike | None) -> Iterator[None]:
    """Raises WorkdirError in place of what the operating system says of a file of the workdir, or of a full disk."""
    try:
        yield
    except OSError as error:
        inside = path is not None and str(error.filename).startswith(os.path.abspath(path))
        if path is None or not (inside or error.errno in _FULL):
            raise
        raise WorkdirError(
            f"cannot use the workdir {os.fspath(path)}: {error}. Its checkpoints are left as they are. "
            f"{remedy(error)}, and run the same command again."
        ) from error


def remedy(error: Exception) -> str:
    """What to do about a file that could not be written: by the error's number, or by what its text says."""
    for pattern, numbers in _SAID:
        if getattr(error, "errno", None) in numbers or re.search(pattern, str(error), re.IGNORECASE):
            return _REMEDIES[numbers]
    return _OTHER_REMEDY


def located(path: epath.PathLike) -> epath.Path:
    """The folder of that name; a local path comes out absolute, as orbax wants it."""
    name = os.fspath(path)
    return epath.Path(name if "://" in name else os.path.abspath(os.path.expanduser(name)))


def refuse_patterns(folder: epath.PathLike) -> None:
    """Raises WorkdirError for a path in which orbax would write checkpoints that it cannot find again."""
    wrong = sorted(set(os.fspath(folder)) & set(_PATTERN))
    if wrong:
        raise WorkdirError(
            f"the path {os.fspath(folder)} has {' '.join(wrong)} in it: checkpoints could be written there but not "
            "read back. Give a path without [ ] * ? and backslash."
        )


def open_workdir(path: epath.PathLike) -> epath.Path:
    """The folder `located` there, made where it is not."""
    folder = located(path)
    refuse_patterns(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def describe(run: Run, folder: epath.Path, replaced_at: int | None) -> None:
    """Writes config.json, versions.json and the table used, if any.

    replaced_at: the step at which another config takes over, whose config.json is then kept; None without one.
    """
    if jax.process_index() != 0:
        return
    files.drop_unfinished(folder, run_files.REPLACED)
    if replaced_at is not None:
        changes.keep(folder, replaced_at)
    files.write_json(folder / run_files.CONFIG, changes.plain(run.config))
    files.write_json(folder / run_files.VERSIONS, {**facts(run), "started": _started(folder)})
    if run.table is not None:
        files.write(folder / run_files.TABLE, tables.dumps(run.table))


def versions() -> dict[str, str | None]:
    """{package: version} of this package, which need not be installed, and of what it computes with; None where a
    package does not say, as one that is only on the path."""
    found: dict[str, str | None] = {"big_vision_dual": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def facts(run: Run) -> dict[str, Any]:
    """What ran, with what: versions of packages, devices, parameters, commit and command."""
    return {
        "python": platform.python_version(),
        **versions(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.fns.state.params)),
        "commit": _commit(),
        "command": command(),
    }


def command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(sys.argv)


def _started(folder: epath.Path) -> str:
    """When the run in `folder` began, in ISO 8601: what versions.json says, else now."""
    with contextlib.suppress(OSError, files.FileError, KeyError, TypeError):
        return str(files.read_json(folder / run_files.VERSIONS)["started"])
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    """The commit of the clone that the package is in, with '+' where files differ from it; None outside one."""
    if not _git("ls-files", os.path.basename(__file__)):
        return None
    return f"{_git('rev-parse', 'HEAD')}{'+' if _git('status', '--porcelain', '-uno') else ''}"


def _git(*words: str) -> str:
    """What git says of this file's folder; '' where it fails."""
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
