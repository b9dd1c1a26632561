"""Leaves of a parameter tree <-> atoms <-> stacks of matrices, grouped by atom kind and oriented shape.

    tree  --split-->  {row.key: array}  --Group.pack-->  (B, n, m)     and back:  Group.unpack, join

The 48 attention matrices of ViT-S/16 are one group. Shared by a mesh axis it is one (48, 384, 384) stack; else `cut`
makes smaller ones of it (`graft`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import trees
from big_vision_dual.core.dualize.geometry import ATOMS
from big_vision_dual.core.tables import step_size
from big_vision_dual.core.tables.schema import Row, TargetNormTable

OverTaps = Callable[..., jax.Array]
"""(values, axis=) -> values without these axes."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one row's array becomes `count` matrices of a stack.

    permutation: batch axes first, then those of the matrix's rows, then those of its columns.
    batch: sizes of the batch axes, of which the last `taps` are a convolution's; their product is `count`.
    column_axes: how many axes the matrix's columns are made of.
    gain: see `geometry`. target_norms: one per matrix, shape (count,), float32.
    """

    key: str
    permutation: tuple[int, ...]
    permuted: tuple[int, ...]
    batch: tuple[int, ...]
    taps: int
    column_axes: int
    matrix: tuple[int, int]
    gain: float
    target_norms: np.ndarray | jax.Array

    @property
    def count(self) -> int:
        return math.prod(self.batch)

    def to_stack(self, x: jax.Array) -> jax.Array:
        return jnp.transpose(x, self.permutation).reshape(self.count, *self.matrix)

    def from_stack(self, x_BxNxM: jax.Array) -> jax.Array:
        return jnp.transpose(x_BxNxM.reshape(self.permuted), np.argsort(self.permutation).tolist())

    def own_axes(self, matrix_axes: tuple[int, ...]) -> tuple[int, ...]:
        """Axes of the row's own array that make up some axes, -2 or -1, of its matrices."""
        of_rows, of_columns = len(self.batch), len(self.permutation) - self.column_axes
        parts = {-2: self.permutation[of_rows:of_columns], -1: self.permutation[of_columns:]}
        return tuple(axis for part in matrix_axes for axis in parts[part])

    def step(self, unit: jax.Array) -> jax.Array:
        """A unit dual in the row's own shape -> one of its target norm, float32."""
        length = (self.gain * self.target_norms).reshape((*self.batch, *(1,) * (unit.ndim - len(self.batch))))
        return unit.astype(jnp.float32) * jnp.asarray(length.transpose(np.argsort(self.permutation)))

    def over_taps(self, values_B: jax.Array, reduce: OverTaps) -> jax.Array:
        """One value a matrix -> one a batch index, in the shape of the row's batch axes."""
        values = values_B.reshape(self.batch)
        return reduce(values, axis=tuple(range(values.ndim - self.taps, values.ndim))) if self.taps else values


