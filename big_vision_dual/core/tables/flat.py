"""A table from the leaves of any model: what each leaf is, by rules that are given or by name, siblings and shape.

A leaf's kind is written "ATOM axes", one letter an axis: b batch (stacked layers, heads), i fan-in, o fan-out; "/n" at
the end cuts the first fan-out axis into n equal atoms. "Linear bio" is a stack of (fan_in, fan_out) kernels,
"Linear ioo" a query kernel (d, heads, d_head), "Linear io/3" a fused QKV kernel, "Linear oi" PyTorch's weight,
"Embed io" an embedding, "Conv iiio" a 2-D convolution with Modula's norm, "DepthwiseConv iiio", "Bias o", "Scale o".
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from big_vision_dual.core import trees
from big_vision_dual.core.tables import guess
from big_vision_dual.core.tables.check import leaf_shape
from big_vision_dual.core.tables.guess import Shape
from big_vision_dual.core.tables.schema import ATOMS, Row, TableError, TargetNormTable

_SPEC = re.compile(r"(\w+) ?([bio]*)(?:/(\d+))?")


def flat(
    params: Any,
    rules: Sequence[tuple[str, str]] = (),
    *,
    stacked: Sequence[str] = ("Transformer/encoderblock/.*",),
) -> TargetNormTable:
    """A table for any model from its leaves alone: equal masses, sensitivity 1.

    params: any tree of arrays or `jax.ShapeDtypeStruct`s.
    rules: ordered (regex of a whole path, "ATOM axes") pairs as above; the first match wins, before any guess.
    stacked: regexes of whole paths whose axis 0 stacks layers, for leaves without a rule; Big Vision's name by default.

    What was guessed and is not plain from the leaf's own name is in `norms["guessed"]`, and shown by print(table).
    Raises `TableError` for a rule that does not fit, and for leaves that may be two things: it says which rules
    to add.
    """
    shapes = {path: leaf_shape(path, leaf) for path, leaf in trees.flatten(params).items()}
    if not shapes:
        raise TableError("no parameters given: the tree has no leaf with a shape. Pass the model's parameters.")
    given = {path: text for path in shapes if (text := _first(rules, path)) is not None}
    left = {path: shape for path, shape in shapes.items() if path not in given}
    forced = {path for path in left if any(re.fullmatch(pattern, path) for pattern in stacked)}
    guesses = guess.kinds(left, shapes, forced)
    kinds = {path: _parse(text, path, shapes[path]) for path, text in given.items()}
    kinds |= {path: _parse(found.kind, path, shapes[path]) for path, found in guesses.items()}
    total = sum(kinds[path].atoms(shape) for path, shape in shapes.items())
    rows = tuple(row for path, shape in shapes.items() for row in _rows(path, shape, kinds[path], total))
    notes = {path: f"{found.kind}: {found.why}" for path, found in guesses.items() if found.why}
    return TargetNormTable("flat", {}, (), {"conventions": "flat", "guessed": notes}, float(total), 1.0, rows)


@dataclasses.dataclass(frozen=True)
class _Kind:
    atom: str
    batch: tuple[int, ...]
    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    parts: int

    def atoms(self, shape: Shape) -> int:
        """How many atoms a leaf of this shape holds; none where it is empty."""
        return self.parts * math.prod(shape[axis] for axis in self.batch) if math.prod(shape) else 0


def _first(rules: Sequence[tuple[str, str]], path: str) -> str | None:
    return next((text for pattern, text in rules if re.fullmatch(pattern, path)), None)


def _parse(text: str, path: str, shape: Shape) -> _Kind:
    match = _SPEC.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] not in ATOMS or len(match[2]) != len(shape):
        raise TableError(
            f"{path} of shape {shape} cannot be {text!r}; possible: an atom ({', '.join(ATOMS)}), then one letter for "
            'each axis: b batch, i fan-in, o fan-out, then perhaps "/n", n equal parts; e.g. "Linear bio" or '
            '"Linear io/3".'
        )
    batch, fan_in, fan_out = (tuple(i for i, letter in enumerate(match[2]) if letter == kind) for kind in "bio")
    parts = int(match[3] or 1)
    if parts != 1 and (not fan_out or parts == 0 or shape[fan_out[0]] % parts):
        raise TableError(f"{path} of shape {shape} cannot be {text!r}: its fan-out has no {parts} equal parts.")
    return _Kind(match[1], batch, fan_in, fan_out, parts)


def _rows(path: str, shape: Shape, kind: _Kind, total: int) -> list[Row]:
    values: list[Any] = [1.0, 1.0, 1 / total] if kind.atoms(shape) else [0.0, 1.0, 0.0]
    if 0 in kind.batch:
        values = [(value,) * shape[0] for value in values]
    axes = (kind.fan_in, kind.fan_out, kind.batch)
    if kind.parts == 1:
        return [Row(path, kind.atom, *axes, shape, *values)]
    axis = kind.fan_out[0]
    width = shape[axis] // kind.parts
    part_shape = (*shape[:axis], width, *shape[axis + 1 :])
    starts = (part * width for part in range(kind.parts))
    return [Row(path, kind.atom, *axes, part_shape, *values, slice=(axis, start, start + width)) for start in starts]
