"""The page as one HTML file: this package's template, style and script, plotly.js, and the data as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import html
import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from big_vision_dual.lab.report.page.model import Page, Section
from big_vision_dual.lab.report.page.tables import Table


def render(page: Page, *, refresh: int | None = None) -> str:
    """The whole file; it needs nothing beside itself. refresh: seconds after which it loads itself again."""
    from plotly.offline import get_plotlyjs

    return string.Template(_asset("page.html")).substitute(
        title=html.escape(page.title),
        subtitle=html.escape(page.subtitle),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        refresh=f'<meta http-equiv="refresh" content="{refresh:d}">' if refresh else "",
        style=_asset("page.css"),
        contents="".join(f'<li><a href="#{s.name}">{html.escape(s.title)}</a></li>' for s in page.sections),
        sections="".join(_section(page, section) for section in page.sections),
        data=embedded(_data(page)),
        plotly=get_plotlyjs(),
        script=_asset("page.js"),
    )


def embedded(value: Any) -> str:
    """JSON that may stand in a <script>: no '<' in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(text: str) -> str:
    """Text that plotly shows as it is: its pseudo-HTML (<b>, <a href>, <br>) and templates (%{x}) are disarmed."""
    return html.escape(text, quote=False).replace("%{", "%\u200b{")


def _asset(name: str) -> str:
    return importlib.resources.files("big_vision_dual.lab.report.page").joinpath(name).read_text(encoding="utf-8")


def _data(page: Page) -> dict[str, Any]:
    """What the script reads; every text that plotly will draw is `plain`."""
    runs = [
        {
            "label": plain(run.label),
            "group": run.group,
            "batch": run.batch,
            "hours": run.hours,
            "series": run.series,
            "heats": [_heat(heat) for heat in run.heats],
        }
        for run in page.runs
    ]
    charts = {metric.name: {"log": metric.log} for section in page.sections for metric in section.metrics}
    studies = {
        f"{section.name}-{index}": _texts_plain(dataclasses.asdict(chart))
        for section in page.sections
        for index, chart in enumerate(section.studies)
    }
    return {"runs": runs, "groups": [plain(label) for label in page.groups], "charts": charts, "studies": studies}


def _heat(heat: Any) -> dict[str, Any]:
    return _texts_plain(dataclasses.asdict(heat))


def _texts_plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {key: _texts_plain(item) for key, item in value.items()}
    return [_texts_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _section(page: Page, section: Section) -> str:
    body = "".join(_table(table) for table in section.tables if not table.folded)
    charts = [_figure(metric.title, metric.name, {"metric": metric.name}) for metric in section.metrics]
    charts += [
        _figure(chart.title, "", {"study": f"{section.name}-{index}"}) for index, chart in enumerate(section.studies)
    ]
    if charts:
        body += f'<div class="charts">{"".join(charts)}</div>'
    if section.heats:
        body += _heats(page)
    body += "".join(_table(table) for table in section.tables if table.folded)
    if section.name == "config":
        body += "".join(_config(index, label, config) for index, (label, config) in enumerate(page.configs))
    return f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2>{body}</section>'


def _figure(title: str, name: str, data: Mapping[str, str]) -> str:
    attributes = "".join(f' data-{key}="{html.escape(value)}"' for key, value in data.items())
    code = f" <code>{html.escape(name)}</code>" if name else ""
    return (
        f'<figure class="chart"{attributes}><figcaption>{html.escape(title)}{code}</figcaption>'
        '<div class="plot"></div></figure>'
    )


def _heats(page: Page) -> str:
    """One figure for each run and quantity: size and step."""
    parts = []
    for index, run in enumerate(page.runs):
        for number, heat in enumerate(run.heats):
            parts.append(
                f'<figure class="heat" data-run="{index}" data-heat="{number}"><figcaption>'
                f"{html.escape(heat.title)}: <b>{html.escape(run.label)}</b><span>{html.escape(heat.note)}</span>"
                '</figcaption><div class="plot"></div></figure>'
            )
    return "".join(parts)


def _table(table: Table) -> str:
    of_columns = table.of_columns or [None] * len(table.head)
    of_rows = table.of_rows or [None] * len(table.rows)
    titles = _pairs(table.head, of_columns)
    head = "".join(f'<th scope="col"{_of(run)}>{html.escape(text)}</th>' for text, run in titles)
    body = "".join(f"<tr{_of(run)}>{_cells(table, row, of_columns)}</tr>" for row, run in _pairs(table.rows, of_rows))
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    inside = f'{note}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    if table.folded:
        return f"<details><summary>{html.escape(table.title)}</summary>{inside}</details>"
    return (f"<h3>{html.escape(table.title)}</h3>" if table.title else "") + inside


def _cells(table: Table, row: Sequence[str], of_columns: Sequence[int | None]) -> str:
    first, *others = _pairs(row, of_columns)
    if table.merged and len(others) > 1 and len(set(row[1:])) == 1:
        cells = f'<td colspan="{len(others)}">{html.escape(row[1])}</td>'
    else:
        cells = "".join(f"<td{_of(run)}>{html.escape(text)}</td>" for text, run in others)
    return f'<th scope="row">{html.escape(first[0])}</th>{cells}'


def _pairs(values: Sequence[Any], runs: Sequence[int | None]) -> list[tuple[Any, int | None]]:
    return list(zip(values, runs, strict=True))


def _of(run: int | None) -> str:
    return "" if run is None else f' data-run="{run}"'


def _config(index: int, label: str, config: Mapping[str, Any]) -> str:
    text = html.escape(json.dumps(config, indent=2, default=str))
    return (
        f'<details data-run="{index}"><summary>Whole config of {html.escape(label)}</summary>'
        f'<div class="scroll"><pre>{text}</pre></div></details>'
    )
