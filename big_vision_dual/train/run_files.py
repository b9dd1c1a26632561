"""The files of a run's workdir: their names, and how they are read. Without JAX, so that reports start at once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from big_vision_dual.core import files

METRICS = "big_vision_metrics.txt"
ATOM_NORMS = "atom_norms.jsonl"
"""Rows {step, weight_norm, update_norm, gradient_norm, size, update_size}, each a list in the order of the table: one
entry a row, of atoms with batch axes (scanned layers, heads) a list."""
CONFIG = "config.json"
VERSIONS = "versions.json"
TABLE = "norm_table.json"
CHECKPOINTS = "checkpoints"
WANDB_ID = "wandb_id.txt"
OWNER = "trainer.lock"
PROFILE = "profile"
REPLACED = (METRICS, ATOM_NORMS, CONFIG, VERSIONS, TABLE, WANDB_ID)
"""Those that the trainer writes by `files.replacing`."""

Folder = str | os.PathLike[str]


def config(folder: Folder) -> dict[str, Any]:
    """config.json of a workdir. Raises FileError where it is damaged, FileNotFoundError where there is none."""
    path = files.path_of(folder) / CONFIG
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise files.FileError(f"{path} is damaged: it has {type(found).__name__}, not an object.")
    return found


def rows(folder: Folder, name: str = METRICS) -> Iterator[dict[str, Any]]:
    """The rows of a workdir's METRICS or ATOM_NORMS, as `parsed` reads them. Raises FileNotFoundError without them."""
    for _, row in parsed(files.path_of(folder) / name):
        if row is not None:
            yield row


def parsed(path: Folder) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """(line, row) of a file of rows; the row is None where the line is damaged, which a warning says.

    A last line without its newline was being written when the run ended, and is left out, as blank lines are.
    """
    *lines, _ = files.read_bytes(path).split(b"\n")
    wrong = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(line)
            if row is None:
                wrong.append(number)
            yield line, row
    if wrong:
        logging.warning(
            "%s: line %s cannot be read (damaged on disk?) and is left out; all others are kept.",
            os.fspath(path), ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else ""),
        )  # fmt: skip


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
