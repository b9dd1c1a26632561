"""Faults against the trainer: kills, failing reads and writes, flipped bits, two trainers, a wrong clock.

    python benchmarks/faults.py                   238 faults, about 25 minutes of a quiet core; Linux, with a C compiler
    python benchmarks/faults.py --only kill       one kind anew; results/faults.json keeps those of the others
    python benchmarks/faults.py --share 0.1       a tenth of them

Every trial is the real command, in a process of its own, on a small MLP with a dual optimizer. After each the same
command is given again until it ends; then the workdir must hold what a run without faults holds: every row of metrics
(without times), and the same bits in every array of the last checkpoint. A bit flipped in the metrics file may cost the
line that it hit, and no other. Faults of the operating system come from benchmarks/faults.c, which is preloaded.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

STEPS, HALF = 24, 12
RESULTS = pathlib.Path(__file__).parent / "results" / "faults.json"
_LIBRARY = "FAULTS_LIBRARY"
_REFUSED, _MOST_STARTS = 2, 12
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
    """One fault and what came of it. said: the line in which the trainer spoke of it."""

    kind: str
    what: str
    said: str = ""
    starts: int = 0
    lost_rows: int = 0
    wrong_arrays: int = 0
    tracebacks: int = 0
    unfinished: int = 0
    workdir: str = ""


class Place:
    """Recipe, data, the run without faults, and one that is half done, in a folder."""

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
        self.seconds = _timed(lambda: self._run_to_the_end(self.whole))
        self.seconds = _timed(lambda: self._run_to_the_end(folder / "again"))  # with the programs in the cache
        self._stopped_halfway()

    def _run_to_the_end(self, workdir: pathlib.Path) -> None:
        process = Process(self, workdir)
        assert process.wait() == 0, process.said()

    def _stopped_halfway(self) -> None:
        process = Process(self, self.half)
        while len(rows(self.half)) < HALF:
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
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                status = _child(place, workdir, self._log, faults or {}, flags)
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


def _child(
    place: Place, workdir: pathlib.Path, log: pathlib.Path, faults: Mapping[str, Any], flags: tuple[str, ...]
) -> int:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
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


def _timed(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


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
        trial.tracebacks += said.count("Traceback (most recent call last)")
        trial.said = trial.said or _telling(said)
        if status == 0 or trial.starts > _MOST_STARTS:
            trial.unfinished += status != 0
            return
        if "trained with another config" in said:
            flags = (*flags, "--config.resume_changed=True")
        process = Process(place, workdir, None, *flags)


def _telling(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith(("WARNING", "python -m big_vision_dual.train:"))]
    return lines[0][:300] if lines else ""


def kills(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """SIGKILL at a random moment of a start, again and again until the run is done."""
    done, number = 0, 0
    while done < count:
        workdir, number = place.folder / "trials" / f"kill-{number}", number + 1
        for _ in range(min(8, count - done)):
            process = Process(place, workdir)
            moment = rng.uniform(0.1, 1.1) * place.seconds
            trial = Trial("SIGKILL", f"after {moment:.2f} s", workdir=str(workdir))
            deadline = time.monotonic() + moment
            while time.monotonic() < deadline and not (workdir / "checkpoints" / str(STEPS)).exists():
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            trial.starts = 1
            process.wait()
            trial.tracebacks = process.said().count("Traceback (most recent call last)")
            done += 1
            yield trial
        last = Trial("SIGKILL", "the start after the kills", workdir=str(workdir))
        finish(place, last, Process(place, workdir))
        yield last


_READ = ("/d/", "manifest.ocdbt", "_METADATA", "notes/metadata", "array_metadatas", "big_vision_metrics", "config.json")
_WRITTEN = ("/d/", "manifest.ocdbt", "_METADATA", "notes/", "big_vision_metrics", "config.json", "atom_norms", ".lock")
_ERRORS = {"read": {5: "EIO", 24: "EMFILE", 116: "ESTALE"}, "write": {28: "ENOSPC", 5: "EIO", 122: "EDQUOT"}}


def failing(operation: str, parts: tuple[str, ...]) -> Callable[[Place, random.Random, int], Iterator[Trial]]:
    """Trials in which a kind of call fails on a kind of file, once or twice or for as long as the process lives."""

    def trials(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
        for number in range(count):
            part, (code, name) = parts[number % len(parts)], rng.choice(list(_ERRORS[operation].items()))
            times, after = rng.choice((0, 0, 1, 2)), rng.randrange(3) if operation == "write" else 0
            trial = Trial(f"{operation}: {name}", f"{part}, after {after}, {times or 'all'} times")
            workdir = place.copy_of(f"{operation}-{number}")
            trial.workdir = str(workdir)
            faults = {"FAULT_OP": operation, "FAULT_PATH": part, "FAULT_ERRNO": code, "FAULT_AFTER": after}
            finish(place, trial, Process(place, workdir, {**faults, "FAULT_COUNT": times}))
            yield trial

    return trials


def flips(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """A bit is flipped in one file of a half-done run, or in a compiled program; all kinds of files in turn."""
    for number in range(count):
        workdir = place.copy_of(f"flip-{number}")
        kinds = _kinds(workdir, place.cache)
        kind = sorted(kinds)[number % len(kinds)]
        path = rng.choice(kinds[kind])
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        trial = Trial("flipped bit", f"{kind}, byte {at}", workdir=str(workdir))
        finish(place, trial, Process(place, workdir))
        yield trial


def _kinds(workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{kind: files that are not empty}; of checkpoints those of the newest."""
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for path in [*workdir.iterdir(), *newest.rglob("*"), *cache.glob("*-cache")]:
        if path.is_file() and path.stat().st_size:
            kind = "compiled program" if path.parent == cache else path.name
            kind = f"checkpoint {path.parent.name}/" if path.parent.name == "d" else kind
            found[f"checkpoint {kind}" if newest in path.parents and "checkpoint" not in kind else kind].append(path)
    return found


