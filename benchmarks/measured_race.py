"""Do measured tables train better than declared ones, and does their learning rate transfer?

    python benchmarks/measured_race.py race vit
    python benchmarks/measured_race.py race mamba --text FILE     # Python's own help texts without it
    python benchmarks/measured_race.py transfer width             # or depth; of the ViT; --only some of the tables

`race`: each table at its own best learning rate, found in octaves on one seed and held-out data (a best one at an edge
of the grid widens it), then trained on fresh seeds and all data. Momentum, Nesterov, warm-up, decay, architecture and
masses are the same for all. Muon's rule also tunes how much faster or slower Adam moves what is no hidden matrix.
`transfer`: learning rates by sizes by seeds, with a table measured at each size, beside the declared one, and over
width one measured at width 16 and carried to the others as its ratio to the declared one ('carried'), and one whose
queries and keys alone are declared ('attention declared'); masses are the tuned ones.

Every finished training is kept in benchmarks/results/measured_race/, so that a run that was stopped goes on; tables
are measured at initialization on the tuning seed, and kept there too. Hours on one core: see docs/measured.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from big_vision_dual.core import files, rules, tables
from big_vision_dual.core.tables import Row
from big_vision_dual.lab.report import lr_plot
from big_vision_dual.lab.studies import grid, lr_transfer, measuring, settings, sweep, target_norms
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

ROOT = pathlib.Path(__file__).parent.parent
KEPT = pathlib.Path("benchmarks/results/measured_race")  # from ROOT, so that a trial is the same on every machine
TUNING_SEED, SEEDS = 0, (1, 2, 3)
OCTAVES, WIDENED = range(-6, 0), 3  # log2 lr of a grid at first, and by how many octaves it grows
ADAM = (1.0, 1 / 8, 1 / 64)  # Adam's learning rate over Muon's, for what Muon's rule leaves to Adam
LOSSES = ("train_loss", "val_loss", "val_accuracy")
AT_ONCE = 3  # trainings in one program: the number of seeds
_LIGHT = {"Bias": 1 / 64, "Scale": 1 / 64}
_ROLES = {"(query|key|value)/": 2 / 3, "Dense_1/kernel": 4.0, "embedding/kernel": 1 / 4, "head/kernel": 5 / 2}
TUNED_MASSES = {
    "vit": {"masses": _LIGHT | _ROLES, "blocks_mass": 4.0},
    "mamba": {"masses": {"Bias": 0.1, "Scale": 0.1}, "blocks_mass": 5.0},
}
"""Of the ViT found by benchmarks/recipe_search.py on digits, of the Mamba by hand (docs/studies.md), both with
well-normed tables; written out, so that a trial stays the same when recipes change."""


@dataclasses.dataclass(frozen=True)
class Task:
    """config: of the final trainings. tuning: fields in which the trainings that tune differ, for held-out data."""

    name: str
    config: grid.Config
    tuning: Mapping[str, Any]


def vit(_: str) -> Task:
    """The digits of the demo, 28 x 28, 16 tokens; the last tenth of the training split is held out."""
    sizes = {"model.width": 32, "model.depth": 2, "input.batch_size": 32, "total_steps": 1000}
    split = {"input.data.split": "train[:90%]", "evals.val.data.split": "train[90%:]"}
    return Task("vit", _common(grid.replace(recipes.load("study_vit").to_dict(), sizes)), split)


def mamba(text: str) -> Task:
    """A text as bytes: the last tenth tests, the tenth before it is held out."""
    base = recipes.load(f"mamba_bytes:{text}").to_dict()
    whole = pathlib.Path(base["input"]["data"]["path"])
    content = whole.read_bytes()
    first = ROOT / "runs" / "measured_race" / f"{whole.name}.first"
    first.parent.mkdir(parents=True, exist_ok=True)
    first.write_bytes(content[: len(content) - round(0.1 * len(content))])
    sizes = {"model.d_model": 32, "model.n_layers": 2, "input.batch_size": 4, "total_steps": 1000, "input_shape": [64],
             "input.data.length": 64, "evals.val.data.length": 64}  # fmt: skip
    path = {f"{field}.path": str(first) for field in ("input.data", "evals.val.data")}
    return Task("mamba", _common(grid.replace(base, sizes)), path)


def _common(base: Mapping[str, Any]) -> grid.Config:
    """Dual architecture, equal masses, Nesterov momentum .9, a warm-up of a tenth."""
    made = settings.dualize(base)
    return settings.warmed_up(grid.replace(made, {"optax": {"momentum": 0.9, "nesterov": True}}), 0.1)


TASKS: dict[str, Callable[[str], Task]] = {"vit": vit, "mamba": mamba}


def measured(config: grid.Config, name: str, **options: Any) -> grid.Config:
    """The config with a table measured at its initialization on the tuning seed, kept in a file of this name."""
    path = KEPT / "tables" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.save(measuring.measured_table({**config, "seed": TUNING_SEED}, **options), path)
    return grid.replace(config, {"optax.table": str(path)})


def muon(config: grid.Config) -> grid.Config:
    """Muon's target norms, and Adam for vectors, embedding and head; the momentum is everybody's."""
    fallback = [list(pair) for pair in rules.muon(norm_trees.table_for(config)).options["fallback"]]
    return grid.replace(config, {"norms.rule": "muon", "optax.fallback": fallback, "optax.fallback_scale": 1.0})


def racers(task: Task) -> dict[str, grid.Config]:
    """{name: config}, all of equal masses but the last two, which have those that were tuned."""
    config, name = task.config, task.name
    weighed = grid.replace(config, {f"norms.{key}": value for key, value in TUNED_MASSES[name].items()})
    return {
        "well-normed": config,
        "flat": grid.replace(config, {"norms.conventions": "flat"}),
        "measured, max": measured(config, f"{name}_max"),
        "measured, mean": measured(config, f"{name}_mean", over="mean"),
        "Muon's rule": muon(config),
        "well-normed, tuned masses": weighed,
        "measured, max, tuned masses": measured(weighed, f"{name}_max_masses"),
    }


def tuned(task: Task, name: str, config: grid.Config, run: Callable[..., list[Record]]) -> dict[str, float]:
    """The best values of what is tuned: lowest held-out loss on the tuning seed, inside of the grid of octaves."""
    scales = ADAM if "fallback_scale" in config["optax"] else (None,)
    octaves = list(OCTAVES)
    while True:
        axes = {"lr": [2.0**x for x in octaves], "seed": [TUNING_SEED]}
        axes |= {"optax.fallback_scale": scales} if scales[0] else {}
        records = run(grid.product(grid.replace(config, task.tuning), axes, point={"racer": name, "part": "tuning"}))
        finite = [record for record in records if record["result"]["finite"]]
        best = min(finite, key=lambda record: record["result"]["val_loss"])["point"]
        if best["lr"] == 2.0 ** octaves[0]:
            octaves = [*range(octaves[0] - WIDENED, octaves[0]), *octaves]
        elif best["lr"] == 2.0 ** octaves[-1]:
            octaves += range(octaves[-1] + 1, octaves[-1] + 1 + WIDENED)
        else:
            return {field: best[field] for field in axes if field != "seed"}


def race(task: Task, names: Sequence[str]) -> None:
    """Tunes and trains each racer, prints the table."""
    results = Results(KEPT / f"{task.name}.jsonl")
    run = functools.partial(_run, results=results)
    found = {}
    for name, config in racers(task).items():
        if names and name not in names:
            continue
        best = tuned(task, name, config, run)
        final = grid.product(grid.replace(config, best), {"seed": SEEDS}, point={"racer": name, "part": "final"})
        found[name] = best, run(final)
        print(name, best, [record["result"]["val_loss"] for record in found[name][1]], flush=True)
    rows = {name: {**best, **summary(records)} for name, (best, records) in found.items()}
    summaries = KEPT / f"{task.name}.json"
    files.write_json(summaries, (json.loads(summaries.read_text()) if summaries.exists() else {}) | rows)
    view = Table("table", "best lr", *LOSSES, title=f"{task.name}: mean ± sigma of {len(SEEDS)} seeds")
    for name, row in rows.items():
        adam = f", Adam at {row['optax.fallback_scale']:g} of it" if "optax.fallback_scale" in row else ""
        view.add_row(name, f"{row['lr']:.4g}{adam}", *(row[loss] for loss in LOSSES))
    Console(width=140).print(view)


def _run(trials: Sequence[grid.Trial], results: Results) -> list[Record]:
    return sweep.run(trials, results, at_once=AT_ONCE, quiet=True)[0]


def summary(records: Sequence[Record]) -> dict[str, str]:
    """Mean ± standard deviation over seeds of losses and accuracy."""
    return {
        name: f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
        for name in LOSSES
        for values in [[record["result"][name] for record in records]]
    }


SIZES = {"width": (8, 16, 32, 64), "depth": (1, 2, 4, 8)}
ATTENTION = re.compile("/(query|key)/")
REFERENCE = 16  # width at which the carried table is measured
TABLES = {"width": ("declared", "measured", "carried", "attention declared"), "depth": ("declared", "measured")}


def transfer_config(axis: str, size: int, conventions: str = "well_normed") -> grid.Config:
    """The ViT of `transfer` at one size."""
    base = grid.replace(recipes.load("study_vit").to_dict(), {
        "model.width": 16, "model.depth": 2, "model.num_heads": 2, "input.batch_size": 16, "total_steps": 200,
        "model.scan": axis == "depth",
    })  # fmt: skip
    norms = TUNED_MASSES["vit"] | {"conventions": conventions}
    sized = _common(lr_transfer.sized(base, axis, size))
    return grid.replace(sized, {f"norms.{key}": value for key, value in norms.items()})


def at_size(table: str, axis: str, size: int) -> grid.Config:
    """The config at one size with one of TABLES, those that are neither declared nor measured there in files."""
    config = transfer_config(axis, size)
    if table in ("declared", "measured"):
        return transfer_config(axis, size, "measured") if table == "measured" else config
    here = norm_trees.table_for(config)
    declared, found = both(REFERENCE if table == "carried" else size)
    if table == "carried":
        target_norm = {row.key: _one(row) * found[row.key] / declared[row.key] for row in here.rows}
    else:
        target_norm = {key: (declared if ATTENTION.search(key) else found)[key] for key in declared}
    rows = [
        dataclasses.replace(row, target_norm=value, sensitivity=_one(row, "sensitivity") * _one(row) / value)
        for row in here.rows
        for value in [target_norm[row.key]]
    ]
    path = KEPT / "tables" / f"vit_{table.replace(' ', '_')}_{size}.json"
    tables.save(dataclasses.replace(here, rows=tuple(rows)), path)
    return grid.replace(config, {"optax.table": str(path)})


def both(width: int) -> tuple[dict[str, float], dict[str, float]]:
    """The declared and the measured target norms at a width, by row."""
    configs = (transfer_config("width", width, conventions) for conventions in ("well_normed", "measured"))
    declared, found = ({row.key: _one(row) for row in target_norms.table_for(config).rows} for config in configs)
    return declared, found


def _one(row: Row, field: str = "target_norm") -> float:
    """A number of a row that is no stack of layers."""
    value = getattr(row, field)
    assert isinstance(value, float), f"{row.key} is stacked"
    return value


def transfer(axis: str, names: Sequence[str]) -> None:
    """Sweeps tables over sizes, prints optima and drift, draws them beside each other."""
    results, panels = Results(KEPT / f"transfer_{axis}.jsonl"), {}
    for name in names or TABLES[axis]:
        trials = [
            trial
            for size in SIZES[axis]
            for trial in grid.product(
                at_size(name, axis, size),
                {"lr": [2.0**x for x in range(-5, 1)], "seed": (1, 2)},
                point={"setting": name, axis: size},
            )
        ]
        records, _ = sweep.run(trials, results, at_once=6, quiet=True)
        found = lr_transfer.analyse(records, name, axis, window=1.5)
        print(f"{name}: {found.per_doubling} octaves a doubling, {found.total} in all", flush=True)
        for curve in found.curves:
            edge = ", edge of the grid" if curve.optimum.at_edge else ""
            print(f"  {axis} {curve.size}: best {curve.optimum.interval}{edge}, lowest loss {curve.lowest:.3f}")
        panels[name] = [lr_plot.line(curve, axis) for curve in found.curves]
    lr_plot.draw(panels, ROOT / "docs" / "figures" / f"measured_lr_{axis}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = parser.add_subparsers(dest="study", required=True)
    racing = studies.add_parser("race")
    racing.add_argument("task", choices=TASKS)
    racing.add_argument("--text", default="", help="of the Mamba")
    racing.add_argument("--only", nargs="*", default=(), help="some of the tables")
    transferring = studies.add_parser("transfer")
    transferring.add_argument("axis", choices=SIZES)
    transferring.add_argument("--only", nargs="*", default=(), help="some of the tables")
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.study == "race":
        race(TASKS[args.task](str(pathlib.Path(args.text).absolute()) if args.text else ""), args.only)
    else:
        transfer(args.axis, args.only)


if __name__ == "__main__":
    main()
