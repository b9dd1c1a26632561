"""Faults against the trainer: kills, failing reads and writes, flipped bits, two trainers, a wrong clock, other hands.

    python benchmarks/faults.py                   298 faults; Linux, with a C compiler
    python benchmarks/faults.py --only kill       one kind anew; results/faults.json keeps those of the others
    python benchmarks/faults.py --share 0.1       a tenth of them

Every trial is the real command, in a process of its own (fault_runs.py). After each the same command is given again
until it ends; then the workdir must hold what a run without faults holds: every row of metrics (without times), and the
same bits in every array of the last checkpoint. A bit flipped in the metrics file may cost the line that it hit, and no
other, and it has to be said. Faults of the operating system come from faults.c, which is preloaded, and which says what
it hit; those by other hands are in fault_litter.py.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import fault_litter
from fault_runs import AFTER_KILLS, REFUSED, STEPS, TRACEBACK, Place, Process, Trial, differing, finish, rows, telling

from big_vision_dual.core import files

RESULTS = pathlib.Path(__file__).parent / "results" / "faults.json"
_LIBRARY = "FAULTS_LIBRARY"
_WRONG = ("lost_rows", "wrong_arrays", "tracebacks", "set_aside", "unfinished")


def kills(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """SIGKILL at a random moment of a start, again and again until the run is done; then the next run."""
    killed, number = 0, 0
    while killed < count:
        workdir, number = place.folder / "trials" / f"kill-{number}", number + 1
        while killed < count and not _done(workdir):
            process = Process(place, workdir)
            moment = rng.uniform(0.1, 1.0) * place.seconds
            trial = Trial("SIGKILL", f"after {moment:.2f} s", workdir=str(workdir))
            deadline = time.monotonic() + moment
            while time.monotonic() < deadline and not _done(workdir):
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            trial.starts = 1
            process.wait()
            trial.tracebacks = process.said().count(TRACEBACK)
            killed += 1
            yield trial
        last = Trial("SIGKILL", AFTER_KILLS, workdir=str(workdir))
        finish(place, last, Process(place, workdir))
        yield last


def _done(workdir: pathlib.Path) -> bool:
    return (workdir / "checkpoints" / str(STEPS)).exists()


_KILL = -9  # faults.c: as the number of an error, the process is killed


def torn(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
    """SIGKILL in the middle of a file: at a random write, or forcing to disk, of all those below the workdir."""
    writes = len(_calls(place, "write"))
    for number in range(count):
        workdir, after = place.copy_of(f"torn-{number}"), rng.randrange(writes)
        trial = Trial("SIGKILL in a write", f"{after} of {writes}", workdir=str(workdir))
        faults = {"FAULT_OP": "write", "FAULT_PATH": _BELOW, "FAULT_ERRNO": _KILL, "FAULT_AFTER": after}
        finish(place, trial, Process(place, workdir, faults))
        yield trial


_BELOW = "/trials/"  # in the path of every file of a trial


def _calls(place: Place, operation: str) -> list[str]:
    """The files of all such calls that the second half of a run makes."""
    noted = Process(place, place.copy_of(f"{operation}-none"),
                    {"FAULT_OP": operation, "FAULT_PATH": _BELOW, "FAULT_ERRNO": 0})  # fmt: skip
    assert noted.wait() == 0, noted.said()
    return [path for _, path in noted.hits()]


_READ = ("/d/", "manifest.ocdbt", "_METADATA", "notes/metadata", "array_metadatas", "big_vision_metrics", "config.json")
_WRITTEN = ("/d/", "manifest.ocdbt", "_METADATA", "/notes", "big_vision_metrics", "config.json", "atom_norms", ".lock")
_FAULTS = {  # kind: (kind of call, number of the error, its name)
    "read": (("read", 5, "EIO"), ("open", 24, "EMFILE"), ("read", 116, "ESTALE")),
    "write": (("write", 28, "ENOSPC"), ("write", 5, "EIO"), ("write", 122, "EDQUOT")),
}


def failing(kind: str, parts: tuple[str, ...]) -> Callable[[Place, random.Random, int], Iterator[Trial]]:
    """Trials in which a kind of call fails on a kind of file, once or twice or for as long as the process lives."""

    def trials(place: Place, rng: random.Random, count: int) -> Iterator[Trial]:
        calls = {operation: _calls(place, operation) for operation in {one[0] for one in _FAULTS[kind]}}
        for number in range(count):
            part, (operation, code, name) = parts[number % len(parts)], rng.choice(_FAULTS[kind])
            times, reached = rng.choice((0, 0, 1, 2)), sum(part in path for path in calls[operation])
            after = rng.randrange(reached) if kind == "write" else 0
            trial = Trial(f"{kind}: {name}", f"{part}, after {after} of {reached}, {times or 'all'} times")
            workdir = place.copy_of(f"{kind}-{number}")
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
        trial.said = telling(said)
        trial.tracebacks += said.count(TRACEBACK)
        trial.what = "the second is refused" if status == REFUSED and "another training has" in said else "came late"
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
    "torn": (30, torn),
    "read": (42, failing("read", _READ)),
    "write": (48, failing("write", _WRITTEN)),
    "flip": (64, flips),
    "two": (10, two_trainers),
    "clock": (10, clocks),
    "hands": (len(fault_litter.AT_REST) + 6, fault_litter.trials),
}


def judge(place: Place, trials: list[Trial]) -> None:
    """Compares every workdir that was finished with the run without faults: rows here, arrays in a child with JAX."""
    wanted = rows(place.whole)
    finished = [trial for trial in trials if trial.finished]
    wrong = differing(place, [trial.workdir for trial in finished])
    for trial in finished:
        found = {row["step"]: row for row in rows(pathlib.Path(trial.workdir))}
        missing = [row for row in wanted if found.get(row["step"]) != row]
        flipped = trial.kind == "flipped bit"
        excused = flipped and trial.what.startswith("big_vision_metrics") and "big_vision_metrics" in trial.said
        trial.lost_rows = len(missing) - (min(1, len(missing)) if excused else 0)
        trial.wrong_arrays = wrong[trial.workdir]
        aside = pathlib.Path(trial.workdir, "checkpoints").glob("*.damaged*")
        trial.set_aside = 0 if flipped else sum(not path.name.startswith(fault_litter.LATER) for path in aside)


def table(trials: list[Trial]) -> str:
    """Markdown: a line per kind of fault."""
    lines = ["| fault | faults | calls that failed | starts needed after it | rows lost | arrays wrong | tracebacks | "
             "healthy checkpoints set aside | not finished |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    grouped: dict[str, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        grouped[trial.kind].append(trial)
    for kind, those in [*sorted(grouped.items()), ("all", trials)]:
        calls = sum(sum(one.hits.values()) for one in those)
        again = sum(max(0, one.starts - 1) for one in those)
        wrong = [sum(getattr(one, name) for one in those) for name in _WRONG]
        lines.append(f"| {kind} | {sum(one.happened for one in those)} | {calls or ''} | {again} | "
                     f"{' | '.join(map(str, wrong))} |")  # fmt: skip
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
        for name, (seconds, used) in place.starts.items():
            print(f"a run without faults, {name}: {seconds} s, {used} s of processor time", flush=True)
        for name, (count, run) in KINDS.items():
            if args.only in (None, name):
                started = time.monotonic()
                rng = random.Random(f"{args.seed} {name}")
                results[name] = list(run(place, rng, max(1, round(args.share * count))))
                judge(place, results[name])
                _keep(args.out, place, results)
                print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    trials = [one for those in results.values() for one in those]
    print(table(trials))
    bad = [one for one in trials if any(getattr(one, name) for name in _WRONG)]
    for one in bad:
        print("BAD", dataclasses.asdict(one))
    return 1 if bad else 0


def _kept(path: pathlib.Path) -> dict[str, list[Trial]]:
    """The results of before, by kind."""
    if not path.exists():
        return {}
    return {kind: [Trial(**one) for one in those] for kind, those in json.loads(path.read_text())["faults"].items()}


def _keep(path: pathlib.Path, place: Place, results: dict[str, list[Trial]]) -> None:
    plain = {kind: [{**vars(one), "workdir": pathlib.Path(one.workdir).name} for one in those]
             for kind, those in results.items()}  # fmt: skip
    files.write(path, json.dumps({"starts": place.starts, "faults": plain}, indent=1) + "\n")


def _with_library() -> int:
    """This program again, with faults.c compiled and preloaded."""
    with tempfile.TemporaryDirectory(prefix="bvd-faults-c-") as folder:
        library = os.path.join(folder, "faults.so")
        source = pathlib.Path(__file__).with_suffix(".c")
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, str(source), "-ldl"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"benchmarks/faults.py needs a C compiler: {error}", file=sys.stderr)
            return REFUSED
        variables = {"LD_PRELOAD": library, _LIBRARY: library, "JAX_PLATFORMS": "cpu", "WANDB_MODE": "offline",
                     "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):
            environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
            return subprocess.run([sys.executable, *sys.argv], env={**environment, **variables}, check=False).returncode
        return 130


if __name__ == "__main__":
    sys.exit(main())
