"""The target_norm table: what each atom's update norm must be, as a value that is built, saved and checked."""

from big_vision_dual.core.tables.build import build
from big_vision_dual.core.tables.check import check
from big_vision_dual.core.tables.flat import flat
from big_vision_dual.core.tables.io import digest, dumps, load, loads, resolve, save
from big_vision_dual.core.tables.schema import ATOMS, Row, TableError, TargetNormTable

__all__ = [
    "ATOMS", "Row", "TableError", "TargetNormTable", "build", "check", "digest", "dumps", "flat", "load",
    "loads", "resolve", "save",
]  # fmt: skip
