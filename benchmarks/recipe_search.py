"""Searches the dualized recipe coordinate by coordinate on the digits track's tuning split; keeps every step.

Command: python benchmarks/recipe_search.py OUT [--trials 26]
Where the search starts: the balanced table (every entry of every matrix moves alike, docs/track.md) at width 64, as
masses. It runs at 120 steps on seeds 1 and 2; the track's own budgets and seeds have no part in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from rich.console import Console
from rich.table import Table

from big_vision_dual.lab.track import entries, race, rules
from big_vision_dual.lab.track.space import Axis, among, octaves

MASSES = {
    "Bias": 0.125, "Scale": 0.125, "(query|key)/": 1 / 3, "value/": 1 / 3, "Dense_1/kernel": 4.0,
    "embedding/kernel": 1.0, "head/kernel": 2.5,
}  # fmt: skip
"""Of the balanced table: target norms are (mass, sensitivity 3 for query, key, value): 1, 1, 1, out 1, up 1, down 4."""


def balanced(base: entries.Config) -> entries.Entry:
    """The start and the coordinates."""
    fields = {
        "norms": {"conventions": "well_normed", "masses": MASSES, "blocks_mass": 4.0},
        "optax": {"momentum": 0.9, "nesterov": True}, "schedule": entries.WARMUP, "model.head_zeroinit": False,
    }  # fmt: skip
    mass = {name: Axis(value) for name, value in MASSES.items() if name not in ("Bias", "Scale")}
    space = {
        "lr": octaves(-1.4),
        "norms.masses.Bias": Axis(0.125, also={"norms.masses.Scale": 1}),
        **{f"norms.masses.{name}": axis for name, axis in mass.items()},
        "norms.blocks_mass": Axis(4.0),
        "optax.momentum": among(0.9, 0.8, 0.85, 0.9, 0.95),
        "model.head_zeroinit": among(False, False, True),
        "schedule.warmup_percent": among(0.1, 0.0, 0.05, 0.1, 0.2),
    }
    made = entries.dualized(base, -1.4, 0.9, fields)
    return dataclasses.replace(made, space=space)


def plan(trials: int = 26) -> tuple[rules.Track, dict[str, entries.Entry]]:
    """The digits track with a budget and seeds of its own."""
    digits = rules.load("digits")
    search = dataclasses.replace(
        digits, name="digits-recipe", budgets={"search": rules.Budget(120, trials)}, tuning_seeds=(1, 2), final_seeds=()
    )
    return search, {"balanced": balanced(digits.base)}


def main() -> None:
    """Runs what the results file lacks, and prints each trial in the order of the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--trials", type=int, default=26)
    args = parser.parse_args()
    track, entered = plan(args.trials)
    (outcome,) = race.Race(track, entered, args.out).run()
    space = entered["balanced"].space
    view = Table("trial", "held-out loss", "what differs from the start")
    for number, (position, loss) in enumerate(outcome.found.losses.items(), 1):
        moved = [f"{name}={axis.value(x):.4g}" if not axis.choices else f"{name}={axis.value(x)}"
                 for (name, axis), x in zip(space.items(), position, strict=True) if x]  # fmt: skip
        best = " (best)" if position == outcome.found.best else ""
        view.add_row(f"{number}{best}", f"{loss:.4f}", ", ".join(moved))
    Console().print(view)


if __name__ == "__main__":
    main()
