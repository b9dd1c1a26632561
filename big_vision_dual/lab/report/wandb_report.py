"""The page's sections as a Weights & Biases report and workspace of runs that were logged there."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.lab.report import metric
from big_vision_dual.lab.report.page import tables
from big_vision_dual.lab.report.runs import Run
from big_vision_dual.train import run_files

_WHERE = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a report shows. runs: wandb's ids. text: Markdown, what ran. sections: {title: [(title, key, log)]}."""

    entity: str
    project: str
    title: str
    text: str
    runs: Sequence[str]
    sections: Mapping[str, Sequence[tuple[str, str, bool]]]


def spec(runs: Sequence[Run], where: str, title: str | None = None) -> Spec:
    """Of runs with a wandb id. where: 'ENTITY/PROJECT'.

    Raises ValueError for another `where`, and where no run was logged in wandb.
    """
    if not _WHERE.fullmatch(where):
        raise ValueError(f"--wandb={where!r} is no ENTITY/PROJECT; give both, as they stand in wandb's addresses.")
    entity, project = where.split("/")
    ids = {run.label: _id(run) for run in runs}
    logged = [run for run in runs if ids[run.label]]
    if not logged:
        raise ValueError(
            f"none of these runs has a {run_files.WANDB_ID}: they were not logged in wandb. Train with "
            "--config.wandb=True, and send offline runs with `wandb sync`."
        )
    names = list(dict.fromkeys(name for run in logged for name in run.metrics))
    facts = tables.facts(logged)
    return Spec(
        entity, project, title or ", ".join(run.label for run in logged[:3]), _markdown(facts),
        [ids[run.label] for run in logged], _sections(names),
    )  # fmt: skip


def _id(run: Run) -> str:
    path = files.path_of(run.folder) / run_files.WANDB_ID
    return files.read(path).strip() if path.is_file() else ""


def _sections(names: Sequence[str]) -> dict[str, list[tuple[str, str, bool]]]:
    """Charts under the page's titles, by the names that the trainer gives to wandb."""
    from big_vision_dual.train.sinks import sectioned

    made: dict[str, list[tuple[str, str, bool]]] = {}
    described = sorted(filter(None, map(metric.described, names)), key=metric.importance)
    for section, title in metric.SECTIONS.items():
        charts = [(m.title, key, m.log) for m in described if m.section == section for key in sectioned({m.name: 0.0})]
        if section == "norms":
            norms = sectioned({name: 0.0 for name in names if name.startswith(metric.NORMS)})
            charts += [(key.removeprefix("norms/"), key, True) for key in norms if key.startswith("norms/")]
        if charts:
            made[title] = charts
    return made


def _markdown(table: tables.Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def report(given: Spec) -> Any:
    """The wandb_workspaces Report; `.save()` sends it. Raises ImportError where wandb-workspaces is missing."""
    import wandb_workspaces.reports.v2.interface as wr

    runs = wr.Runset(given.entity, given.project, name="runs", filters=_filters(given))
    blocks: list[Any] = [wr.TableOfContents(), wr.H1("What ran"), wr.MarkdownBlock(given.text)]
    for title, charts in given.sections.items():
        blocks += [wr.H1(title), wr.PanelGrid(runsets=[runs], panels=_panels(charts))]
    blocks += [wr.H1("Configs"), wr.PanelGrid(runsets=[runs], panels=[wr.RunComparer(diff_only="split")])]
    return wr.Report(
        entity=given.entity, project=given.project, title=given.title, description="Made by bvd report", blocks=blocks
    )


def workspace(given: Spec) -> Any:
    """The wandb_workspaces Workspace with the same sections; `.save()` sends it."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(title, panels=_panels(charts), is_open=True) for title, charts in given.sections.items()]
    shown = ws.RunsetSettings(filters=_filters(given))
    return ws.Workspace(given.entity, given.project, name=given.title, sections=sections, runset_settings=shown)


def _filters(given: Spec) -> list[Any]:
    import wandb_workspaces.workspaces as ws

    return [ws.Metric("ID").isin(list(given.runs))]


def _panels(charts: Sequence[tuple[str, str, bool]]) -> list[Any]:
    import wandb_workspaces.reports.v2.interface as wr

    return [wr.LinePlot(title=title, x="Step", y=[key], log_y=log or None) for title, key, log in charts]


def script(given: Spec) -> str:
    """A Python file that makes both once somebody is logged in."""
    text = json.dumps(dataclasses.asdict(given), indent=2).replace("'", "\\u0027")  # no quote can end the literal
    return _SCRIPT.replace("SPEC", text)


_SCRIPT = """\"\"\"Makes the W&B report and workspace of these runs: `wandb login`, then `python` this file.\"\"\"

import json

from big_vision_dual.lab.report import wandb_report

given = json.loads(r'''
SPEC
''')
print(wandb_report.save(wandb_report.Spec(**given)))
"""


def save(given: Spec) -> str:
    """Sends report and workspace; says where they are."""
    made = report(given)
    made.save(draft=False)
    view = workspace(given)
    view.save()
    return f"W&B report {made.url}\nW&B workspace {view.url}"


def publish(runs: Sequence[Run], where: str, path: pathlib.Path, title: str | None = None) -> str:
    """Makes report and workspace where a login is stored, else writes the script to `path`; says which."""
    given = spec(runs, where, title)
    if _logged_in():
        return save(given)
    files.write(path, script(given))
    return f"wrote {path}: no wandb login is stored. `wandb login`, then `python {path}` makes the report and workspace"


def _logged_in() -> bool:
    try:
        import wandb
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--wandb needs {error.name}: pip install 'big_vision_dual[wandb-report]', or pip install wandb-workspaces."
        ) from error
    return bool(wandb.login(prompt=False))
