"""Steps of tables, rules and runs in common units, side by side; where weights settle under one of them."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from big_vision_dual.core import rules, tables
from big_vision_dual.core.dualize.constrain import by_row
from big_vision_dual.core.dualize.measure import group_name
from big_vision_dual.core.tables import Row, TableError, TargetNormTable, step_size
from big_vision_dual.lab.report import pictures
from big_vision_dual.train import run_files

UNITS = {
    "own": "in the atom's own norm",
    "rms": "RMS of an entry",
    "spectral": "largest singular value",
    "relative": "own norm over that of the weight: of a unit weight, or as a run measured it",
}
Step = dict[str, float | None]  # {unit: number, None where the norm leaves it open}


@dataclasses.dataclass(frozen=True)
class Column:
    """One source. steps: {atom, with its layer where it is stacked: step}; groups: {atom: kind and layer's name}."""

    name: str
    steps: Mapping[str, Step]
    groups: Mapping[str, str]


def column(source: str, lr: float, base: TargetNormTable | None) -> Column:
    """source: a table (path or name), a workdir of a run, or the name of a rule, which is applied to `base`."""
    if (pathlib.Path(source) / run_files.ATOM_NORMS).is_file():
        return _of_run(source)
    if source not in rules.RULES:
        return _of_table(source, tables.load(source), lr)
    if base is None:
        raise TableError(f"rule {source!r} needs a table to be applied to; name one before it: compare TABLE {source}.")
    rule = rules.get(source)(base)
    return _of_table(source, rule.table, lr, rule.options)


def _of_table(name: str, table: TargetNormTable, lr: float, options: Mapping[str, Any] | None = None) -> Column:
    options = options or {}
    to_adam = [pattern for pattern, kind in options.get("fallback", ()) if kind == "adam"]
    adam_lr = lr * options.get("fallback_scale", 1.0)
    b1 = (options.get("adam") or {}).get("b1", 0.9)
    steps, groups = {}, {}
    for row in table.rows:
        adam = any(re.fullmatch(pattern, row.path) for pattern in to_adam)
        for key, target_norm in _layers(row):
            steps[key] = _adam(adam_lr, b1) if adam else _dualized(row, lr * target_norm)
            groups[key] = group_name(row)
    return Column(name, steps, groups)


def _dualized(row: Row, own: float) -> Step:
    spectral = step_size.unit_spectral(row)
    return {
        "own": own, "rms": own * step_size.unit_rms(row), "relative": own,
        "spectral": None if spectral is None else own * spectral,
    }  # fmt: skip


def _adam(lr: float, b1: float) -> Step:
    """Entries of noise: only their RMS is known."""
    return {"own": None, "rms": step_size.adam_step(lr, b1), "spectral": None, "relative": None}


def _of_run(workdir: str) -> Column:
    """Mean over a run's measured steps, of any optimizer. Its own norm is that of a matrix's largest singular value."""
    folder = pathlib.Path(workdir)
    table = tables.load(folder / run_files.TABLE)
    measured = [row for row in run_files.rows(folder, run_files.ATOM_NORMS) if "update_size" in row]
    if not measured:
        raise TableError(f"{workdir} has measured no step: {run_files.ATOM_NORMS} has no update_size. Train it anew.")
    steps, groups = {}, {}
    for index, row in enumerate(table.rows):
        named = {
            name: [_flat(m[name][index]) for m in measured] for name in ("update_norm", "weight_norm", "update_size")
        }
        for layer, (key, _) in enumerate(_layers(row)):
            update, weight, size = ([each[layer] for each in values] for values in named.values())
            own = statistics.fmean(update)
            over = [u / w for u, w in zip(update, weight, strict=True) if w]
            rms = statistics.fmean(size) * step_size.unit_rms(row)
            steps[key] = {**_dualized(row, own), "rms": rms, "relative": statistics.fmean(over) if over else None}
            groups[key] = group_name(row)
    return Column(workdir, steps, groups)


def _flat(value: Any) -> list[float]:
    """A number, or per layer (and the largest over heads), as a list over layers."""
    return [max(_flat(part)) for part in value] if isinstance(value, list) else [value]


def _layers(row: Row) -> list[tuple[str, float]]:
    if isinstance(row.target_norm, tuple):
        return [(f"{row.key}[layer {i}]", value) for i, value in enumerate(row.target_norm)]
    return [(row.key, row.target_norm)]


def shared(columns: Sequence[Column]) -> list[str]:
    """Atoms that all columns have, in the order of the first; raises `TableError` where there is none."""
    keys = [key for key in columns[0].steps if all(key in other.steps for other in columns[1:])]
    if not keys:
        own = "; ".join(f"{c.name} has {next(iter(c.steps), 'none')}, ..." for c in columns)
        raise TableError(
            f"these tables share no atom, so there is nothing to compare: {own}. Compare tables of one model."
        )
    return keys


def grouped(columns: Sequence[Column], unit: str) -> dict[str, list[list[float]]]:
    """{group: for each column the values of its shared atoms in `unit`, those left open left out}."""
    found: dict[str, list[list[float]]] = {}
    for key in shared(columns):
        cells = found.setdefault(columns[0].groups[key], [[] for _ in columns])
        for cell, each in zip(cells, columns, strict=True):
            if (value := each.steps[key][unit]) is not None:
                cell.append(value)
    return found


def comparison(columns: Sequence[Column], unit: str) -> rich.table.Table:
    """A line per group of atoms: smallest and largest step of each column, and the ratio to the first's."""
    view = rich.table.Table(title=f"one step, {UNITS[unit]}", caption="over layers; in brackets the ratio to the first")
    view.add_column("atoms", no_wrap=True)
    for each in columns:
        view.add_column(each.name, justify="right")
    for group, cells in grouped(columns, unit).items():
        view.add_row(group, *(_cell(cell, cells[0] if index else []) for index, cell in enumerate(cells)))
    return view


def _cell(values: Sequence[float], first: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    text = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} .. {high:.3g}"
    if not first or not (_mean(first) and _mean(values)):
        return text
    return f"{text} ({_mean(values) / _mean(first):.3g}x)"


def _mean(values: Sequence[float]) -> float:
    """Geometric, 0 where one is 0."""
    return math.exp(statistics.fmean(map(math.log, values))) if all(v > 0 for v in values) else 0.0


def as_json(columns: Sequence[Column]) -> dict[str, Any]:
    """{'units': meanings, 'atoms': {atom: {column: step}}}."""
    return {"units": UNITS, "atoms": {key: {c.name: c.steps[key] for c in columns} for key in shared(columns)}}


def plot(columns: Sequence[Column], unit: str, path: str | os.PathLike[str]) -> None:
    """Groups of atoms against their steps, a mark a column, a line from smallest to largest over layers."""
    from matplotlib.figure import Figure

    cells = grouped(columns, unit)
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(cells)), layout="constrained")
    axes = figure.subplots()
    for index, each in enumerate(columns):
        drawn = [(place, cell[index]) for place, cell in enumerate(cells.values()) if any(cell[index])]
        heights = [place + 0.15 * (index - len(columns) / 2) for place, _ in drawn]
        axes.plot([_mean(values) for _, values in drawn], heights, "o", label=each.name, color=f"C{index}")
        axes.hlines(heights, [min(v) for _, v in drawn], [max(v) for _, v in drawn], color=f"C{index}")
    axes.set_xscale("log")
    axes.set_yticks(range(len(cells)), list(cells))
    axes.invert_yaxis()
    axes.set_xlabel(f"one step, {UNITS[unit]}")
    axes.legend()
    pictures.save(figure, path)


