"""Where the golden values lie: tests/goldens, see its README. An absent one is an error, never a skipped test."""

from __future__ import annotations

import pathlib

FOLDER = pathlib.Path(__file__).parent / "goldens"


def path(name: str) -> pathlib.Path:
    """'big_vision/bv_optim.npz' -> the file."""
    file = FOLDER / name
    if not file.is_file():
        raise FileNotFoundError(f"golden {name} is not in {FOLDER}; it belongs to the repository: `git checkout` it.")
    return file
