"""Studies as charts: trials from a results file, gathered over seeds. Any file with points and results can be read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.lab.report.page.tables import Table

Record = Mapping[str, Any]  # point: coordinates of a trial; result: its measurements
_SIZES = ("width", "depth")
_MEASURES = ("train_loss", "val_loss", "val_accuracy")  # of a result, where it has them
_POINTS = 20  # of a loss curve, see lab.studies.sweep


@dataclasses.dataclass(frozen=True)
class Line:
    """One line with a band: the mean over seeds, and their range. n: the most seeds that a point has."""

    label: str
    x: Sequence[float]
    mean: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    n: int


@dataclasses.dataclass(frozen=True)
class Chart:
    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    x_log: bool = False
    y_log: bool = False


@dataclasses.dataclass(frozen=True)
class Study:
    charts: Sequence[Chart]
    table: Table


def read(path: str) -> Study:
    """Charts of a results file: loss against learning rate, loss curves, activations against size, where it has them.

    Raises core.files.FileError naming the line that is no trial.
    """
    found = records(path)
    charts = [*_against_lr(found), *_curves(found), *_activations(found)]
    return Study(charts, _table(found))


def records(path: str) -> list[Record]:
    """The lines of a results file. Raises core.files.FileError naming the one that is no trial."""
    found = []
    for number, line in enumerate(files.read(path).splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record["point"], dict) or not isinstance(record["result"], dict):
                raise TypeError("point and result are no objects")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise files.FileError(f"line {number} of {path} is no finished trial ({error}).") from error
        found.append(record)
    return found


def by(trials: Sequence[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    """Trials by what `key` says of each, in the order of their coming."""
    found: dict[Any, list[Record]] = {}
    for record in trials:
        found.setdefault(key(record), []).append(record)
    return found


def _setting(record: Record) -> str:
    """What a chart is about: all coordinates but learning rate, seed and size."""
    point = record["point"]
    return ", ".join(str(value) for key, value in point.items() if key not in ("lr", "seed", *_SIZES)) or "trials"


def _size(record: Record) -> tuple[str, float] | None:
    return next(((axis, record["point"][axis]) for axis in _SIZES if axis in record["point"]), None)


def _size_label(size: tuple[str, float] | None) -> str:
    return "all" if size is None else f"{size[0]} {size[1]:g}"


def _against_lr(records: Sequence[Record]) -> list[Chart]:
    """A chart a setting: training loss against learning rate, one line a size."""
    with_lr = [record for record in records if "lr" in record["point"]]
    charts = []
    for setting, of_setting in by(with_lr, _setting).items():
        if len({record["point"]["lr"] for record in of_setting}) < 2:
            continue
        lines = [
            _line(_size_label(size), by(of_size, lambda record: record["point"]["lr"]), _measured("train_loss"))
            for size, of_size in by(of_setting, _size).items()
        ]
        charts.append(Chart(f"{setting}: loss by learning rate", "learning rate", "training loss", lines, x_log=True))
    return charts


def _curves(records: Sequence[Record]) -> list[Chart]:
    """A chart a size: the loss over the training, one line a setting at its own best learning rate."""
    with_curve = [record for record in records if isinstance(record["result"].get("curve"), dict)]
    charts = []
    for size, of_size in by(with_curve, _size).items():
        lines = []
        for setting, of_setting in by(of_size, _setting).items():
            best = _best_lr(of_setting)
            chosen = [record for record in of_setting if record["point"].get("lr") == best]
            at_points: dict[float, list[float]] = {}
            for record in chosen:
                for index, value in enumerate(record["result"]["curve"].get("loss") or []):
                    at_points.setdefault((index + 1) / _POINTS, []).append(value)
            label = setting if best is None else f"{setting}, lr {best:.3g}"
            lines.append(gathered(label, at_points))
        title = "Loss over the training" + ("" if size is None else f", {_size_label(size)}")
        charts.append(Chart(title, "share of the training", "training loss", lines, y_log=True))
    return charts


def _activations(records: Sequence[Record]) -> list[Chart]:
    """A chart a setting: change of activations at the last step against size, one line a module."""
    measured = [r for r in records if isinstance(r["result"].get("activations"), dict) and _size(r) is not None]
    charts = []
    for setting, of_setting in by(measured, _setting).items():
        axis = next(axis for axis in _SIZES if axis in of_setting[0]["point"])
        modules = dict.fromkeys(name for record in of_setting for name in record["result"]["activations"])
        by_size = by(of_setting, lambda record, axis=axis: record["point"][axis])
        lines = [_line(module, by_size, _change(module)) for module in modules]
        title = f"{setting}: change of activations"
        charts.append(Chart(title, axis, "RMS change since initialization", lines, x_log=True, y_log=True))
    return charts


def _change(module: str) -> Callable[[Record], float | None]:
    def of(record: Record) -> Any:
        found = (record["result"]["activations"].get(module) or {}).get("change")
        return found[-1] if isinstance(found, list) and found else found

    return of


def _measured(name: str) -> Callable[[Record], float | None]:
    return lambda record: record["result"].get(name) if record["result"].get("finite", True) else None


def _line(label: str, by_x: Mapping[float, Sequence[Record]], value: Callable[[Record], float | None]) -> Line:
    return gathered(label, {x: [value(record) for record in of_x] for x, of_x in by_x.items()})


def gathered(label: str, by_x: Mapping[float, Sequence[float | None]]) -> Line:
    """Mean and range of finite values; an x where a seed diverged has none."""
    xs = sorted(by_x)
    groups = [[value for value in by_x[x] if finite(value)] for x in xs]
    whole = [group if group and len(group) == len(by_x[x]) else [] for x, group in zip(xs, groups, strict=True)]
    of = [lambda group: sum(group) / len(group), min, max]
    mean, low, high = ([f(group) if group else None for group in whole] for f in of)
    return Line(label, xs, mean, low, high, max((len(group) for group in whole), default=0))


def finite(value: Any) -> bool:
    """Whether a result is a number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _best_lr(records: Sequence[Record]) -> float | None:
    """Of the lowest mean training loss, among those where no seed diverged; None where the points have no lr."""
    with_lr = [record for record in records if record["point"].get("lr") is not None]
    line = _line("", by(with_lr, lambda record: record["point"]["lr"]), _measured("train_loss"))
    known = [(mean, lr) for mean, lr in zip(line.mean, line.x, strict=True) if mean is not None]
    return min(known)[1] if known else None


def _table(records: Sequence[Record]) -> Table:
    """One line for a setting and size, at its best learning rate: means, with the range of the seeds."""
    measures = [name for name in _MEASURES if any(finite(record["result"].get(name)) for record in records)]
    head = ["setting", "size", "best lr", "seeds", "trials", *(name.replace("_", " ") for name in measures)]
    rows = []
    for (setting, size), of_both in by(records, lambda record: (_setting(record), _size(record))).items():
        best = _best_lr(of_both)
        chosen = [record for record in of_both if record["point"].get("lr") == best]
        seeds = len({record["point"].get("seed") for record in chosen})
        lr = "" if best is None else f"{best:.4g}"
        row = [setting, _size_label(size), lr, str(seeds), str(len(of_both))]
        rows.append([*row, *(_range([r["result"].get(name) for r in chosen]) for name in measures)])
    return Table("Trials, at the best learning rate of each setting", head, rows)


def _range(values: Sequence[Any]) -> str:
    known = [value for value in values if finite(value)]
    if not known:
        return "diverged"
    mean = sum(known) / len(known)
    return f"{mean:.4g}" if len(known) == 1 else f"{mean:.4g} ({min(known):.4g} to {max(known):.4g})"
