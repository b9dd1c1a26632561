"""Can training tell a way to orthogonalize from the SVD? The digits track's dualized recipe, changed in nothing else.

    python benchmarks/polar_race.py run [--seeds 5]      about 20 CPU seconds a run
    python benchmarks/polar_race.py show

Each method trains 300 steps on the same seeds (data order, augmentation and initial weights are the seed's), at the
learning rate and momentum that the track found best with newton_schulz_6. Rows are kept in
benchmarks/results/polar/race.jsonl, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from big_vision_dual.lab.studies.grid import Trial
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.lab.track import entries, rules, runs

RESULTS = pathlib.Path(__file__).parent / "results" / "polar" / "race.jsonl"
METHODS = (
    ("svd", "float32"),
    ("schatten_4", "float32"),
    ("newton_schulz_6", "float32"),
    ("schatten_5", "float32"),
    ("polar_express:5", "float32"),
    ("aol_4", "float32"),
    ("schatten_4", "bfloat16"),
    ("newton_schulz_6", "bfloat16"),
    ("muon_5", "float32"),
)
BEST = {"lr": 0.268, "optax.momentum": 0.9}  # of `dualized` at 300 steps (docs/track.md)
FIRST_SEED = 201  # the track's seeds end at 104
TRACK = dataclasses.replace(rules.load("digits"), name="digits-polar", points=10)


def recorded() -> list[Record]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def trial(polar: str, dtype: str, seed: int) -> Trial:
    """The track's dualized entry, changed in nothing but the method."""
    fields = {**BEST, "optax.polar": polar, "optax.dtype": dtype}
    recipe = entries.STANDARD["dualized_balanced"](TRACK.base).config
    return Trial(TRACK.config(recipe, fields, "long", seed), {"polar": polar, "dtype": dtype, "seed": seed})


def run(seeds: int) -> None:
    """Trains what the results lack."""
    results = Results(RESULTS)
    for polar, dtype in METHODS:
        done = {record["point"]["seed"] for record in finished(polar, dtype, seeds)}
        runners = runs.Runners(TRACK, None)
        for seed in (seed for seed in range(FIRST_SEED, FIRST_SEED + seeds) if seed not in done):
            one = trial(polar, dtype, seed)
            result, _ = runners.of(one.config).final(one.config)
            results.add(one, result)
            print(one.point, {name: result[name] for name in ("test_loss", "test_accuracy")}, flush=True)


def finished(polar: str, dtype: str, seeds: int) -> list[Record]:
    """In the order of their seeds."""
    of_method = [
        record for record in recorded()
        if (record["point"]["polar"], record["point"]["dtype"]) == (polar, dtype)
        and record["point"]["seed"] < FIRST_SEED + seeds
    ]  # fmt: skip
    return sorted(of_method, key=lambda record: record["point"]["seed"])


def rows(seeds: int) -> Iterator[tuple[str, ...]]:
    """A line a method: means, and the mean difference from the SVD's runs of the same seeds with its t."""
    base = finished(*METHODS[0], seeds)
    for polar, dtype in METHODS:
        records = finished(polar, dtype, seeds)
        if len(records) < 2:
            continue
        line = [polar, dtype, str(len(records))]
        for name in ("test_loss", "test_accuracy", "train_loss"):
            values = [record["result"][name] for record in records]
            line.append(f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}")
        yield (*line, "" if polar == "svd" else paired(records, base))


def paired(records: list[Record], base: list[Record]) -> str:
    """Mean difference in test loss over equal seeds, and its t: 2.78 is the two-sided 5 % of 5 seeds."""
    of_base: dict[Any, float] = {record["point"]["seed"]: record["result"]["test_loss"] for record in base}
    differences = [
        record["result"]["test_loss"] - of_base[seed]
        for record in records
        if (seed := record["point"]["seed"]) in of_base
    ]
    if len(differences) < 2:
        return ""
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.fmean(differences):+.4f}, t = {statistics.fmean(differences) / error:+.1f}"


def show(seeds: int) -> None:
    view = Table("polar", "dtype", "n", "test loss", "accuracy", "train loss", "test loss less SVD's")
    for line in rows(seeds):
        view.add_row(*line)
    Console(width=140).print(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    {"run": run, "show": show}[args.what](args.seeds)


if __name__ == "__main__":
    main()
