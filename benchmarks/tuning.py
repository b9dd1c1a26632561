"""Tunes learning rates of recipes, with the same care on both sides; every finished trial is kept in the results file.

Command: python benchmarks/tuning.py demo RESULTS.jsonl
         python benchmarks/tuning.py mamba RESULTS.jsonl --text FILE [--config.key=value ...]      (or mamba2)
`demo`: AdamW and version 0.1's recipes on the demo's digits (for today's see `bvd track digits`).
`mamba`, `mamba2`: the byte recipes; overrides are those of every recipe.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from big_vision_dual.lab.studies import grid, results, sweep
from big_vision_dual.train import recipes


@dataclasses.dataclass(frozen=True)
class Setting:
    """A recipe with its own overrides, at several learning rates."""

    name: str
    recipe: str
    rates: Sequence[float]
    overrides: tuple[str, ...] = ()


DEMO = (  # octaves around the best of a first, coarser grid
    Setting("AdamW", "mnist5k_vit", (1.5e-3, 3e-3, 6e-3)),
    Setting("AdamW, dual architecture", "mnist5k_vit:dual", (5e-3, 1e-2, 2e-2)),
    Setting("dualized, equal masses", "mnist5k_vit_dual:equal", (0.1, 0.2, 0.4)),
    Setting("dualized, light vectors", "mnist5k_vit_dual:light", (0.05, 0.1, 0.2)),
)
_ADAM, _DUALIZED = [2.0**x for x in range(-8, -3)], [2.0**x for x in range(-4, 1)]
_EQUAL = tuple(f"--config.norms.{name}" for name in ("masses.Bias=1", "masses.Scale=1", "blocks_mass=2"))
_DUAL = "--config.model.scaling=dual"


def of_bytes(model: str, text: str) -> tuple[Setting, ...]:
    """The byte recipes of 'mamba' or 'mamba2' on a text."""
    base, dual = f"{model}_bytes:{text}", f"{model}_bytes_dual:{text}"
    return (
        Setting("AdamW", base, _ADAM),
        Setting("AdamW, dual architecture", base, _ADAM, (_DUAL,)),
        Setting("AdamW, dual architecture, b2 .999", base, _ADAM, (_DUAL, "--config.optax.b2=0.999")),
        Setting("dualized, equal masses, momentum .95", dual, _DUALIZED, (*_EQUAL, "--config.optax.momentum=0.95")),
        Setting("dualized, momentum .95", dual, _DUALIZED, ("--config.optax.momentum=0.95",)),
        Setting("dualized", dual, _DUALIZED),
    )


def main() -> None:
    """Runs what the results file lacks, and prints loss and accuracy of each learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("demo", "mamba", "mamba2"))
    parser.add_argument("results")
    parser.add_argument("--text", default="", help="of the byte recipes")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    args, overrides = parser.parse_known_args()
    file, seeds = results.Results(args.results), range(args.first_seed, args.first_seed + args.seeds)
    view = Table(
        "setting", "lr", "train loss", "its range", "test loss", "test accuracy", "its range",
        title=f"means of {args.seeds} seeds",
    )  # fmt: skip
    for setting in DEMO if args.study == "demo" else of_bytes(args.study, args.text):
        base = recipes.load(setting.recipe, [*setting.overrides, *overrides]).to_dict()
        records, _ = sweep.run(grid.product(base, {"lr": setting.rates, "seed": seeds}), file)
        by_rate = collections.defaultdict(list)
        for record in records:
            by_rate[record["point"]["lr"]].append(record["result"])
        for rate, found in by_rate.items():
            losses, tests, accuracies = (
                [result[name] for result in found] for name in ("train_loss", "val_loss", "val_accuracy")
            )
            view.add_row(
                setting.name, f"{rate:.3g}", f"{statistics.fmean(losses):.3f}", _range(losses),
                f"{statistics.fmean(tests):.3f}", f"{statistics.fmean(accuracies):.3f}", _range(accuracies),
            )  # fmt: skip
    Console().print(view)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


if __name__ == "__main__":
    main()
