"""The page's tables, as data: what ran, best and last values, atom groups, target norms, differing config fields."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.report import table_view
from big_vision_dual.lab.report.atom_heat import factor
from big_vision_dual.lab.report.metric import Metric
from big_vision_dual.lab.report.runs import Run, differing_fields
from big_vision_dual.train.recipes import DUALIZE

_SHOWN_NORMS = 40
_PACKAGES = ("big_vision_dual", "python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "libtpu")


@dataclasses.dataclass(frozen=True)
class Table:
    """head: titles of the columns; rows of texts. of_columns, of_rows: the run that a column or row belongs to, None
    for none: it is hidden with its run. folded: whether it is closed at first. merged: whether a row whose values are
    all the same shows them once.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    of_columns: Sequence[int | None] = ()
    of_rows: Sequence[int | None] = ()
    note: str = ""
    folded: bool = False
    merged: bool = False


def facts(runs: Sequence[Run]) -> Table:
    """Header of the page: one column a run."""
    per_run = [_facts(run) for run in runs]
    names = [name for name in per_run[0] if any(of_run[name] for of_run in per_run)]
    rows = [[name, *(of_run[name] for of_run in per_run)] for name in names]
    return Table("", ["", *(run.label for run in runs)], rows, of_columns=[None, *range(len(runs))], merged=True)


def _facts(run: Run) -> dict[str, str]:
    versions, config = run.versions, run.config
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    return {
        "status": run.status,
        "steps": f"{run.step:,}{total}",
        "duration": duration(run.hours[1][-1]) if run.hours[1] else "",
        "started": re.sub(r"(:\d\d)(:\d\d)\+00:00$", r"\1 UTC", str(versions.get("started", "")).replace("T", " ")),
        "command": str(versions.get("command", "")),
        "commit": str(versions.get("commit") or ""),
        "model": _model(config),
        "parameters": f"{parameters(run):,}" if parameters(run) else "",
        "optimizer": _optimizer(config),
        "data": _data(config),
        "batch size": str((config.get("input") or {}).get("batch_size", "")),
        "devices": f"{versions.get('devices', '')} x {versions['device']}" if "device" in versions else "",
        "versions": ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions),
        "workdir": run.folder,
    }


def parameters(run: Run) -> int | None:
    """As the run noted it, else the sum over the rows of its table."""
    if isinstance(run.versions.get("parameters"), int):
        return run.versions["parameters"]
    return sum(math.prod(row.shape) for row in run.table.rows) if run.table is not None else None


def _model(config: Mapping[str, Any]) -> str:
    model = config.get("model") or {}
    named = ("variant", "width", "d_model", "depth", "n_layers", "scaling")
    return " ".join([str(config.get("model_name", "")), *(f"{k}={model[k]}" for k in named if k in model)])


def _optimizer(config: Mapping[str, Any]) -> str:
    name = "dualized" if config.get("optax_name") == DUALIZE else str(config.get("optax_name", ""))
    return ", ".join([name, *(f"{key} {config[key]:g}" for key in ("lr", "wd") if _number(config.get(key)))])


def _data(config: Mapping[str, Any]) -> str:
    data = (config.get("input") or {}).get("data") or {}
    return " ".join(str(data[key]) for key in ("name", "split") if key in data)


def best_and_last(runs: Sequence[Run], metrics: Sequence[Metric]) -> Table:
    """One line a run: of every result its best value with the step, and its last."""
    known = [metric for metric in metrics if any(run.curve(metric.name)[1] for run in runs)]
    head = ["run", "steps"]
    for metric in known:
        head += [f"{metric.title}, best", "last"] if metric.better else [metric.title]
    rows = []
    for run in runs:
        row = [run.label, f"{run.step:,}"]
        for metric in known:
            row += _best(run, metric) if metric.better else [_last(run, metric.name)]
        rows.append(row)
    return Table("Best and last values", head, rows, of_rows=range(len(runs)))


