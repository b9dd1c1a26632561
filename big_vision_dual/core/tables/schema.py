"""The target_norm table as a value: one row per atom of a Flax parameter tree. Standard library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms import atoms

FORMAT_VERSION = 1
ATOMS = atoms.KINDS


class TableError(ValueError):
    """A table that is malformed, damaged, unknown, or made for other parameters."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One atom: a whole leaf, or a slice of one.

    path: the leaf's Flax path, '/'-joined.
    atom: one of `ATOMS`; it names the norm (see docs/norms.md).
    fan_in, fan_out, batch: axes of the leaf; together they are all of its axes, each once. `batch` axes
      hold independent atoms (stacked layers, heads). A Linear with two fan-out axes has (heads, d_head)
      there, with two fan-in axes likewise. Embed: fan_in is the row axis. DepthwiseConv: fan_in is the
      tap axis, fan_out the channels. Bias, Scale and Rate: all axes that are not batch are fan_out.
    shape: the leaf's shape, or the slice's where `slice` is given.
    mass: share of feature learning after all taring; a vector over axis 0 for scan-stacked layers.
    sensitivity: product of the sensitivities of all that follows the atom; likewise.
    target_norm: norm of a unit update, = mass / total mass / sensitivity; likewise.
    slice: None for a whole leaf, else (axis, start, stop): this atom is that part of the leaf.
    """

    path: str
    atom: str
    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    batch: tuple[int, ...]
    shape: tuple[int, ...]
    mass: float | tuple[float, ...]
    sensitivity: float | tuple[float, ...]
    target_norm: float | tuple[float, ...]
    slice: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.atom not in ATOMS:
            raise TableError(f"{self.path}: unknown atom {self.atom!r}; possible: {', '.join(ATOMS)}.")
        axes = sorted(self.fan_in + self.fan_out + self.batch)
        if axes != list(range(len(self.shape))):
            raise TableError(
                f"{self.key}: fan_in {self.fan_in}, fan_out {self.fan_out} and batch {self.batch} must name "
                f"each axis of shape {self.shape} once."
            )
        for name in ("mass", "sensitivity", "target_norm"):
            value = getattr(self, name)
            if isinstance(value, tuple) and (0 not in self.batch or len(value) != self.shape[0]):
                raise TableError(f"{self.key}: {name} has {len(value)} entries for axis 0 of shape {self.shape}.")

    @property
    def key(self) -> str:
        """The row's name in the table: the path, for a slice followed by [axis:start:stop]."""
        return self.path if self.slice is None else f"{self.path}[{':'.join(map(str, self.slice))}]"


@dataclasses.dataclass(frozen=True)
class TargetNormTable:
    """All rows of one model, and what they were computed from.

    model_name, model: as in the config. input_shape: one example's, without batch.
    norms: conventions, blocks_mass and masses as given. mass, sensitivity: of the whole model.
    """

    model_name: str
    model: Mapping[str, Any]
    input_shape: tuple[int, ...]
    norms: Mapping[str, Any]
    mass: float
    sensitivity: float
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        keys = [row.key for row in self.rows]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise TableError(f"rows given twice: {twice}.")

    def by_key(self) -> dict[str, Row]:
        return {row.key: row for row in self.rows}

    def by_path(self) -> dict[str, tuple[Row, ...]]:
        """{leaf path: its rows}; more than one row where a leaf is sliced."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.path, []).append(row)
        return {path: tuple(rows) for path, rows in grouped.items()}
