"""Predicted beside measured sizes of a run's weights, and the word of warning where they part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_dual.core.tables.schema import TargetNormTable
from big_vision_dual.train.optim import course as course_lib

FACTOR = 3.0
"""Measured over predicted size above which a run says so: the formula's own error is about 2 (docs/size.md)."""


class Watch:
    """Follows `course.Course` from the first sizes that are measured; `notes` go into checkpoints.

    course: None where no formula is known, and then nothing is measured. notes: those of the checkpoint that a run
    continues from.
    """

    def __init__(
        self, course: course_lib.Course | None, table: TargetNormTable | None, notes: Mapping[str, Any] | None = None
    ):
        self._course, self._table = course, table
        self._step, self._sizes_E = (notes["step"], np.array(notes["sizes"])) if notes else (0, None)
        self._told: set[str] = set()

    @property
    def notes(self) -> dict[str, Any] | None:
        """What a checkpoint keeps, JSON."""
        return None if self._sizes_E is None else {"step": self._step, "sizes": self._sizes_E.tolist()}

    @property
    def predicted(self) -> dict[str, Any]:
        """{row.key: predicted size}, of a stacked row a list over its layers; {} where no formula is known."""
        if self._course is None or self._sizes_E is None:
            return {}
        found: dict[str, Any] = {}
        for key, layer, size in zip(self._course.keys, self._course.layers, self._sizes_E.tolist(), strict=True):
            if layer is None:
                found[key] = size
            else:
                found.setdefault(key, []).append(size)
        return found

    def measure(self, step: int, sizes: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
        """({'size/GROUP', 'predicted_size/GROUP': mean over the group}, warnings not yet given).

        step: number of updates done; sizes: `dualize.measure.atom_sizes` after them, on the host.
        """
        if self._course is None or self._table is None:
            return {}, []
        measured_E = self._course.sizes(sizes)
        before_E = self._sizes_E
        self._sizes_E = measured_E if before_E is None else self._course.advance(before_E, self._step, step)
        self._step = step
        measured, predicted = (course_lib.by_group(self._course, x, self._table) for x in (measured_E, self._sizes_E))
        values = {f"size/{group}": size for group, size in measured.items()}
        values |= {f"predicted_size/{group}": size for group, size in predicted.items()}
        return values, [
            self._warning(group, measured[group], predicted[group]) for group in self._new(measured, predicted)
        ]

    def _new(self, measured: Mapping[str, float], predicted: Mapping[str, float]) -> list[str]:
        """Groups that have left the prediction for the first time."""
        left = [group for group, size in measured.items() if size > FACTOR * predicted[group] > 0]
        new = [group for group in left if group not in self._told]
        self._told |= set(new)
        return new

    def _warning(self, group: str, measured: float, predicted: float) -> str:
        return (
            f"weights leave the prediction: {group} has size {measured:.3g} at step {self._step}, "
            f"{measured / predicted:.1f} times the {predicted:.3g} of random steps; its steps agree. A radius bounds "
            "it: config.weight_constraint = dict(kind='radius', radius=25), see docs/size.md"
        )