@dataclasses.dataclass(frozen=True)
class Group:
    """Atoms of one kind whose matrices have one shape: a stack (B, n, m), n <= m for a Linear."""

    name: str
    atom: str
    layouts: tuple[Layout, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return sum(layout.count for layout in self.layouts), *self.layouts[0].matrix

    @property
    def is_vectors(self) -> bool:
        """Whether it is a single bias or scale whose array is its vectors, one after the other: such an array can be
        computed in its own shape."""
        one, *more = self.layouts
        alone = not more and list(one.permutation) == sorted(one.permutation)
        return alone and one.matrix[0] == 1 and not ATOMS[self.atom].spectral

    @property
    def columns_are_several(self) -> bool:
        """Whether columns are made of several axes, as heads and their features, and rows of one."""
        return all(one.column_axes > 1 == len(one.permuted) - len(one.batch) - one.column_axes for one in self.layouts)

    @property
    def gains(self) -> np.ndarray:
        """(B,), float32."""
        return np.concatenate([np.full(layout.count, layout.gain, np.float32) for layout in self.layouts])

    @property
    def target_norms(self) -> np.ndarray | jax.Array:
        """(B,), float32."""
        parts = [layout.target_norms for layout in self.layouts]
        return jnp.concatenate(parts) if any(isinstance(part, jax.Array) for part in parts) else np.concatenate(parts)

    def only(self, keys: Sequence[str] | Mapping[str, Any]) -> Group:
        """The group of those members alone."""
        return dataclasses.replace(self, layouts=tuple(layout for layout in self.layouts if layout.key in keys))

    def cut(self, most: int) -> tuple[Group, ...]:
        """Consecutive members in parts of at most `most` matrices, or of one member with more."""
        parts: list[list[Layout]] = []
        room = 0
        for layout in self.layouts:
            if layout.count > room:
                parts.append([])
                room = most
            parts[-1].append(layout)
            room -= layout.count
        return tuple(dataclasses.replace(self, layouts=tuple(part)) for part in parts)

    def pack(self, atoms: Mapping[str, jax.Array], dtype: Any = jnp.float32) -> jax.Array:
        """{key: array} -> stack (B, n, m) of `dtype`."""
        return jnp.concatenate([layout.to_stack(atoms[layout.key].astype(dtype)) for layout in self.layouts])

    def unpack(self, stack_BxNxM: jax.Array) -> dict[str, jax.Array]:
        """Stack, perhaps padded at its end -> {key: array} in the stack's dtype."""
        atoms, start = {}, 0
        axes = {layout.permuted[len(layout.batch) :] for layout in self.layouts}
        if len(axes) == 1:  # all at once, so that nothing is between a part and what it is used for (fused on a TPU)
            stack_BxNxM = stack_BxNxM.reshape(len(stack_BxNxM), *axes.pop())
        for layout in self.layouts:
            part = jax.lax.slice_in_dim(stack_BxNxM, start, start + layout.count)
            atoms[layout.key] = layout.from_stack(part)
            start += layout.count
        return atoms

    def per_row(self, values_B: jax.Array, over_taps: OverTaps) -> dict[str, jax.Array]:
        """One value a matrix, perhaps padded at its end -> {key: values in the shape of the row's batch axes}.

        over_taps: makes one value of those of a convolution's taps, `jnp.max` of norms.
        """
        parts, start = {}, 0
        for layout in self.layouts:
            parts[layout.key] = layout.over_taps(values_B[start : start + layout.count], over_taps)
            start += layout.count
        return parts

    def steps(self, units: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{key: unit dual} -> {key: the same at its target norm}, float32."""
        return {layout.key: layout.step(units[layout.key]) for layout in self.layouts}


def make(
    rows: Sequence[Row],
    *,
    per_head: bool = False,
    scale_floor: bool = False,
    target_norms: Mapping[str, Any] | None = None,
) -> dict[str, Group]:
    """Rows -> {name: group}, in the order of the rows, empty ones left out. Options: see `graft.scale_by_dualize`."""
    members: dict[tuple[str, tuple[int, int]], list[Layout]] = {}
    for row in rows:
        if is_empty(row):
            continue
        target_norm = row.target_norm if target_norms is None else target_norms[row.key]
        linear = row.atom == "Linear"
        layout = _layout(row, target_norm, per_head=per_head and linear, scale_floor=scale_floor and linear)
        members.setdefault((row.atom, layout.matrix), []).append(layout)
    groups = {}
    for (atom, (n, m)), layouts in members.items():
        name = f"{atom}_{n}x{m}"
        # Like next to like: parts of a group (`Group.cut`) then are equal programs, compiled once.
        alike = sorted(layouts, key=lambda layout: (layout.permuted, layout.permutation))
        groups[name] = Group(name, atom, tuple(alike))
    return groups


def is_empty(row: Row) -> bool:
    return 0 in row.shape


def split(tree: Any, table: TargetNormTable) -> dict[str, Any]:
    """Tree -> {row.key: array}; missing leaves (`optax.MaskedNode`, None) have no entry."""
    rows = table.by_path()
    return {row.key: _slice(leaf, row) for path, leaf in trees.flatten(tree).items() for row in rows[path]}


def join(atoms: Any, tree: Any, table: TargetNormTable) -> Any:
    """{row.key: array} -> a tree with the structure of `tree`; the inverse of `split`."""
    rows = table.by_path()
    joined = []
    for path in trees.flatten(tree):
        parts = sorted(rows[path], key=lambda row: row.slice[1] if row.slice else 0)
        arrays = [atoms[row.key] for row in parts]
        axis = parts[0].slice[0] if parts[0].slice else 0
        joined.append(jnp.concatenate(arrays, axis) if len(arrays) > 1 else arrays[0])
    return trees.like(tree, joined)


def _slice(leaf: Any, row: Row) -> Any:
    if row.slice is None:
        return jnp.asarray(leaf) if isinstance(leaf, (int, float)) else leaf
    axis, start, stop = row.slice
    return jax.lax.slice_in_dim(leaf, start, stop, axis=axis)


def _layout(row: Row, target_norm: Any, *, per_head: bool, scale_floor: bool) -> Layout:
    batch, fan_in_axes, fan_out_axes = tuple(sorted(row.batch)), row.fan_in, row.fan_out
    if per_head and len(fan_out_axes) == 2:
        batch, fan_out_axes = (*batch, fan_out_axes[0]), fan_out_axes[1:]
    geometry, tap_axes = ATOMS[row.atom], step_size.tap_axes(row)
    batch, fan_in_axes = (*batch, *tap_axes), fan_in_axes[len(tap_axes) :]
    taps, fan_in, fan_out = (math.prod(row.shape[a] for a in axes) for axes in (tap_axes, fan_in_axes, fan_out_axes))
    gain = geometry.gain(fan_in, fan_out) / taps
    (rows, row_axes), (columns, column_axes) = (fan_in, fan_in_axes), (fan_out, fan_out_axes)
    # Smaller side first; of equal sides that with fewer axes, which is the easier one to shard.
    if geometry.spectral and (rows, len(row_axes)) > (columns, len(column_axes)):
        (rows, row_axes), (columns, column_axes) = (columns, column_axes), (rows, row_axes)
    permutation = (*batch, *row_axes, *column_axes)
    batch_shape = tuple(row.shape[axis] for axis in batch)
    return Layout(
        key=row.key,
        permutation=permutation,
        permuted=tuple(row.shape[axis] for axis in permutation),
        batch=batch_shape,
        taps=len(tap_axes),
        column_axes=len(column_axes),
        matrix=(rows, columns),
        gain=max(1.0, gain) if scale_floor else gain,
        target_norms=_over_batch(target_norm, batch_shape),
    )


def _over_batch(value: Any, batch: tuple[int, ...]) -> Any:
    """A scalar, or a vector over the first batch axis -> one entry per matrix, (prod(batch),) float32.

    Stays in NumPy unless the value is traced: a table has hundreds of rows, and each JAX operation is a dispatch.
    """
    library = jnp if isinstance(value, jax.Array) else np
    value = library.asarray(value, np.float32)
    return library.broadcast_to(value.reshape(value.shape + (1,) * (len(batch) - value.ndim)), batch).ravel()
