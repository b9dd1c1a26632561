"""For faults.py: what other programs, and people, do to a workdir: things in the way, copies, moves, closed screens."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator

from fault_runs import REFUSED, TRACEBACK, Place, Process, Trial, finish, rows, telling

Undo = Callable[[], None]
LATER = "99"  # name of a checkpoint that no training wrote
_STOPPED = 75  # exit status


def in_the_way(name: str, *, as_folder: bool = True) -> Callable[[pathlib.Path], Undo]:
    """A folder, or a file, where a file or folder of the run should be."""

    def do(workdir: pathlib.Path) -> Undo:
        path, aside = workdir / name, workdir / "aside"
        path.rename(aside)
        path.mkdir() if as_folder else path.write_text("text")

        def undo() -> None:
            path.rmdir() if as_folder else path.unlink()
            aside.rename(path)

        return undo

    return do


def written(name: str, content: bytes) -> Callable[[pathlib.Path], None]:
    def do(workdir: pathlib.Path) -> None:
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return do


def deleted(name: str) -> Callable[[pathlib.Path], None]:
    def do(workdir: pathlib.Path) -> None:
        (workdir / name).unlink()

    return do


def newest(workdir: pathlib.Path) -> pathlib.Path:
    return max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def copied(name: str) -> Callable[[pathlib.Path], None]:
    """The newest checkpoint, once more under another name."""

    def do(workdir: pathlib.Path) -> None:
        shutil.copytree(newest(workdir), workdir / "checkpoints" / name)

    return do


def linked(name: str) -> Callable[[pathlib.Path], None]:
    """A folder moved to another place, and a link to it."""

    def do(workdir: pathlib.Path) -> None:
        elsewhere = workdir.with_name(f"{workdir.name}-elsewhere")
        (workdir / name).rename(elsewhere)
        (workdir / name).symlink_to(elsewhere)

    return do


AT_REST: dict[str, Callable[[pathlib.Path], Undo | None]] = {
    "a folder for config.json": in_the_way("config.json"),
    "a folder for versions.json": in_the_way("versions.json"),
    "a folder for norm_table.json": in_the_way("norm_table.json"),
    "a folder for the metrics": in_the_way("big_vision_metrics.txt"),
    "a folder for the norms of atoms": in_the_way("atom_norms.jsonl"),
    "a folder for the lock": in_the_way("trainer.lock"),
    "a file for the checkpoints": in_the_way("checkpoints", as_folder=False),
    "no config.json": deleted("config.json"),
    "no versions.json": deleted("versions.json"),
    "no norm_table.json": deleted("norm_table.json"),
    "no lock": deleted("trainer.lock"),
    "an empty config.json": written("config.json", b""),
    "an empty lock": written("trainer.lock", b""),
    "garbage in the lock": written("trainer.lock", b'{"pid": 1e999, "\xff'),
    "an empty checkpoint of a later step": lambda workdir: (workdir / "checkpoints" / LATER).mkdir(),
    "a file named as a later checkpoint": written(f"checkpoints/{LATER}", b"text"),
    "a copy of a checkpoint under a later step": copied(LATER),
    "a copy of a checkpoint under a name with zeros": copied("0012"),
    "a copy of a checkpoint under a name": copied("backup"),
    "other files among the checkpoints": written("checkpoints/.DS_Store", b"text"),
    "a half-written checkpoint": written(f"checkpoints/{LATER}.orbax-checkpoint-tmp/state/d/0", b"text"),
    "half-written files": written("config.json.17.tmp", b"{"),
    "a link in place of the checkpoints": linked("checkpoints"),
    "a link that leads nowhere among the checkpoints": lambda workdir: (workdir / "checkpoints" / LATER).symlink_to(
        "nowhere"
    ),
}


def at_rest(place: Place) -> Iterator[Trial]:
    """Each of `AT_REST` in a run that is half done; what is in the way is taken away after it has been refused."""
    for what, do in AT_REST.items():
        workdir = place.copy_of(f"litter-{what.replace(' ', '-')}")
        trial = Trial("other hands", what, workdir=str(workdir))
        undo = do(workdir)
        process = Process(place, workdir)
        if undo is not None:
            status, said = process.wait(), process.said()
            trial.tracebacks += said.count(TRACEBACK)
            trial.starts += 1
            trial.said = telling(said)
            trial.unfinished += status not in (0, REFUSED)
            undo()
            process = Process(place, workdir)
        finish(place, trial, process)
        yield trial


def moved(place: Place) -> Iterator[Trial]:
    """A workdir is moved away while a training runs in it, and begun anew under its name: the first training stops, and
    writes nothing into what is the second's."""
    workdir, away = place.copy_of("moved"), place.folder / "trials" / "moved-away"
    trial = Trial("other hands", "the workdir moved while it trains, and begun anew", workdir=str(workdir))
    first = _suspended(place, workdir)
    workdir.rename(away)
    shutil.copytree(place.half, workdir)
    finish(place, trial, Process(place, workdir))
    _refused(trial, first)
    yield trial
    back = Trial("other hands", "what was moved away while it trained", workdir=str(away))
    finish(place, back, Process(place, away))
    yield back


def unlocked(place: Place) -> Iterator[Trial]:
    """The lock is deleted while a training runs, and the same command given: one of them stops."""
    workdir = place.copy_of("unlocked")
    trial = Trial("other hands", "the lock deleted while it trains, and begun anew", workdir=str(workdir))
    first = _suspended(place, workdir)
    (workdir / "trainer.lock").unlink()
    finish(place, trial, Process(place, workdir))
    _refused(trial, first)
    yield trial


def _suspended(place: Place, workdir: pathlib.Path) -> Process:
    """A training of a half-done run, stopped by SIGSTOP after its first row."""
    process, before, deadline = Process(place, workdir), len(rows(workdir)), time.monotonic() + 120
    while len(rows(workdir)) <= before and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGSTOP)
    return process


def _refused(trial: Trial, first: Process) -> None:
    """Lets a suspended training go on, which has to end by its own message."""
    os.kill(first.pid, signal.SIGCONT)
    status, said = first.wait(), first.said()
    trial.unfinished += status != REFUSED or "another training has" not in said
    trial.tracebacks += said.count(TRACEBACK)
    trial.said = telling(said)


def screens(place: Place) -> Iterator[Trial]:
    """Nobody reads what is printed, or its disk is full; and the terminal closes (SIGHUP)."""
    for what, screen in (("nobody reads the output", "pipe"), ("the disk of the output is full", "/dev/full")):
        workdir = place.copy_of(f"screen-{pathlib.Path(screen).name}")
        trial = Trial("other hands", what, workdir=str(workdir))
        finish(place, trial, Process(place, workdir, {"FAULT_SCREEN": screen}))
        trial.unfinished += trial.starts != 1
        yield trial
    workdir = place.copy_of("terminal")
    trial = Trial("other hands", "the terminal closes", workdir=str(workdir))
    process = _suspended(place, workdir)
    os.kill(process.pid, signal.SIGHUP)
    os.kill(process.pid, signal.SIGCONT)
    trial.unfinished += process.wait() != _STOPPED
    trial.tracebacks += process.said().count(TRACEBACK)
    trial.said = telling(process.said())
    finish(place, trial, Process(place, workdir))
    yield trial


def trials(place: Place, *_: object) -> Iterator[Trial]:
    """All of them, once each."""
    for kind in (at_rest, moved, unlocked, screens):
        yield from kind(place)