def _best(run: Run, metric: Metric) -> list[str]:
    steps, values = run.curve(metric.name)
    finite = [(value, step) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not finite:
        return ["", _last(run, metric.name)]
    value, step = max(finite) if metric.better == "max" else min(finite)
    return [f"{value:.4g} at {step:,}", _last(run, metric.name)]


def _last(run: Run, name: str) -> str:
    values = run.curve(name)[1]
    return f"{values[-1]:.4g}" if values else ""


def groups(runs: Sequence[Run]) -> Table | None:
    """Last size and step of each atom group (mean over layers), with the predicted size where it was logged."""
    rows, of_rows = [], []
    for index, run in enumerate(runs):
        rate = _last_rate(run)
        for group in [name.partition("/")[2] for name in run.metrics if name.startswith("update_norm/")]:
            step = _final(run, f"update_norm/{group}")
            of_weight = [_final(run, f"{what}/{group}") for what in ("weight_norm", "size", "predicted_size")]
            over_rate = step / rate if step is not None and rate else None
            rows.append([run.label, group, *map(_short, (*of_weight, step, over_rate))])
            of_rows.append(index)
    if not rows:
        return None
    head = ["run", "atoms", "weight", "its size (RMS)", "predicted size", "step", "step / learning rate"]
    note = "Means over the layers, each atom in its own norm, at the last logged step."
    return Table("Atom groups, at the end", head, rows, of_rows=of_rows, note=note, folded=True)


def _last_rate(run: Run) -> float | None:
    lr, values = run.config.get("lr"), run.curve("global_schedule")[1]
    return lr * values[-1] if isinstance(lr, int | float) and values else None


def _final(run: Run, name: str) -> float | None:
    values = run.curve(name)[1]
    return values[-1] if values else None


def target_norms(runs: Sequence[Run]) -> Table | None:
    """The tables that runs trained with: one as layers by atoms, several compared, largest ratio to the first first."""
    distinct: dict[str, tuple[str, TargetNormTable]] = {}
    for run in runs:
        if run.table is not None and run.config.get("optax_name") == DUALIZE:
            distinct.setdefault(repr(run.table.rows), (run.label, run.table))
    if len(distinct) > 1:
        return _compared(list(distinct.values()))
    for _, table in distinct.values():
        grid = table_view.arrange(table)
        rows = [[layer, *map(_short, values)] for layer, values in zip(grid.layers, grid.values, strict=True)]
        return Table("Target norms of the table", ["layer", *grid.columns], rows, folded=True)
    return None


def _compared(labelled: Sequence[tuple[str, TargetNormTable]]) -> Table:
    (first_label, first), *others = labelled
    found = {
        label: {key: (a, b) for key, a, b in table_view.difference(first, table).ratios} for label, table in others
    }
    shared = dict.fromkeys(key for of_label in found.values() for key in of_label)
    distance = {key: max(_distance(*of_label[key]) for of_label in found.values() if key in of_label) for key in shared}
    differing = sorted((key for key in shared if distance[key]), key=lambda key: -distance[key])
    rows = []
    for key in differing[:_SHOWN_NORMS]:
        pairs = [of_label.get(key) for of_label in found.values()]
        row = [key, next(_short(pair[0]) for pair in pairs if pair)]
        for pair in pairs:
            row += [_short(pair[1]), _times(pair[1], pair[0])] if pair else ["", ""]
        rows.append(row)
    head = ["atom", first_label, *(text for label in found for text in (label, "ratio"))]
    note = f"{len(differing)} of {len(shared)} shared atoms differ."
    if len(differing) > _SHOWN_NORMS:
        note += f" The {_SHOWN_NORMS} largest ratios are shown."
    return Table("Target norms compared", head, rows, note=note, folded=True)


def _times(new: float, old: float) -> str:
    return factor(new / old) if new > 0 and old > 0 else ""


def _distance(a: float, b: float) -> float:
    return abs(math.log(b / a)) if a > 0 and b > 0 else math.inf if a != b else 0.0


def differences(runs: Sequence[Run]) -> Table | None:
    """Config fields that are not the same in all runs."""
    fields = differing_fields(runs)
    if not fields:
        return None
    rows = [[field, *("not set" if value is None else str(value) for value in values)] for field, values in fields]
    return Table("What differs", ["field", *(run.label for run in runs)], rows, of_columns=[None, *range(len(runs))])


def duration(hours: float) -> str:
    """'35 s', '12.5 min', '3.4 h', '2.1 days'."""
    for unit, size in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= size * (2 if unit == "days" else 1):
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 3600:.3g} s"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
