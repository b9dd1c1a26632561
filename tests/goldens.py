"""Where the golden values lie; a test that needs an absent one is skipped."""

from __future__ import annotations

import pathlib

import pytest

_TESTS = pathlib.Path(__file__).parent
_FOLDERS = (_TESTS / "goldens", _TESTS.parent.parent / "shared" / "golden")


def path(name: str) -> pathlib.Path:
    """'big_vision/bv_optim.npz' -> the file, in tests/goldens or else in ../shared/golden; skips when in neither."""
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"golden {name} is in none of {', '.join(map(str, _FOLDERS))}")
