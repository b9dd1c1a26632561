"""One training a workdir: who has it is written in it, and another training is refused by that name.

On a local file system the operating system holds the lock, and drops it when the process ends, however it ends. Where
the folder was moved away meanwhile, or the lock's file deleted, a training notices another that began there. In a
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
_MOST, _MOST_PID = 10_000, 2**31 - 1  # bytes of an owner's file; of the kernel's processes
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


def _parsed(content: bytes) -> Owner | None:
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None
    right = all(type(getattr(owner, one.name)).__name__ == one.type for one in dataclasses.fields(Owner))
    return owner if right and 0 < owner.pid <= _MOST_PID else None


def _text(owner: Owner) -> str:
    return json.dumps(dataclasses.asdict(owner), indent=1) + "\n"


@contextlib.contextmanager
def _locked(path: str) -> Iterator[Check]:
    """flock(2); the file stays, since to delete it would race with one who has just opened it."""
    lock = _Lock(path)
    try:
        lock.take()
        yield lock.check
    finally:
        lock.drop()


class _Lock:
    """The owner's file, open while this process has it."""

    def __init__(self, path: str):
        self._path = path
        self._descriptor: int | None = None

    def take(self, flags: int = 0) -> None:
        """flags: further ones of open(2). Raises WorkdirError where another has it."""
        import fcntl

        with contextlib.ExitStack() as opened:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            opened.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _refused(self._path, _parsed(os.pread(descriptor, _MOST, 0))) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _text(_myself()).encode(), 0)
            opened.pop_all()
        self.drop()
        self._descriptor = descriptor

    def drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def check(self) -> None:
        """Raises WorkdirError where the file of that name is another's: this one's, or its folder, was moved or
        deleted, and another training began there. Where there is none it is made again."""
        assert self._descriptor is not None
        with contextlib.suppress(OSError):  # a disk out of reach is for those to say who write there
            try:
                named = os.stat(self._path)
            except FileNotFoundError:
                self.take(os.O_EXCL)
                return
            if not os.path.samestat(named, os.fstat(self._descriptor)):
                raise _refused(self._path, _parsed(files.read_bytes(self._path)))


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
        return _parsed(files.read_bytes(path))
    except FileNotFoundError:
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


def may_run(folder: epath.Path) -> bool:
    """Whether the training that had a workdir last may still run: not where it was a process of this machine that has
    ended. Takes no lock, and so disturbs none."""
    try:
        owner = _read(folder / run_files.OWNER)
    except OSError:  # another user's
        return True
    return owner is None or owner.host != platform.node() or _runs(owner.pid)


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
