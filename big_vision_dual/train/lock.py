"""One training a workdir: who has it is written in it, and another training is refused by that name.

On a local file system the operating system holds the lock, and drops it when the process ends, however it ends. In a
bucket there is no such thing: the owner's file carries a count that goes up every few seconds, and a count that stands
still for a minute belongs to a training that is gone. No clock is compared with another machine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import getpass
import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from big_vision_dual.core import files
from big_vision_dual.train import run_files, workdir

_BEAT_SECONDS = 15.0
_STALE_SECONDS = 60.0  # four beats
_SETTLE_SECONDS = 2.0  # in which of two that start at once the later one's file is the one that stays
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

Check = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Owner:
    """A training that holds a workdir. beat: how often a bucket's file was renewed."""

    token: str
    host: str
    pid: int
    user: str
    since: str
    command: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}: {self.command}"


def _myself() -> Owner:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = str(os.getuid())
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Owner(uuid.uuid4().hex, platform.node(), os.getpid(), user, since, " ".join(sys.argv)[:200])


@contextlib.contextmanager
def held(folder: epath.Path) -> Iterator[Check]:
    """Context in which this process alone trains in `folder`; its value raises WorkdirError once another took over.

    Raises WorkdirError, with the other's name, where another training has it.
    """
    path = folder / run_files.OWNER
    with contextlib.ExitStack() as stack:
        if "://" in os.fspath(folder):
            check = stack.enter_context(_leased(path))
        else:
            try:
                check = stack.enter_context(_locked(os.fspath(path)))
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                check = stack.enter_context(_leased(path))
        yield check


def _refused(path: str, other: Owner | None) -> workdir.WorkdirError:
    who = str(other) if other else "whose name cannot be read"
    return workdir.WorkdirError(
        f"another training has the workdir {os.path.dirname(path)}: {who}. "
        "Wait until it ends, stop it, or give another workdir."
    )


def _parsed(text: str) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _text(owner: Owner) -> str:
    return json.dumps(dataclasses.asdict(owner), indent=1) + "\n"


@contextlib.contextmanager
def _locked(path: str) -> Iterator[Check]:
    """flock(2); the file stays, since to delete it would race with one who has just opened it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refused(path, _parsed(os.pread(descriptor, 10_000, 0).decode(errors="replace"))) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _text(_myself()).encode(), 0)
        yield lambda: None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _leased(path: epath.Path) -> Iterator[Check]:
    """An owner's file that is renewed by a thread as long as this process runs."""
    mine = _myself()
    _wait_for_a_stale_one(path, mine)
    files.write(path, _text(mine))
    time.sleep(_SETTLE_SECONDS)
    _still_mine(path, mine)
    lease = _Lease(path, mine)
    lease.start()
    try:
        yield lease.check
    finally:
        lease.stop()


def _read(path: epath.Path) -> Owner | None:
    """Whose lease it is; None where there is no file, or none of an owner. A reading that fails is no such answer."""
    try:
        return _parsed(files.read(path))
    except (FileNotFoundError, files.FileError):
        return None


def _wait_for_a_stale_one(path: epath.Path, mine: Owner) -> None:
    """Returns when nobody has the workdir. Watches a file that is there: one that is renewed has a living owner."""
    other = _read(path)
    if other is None or (other.host == mine.host and (other.pid == mine.pid or not _runs(other.pid))):
        return
    logging.warning("the workdir was held by %s; waiting %g s to see whether it still runs", other, _STALE_SECONDS)
    for _ in range(int(_STALE_SECONDS / _BEAT_SECONDS)):
        time.sleep(_BEAT_SECONDS)
        now = _read(path)
        if now is None:
            return
        if now != other:
            raise _refused(os.fspath(path), now)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _still_mine(path: epath.Path, mine: Owner) -> None:
    other = _read(path)
    if other is not None and other.token != mine.token:
        raise _refused(os.fspath(path), other)


class _Lease:
    """Renews the owner's file every `_BEAT_SECONDS`; notices when another training has taken the workdir."""

    def __init__(self, path: epath.Path, mine: Owner):
        self._path, self._mine = path, mine
        self._lost: Exception | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        if self._lost is None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            try:
                _still_mine(self._path, self._mine)
                self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
                files.write(self._path, _text(self._mine))
            except workdir.WorkdirError as error:
                self._lost = error
                return
            except Exception as error:  # a bucket out of reach for a moment: the next beat tries again
                logging.warning("could not renew %s: %s", self._path, error)
