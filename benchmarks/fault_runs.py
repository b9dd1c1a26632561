"""Trainings for faults.py: the real command, in processes of their own, on a small MLP with a dual optimizer."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

STEPS = 24
_HALF = 12
REFUSED = 2  # exit status
TRACEBACK = "Traceback (most recent call last)"
AFTER_KILLS = "the start after the kills"
_MOST_STARTS = 12
RECIPE = """
import ml_collections

def get_config():
    data = "array:{data}"
    return ml_collections.ConfigDict(dict(
        seed=1, total_steps={steps}, num_classes=4, input_shape=(4, 4, 1), model_name="mlp",
        model=dict(width=16, depth=2, scaling="dual"), optax_name="big_vision_dual.scale_by_dualize", optax=dict(),
        lr=0.1, schedule=dict(decay_type="cosine"), log_training_steps=1, ckpt_steps=3, wandb=False,
        resume_changed=False, compile_cache="{cache}",
        input=dict(data=dict(name=data, split="train"), batch_size=16, accum_freq=1),
        evals=dict(val=dict(type="classification", data=dict(name=data, split="test"), log_steps=8)),
    ))
"""


@dataclasses.dataclass
class Trial:
    """One fault and what came of it.

    hits: {call: how often it failed}; said: the line in which the trainer spoke of it; starts: until the run was done;
    set_aside: checkpoints renamed as damaged though nothing had changed them.
    """

    kind: str
    what: str
    hits: dict[str, int] = dataclasses.field(default_factory=dict)
    said: str = ""
    starts: int = 0
    lost_rows: int = 0
    wrong_arrays: int = 0
    tracebacks: int = 0
    set_aside: int = 0
    unfinished: int = 0
    workdir: str = ""

    @property
    def finished(self) -> bool:
        """Whether its run was brought to an end; of several kills of one run only the start after them is."""
        return self.kind != "SIGKILL" or self.what == AFTER_KILLS

    @property
    def happened(self) -> bool:
        """Whether it was a fault at all: a call that is to fail may never be made."""
        by_a_call = self.kind.startswith(("read", "write", "SIGKILL in", "clock"))
        return bool(self.hits) if by_a_call else self.what != AFTER_KILLS


class Place:
    """Recipe, data, the run without faults, and one that is half done, in a folder.

    starts: {which: (seconds, seconds of processor time)} of runs to the end, with and without compiled programs.
    """

    def __init__(self, folder: pathlib.Path):
        import numpy as np

        self.folder = folder
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (96, 4, 4, 1), np.uint8), np.arange(96) % 4
        np.savez(folder / "data.npz", train_image=images[:64], train_label=labels[:64], test_image=images[64:],
                 test_label=labels[64:])  # fmt: skip
        self.cache = folder / "cache"
        self.recipe = folder / "recipe.py"
        self.recipe.write_text(RECIPE.format(data=folder / "data.npz", steps=STEPS, cache=self.cache))
        self.whole, self.half = folder / "whole", folder / "half"
        self.starts = {"nothing compiled": self._run_to_the_end(self.whole),
                       "compiled before": self._run_to_the_end(folder / "again")}  # fmt: skip
        self.seconds = self.starts["compiled before"][0]
        self._stopped_halfway()

    def _run_to_the_end(self, workdir: pathlib.Path) -> tuple[float, float]:
        started, used = time.monotonic(), _processor_seconds()
        process = Process(self, workdir)
        assert process.wait() == 0, process.said()
        return round(time.monotonic() - started, 2), round(_processor_seconds() - used, 2)

    def _stopped_halfway(self) -> None:
        process = Process(self, self.half)
        while len(rows(self.half)) < _HALF:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 75, process.said()

    def copy_of(self, name: str) -> pathlib.Path:
        """A new workdir that is half done."""
        workdir = self.folder / "trials" / name
        shutil.copytree(self.half, workdir)
        return workdir


class Process:
    """The training command in a fork of this process, which has imported what it needs but holds no JAX backend."""

    def __init__(self, place: Place, workdir: pathlib.Path, faults: Mapping[str, Any] | None = None, *flags: str):
        self._log = place.folder / f"{workdir.name}-{time.monotonic_ns()}.log"
        self._hits = self._log.with_suffix(".hits")
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                status = _child(place, workdir, self._log, {"FAULT_HITS": self._hits, **(faults or {})}, flags)
            finally:
                os._exit(status)

    def wait(self, timeout: float = 900) -> int:
        """The exit status; -9 after SIGKILL. One that hangs is killed, and counts as -1."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -1

    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def hits(self) -> list[tuple[str, str]]:
        """(call, path) of every call that faults.c let fail."""
        lines = self._hits.read_text().splitlines() if self._hits.exists() else []
        return [(call, path) for call, _, path in (line.partition("\t") for line in lines)]


