"""The target_norm table: what each atom's update norm must be, as a value that is built, saved and checked."""

from big_vision_dual.tables.build import build, flat, for_config
from big_vision_dual.tables.check import check
from big_vision_dual.tables.io import digest, dumps, load, loads, resolve, save
from big_vision_dual.tables.schema import ATOMS, Row, TableError, TargetNormTable

__all__ = [
    "ATOMS", "Row", "TableError", "TargetNormTable", "build", "check", "digest", "dumps", "flat", "for_config", "load",
    "loads", "resolve", "save",
]  # fmt: skip
