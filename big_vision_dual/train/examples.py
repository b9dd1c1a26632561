"""How many examples and epochs a run has seen, also when its batch size or data set changed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NOTE = "examples_by_data_size"


@dataclass(frozen=True)
class Seen:
    """Examples seen until `step`. by_size: {examples in the data set: of how many from one of that size}."""

    step: int
    by_size: Mapping[int, int]

    @classmethod
    def noted(cls, notes: Mapping[str, Any], step: int, batch_size: int, data_size: int) -> Seen:
        """What a checkpoint of `step` noted; older ones noted nothing, and had one batch size and one data set."""
        default = {data_size: step * batch_size} if step else {}
        return cls(step, {int(size): count for size, count in notes.get(_NOTE, default).items()})

    def at(self, step: int, batch_size: int, data_size: int) -> Seen:
        """Continued to `step` with batches of `batch_size`."""
        more = self.by_size.get(data_size, 0) + (step - self.step) * batch_size
        return Seen(step, {**self.by_size, data_size: more})

    @property
    def total(self) -> int:
        return sum(self.by_size.values())

    @property
    def epochs(self) -> float:
        return sum(count / size for size, count in self.by_size.items())

    def note(self) -> dict[str, Any]:
        """What a checkpoint notes of it."""
        return {_NOTE: {str(size): count for size, count in self.by_size.items()}}