def _child(
    place: Place, workdir: pathlib.Path, log: pathlib.Path, faults: Mapping[str, Any], flags: tuple[str, ...]
) -> int:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if "FAULT_SCREEN" in faults:
        os.dup2(_unwritable(faults["FAULT_SCREEN"]), 1)
    libc = ctypes.CDLL(None)
    for name, value in {"FAULT_AFTER": 0, "FAULT_COUNT": 0, "FAULT_ERRNO": 5, **faults}.items():
        libc.setenv(name.encode(), str(value).encode(), 1)
    from big_vision_dual.train import command

    try:
        return command.main(["--config", str(place.recipe), "--workdir", str(workdir), "--distributed", "off", *flags])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _unwritable(screen: str) -> int:
    """A descriptor: of a 'pipe' that nobody reads, or of a device such as /dev/full."""
    if screen != "pipe":
        return os.open(screen, os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The whole rows of the metrics file, without times."""
    from big_vision_dual.train import metrics, run_files

    if not (workdir / run_files.METRICS).exists():
        return []
    found = [row for _, row in run_files.parsed(workdir / run_files.METRICS) if row]
    return [{name: value for name, value in row.items() if name not in metrics.TIMING} for row in found]


def finish(place: Place, trial: Trial, process: Process, *flags: str) -> None:
    """Waits for `process`, then gives the same command until it ends with 0; notes tracebacks and what was said."""
    workdir = pathlib.Path(trial.workdir)
    while True:
        status, said = process.wait(), process.said()
        trial.starts += 1
        trial.tracebacks += said.count(TRACEBACK)
        trial.said = trial.said or telling(said)
        for call, _ in process.hits():
            trial.hits[call] = trial.hits.get(call, 0) + 1
        if status == 0 or trial.starts > _MOST_STARTS:
            trial.unfinished += status != 0
            return
        if "trained with another config" in said:
            flags = (*flags, "--config.resume_changed=True")
        process = Process(place, workdir, None, *flags)


def telling(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith(("WARNING", "python -m big_vision_dual.train:"))]
    return lines[0][:300] if lines else ""


def differing(place: Place, workdirs: list[str]) -> dict[str, int]:
    """{workdir: arrays of its last checkpoint whose bits differ from those of the run without faults}."""
    reading, writing = os.pipe()
    if not os.fork():
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            json.dump(_compared(place, workdirs), answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = json.load(answer)
    os.wait()
    return found


def _compared(place: Place, workdirs: list[str]) -> dict[str, int]:
    import jax
    import numpy as np

    from big_vision_dual.core import trees
    from big_vision_dual.train import checkpoint, recipes, setup

    state = setup.prepare(recipes.load(str(place.recipe))).fns.state

    def arrays(workdir: str) -> dict[str, np.ndarray]:
        with checkpoint.Checkpoints(pathlib.Path(workdir) / "checkpoints", read_only=True) as checkpoints:
            found = checkpoints.restore(state, STEPS)
        assert found is not None
        return {name: np.asarray(jax.device_get(leaf)) for name, leaf in trees.flatten(found[0]).items()}

    wanted, wrong = arrays(str(place.whole)), {}
    for workdir in workdirs:
        try:
            found = arrays(workdir)
            wrong[workdir] = sum(wanted[name].tobytes() != found[name].tobytes() for name in wanted)
        except Exception:
            wrong[workdir] = len(wanted)
    return wrong
