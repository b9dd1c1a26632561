"""Where do weights settle, against `course`'s prediction, and what do constraints do to loss and accuracy?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_dual.core import dualize
from big_vision_dual.lab.studies import grid, settings, sweep
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import norm_trees
from big_vision_dual.train.optim import course

RADII = (5.0, 10.0, 25.0, 50.0)
CONSTRAINTS: dict[str, dict[str, Any]] = {
    **{f"radius {r:g}": {"wd": 0.0, "weight_constraint": {"kind": "radius", "radius": r}} for r in RADII},
    "none": {"wd": 0.0},
    "wd 1e-4": {"wd": 1e-4},
    "hyperball": {"wd": 0.0, "weight_constraint": {"kind": "hyperball"}},
}
FURTHER: dict[str, dict[str, Any]] = {
    "radius 1": {"wd": 0.0, "weight_constraint": {"kind": "radius", "radius": 1.0}},
    "radius 10, cautious": {"wd": 0.0, "weight_constraint": {"kind": "radius", "radius": 10.0, "cautious": True}},
    "wd 1e-3": {"wd": 1e-3},
    "wd 1e-3, cautious": {"wd": 1e-3, "weight_constraint": {"kind": "decay", "cautious": True}},
    "hyperball, own norm": {"wd": 0.0, "weight_constraint": {"kind": "hyperball", "norm": "own"}},
}
"""Compared in loss only."""
TABLES = {"well_normed": ("dualize", 0.1), "first_attempt": ("dualize_first_attempt", 0.05)}
"""{name: (setting, the learning rate of its recipe)}."""
TOKENS = 196  # that the first attempt's mean divides by, and the study's shall


class Sized(Program):
    """A program that also measures each atom's size, at every point of its curve."""

    def advance(self, state: Any, *arguments: Any) -> tuple[Any, dict[str, jax.Array]]:
        assert self.table is not None, "sizes are those of a table's atoms"
        state, measured = super().advance(state, *arguments)
        sizes = dualize.measure.atom_sizes(state.params, self.table)
        squares = {key: (size**2).reshape(size.shape[0], -1).mean(1) if size.ndim else size[None] ** 2
                   for key, size in sizes.items()}  # fmt: skip
        layers = {f"size/{key}/{i}": square[i] ** 0.5 for key, square in squares.items() for i in range(len(square))}
        return state, measured | layers


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One kind of run over seeds. entries_E: (atom key, layer); at steps_T, measured_SxTxE and predicted_TxE."""

    entries: tuple[tuple[str, int | None], ...]
    steps_T: np.ndarray
    measured_SxTxE: np.ndarray
    predicted_TxE: np.ndarray

    @property
    def miss_TxE(self) -> np.ndarray:
        """Measured over predicted, the mean over seeds of logarithms, as a factor."""
        return np.exp(np.mean(np.log(self.measured_SxTxE), axis=0) - np.log(self.predicted_TxE))


def config_of(base: Mapping[str, Any], table: str, constraint: str) -> grid.Config:
    """A run of the study; the first attempt's mean over tokens weighs as over 196."""
    setting, lr = TABLES[table]
    fields = {"lr": lr, "norms.biases_per_head": False, **{**CONSTRAINTS, **FURTHER}[constraint]}
    if table == "first_attempt":
        height, width = base["input_shape"][:2]
        patch = base["model"]["patch_size"]
        tokens = (height // patch[0]) * (width // patch[1])
        fields["target_norm_scale"] = [["(embedding|Transformer)/.*", TOKENS / tokens]]
    return grid.replace(settings.apply(setting, base), fields)


def run(
    base: Mapping[str, Any], seeds: int, results: Results, constraints: Sequence[str] = tuple(CONSTRAINTS)
) -> dict[tuple[str, str], tuple[Sizes, list[Record]]]:
    """{(table, constraint): sizes and records}, those that differ only in numbers as one program."""
    chosen = [(table, constraint) for constraint in constraints for table in TABLES]
    trials = [
        grid.product(config_of(base, *run), {"seed": range(seeds)}, point={"table": run[0], "constraint": run[1]})
        for run in chosen
    ]
    records, _ = sweep.run([trial for each in trials for trial in each], results, program=Sized)
    found = {}
    for index, each in enumerate(chosen):
        own = records[index * seeds : (index + 1) * seeds]
        found[each] = _sizes(own), own
    return found


def _sizes(records: Sequence[Record]) -> Sizes:
    config = records[0]["config"]
    table = norm_trees.table_for(config)
    scaled = sweep.edges(config["total_steps"])
    predicted = course.make(
        config, table, total_steps=config["total_steps"], batch_size=config["input"]["batch_size"]
    )
    assert predicted is not None, "the study's runs are dualized"
    curve = records[0]["result"]["curve"]
    entries = tuple(zip(predicted.keys, predicted.layers, strict=True))
    names = [f"size/{key}/{layer or 0}" for key, layer in entries]
    measured = np.array([[r["result"]["curve"][name] for name in names] for r in records], float).swapaxes(1, 2)
    assert measured.shape[1] == len(curve["loss"])
    sizes_E, courses = measured[:, 0].mean(axis=0), []
    for start, stop in zip(scaled[1:], [*scaled[2:], None], strict=True):
        courses.append(sizes_E)
        sizes_E = sizes_E if stop is None else predicted.advance(sizes_E, start, stop)
    return Sizes(entries, np.asarray(scaled[1:]), measured, np.stack(courses))
