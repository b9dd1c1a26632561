"""How a figure becomes a file."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from big_vision_dual.core import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes it whole or not at all, in the format that the suffix says: .png (also without one), .svg, .pdf, ...

    Raises ValueError for a suffix that matplotlib does not know.
    """
    with files.replacing(path) as file:
        figure.savefig(file, format=pathlib.Path(path).suffix.lstrip(".") or "png", dpi=_DPI)
