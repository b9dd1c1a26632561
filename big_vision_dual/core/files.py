"""Where the files that ship with the package are."""

from __future__ import annotations

import pathlib

_PACKAGE = pathlib.Path(__file__).parent.parent


def shipped(name: str) -> pathlib.Path:
    """Folder `configs`, `norm_cache` or `tracks`: beside the package in a clone, inside it in a wheel."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
