"""The page as data: runs with their curves, sections with their charts, tables. Nothing of it is HTML."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from big_vision_dual.lab.report import atom_heat, metric
from big_vision_dual.lab.report.page import tables, tracks, trials
from big_vision_dual.lab.report.page.tables import Table
from big_vision_dual.lab.report.runs import TRACK_FILE, Found, Run


@dataclasses.dataclass(frozen=True)
class RunView:
    """A run as the charts need it. group: index of the runs whose configs differ in the seed alone.

    series: {metric: (steps, values)}; hours: (steps, wall-clock hours); batch: examples of a step.
    """

    label: str
    group: int
    batch: int | None
    hours: tuple[Sequence[int], Sequence[float]]
    series: Mapping[str, tuple[Sequence[int], Sequence[float | None]]]
    heats: Sequence[atom_heat.Heat]


@dataclasses.dataclass(frozen=True)
class Section:
    """metrics: one chart each; heats: whether the runs' heat maps stand here; studies: charts of trials."""

    name: str
    title: str
    metrics: Sequence[metric.Metric] = ()
    heats: bool = False
    studies: Sequence[trials.Chart] = ()
    tables: Sequence[Table] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """groups: labels of the runs' groups. configs: (label, (field, value)...) of every run, whole."""

    title: str
    subtitle: str
    runs: Sequence[RunView]
    groups: Sequence[str]
    sections: Sequence[Section]
    configs: Sequence[tuple[str, Mapping[str, Any]]]


def of(found: Found, title: str | None = None) -> Page:
    """The page of runs and studies."""
    runs = list(found.runs)
    groups = list(dict.fromkeys(run.experiment for run in runs))
    views = [_view(run, groups.index(run.experiment)) for run in runs]
    labels = [_group_label([run for run in runs if run.experiment == group]) for group in groups]
    running = sum(run.status == "running" for run in runs)
    counts = [_count(len(runs), "run"), _count(len(found.studies), "study", "studies")]
    subtitle = ", ".join(text for text in counts if text) + (f", {running} still running" if running else "")
    sections = [section for section in (*_of_runs(runs), *_of_studies(found.studies)) if _filled(section, views)]
    return Page(
        title=title or _title(labels, found.studies),
        subtitle=subtitle,
        runs=views,
        groups=labels,
        sections=sections,
        configs=[(run.label, run.config) for run in runs],
    )


def _of_runs(runs: Sequence[Run]) -> list[Section]:
    if not runs:
        return []
    described = _described(runs)
    by_section = {name: [m for m in described if m.section == name] for name in metric.SECTIONS}
    made = [Section("overview", "What ran", tables=[tables.facts(runs)])]
    for name, title in metric.SECTIONS.items():
        beside = {
            "result": [tables.best_and_last(runs, [m for m in described if m.section == "result"])],
            "norms": [table for table in (tables.groups(runs), tables.target_norms(runs)) if table is not None],
        }
        made.append(Section(name, title, by_section[name], heats=name == "norms", tables=beside.get(name, ())))
    differences = tables.differences(runs)
    return [*made, Section("config", "Configs", tables=[differences] if differences else [])]


def _described(runs: Sequence[Run]) -> list[metric.Metric]:
    """What is worth a chart, each once: `train/loss` is left out where it is the training loss again."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    if all(run.curve("train/loss") == run.curve("training_loss") for run in runs):
        names.pop("train/loss", None)
    found = [described for described in map(metric.described, names) if described is not None]
    return sorted(found, key=metric.importance)


def _of_studies(studies: Mapping[str, str]) -> Iterable[Section]:
    for index, (label, path) in enumerate(studies.items()):
        is_track = path.endswith(TRACK_FILE)
        study = (tracks if is_track else trials).read(path)
        title = f"{'Track' if is_track else 'Study'} {label}"
        yield Section(
            f"study{index}",
            title,
            studies=study.charts,
            tables=[study.table],
        )


def _filled(section: Section, views: Sequence[RunView]) -> bool:
    heats = section.heats and any(view.heats for view in views)
    return bool(section.metrics or section.studies or section.tables or heats or section.name == "config")


def _view(run: Run, group: int) -> RunView:
    batch = (run.config.get("input") or {}).get("batch_size")
    names = [name for name in run.metrics if metric.described(name) is not None]
    series = {}
    for name in names:
        steps, values = run.curve(name)
        series[name] = steps, [value if math.isfinite(value) else None for value in values]
    return RunView(run.label, group, batch if isinstance(batch, int) else None, run.hours, series, atom_heat.heats(run))


def _group_label(runs: Sequence[Run]) -> str:
    """'dual/seed0', 'dual/seed1' -> 'dual'; of one run its own label, of seeds alone the folder that they are in."""
    if len(runs) == 1:
        return runs[0].label
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*(run.label for run in runs), strict=False))
    common = re.sub(r"(^|[/_.\s-]+)(seed|s)?[/_.\s-]*$", "", "".join(letters[0] for letters in same))
    return common or pathlib.PurePath(runs[0].folder).parent.name or f"{runs[0].label} and {len(runs) - 1} more"


def _title(groups: Sequence[str], studies: Mapping[str, str]) -> str:
    names = [*groups, *studies]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _count(number: int, one: str, many: str | None = None) -> str:
    return "" if not number else f"{number} {one if number == 1 else many or one + 's'}"
