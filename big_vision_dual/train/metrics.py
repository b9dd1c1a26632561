"""The run's metrics: one JSON object a line in `big_vision_metrics.txt`, as Big Vision writes them."""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from big_vision_dual.core import files
from big_vision_dual.train import run_files

TIMING = ("img/sec", "img/sec/core", "core_hours", "step_seconds", "data_wait_seconds", "mfu", "uptime")
"""Names that depend on the machine; all else is equal between two runs of one config and seed."""


class MetricWriter:
    """Collects the measurements of a step and writes them as one row.

    path: of the file; None keeps the rows in memory only. after_step: rows beyond this step are cut off
      (they will be computed again), and so is a last line that was only half written. alike_until: the last step whose
      row will be computed again as it was; where there are later ones, what is cut goes to NAME.superseded.txt beside
      it, as damaged lines go to NAME.damaged.txt, as they are. noted: what `note` gave at `after_step`; a warning says
      where the rows are others.
    """

    def __init__(
        self,
        path: epath.Path | None,
        after_step: int = 0,
        *,
        alike_until: float = math.inf,
        noted: Mapping[str, int] | None = None,
    ):
        self._path = path
        self._row: dict[str, Any] = {}
        self._count, self._sum = 0, 0
        self.last: dict[str, Any] = {}
        if path is not None and path.exists():
            self._take_up(path, after_step, alike_until)
        if path is not None and noted is not None:
            self._compare(path, after_step, noted)

    def _take_up(self, path: epath.Path, after_step: int, alike_until: float) -> None:
        kept, damaged, cut, reached = [], [], [], 0
        for line, row in run_files.parsed(path):
            if row is None:
                damaged.append(line)
            elif row["step"] <= after_step:
                kept.append(line)
                self.last |= row
                self._add(line)
            else:
                cut.append(line)
                reached = max(reached, row["step"])
        _set_aside(path, "damaged", damaged)
        if reached > alike_until:
            aside = _set_aside(path, "superseded", cut)
            logging.warning("%d rows after step %d may not come again as they were: %s", len(cut), after_step, aside)
        files.write(path, b"".join(line + b"\n" for line in kept))

    def _compare(self, path: epath.Path, step: int, noted: Mapping[str, int]) -> None:
        if self._count != noted["count"]:
            logging.warning(
                "%s has %d rows until step %d; when its checkpoint was written there were %d.",
                path, self._count, step, noted["count"],
            )  # fmt: skip
        elif self._sum != noted["crc32"]:
            logging.warning(
                "%s: of its %d rows until step %d some changed on disk (the checkpoint notes another checksum).",
                path, self._count, step,
            )  # fmt: skip

    def _add(self, line: bytes) -> None:
        self._count, self._sum = self._count + 1, zlib.crc32(line, self._sum)

    def note(self) -> dict[str, int]:
        """Number and CRC-32 of the rows, which are on disk when this returns."""
        if self._count and self._path is not None:
            files.force(self._path)
        return {"count": self._count, "crc32": self._sum}

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
        line = json.dumps(row)
        self._add(line.encode())
        if self._path is not None:
            with files.naming(self._path), self._path.open("a") as file:
                file.write(line + "\n")
        return row


def _set_aside(path: epath.Path, what: str, lines: list[bytes]) -> epath.Path:
    """Appends lines to NAME.`what`.txt."""
    aside = path.parent / f"{path.stem}.{what}.txt"
    if lines:
        before = files.read_bytes(aside) if aside.exists() else b""
        files.write(aside, before + b"".join(line + b"\n" for line in lines))
    return aside
