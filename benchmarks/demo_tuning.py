"""Tunes the demo's learning rates, with the same care on both sides; every finished trial is kept in the results file.

Command: python benchmarks/demo_tuning.py RESULTS.jsonl
The trials are the demo's own recipes; AdamW is tuned on the standard and on the dual architecture.
"""

from __future__ import annotations

import argparse
import collections
import statistics

from rich.console import Console
from rich.table import Table

from big_vision_dual import recipes
from big_vision_dual.studies import grid, results, sweep

LEARNING_RATES = {  # octaves around the best of a first, coarser grid
    "AdamW": ("mnist5k_vit", (1.5e-3, 3e-3, 6e-3)),
    "AdamW, dual architecture": ("mnist5k_vit:dual", (5e-3, 1e-2, 2e-2)),
    "dualized, equal masses": ("mnist5k_vit_dual:equal", (0.1, 0.2, 0.4)),
    "dualized, light vectors": ("mnist5k_vit_dual", (0.05, 0.1, 0.2)),
}


def main() -> None:
    """Runs what the results file lacks, and prints loss and accuracy of each learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    file = results.Results(args.results)
    view = Table(
        "setting", "lr", "train loss", "test loss", "test accuracy", "its range", title=f"means of {args.seeds} seeds"
    )
    for setting, (recipe, rates) in LEARNING_RATES.items():
        base = recipes.load(recipe).to_dict()
        records, _ = sweep.run(grid.product(base, {"lr": list(rates), "seed": list(range(args.seeds))}), file)
        by_rate = collections.defaultdict(list)
        for record in records:
            by_rate[record["point"]["lr"]].append(record["result"])
        for rate, found in by_rate.items():
            means = (
                statistics.fmean(result[name] for result in found)
                for name in ("train_loss", "val_loss", "val_accuracy")
            )
            accuracies = [result["val_accuracy"] for result in found]
            spread = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
            view.add_row(setting, f"{rate:g}", *(f"{mean:.3f}" for mean in means), spread)
    Console().print(view)


if __name__ == "__main__":
    main()
