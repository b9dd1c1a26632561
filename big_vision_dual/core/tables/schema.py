"""The target_norm table as a value: one row per atom of a parameter tree. Standard library only."""

from __future__ import annotations

import collections
import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms import atoms
from big_vision_dual.core.tables import show

FORMAT_VERSION = 1
ATOMS = atoms.KINDS
MAX_ROWS = 100_000


class TableError(ValueError):
    """A table that is malformed, damaged, unknown, or made for other parameters."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One atom: a whole leaf, or a slice of one.

    path: the leaf's name, its keys '/'-joined (`core.trees`).
    atom: one of `ATOMS`; it names the norm (see docs/norms.md).
    fan_in, fan_out, batch: axes of the leaf; together they are all of its axes, each once. `batch` axes
      hold independent atoms (stacked layers, heads). A Linear with two fan-out axes has (heads, d_head)
      there, with two fan-in axes likewise. Embed: fan_in is the row axis. DepthwiseConv: fan_in is the
      tap axis, fan_out the channels. Conv: the last axis of fan_in is the input channels, those before it
      the taps. Bias, Scale and Rate: all axes that are not batch are fan_out.
    shape: the leaf's shape, or the slice's where `slice` is given.
    mass: share of feature learning after all taring; a vector over axis 0 for scan-stacked layers.
    sensitivity: product of the sensitivities of all that follows the atom; likewise.
    target_norm: norm of a unit update, = mass / total mass / sensitivity; likewise.
    slice: None for a whole leaf, else (axis, start, stop): this atom is that part of the leaf.

    Raises `TableError` for a field of another type, and for a number that is negative or not finite.
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
        if not isinstance(self.path, str):
            raise TableError(f"a row has path {self.path!r}; possible: a text.")
        if self.atom not in ATOMS:
            raise TableError(f"{self.path}: unknown atom {self.atom!r}; possible: {', '.join(ATOMS)}.")
        for name in ("fan_in", "fan_out", "batch", "shape"):
            _check_whole(self.path, name, getattr(self, name))
        axes = sorted(self.fan_in + self.fan_out + self.batch)
        if axes != list(range(len(self.shape))):
            raise TableError(
                f"{self.path}: fan_in {self.fan_in}, fan_out {self.fan_out} and batch {self.batch} must name "
                f"each axis of shape {self.shape} once."
            )
        for name in ("mass", "sensitivity", "target_norm"):
            value = getattr(self, name)
            if isinstance(value, tuple) and (0 not in self.batch or len(value) != self.shape[0]):
                raise TableError(f"{self.path}: {name} has {len(value)} entries for axis 0 of shape {self.shape}.")
            for number in value if isinstance(value, tuple) else (value,):
                check_number(f"{self.path}: {name}", number)
        self._check_slice()

    def _check_slice(self) -> None:
        if self.slice is None:
            return
        _check_whole(self.path, "slice", self.slice)
        if len(self.slice) != 3 or self.slice[0] >= len(self.shape):
            raise TableError(f"{self.path}: slice is {self.slice}; possible: (axis, start, stop) of {self.shape}.")
        axis, start, stop = self.slice
        if stop - start != self.shape[axis]:
            raise TableError(f"{self.path}: slice {self.slice} has {stop - start} entries, shape {self.shape} others.")

    @property
    def key(self) -> str:
        """The row's name in the table: the path, for a slice followed by [axis:start:stop]."""
        return self.path if self.slice is None else f"{self.path}[{':'.join(map(str, self.slice))}]"


@dataclasses.dataclass(frozen=True)
class TargetNormTable:
    """All rows of one model, and what they were computed from.

    model_name, model: as in the config, empty for a model of your own. input_shape: one example's, without batch.
    norms: conventions, blocks_mass and masses as given; for a flat table also what it guessed.
    mass, sensitivity: of the whole model.
    """

    model_name: str
    model: Mapping[str, Any]
    input_shape: tuple[int, ...]
    norms: Mapping[str, Any]
    mass: float
    sensitivity: float
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str):
            raise TableError(f"the table's model_name is {self.model_name!r}; possible: a text.")
        for name in ("model", "norms"):
            if not isinstance(getattr(self, name), Mapping):
                raise TableError(f"the table's {name} is {getattr(self, name)!r}; possible: a mapping.")
        _check_whole("the table", "input_shape", self.input_shape)
        for name in ("mass", "sensitivity"):
            check_number(f"the table's {name}", getattr(self, name))
        if len(self.rows) > MAX_ROWS:
            raise TableError(
                f"a table of {len(self.rows)} rows; at most {MAX_ROWS}. Stack equal layers in one leaf (nn.scan): "
                "a row then holds all of them."
            )
        twice = sorted(key for key, count in collections.Counter(row.key for row in self.rows).items() if count > 1)
        if twice:
            raise TableError(f"rows given twice: {twice[:8]}.")

    @property
    def title(self) -> str:
        """What the table is of, in a few words."""
        parts = [self.model_name, str(self.model.get("variant", "")), " x ".join(map(str, self.input_shape))]
        return " ".join(part for part in parts if part) or "your model"

    def __str__(self) -> str:
        return show.text(self)

    def _repr_html_(self) -> str:
        return show.html(self)

    def by_key(self) -> dict[str, Row]:
        return {row.key: row for row in self.rows}

    def by_path(self) -> dict[str, tuple[Row, ...]]:
        """{leaf path: its rows}; more than one row where a leaf is sliced."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.path, []).append(row)
        return {path: tuple(rows) for path, rows in grouped.items()}


def check_number(what: str, value: Any) -> None:
    """Raises `TableError` unless `value` is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise TableError(f"{what} is {value!r}; possible: a finite number >= 0.")


def _check_whole(owner: str, name: str, values: Any) -> None:
    whole = isinstance(values, tuple) and all(isinstance(v, numbers.Integral) and int(v) >= 0 for v in values)
    if not whole or any(isinstance(value, bool) for value in values):
        raise TableError(f"{owner}: {name} is {values!r}; possible: a tuple of whole numbers >= 0.")
