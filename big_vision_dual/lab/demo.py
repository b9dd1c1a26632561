"""The demo: AdamW and dualized training of one ViT, same architecture, data and steps, on 5,000 MNIST digits."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from typing import Any

import rich.table

from big_vision_dual.lab.report import demo_picture
from big_vision_dual.models import norm_trees
from big_vision_dual.train import loop, recipes, run_files

RUNS = {"AdamW": "mnist5k_vit:dual", "dualized": "mnist5k_vit_dual"}  # AdamW on the architecture that suits it best


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run: its label, recipe and metric rows."""

    label: str
    recipe: str
    config: Any
    rows: tuple[dict[str, float], ...]

    def last(self, name: str) -> float:
        return self.values(name)[-1]

    def values(self, name: str) -> list[float]:
        """All values of a metric, of which not every row has one."""
        return [row[name] for row in self.rows if name in row]


def train(folder: pathlib.Path, overrides: list[str]) -> list[Trained]:
    """Trains both recipes in sub-folders of `folder`; what was left there by a stopped demo is continued."""
    trained = []
    for number, (label, recipe) in enumerate(RUNS.items(), 1):
        print(f"training {number} of {len(RUNS)}: {label}")
        trained.append(_train(label, recipe, folder / label, overrides))
    return trained


def _train(label: str, recipe: str, workdir: pathlib.Path, overrides: list[str]) -> Trained:
    config = recipes.load(recipe, overrides)
    loop.fit(config, workdir, name=recipe)
    return Trained(label, recipe, config, tuple(run_files.rows(workdir)))


def summary(runs: list[Trained]) -> rich.table.Table:
    """Loss, accuracy, time and size of the updates of each run."""
    steps = runs[0].config.total_steps
    view = rich.table.Table(title=f"ViT on 4,000 MNIST digits, {steps} steps; tested on 1,000 others")
    view.add_column("", no_wrap=True)
    for column in ("lr", "train\nloss", "test\nloss", "accuracy", "ms/\nstep", "l2 of\nupdate", "l2 of\nweights"):
        view.add_column(column, justify="right")
    for run in runs:
        view.add_row(
            run.label,
            f"{run.config.lr:g}",
            f"{run.last('training_loss'):.3f}",
            f"{run.last('val/loss'):.3f}",
            f"{run.last('val/acc@1'):.1%}",
            f"{1000 * run.last('step_seconds'):.0f}",
            f"{statistics.median(run.values('l2_updates')):.3g}",
            f"{run.last('l2_params'):.1f}",
        )
    return view


def picture(runs: list[Trained], path: pathlib.Path) -> None:
    """Draws the loss curves, the table's target norms, and the update norms measured against them."""
    table = norm_trees.table_for(runs[-1].config)
    demo_picture.draw({run.label: run.rows for run in runs}, runs[-1].config.lr, table, path)
