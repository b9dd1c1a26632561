# pyright: reportOptionalMemberAccess=false
"""Who has a workdir, where the operating system locks and where only a file can say so; and how hosts meet."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from big_vision_dual.core import files
from big_vision_dual.train import lock, rendezvous, run_files, workdir


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Of the owner's file, as in a bucket, with seconds that a test can wait for."""
    for name, seconds in (("_BEAT_SECONDS", 0.05), ("_STALE_SECONDS", 0.2), ("_SETTLE_SECONDS", 0.05)):
        monkeypatch.setattr(lock, name, seconds)
    return epath.Path(tmp_path) / run_files.OWNER


def elsewhere(**changes):
    return dataclasses.replace(lock._myself(), host="elsewhere", **changes)


def test_a_second_one_is_refused_by_name_and_the_lock_goes_with_its_holder(tmp_path):
    folder = epath.Path(tmp_path)
    named = rf"another training has .*: process {os.getpid()} of .* on "
    with lock.held(folder), pytest.raises(workdir.WorkdirError, match=named):
        lock.held(folder).__enter__()
    dies = f"lock.held(epath.Path({str(tmp_path)!r})).__enter__(); os._exit(0)"  # with the lock in its hands
    script = f"import os; from etils import epath; from big_vision_dual.train import lock; {dies}"
    subprocess.run([sys.executable, "-c", script], check=True)
    with lock.held(folder) as check:
        check()


def test_a_torn_owners_file_is_no_reason_to_fail(tmp_path):
    (tmp_path / run_files.OWNER).write_bytes(b'{"tok\xff')
    with lock.held(epath.Path(tmp_path)):
        assert lock._parsed((tmp_path / run_files.OWNER).read_bytes()).pid == os.getpid()


def test_a_folder_that_was_moved_away_belongs_to_the_training_that_begins_there(tmp_path):
    """The first one names its files by path, and would write into the run of the second."""
    folder = tmp_path / "run"
    folder.mkdir()
    with lock.held(epath.Path(folder)) as first:
        first()
        folder.rename(tmp_path / "moved")
        first()  # nobody is there yet
        (tmp_path / "moved").rename(folder)
        first()  # and it may come back
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        with lock.held(epath.Path(folder)) as second:
            for _ in range(2):
                with pytest.raises(workdir.WorkdirError, match="another training has the workdir"):
                    first()
            second()
        with pytest.raises(workdir.WorkdirError, match="another training has the workdir"):
            first()  # also when the second has ended: the folder holds its run


def test_a_deleted_lock_is_taken_again(tmp_path):
    with lock.held(epath.Path(tmp_path)) as first:
        (tmp_path / run_files.OWNER).unlink()
        first()
        with pytest.raises(workdir.WorkdirError, match=f"process {os.getpid()} of "):
            lock.held(epath.Path(tmp_path)).__enter__()
        first()


OWNER = {"token": "t", "host": "h", "pid": 5, "user": "u", "since": "s", "command": "c", "beat": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[" * 100_000, b"[1, 2]", b"null", b"{}", json.dumps({**OWNER, "more": 1}).encode(),
        *(json.dumps({**OWNER, "pid": pid}).encode() for pid in ("x", 0, -1, 2**40, True, None)),
        json.dumps({**OWNER, "token": 3}).encode(),
    ],
)  # fmt: skip
def test_an_owners_file_of_garbage_has_no_owner(path, content):
    assert lock._parsed(json.dumps(OWNER).encode()) == lock.Owner(**OWNER)
    path.write_bytes(content)
    assert lock._read(path) is None
    with lock._leased(path) as check:
        check()


def test_a_lease_that_is_renewed_belongs_to_a_living_training(path):
    other, done = elsewhere(), threading.Event()

    def renew():
        for beat in range(100):
            files.write(path, lock._text(dataclasses.replace(other, beat=beat)))
            if done.wait(0.02):
                return

    path.write_text(lock._text(other))
    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(workdir.WorkdirError, match=r"another training has .* on elsewhere, since "):
        lock._leased(path).__enter__()
    done.set()
    thread.join()


def test_a_lease_that_cannot_be_read_is_not_free(path, monkeypatch):
    path.write_text(lock._text(elsewhere()))

    def unreachable(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock.files, "read_bytes", unreachable)
    with pytest.raises(OSError, match="Input/output error"):
        lock._leased(path).__enter__()


@pytest.mark.parametrize("gone", [{"host": "elsewhere"}, {"pid": 2**22 - 1}, {"since": "2199-01-01 00:00:00 UTC"}])
def test_a_lease_that_stands_still_is_taken_whatever_its_clock_says(path, gone):
    path.write_text(lock._text(dataclasses.replace(lock._myself(), **gone)))
    with lock._leased(path) as check:
        check()
        before = lock._read(path).beat
        time.sleep(0.2)
        assert lock._read(path).beat > before
    assert not path.exists()


def test_a_training_notices_that_another_took_over(path):
    with lock._leased(path) as check:
        path.write_text(lock._text(elsewhere()))
        time.sleep(0.2)
        with pytest.raises(workdir.WorkdirError, match="on elsewhere"):
            check()
    assert lock._read(path).host == "elsewhere"


def meet(ranks, hosts, seconds):
    """What became of each rank: None, or the error's text."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    told = {}

    def one(rank):
        try:
            told[rank] = rendezvous.meet(address, hosts, rank, seconds)
        except rendezvous.HostMissing as error:
            told[rank] = str(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 10)
    return told


def test_hosts_that_all_come_go_on():
    assert meet([2, 0, 1], 3, 20) == {0: None, 1: None, 2: None}


@pytest.mark.parametrize(("come", "missing"), [([0, 1], "2"), ([0], "1, 2"), ([1, 2], "0")])
def test_a_host_that_does_not_come_is_named_on_all_others(come, missing):
    told = meet(come, 3, 1.5)
    assert set(told) == set(come)
    for text in told.values():
        assert text.startswith(f"host {missing} of 3 (counted from 0) did not join within 1.5 s; the cause is in its")
