"""Finished trials on disk: one JSON line each, keyed by config digest. No JAX."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.lab.studies.grid import Trial

Record = dict[str, Any]  # digest, point, result, config


class Results:
    """A results file. A line that a killed sweep left half-written is cut off when the file is opened.

    Lines hold no times, so that a sweep run twice, or killed and resumed, writes the same file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._records: dict[str, Record] = {}
        if self._path.exists():
            self._read()

    def __contains__(self, trial: Trial) -> bool:
        return trial.digest in self._records

    def __getitem__(self, trial: Trial) -> Record:
        return self._records[trial.digest]

    def add(self, trial: Trial, result: dict[str, Any]) -> None:
        """Appends a finished trial and forces it to disk. Numbers that are not finite become null."""
        record = {
            "digest": trial.digest, "point": trial.point, "result": _finite(result), "config": trial.config
        }  # fmt: skip
        line = json.dumps(record, allow_nan=False)
        files.append(self._path, line)
        self._records[trial.digest] = json.loads(line)

    @property
    def records(self) -> tuple[Record, ...]:
        """Of all finished trials, in the order of the file."""
        return tuple(self._records.values())

    def of(self, trials: Sequence[Trial]) -> list[Record]:
        """The records of trials, each with the trial's own point: one run may belong to several studies."""
        return [{**self[trial], "point": trial.point} for trial in trials]

    def _read(self) -> None:
        content = files.read_bytes(self._path)
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self._records[record["digest"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {self._path} is no finished trial ({error}). Remove that line, or give the "
                    "sweep another results file."
                ) from error
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
