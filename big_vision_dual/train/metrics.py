"""The run's metrics: one JSON object a line in `big_vision_metrics.txt`, as Big Vision writes them."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from big_vision_dual.core import files
from big_vision_dual.train import run_files

TIMING = ("img/sec", "img/sec/core", "core_hours", "step_seconds", "data_wait_seconds", "mfu", "uptime")
"""Names that depend on the machine; all else is equal between two runs of one config and seed."""


class MetricWriter:
    """Collects the measurements of a step and writes them as one row.

    path: of the file; None keeps the rows in memory only. after_step: rows beyond this step are cut off
      (they will be computed again), and so is a last line that was only half written. Damaged lines go to
      NAME.damaged.txt beside it, as they are.
    """

    def __init__(self, path: epath.Path | None, after_step: int = 0):
        self._path = path
        self._row: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        if path is not None and path.exists():
            self._take_up(path, after_step)

    def _take_up(self, path: epath.Path, after_step: int) -> None:
        kept, damaged = [], []
        for line, row in run_files.parsed(path):
            if row is None:
                damaged.append(line)
            elif row["step"] <= after_step:
                kept.append(line)
                self.last |= row
        if damaged:
            aside = path.parent / f"{path.stem}.damaged.txt"
            before = files.read_bytes(aside) if aside.exists() else b""
            files.write(aside, before + b"".join(line + b"\n" for line in damaged))
        files.write(path, b"".join(line + b"\n" for line in kept))

    def measure(self, name: str, value: float) -> None:
        self._row[name] = float(value)

    def measure_list(self, name: str, values: list[Any]) -> None:
        self._row[name] = values

    def write(self, step: int) -> dict[str, Any]:
        """Writes and returns the row of `step`; nothing where nothing was measured."""
        row, self._row = {"step": step, **self._row}, {}
        if len(row) == 1:
            return {}
        self.last |= row
        if self._path is not None:
            with files.naming(self._path), self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return row