def two_trainers(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """A second training of the same workdir begins while the first one runs: it is refused, the first one ends."""
    for number in range(count):
        workdir = place.copy_of(f"two-{number}")
        first = Process(place, workdir)
        time.sleep(rng.uniform(0.05, 0.5) * place.seconds)
        second = Process(place, workdir)
        trial = Trial("two trainers", "", workdir=str(workdir))
        status, said = second.wait(), second.said()
        trial.said = _telling(said)
        trial.tracebacks += said.count("Traceback (most recent call last)")
        trial.what = "the second is refused" if status == _REFUSED and "another training has" in said else "came late"
        finish(place, trial, first)
        yield trial


def clocks(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """A run goes on with a clock that was set back, or ahead, by up to ten years."""
    for number in range(count):
        days = rng.choice((-3650, -365, -1, 365))
        workdir = place.copy_of(f"clock-{number}")
        trial = Trial("clock", f"{days} days", workdir=str(workdir))
        finish(place, trial, Process(place, workdir, {"FAULT_CLOCK": days * 86400}))
        yield trial


KINDS: dict[str, tuple[int, Callable[[Place, random.Random, int], Iterator[Trial]]]] = {
    "kill": (64, kills),
    "read": (42, failing("read", _READ)),
    "write": (48, failing("write", _WRITTEN)),
    "flip": (64, flips),
    "two": (10, two_trainers),
    "clock": (10, clocks),
}


def judge(place: Place, trials: list[Trial]) -> None:
    """Compares every workdir that was finished with the run without faults: rows here, arrays in a child with JAX."""
    wanted = rows(place.whole)
    for trial in trials:
        workdir = pathlib.Path(trial.workdir)
        if trial.kind == "SIGKILL" and trial.what.startswith("after"):
            continue
        found = {row["step"]: row for row in rows(workdir)}
        missing = [row for row in wanted if found.get(row["step"]) != row]
        excused = trial.kind == "flipped bit" and trial.what.startswith("big_vision_metrics")
        trial.lost_rows = len(missing) - (min(1, len(missing)) if excused else 0)
    done = [trial for trial in trials if not (trial.kind == "SIGKILL" and trial.what.startswith("after"))]
    wrong = _differing(place, [trial.workdir for trial in done])
    for trial in done:
        trial.wrong_arrays = wrong[trial.workdir]


def _differing(place: Place, workdirs: list[str]) -> dict[str, int]:
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

    wanted, differing = arrays(str(place.whole)), {}
    for workdir in workdirs:
        try:
            found = arrays(workdir)
            differing[workdir] = sum(wanted[name].tobytes() != found[name].tobytes() for name in wanted)
        except Exception:
            differing[workdir] = len(wanted)
    return differing


def table(trials: list[Trial]) -> str:
    """Markdown: a line per kind of fault."""
    lines = ["| fault | faults | starts needed after it | rows lost | arrays wrong | tracebacks | not finished |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    grouped: dict[str, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        grouped[trial.kind].append(trial)
    for kind, those in [*sorted(grouped.items()), ("all", trials)]:
        faults = [one for one in those if one.what != "the start after the kills"]
        sums = [sum(getattr(one, name) for one in those)
                for name in ("lost_rows", "wrong_arrays", "tracebacks", "unfinished")]  # fmt: skip
        again = sum(max(0, one.starts - 1) for one in those)
        lines.append(f"| {kind} | {len(faults)} | {again} | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


def main() -> int:
    """Runs the campaign, prints its table, and exits 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS, help="one kind of fault")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    if _LIBRARY not in os.environ:
        return _with_library()
    import big_vision_dual.train.loop  # noqa: F401 before the forks
    from big_vision_dual.train import command, recipes  # noqa: F401

    results: dict[str, list[Trial]] = _kept(args.out)
    with tempfile.TemporaryDirectory(prefix="bvd-faults-") as folder:
        place = Place(pathlib.Path(folder))
        print(f"a run without faults takes {place.seconds:.1f} s")
        for name, (count, run) in KINDS.items():
            if args.only in (None, name):
                started = time.monotonic()
                rng = random.Random(f"{args.seed} {name}")
                results[name] = list(run(place, rng, max(1, round(args.share * count))))
                judge(place, results[name])
                plain = {kind: [dataclasses.asdict(one) for one in those] for kind, those in results.items()}
                args.out.write_text(json.dumps(plain, indent=1) + "\n")
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    trials = [one for those in results.values() for one in those]
    print(table(trials))
    bad = [one for one in trials if one.lost_rows or one.wrong_arrays or one.tracebacks or one.unfinished]
    for one in bad:
        print("BAD", dataclasses.asdict(one))
    return 1 if bad else 0


def _kept(path: pathlib.Path) -> dict[str, list[Trial]]:
    """The results of before, by kind."""
    if not path.exists():
        return {}
    return {kind: [Trial(**one) for one in those] for kind, those in json.loads(path.read_text()).items()}


def _with_library() -> int:
    """This program again, with faults.c compiled and preloaded."""
    with tempfile.TemporaryDirectory(prefix="bvd-faults-c-") as folder:
        library = os.path.join(folder, "faults.so")
        source = pathlib.Path(__file__).with_suffix(".c")
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, str(source), "-ldl"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"benchmarks/faults.py needs a C compiler: {error}", file=sys.stderr)
            return _REFUSED
        variables = {"LD_PRELOAD": library, _LIBRARY: library, "JAX_PLATFORMS": "cpu", "WANDB_MODE": "offline",
                     "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):
            environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
            return subprocess.run([sys.executable, *sys.argv], env={**environment, **variables}, check=False).returncode
        return 130


if __name__ == "__main__":
    sys.exit(main())
