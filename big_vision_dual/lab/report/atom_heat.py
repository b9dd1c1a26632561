"""Norms of single atoms as heat maps of layers against steps: data, without a drawing library."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from big_vision_dual.core.tables import Row
from big_vision_dual.lab.report.runs import Run
from big_vision_dual.lab.report.table_view import cells
from big_vision_dual.train.recipes import DUALIZE

PREDICTED = "predicted_size"
ALONE = "outside the blocks"
_NUMBERED = re.compile(r"_\d+$")

Value = float | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One kind of atom. rows: layers (of `ALONE`: atoms); log2_RxT: per row and step, None where there is none."""

    title: str
    rows: tuple[str, ...]
    log2_RxT: tuple[tuple[Value, ...], ...]


@dataclasses.dataclass(frozen=True)
class Heat:
    """Panels on one colour scale. steps: T. unit: what the ratio is of, for the colour bar."""

    title: str
    note: str
    unit: str
    steps: tuple[int, ...]
    panels: tuple[Panel, ...]


def heats(run: Run) -> list[Heat]:
    """Step and size of every atom of a run; [] where it logged neither a table nor norms."""
    if run.table is None or not run.atoms:
        return []
    return [_step(run), _size(run)]


def _step(run: Run) -> Heat:
    """The update over the learning rate, against the target norm where the optimizer aims at one."""
    rates = _learning_rates(run)
    if run.config.get("optax_name") == DUALIZE:
        title, unit = "Step against its target", "step / (learning rate x target norm)"
        note = (
            "Norm of each atom's update, in the atom's own norm, over learning rate times target norm. "
            "1 is what the table asks for; decay and constraints add to it."
        )
        panels = _panels(run, "update_norm", lambda cell, step: cell.target * rates.get(step, 0.0))
        return Heat(title, f"{note} {_extent(panels)}", unit, _steps(run), panels)
    panels = _panels(run, "update_norm", lambda _, step: rates.get(step))
    panels, median = _about_the_median(panels)
    title, unit = "Step against the median step", "step / learning rate / median"
    note = (
        "Norm of each atom's update in its own norm, over the learning rate. This optimizer aims at no target; "
        f"1 is the median over all atoms and steps, {median:.3g}."
    )
    return Heat(title, f"{note} {_extent(panels)}", unit, _steps(run), panels)


def _extent(panels: Sequence[Panel]) -> str:
    """In words, the least and the largest ratio."""
    known = [value for panel in panels for row in panel.log2_RxT for value in row if value is not None]
    return f"All lie between {factor(2.0 ** min(known))} and {factor(2.0 ** max(known))}." if known else ""


def factor(ratio: float) -> str:
    """A ratio as a factor: 'x2' or '/2'."""
    sign, size = ("x", ratio) if ratio >= 1 else ("/", 1 / ratio)
    return f"{sign}{size:,.0f}" if size >= 1000 else f"{sign}{size:.3g}"


def _about_the_median(panels: Sequence[Panel]) -> tuple[tuple[Panel, ...], float]:
    """Panels divided by the median of their values, and that median."""
    known = [value for panel in panels for row in panel.log2_RxT for value in row if value is not None]
    middle = statistics.median(known) if known else 0.0

    def moved(row: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(None if value is None else round(value - middle, 4) for value in row)

    about = [dataclasses.replace(panel, log2_RxT=tuple(map(moved, panel.log2_RxT))) for panel in panels]
    return tuple(about), 2.0**middle


def _size(run: Run) -> Heat:
    """The weight, against the size that its steps and decay predict where the run logged that, else as it is."""
    predicted = {row["step"]: row[PREDICTED] for row in run.atoms if any(_mean(v) for v in row.get(PREDICTED) or [])}
    if predicted:
        title, unit = "Size against its prediction", "size / predicted size"
        note = (
            "Size of each atom (the RMS over its singular values or vectors, in units of its dual) over the size that "
            "steps in random directions, decay and radius would give it by now; in the end, their equilibrium."
        )
        panels = _panels(run, "size", lambda cell, step: cell.norm(predicted[step]) if step in predicted else None)
    else:
        title, unit = "Size", "norm in the atom's own norm"
        note = "Norm of each atom in its own norm. The algebra's bounds hold where it is at most 1."
        panels = _panels(run, "weight_norm", lambda _cell, _step: 1.0)
    return Heat(title, f"{note} {_extent(panels)}", unit, _steps(run), panels)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """An atom of one layer: where its norms stand in a row of `Run.atoms`, and what is known of it."""

    row: int
    part: int | None  # the layer of a stacked leaf
    layer: str
    column: str
    target: float

    @property
    def kind(self) -> str:
        """The panel: what numbered layers (blocks) share."""
        return self.column if _NUMBERED.search(self.layer) else ALONE

    @property
    def name(self) -> str:
        """In its panel."""
        return f"{self.layer} {self.column}".strip() if self.kind == ALONE else self.layer

    def norm(self, values: Sequence[Any]) -> Value:
        found = values[self.row] if self.row < len(values) else None
        return _mean(found[self.part] if self.part is not None and isinstance(found, list) else found)


def _panels(run: Run, what: str, scale: Callable[[_Cell, int], Value]) -> tuple[Panel, ...]:
    assert run.table is not None
    kinds: dict[str, list[_Cell]] = {}
    for cell in _cells(run.table.rows):
        kinds.setdefault(cell.kind, []).append(cell)
    return tuple(
        Panel(kind, tuple(cell.name for cell in of_kind), tuple(_logs(run, what, cell, scale) for cell in of_kind))
        for kind, of_kind in sorted(kinds.items(), key=lambda entry: entry[0] == ALONE)
    )


def _logs(run: Run, what: str, cell: _Cell, scale: Callable[[_Cell, int], Value]) -> tuple[Value, ...]:
    return tuple(_log_ratio(cell.norm(row[what]), scale(cell, row["step"])) for row in run.atoms)


def _cells(rows: Sequence[Row]) -> list[_Cell]:
    made = []
    for index, row in enumerate(rows):
        of_row = cells(row)
        for part, (layer, column, target) in enumerate(of_row):
            stacked = isinstance(row.target_norm, tuple)
            made.append(_Cell(index, part if stacked else None, layer, column, target))
    return made


def _steps(run: Run) -> tuple[int, ...]:
    return tuple(row["step"] for row in run.atoms)


def _learning_rates(run: Run) -> Mapping[int, float]:
    """{step: learning rate} at the logged steps."""
    rate = run.config.get("lr")
    if not isinstance(rate, int | float):
        return {}
    return {step: rate * factor for step, factor in zip(*run.curve("global_schedule"), strict=True)}


def _mean(found: Any) -> Value:
    """The mean over batch axes (heads)."""
    if isinstance(found, list):
        means = [mean for mean in map(_mean, found) if mean is not None]
        return sum(means) / len(means) if means else None
    return found


def _log_ratio(norm: Value, scale: float | None) -> Value:
    if not norm or not scale or not (norm > 0 and scale > 0):
        return None
    ratio = math.log2(norm / scale)
    return round(ratio, 4) if math.isfinite(ratio) else None