def equilibrium(
    table: TargetNormTable, lr: float, momentum: step_size.Momentum, wd: float | None, radius: Any, leaves: bool
) -> rich.table.Table:
    """Each atom's step and the size at which it settles, a line per group, or per leaf.

    wd: taken off every matrix a step, whatever lr is. radius: instead, a number or rules, see `constrain`.
    """
    radii = {} if radius is None else by_row(radius, table, "radius")
    lines: dict[str, list[tuple[float, ...]]] = {}
    for row in table.rows:
        of_row = radii.get(row.key)
        for key, target_norm in _layers(row):
            step = lr * target_norm
            decay = step / of_row if of_row else (wd or 0.0) * (row.atom not in ("Bias", "Scale", "Rate"))
            size = step_size.settled(step, decay, momentum)
            values = (step, step * step_size.unit_rms(row), step / size, size, decay)
            lines.setdefault(key if leaves else group_name(row), []).append(values)
    view = rich.table.Table(
        title=f"steps at lr {lr:g}, momentum {momentum.beta:g}{' with Nesterov' if momentum.nesterov else ''}",
        caption="sizes over that of a unit dual, of gradients that are noise; inf: nothing decays (docs/size.md)",
    )
    view.add_column("atoms", no_wrap=True)
    for name in ("step, own norm", "RMS of an entry", "step / settled size", "settles at size", "decay a step"):
        view.add_column(name, justify="right")
    for name, values in lines.items():
        view.add_row(name, *(_cell(each, []) for each in zip(*values, strict=True)))
    return view
