"""The run's metrics: one JSON object a line in `big_vision_metrics.txt`, as Big Vision writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

FILE = "big_vision_metrics.txt"
TIMING = ("img/sec", "img/sec/core", "core_hours", "step_seconds", "data_wait_seconds", "mfu", "uptime")
"""Names that depend on the machine; all else is equal between two runs of one config and seed."""


class MetricWriter:
    """Collects the measurements of a step and writes them as one row.

    path: of the file; None keeps the rows in memory only. after_step: rows beyond this step are cut off
      (they will be computed again), and so is a last line that was only half written.
    """

    def __init__(self, path: epath.Path | None, after_step: int = 0):
        self._path = path
        self._row: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        if path is not None and path.exists():
            kept = [row for row in read(path) if row["step"] <= after_step]
            _replace(path, kept)
            for row in kept:
                self.last |= row

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
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return row


def read(path: epath.PathLike) -> Iterator[dict[str, Any]]:
    """The rows of a metrics file; stops at a line that was not finished."""
    for line in epath.Path(path).read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _replace(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    """Rewrites the file in one atomic step, so that a crash leaves the old one or the new one."""
    fresh = path.parent / f"{path.name}.tmp"
    fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fresh.replace(path)
