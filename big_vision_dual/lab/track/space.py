"""What an entry may tune, and the search that every entry gets: the same number of trials for all. No JAX.

Compass search with sufficient decrease (Kolda, Lewis, Torczon, SIAM Review 2003): from the entry's start, one axis at a
time, both ways, on as long as the loss falls by a hundredth; after a round without gain all steps are halved. So a grid
grows where its edge is best, and what the trials did not close in on both sides is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Position = tuple[float, ...]  # a coordinate an axis, in the order of the space
_FINEST = 1 / 8  # of an axis' own step
_GAIN = 0.01  # of the loss: what a move must bring


@dataclasses.dataclass(frozen=True)
class Axis:
    """One thing to tune: values start * factor^k, or those of `choices`, of which the search starts at `start`.

    also: {further config field: its value over this one's}.
    """

    start: Any
    factor: float = 2.0
    choices: tuple[Any, ...] = ()
    also: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.choices and self.start not in self.choices:
            raise ValueError(f"an axis starts at {self.start!r}, which is none of its choices {self.choices}.")
        if not self.choices and not (self.start > 0 and self.factor > 1):
            raise ValueError(f"an axis {self.start!r} * {self.factor!r}^k; possible: a start > 0 and a factor > 1.")

    def value(self, coordinate: float) -> Any:
        if self.choices:
            return self.choices[self.choices.index(self.start) + round(coordinate)]
        return self.start * self.factor**coordinate

    def allows(self, coordinate: float) -> bool:
        """Whether there is a value there."""
        if not self.choices:
            return True
        return coordinate == round(coordinate) and 0 <= self.choices.index(self.start) + coordinate < len(self.choices)


def octaves(log2: float, **options: Any) -> Axis:
    """Powers of 2 around 2^log2."""
    return Axis(2.0**log2, **options)


def among(start: Any, *choices: Any, **options: Any) -> Axis:
    """Given values in their order, from `start` on."""
    return Axis(start, choices=choices, **options)


Space = Mapping[str, Axis]


def fields(space: Space, position: Position) -> dict[str, Any]:
    """{config field: value} at a position."""
    values: dict[str, Any] = {}
    for (name, axis), coordinate in zip(space.items(), position, strict=True):
        values[name] = axis.value(coordinate)
        values |= {field: values[name] if ratio == 1 else ratio * values[name] for field, ratio in axis.also.items()}
    return values


@dataclasses.dataclass(frozen=True)
class Found:
    """The end of a search. losses: of every position tried, inf where training diverged. open: axes not closed in."""

    best: Position
    losses: Mapping[Position, float]
    open: tuple[str, ...]

    @property
    def diverged(self) -> bool:
        """Whether no trial at all was finite."""
        return not math.isfinite(self.losses[self.best])


def search(space: Space, loss_of: Callable[[Position], float], trials: int, start: Position | None = None) -> Found:
    """The best of at most `trials` positions: fewer only where every coordinate is closed in to an eighth of its step.

    loss_of: mean held-out loss of a position; what is not finite counts as inf. start: what an earlier search found:
      then the steps are halves.
    """
    tried: dict[Position, float] = {}

    def loss(position: Position) -> float:
        if position not in tried:
            if len(tried) == trials:
                raise _Spent
            value = loss_of(position)
            tried[position] = value if math.isfinite(value) else math.inf
        return tried[position]

    with contextlib.suppress(_Spent):
        _walk(list(space.values()), loss, start)
    best = min(tried, key=lambda position: tried[position])
    names = list(space)
    return Found(
        best, tried, tuple(names[i] for i in range(len(names)) if not _closed(i, best, tried, space[names[i]]))
    )


class _Spent(Exception):
    """No trials are left."""


def _walk(axes: Sequence[Axis], loss: Callable[[Position], float], start: Position | None) -> None:
    here, step = ((0.0,) * len(axes), 1.0) if start is None else (start, 0.5)
    loss(here)
    while step >= _FINEST:
        before = here
        for index in range(len(axes)):
            here = _along(index, here, step, axes[index], loss)
        if here == before:
            step /= 2


def _along(index: int, here: Position, step: float, axis: Axis, loss: Callable[[Position], float]) -> Position:
    """The end of a walk along one axis: up while that helps, else down while that does."""
    start = here
    for direction in (step, -step):
        while axis.allows(here[index] + direction):
            there = _moved(here, index, direction)
            if not loss(there) < (1 - _GAIN) * loss(here):
                break
            here = there
        if here != start:
            break
    return here


def _moved(here: Position, index: int, by: float) -> Position:
    return (*here[:index], here[index] + by, *here[index + 1 :])


def _closed(index: int, best: Position, tried: Mapping[Position, float], axis: Axis) -> bool:
    """Whether worse points lie on both sides along an axis, none further off along the others than one step of theirs.

    An end of the axis itself is closed.
    """

    def near(position: Position) -> bool:
        return all(abs(x - y) <= 1 for i, (x, y) in enumerate(zip(position, best, strict=True)) if i != index)

    others = [position[index] for position in tried if near(position)]
    below = any(x < best[index] for x in others) or not axis.allows(best[index] - 1)
    above = any(x > best[index] for x in others) or not axis.allows(best[index] + 1)
    return below and above
