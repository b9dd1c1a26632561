"""A track (`bvd track`) as charts and its leaderboard as a table, also while it is still running."""

from __future__ import annotations

import itertools
import pathlib
import statistics
from collections.abc import Sequence

from big_vision_dual.core import files
from big_vision_dual.lab.report.page import trials
from big_vision_dual.lab.report.page.tables import Table
from big_vision_dual.lab.report.page.trials import Chart, Record, Study

_MEASURES = ("test_loss", "test_accuracy", "train_loss")


def read(path: str) -> Study:
    """path: of the folder's track.json; every entry of the track has its own ENTRY.jsonl beside it.

    Raises core.files.FileError naming the line that is no trial.
    """
    entries = sorted(pathlib.Path(path).parent.glob("*.jsonl"))
    records = [record for file in entries for record in _trials(file)]
    charts = []
    for budget, of_budget in trials.by(records, lambda record: record["point"]["budget"]).items():
        charts += [_curves(budget, _of_stage(of_budget, "final")), _tuning(budget, _of_stage(of_budget, "tuning"))]
    return Study([chart for chart in charts if chart.lines], _leaderboard(records))


def _trials(file: pathlib.Path) -> list[Record]:
    """Of an entry's file; none where the file is of another kind (the track's seconds)."""
    lines = files.read(file).splitlines()
    if not lines or '"point"' not in lines[0]:
        return []
    return [record for record in trials.records(str(file)) if {"entry", "budget", "stage"} <= set(record["point"])]


def _of_stage(records: Sequence[Record], stage: str) -> dict[str, list[Record]]:
    """{entry: its records of a stage, in their order}."""
    chosen = [record for record in records if record["point"]["stage"] == stage]
    return trials.by(chosen, lambda record: record["point"]["entry"])


def _curves(budget: str, entries: dict[str, list[Record]]) -> Chart:
    """Held-out loss of the fresh seeds, one line an entry."""
    lines = []
    for entry, of_entry in entries.items():
        at_steps: dict[float, list[float | None]] = {}
        for record in of_entry:
            curve = record["result"].get("curve") or {}
            for step, loss in zip(curve.get("step", []), curve.get("held_out_loss", []), strict=False):
                at_steps.setdefault(step, []).append(loss)
        lines.append(trials.gathered(entry, at_steps))
    return Chart(f"{budget}: held-out loss, fresh seeds", "step", "held-out loss", lines, y_log=True)


def _tuning(budget: str, entries: dict[str, list[Record]]) -> Chart:
    """The lowest held-out loss after each trial of the search, one line an entry."""
    lines = []
    for entry, of_entry in entries.items():
        losses = [record["result"].get("held_out_loss") for record in of_entry]
        known = [loss if trials.finite(loss) else float("inf") for loss in losses]
        best = [[low if trials.finite(low) else None] for low in itertools.accumulate(known, min)]
        lines.append(trials.gathered(entry, dict(enumerate(best, 1))))
    return Chart(f"{budget}: best of the search so far", "trial", "held-out loss", lines)


def _leaderboard(records: Sequence[Record]) -> Table:
    """Fresh seeds at each entry's best point: mean and standard deviation; the lowest test loss of a budget first."""
    rows = []
    for budget, of_budget in trials.by(records, lambda record: record["point"]["budget"]).items():
        searched, board = _of_stage(of_budget, "tuning"), []
        for entry, of_entry in _of_stage(of_budget, "final").items():
            of_measure = [[record["result"].get(name) for record in of_entry] for name in _MEASURES]
            cells = [_spread([value for value in values if trials.finite(value)]) for values in of_measure]
            loss = [value for value in of_measure[0] if trials.finite(value)]
            row = [budget, entry, *cells, str(len(of_entry)), str(len(searched.get(entry, [])))]
            board.append((statistics.mean(loss) if loss else float("inf"), row))
        rows += [row for _, row in sorted(board)]
    head = ["budget", "entry", *(name.replace("_", " ") for name in _MEASURES), "seeds", "trials"]
    return Table("Leaderboard: mean and standard deviation over fresh seeds", head, rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "diverged"
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}"
