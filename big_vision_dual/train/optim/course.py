"""The course of sizes that a config predicts: random steps against its decay, step by step along its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import trees
from big_vision_dual.core.dualize import measure
from big_vision_dual.core.dualize.constrain import by_row
from big_vision_dual.core.dualize.geometry import ATOMS
from big_vision_dual.core.tables import step_size
from big_vision_dual.core.tables.schema import Row, TargetNormTable
from big_vision_dual.train.optim import chain, constraints, schedules, transforms

ADAM = "scale_by_adam"
CAUTIOUS = 0.5  # of the entries decay: those where a step that knows nothing of the weight shrinks it


@dataclasses.dataclass(frozen=True)
class Course:
    """Predicted sizes (see `step_size`) of every atom, of stacked layers each; E entries, in the order of the rows.

        size^2 <- (1 - decay)^2 size^2 + step^2 gain           step = unit * schedule, decay = wd * schedule + step / R

    whose fixed point is `step_size.settled`. It takes gradients for noise: those that agree for longer than momentum
    remembers move weights further, up to step / decay.

    keys, layers: of each entry; layer None where the row has no stack. unit_E: step at schedule 1. wd_E: decay at
    schedule 1. radius_E: inf for none. held_E: bools, the size never changes. beta_E, share_E: of `Momentum`.
    functions, rule_E: schedules, None for frozen, and which of them each entry has.
    """

    keys: tuple[str, ...]
    layers: tuple[int | None, ...]
    unit_E: np.ndarray
    wd_E: np.ndarray
    radius_E: np.ndarray
    held_E: np.ndarray
    beta_E: np.ndarray
    share_E: np.ndarray
    functions: tuple[schedules.Schedule | None, ...]
    rule_E: np.ndarray

    def sizes(self, measured: Mapping[str, Any]) -> np.ndarray:
        """`measure.atom_sizes` -> sizes_E: the RMS over heads and other batch axes than stacked layers."""
        values = [np.asarray(measured[key], np.float64) for key in self.keys]
        parts = [v if layer is None else v[layer] for v, layer in zip(values, self.layers, strict=True)]
        return np.array([np.sqrt(np.mean(part**2)) for part in parts])

    def advance(self, sizes_E: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Sizes before step `stop` (0-based) from those before step `start`."""
        square_E = np.asarray(sizes_E, np.float64) ** 2
        for factor_E in self._factors(start, stop):
            step_E = self.unit_E * factor_E
            decay_E = self.wd_E * factor_E + step_E / self.radius_E
            kept_E = (1 - decay_E) * self.beta_E
            gain_E = 1 + 2 * self.share_E * kept_E / (1 - kept_E)
            square_E = np.where(self.held_E, square_E, (1 - decay_E) ** 2 * square_E + step_E**2 * gain_E)
        return np.sqrt(square_E)

    def _factors(self, start: int, stop: int) -> np.ndarray:
        """Each entry's schedule at each step, (stop - start, E); 0 where frozen."""
        steps_T = jnp.arange(start, stop)
        zeros_T = np.zeros(stop - start)
        each = [zeros_T if f is None else np.asarray(jax.vmap(f)(steps_T), np.float64) for f in self.functions]
        return np.stack(each, axis=1)[:, self.rule_E]


def make(
    config: Any, table: TargetNormTable, *, total_steps: int, batch_size: int, data_size: int | None = None
) -> Course | None:
    """The course of a config that trains with `table`, dualized or by Adam; None for another optimizer or under muP."""
    dualized = config["optax_name"] == transforms.DUALIZE
    if not (dualized or config["optax_name"] == ADAM) or config.get("mup"):
        return None
    options = config.get("optax") or {}
    paths = [row.path for row in table.rows]
    fallback = [*options.get("fallback", ()), (".*", "dualize" if dualized else "adam")]
    kinds = trees.first_match(fallback, paths, "fallback")
    rules = chain.schedule_rules(config)
    rule_of = trees.first_match([(pattern, i) for i, (pattern, _) in enumerate(rules)], paths, "config.schedule")
    mults = trees.first_match([*(config.get("lr_mults") or ()), (".*", 1.0)], paths, "config.lr_mults")
    decays = _decays(config, table, kinds)
    entries: list[tuple[Any, ...]] = []
    for row in table.rows:
        adam = (options.get("adam") or {}) if dualized else options
        momentum = _momentum(options) if kinds[row.path] == "dualize" else step_size.Momentum(
            adam.get("b1", 0.9), adam.get("nesterov", False))  # fmt: skip
        scale = config["lr"] * mults[row.path]
        for layer, target_norm in _layers(row):
            unit = target_norm
            if kinds[row.path] == "adam":
                factor = options.get("fallback_scale", 1.0) if dualized else 1.0
                unit = step_size.adam_step(factor, momentum.beta) / step_size.unit_rms(row)
            entries.append((row.key, layer, scale * unit, *decays[row.key], momentum.beta, momentum.share,
                            rule_of[row.path]))  # fmt: skip
    keys, layers, *columns = zip(*entries, strict=True)
    sizes = {"total_steps": total_steps, "batch_size": batch_size, "data_size": data_size}
    functions = tuple(None if value is None else schedules.make(value, **sizes) for _, value in rules)
    unit, wd, radius, held, beta, share, rule = (np.array(column) for column in columns)
    return Course(keys, layers, unit, wd, radius, held, beta, share, functions, rule)


def _momentum(options: Mapping[str, Any]) -> step_size.Momentum:
    return step_size.Momentum(options.get("momentum", 0.95), options.get("nesterov", False))


def _layers(row: Row) -> list[tuple[int | None, float]]:
    return list(enumerate(row.target_norm)) if isinstance(row.target_norm, tuple) else [(None, row.target_norm)]


def _decays(config: Any, table: TargetNormTable, kinds: Mapping[str, str]) -> dict[str, tuple[float, float, bool]]:
    """{row.key: (decay at schedule 1 whatever lr is, radius, whether the size is held)}."""
    name, options = constraints.split(config)
    wd = config.get("wd") or 0.0
    mults = trees.first_match([*config.get("wd_mults", chain.KERNELS_ONLY), (".*", 0.0)],
                              [row.path for row in table.rows], "config.wd_mults")  # fmt: skip
    radii = by_row(options.get("radius", 1.0), table, "radius") if name == "radius" else {}
    cautious = CAUTIOUS if options.get("cautious") else 1.0
    size = options.get("size")
    sizes = {} if size is None or name != "hyperball" else by_row(size, table, "size")

    def of(row: Row) -> tuple[float, float, bool]:
        matrix, ours = ATOMS[row.atom].projects_to == "sphere", kinds[row.path] == "dualize" or name == "hyperball"
        if name == "decay":
            return cautious * wd * matrix, np.inf, False
        if name == "radius" and ours:
            radius = None if ATOMS[row.atom].projects_to == "itself" else radii[row.key]
            return 0.0, np.inf if radius is None else radius / cautious, False
        if name in ("hyperball", "project") and ours:
            return 0.0, np.inf, matrix and sizes.get(row.key, 1.0) is not None
        return wd * mults[row.path], np.inf, False

    return {row.key: of(row) for row in table.rows}


def by_group(course: Course, values_E: np.ndarray, table: TargetNormTable) -> dict[str, float]:
    """{group of `measure.group_name`: mean of its entries}."""
    rows, grouped = table.by_key(), {}
    for key, value in zip(course.keys, values_E, strict=True):
        grouped.setdefault(measure.group_name(rows[key]), []).append(float(value))
    return {name: float(np.mean(values)) for name, values in grouped.items()}
