"""Where do weights settle, against `course`'s prediction, and what do constraints do to loss and accuracy?"""

from __future__ import annotations

import dataclasses
import itertools
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
    """One kind of run over seeds. entries: (atom key, layer) of each; at steps_T, measured_SxTxE and predicted_TxE.

    The prediction starts from what is measured at the first point of the curve.
    """

    entries: tuple[tuple[str, int | None], ...]
    steps_T: np.ndarray
    measured_SxTxE: np.ndarray
    predicted_TxE: np.ndarray

    def miss(self, kinds: Sequence[str]) -> tuple[float, float, float]:
        """(least, median, largest) over the atoms of these parameter names of measured / predicted at the last step.

        Of each atom the geometric mean over seeds. kinds: last parts of paths, such as 'kernel'.
        """
        chosen = [index for index, (key, _) in enumerate(self.entries) if key.split("/")[-1] in kinds]
        last_E = np.log(self.measured_SxTxE[:, -1]).mean(axis=0) - np.log(self.predicted_TxE[-1])
        return tuple(float(np.exp(f(last_E[chosen]))) for f in (np.min, np.median, np.max))  # type: ignore[return-value]

    def end(self, key: str) -> tuple[float, float]:
        """(measured, predicted) at the last step, of an atom without layers; measured: mean over seeds."""
        index = self.entries.index((key, None))
        return float(self.measured_SxTxE[:, -1, index].mean()), float(self.predicted_TxE[-1, index])


def config_of(base: Mapping[str, Any], table: str, constraint: str) -> grid.Config:
    """A run of the study; the first attempt's mean over tokens weighs as over 196, where the base does not scale."""
    setting, lr = TABLES[table]
    fields = {"lr": lr, "norms.biases_per_head": False, **CONSTRAINTS[constraint]}
    if table == "first_attempt":
        height, width = base["input_shape"][:2]
        patch = base["model"]["patch_size"]
        tokens = (height // patch[0]) * (width // patch[1])
        own = base.get("target_norm_scale") or ()
        fields["target_norm_scale"] = [*own, ["(embedding|Transformer)/.*", TOKENS / tokens]]
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
    total, batch = config["total_steps"], config["input"]["batch_size"]
    predicted = course.make(config, norm_trees.table_for(config), total_steps=total, batch_size=batch)
    assert predicted is not None, "the study's runs are dualized"
    entries = tuple(zip(predicted.keys, predicted.layers, strict=True))
    names = [f"size/{key}/{layer or 0}" for key, layer in entries]
    measured = np.array([[r["result"]["curve"][name] for name in names] for r in records], float).swapaxes(1, 2)
    steps_T = sweep.edges(total)[1:]
    courses = [measured[:, 0].mean(axis=0)]
    for start, stop in itertools.pairwise(steps_T.tolist()):
        courses.append(predicted.advance(courses[-1], start, stop))
    return Sizes(entries, steps_T, measured, np.stack(courses))
