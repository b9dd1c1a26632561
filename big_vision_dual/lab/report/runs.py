"""Reads what runs left in their workdirs, and finds workdirs and studies under a folder. No JAX."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from big_vision_dual.core import files, tables
from big_vision_dual.train import lock, run_files

RESULTS_FILE = "results.jsonl"  # see lab.studies.results
TRACK_FILE = "track.json"  # see lab.track.race; beside it one file of trials an entry
_NOT_OF_THE_EXPERIMENT = ("seed", "wandb")
_QUIET_SECONDS = 120.0  # without a new row, before a run that is not finished counts as stopped


@dataclasses.dataclass(frozen=True)
class Run:
    """One run. rows: metric rows in the order of steps; table: None where the run had none; atoms: rows of norms of
    single atoms; versions: versions.json, {} where there is none; written: when the metrics last grew (Unix time);
    ended: whether its process is known to be gone.
    """

    label: str
    folder: str
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    table: tables.TargetNormTable | None
    atoms: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, Any]
    written: float
    ended: bool = False

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "step"))

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one metric."""
        found = [(row["step"], row[name]) for row in self.rows if isinstance(row.get(name), int | float)]
        return [step for step, _ in found], [value for _, value in found]

    @property
    def step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def total_steps(self) -> int | None:
        """From the config, else from the metric `progress`."""
        if isinstance(self.config.get("total_steps"), int):
            return self.config["total_steps"]
        steps, progress = self.curve("progress")
        return round(steps[-1] / progress[-1]) if progress and progress[-1] > 0 else None

    @property
    def status(self) -> str:
        """'finished', 'running' (the metrics grew in the last two minutes, and its process is not known to be gone), or
        'stopped at step N'."""
        if self.total_steps is not None and self.step >= self.total_steps:
            return "finished"
        running = not self.ended and time.time() - self.written < _QUIET_SECONDS
        return "running" if running else f"stopped at step {self.step:,}"

    @property
    def hours(self) -> tuple[list[int], list[float]]:
        """(steps, wall-clock hours since the run began, restarts added up)."""
        steps, core_hours = self.curve("core_hours")
        devices = self.versions.get("devices") or 1
        return steps, [value / devices for value in core_hours]

    @property
    def experiment(self) -> str:
        """Equal for runs whose configs differ in nothing but the seed."""
        return json.dumps({k: v for k, v in self.config.items() if k not in _NOT_OF_THE_EXPERIMENT}, sort_keys=True)


def read(workdir: str | os.PathLike[str], label: str | None = None) -> Run:
    """A run; its label is by default the folder's name.

    Raises FileNotFoundError naming the file that a workdir of `bvd train` would have, and core.files.FileError or
    tables.TableError naming one that is damaged. Damaged lines of metrics are left out, with a warning.
    """
    folder = files.path_of(workdir)
    for name in (run_files.METRICS, run_files.CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: it is no workdir of a run, or the run has logged nothing yet. "
                "Give the --workdir of `bvd train`."
            )
    table, atoms, versions = (folder / name for name in (run_files.TABLE, run_files.ATOM_NORMS, run_files.VERSIONS))
    return Run(
        label=label or folder.name,
        folder=os.fspath(workdir),
        config=run_files.config(folder),
        rows=tuple(run_files.rows(folder)),
        table=tables.load(table) if table.is_file() else None,
        atoms=tuple(run_files.rows(folder, run_files.ATOM_NORMS)) if atoms.is_file() else (),
        versions=_object(versions) if versions.is_file() else {},
        written=(folder / run_files.METRICS).stat().st_mtime,
        ended=not lock.may_run(folder),
    )


def _object(path: Any) -> Mapping[str, Any]:
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise files.FileError(f"{path} is damaged: it has {type(found).__name__}, not an object.")
    return found


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies under the paths that were given. studies: results.jsonl or track.json of each, by label."""

    runs: tuple[Run, ...]
    studies: Mapping[str, str]


def find(paths: Sequence[str | os.PathLike[str]]) -> Found:
    """Workdirs, folders of them at any depth, and studies (their --out folder or results.jsonl).

    Labels are the shortest ends of the paths that tell them apart. Raises FileNotFoundError for a path under which
    there is nothing, and what `read` raises.
    """
    workdirs: list[str] = []
    studies: list[str] = []
    for path in paths:
        inside, results = _inside(path)
        if not inside and not results:
            raise FileNotFoundError(
                f"{os.fspath(path)} has no {run_files.METRICS}: it is no workdir of a run, nor has it runs, studies "
                f"({RESULTS_FILE}) or tracks ({TRACK_FILE}) in it. Give the --workdir of `bvd train`, a folder of "
                "workdirs, or the --out of a study or track."
            )
        workdirs += inside
        studies += results
    workdirs, studies = list(dict.fromkeys(workdirs)), list(dict.fromkeys(studies))
    runs = tuple(read(folder, label) for folder, label in zip(workdirs, _labels(workdirs), strict=True))
    names = _labels([os.path.dirname(path) or "." for path in studies])
    return Found(runs, dict(zip(names, studies, strict=True)))


def _inside(given: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """(workdirs, results files) at or under a path."""
    path = files.path_of(given)
    if path.is_file():
        return [], [os.fspath(path)]
    if (path / run_files.METRICS).is_file():
        return [os.fspath(path)], []
    workdirs = sorted(os.path.dirname(os.fspath(file)) for file in path.rglob(run_files.METRICS))
    studies = [os.fspath(file) for name in (RESULTS_FILE, TRACK_FILE) for file in path.rglob(name)]
    return workdirs, sorted(studies)


def _labels(folders: Sequence[str]) -> list[str]:
    """The last parts of each path, as few as tell all of them apart."""
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for count in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return list(folders)


def differing_fields(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """Config fields, dotted, that are not the same in all runs, with each run's value."""
    flat = [dict(flattened(run.config)) for run in runs]
    fields = dict.fromkeys(field for config in flat for field in config)
    values = [(field, [config.get(field) for config in flat]) for field in fields]
    return [(field, found) for field, found in values if any(value != found[0] for value in found)]


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted field, value) of nested mappings."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
