"""Reads what a run left in its workdir. No JAX."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core import tables

METRICS_FILE, CONFIG_FILE, TABLE_FILE = "big_vision_metrics.txt", "config.json", "norm_table.json"


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """One run. rows: metric rows in the order of steps; table: None where the run had none."""

    label: str
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, float], ...]
    table: tables.TargetNormTable | None

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "step"))

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of one metric."""
        found = [(row["step"], row[name]) for row in self.rows if name in row]
        return [step for step, _ in found], [value for _, value in found]


def read(workdir: str | pathlib.Path) -> RunFiles:
    """Raises FileNotFoundError naming the file that a workdir of `python -m big_vision_dual.train` would have."""
    folder = pathlib.Path(workdir)
    for name in (METRICS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: it is no workdir of a run, or the run has logged nothing yet. "
                "Give the --workdir of `python -m big_vision_dual.train`."
            )
    rows = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines() if line.endswith("}")]
    table = tables.load(folder / TABLE_FILE) if (folder / TABLE_FILE).is_file() else None
    return RunFiles(folder.name, json.loads((folder / CONFIG_FILE).read_text()), tuple(rows), table)


def differing_fields(runs: list[RunFiles]) -> list[tuple[str, list[Any]]]:
    """Config fields, dotted, that are not the same in all runs, with each run's value."""
    flat = [dict(_flatten(run.config)) for run in runs]
    fields = dict.fromkeys(field for config in flat for field in config)
    values = [(field, [config.get(field) for config in flat]) for field in fields]
    return [(field, found) for field, found in values if any(value != found[0] for value in found)]


def _flatten(config: Mapping[str, Any], prefix: str = ""):
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
