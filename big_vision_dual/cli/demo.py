"""`bvd demo`."""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

from big_vision_dual.core import tables
from big_vision_dual.lab import demo
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

EXAMPLES = ("", "--workdir runs/small --config.total_steps=50")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the runs and the picture go; --config.KEY=VALUE changes both recipes."""
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="default runs/demo")


def run(args: argparse.Namespace) -> int:
    """Exports the table, trains both, prints the summary and writes the picture."""
    console = Console()
    args.workdir.mkdir(parents=True, exist_ok=True)
    table_file, picture_file = args.workdir / "norm_table.json", args.workdir / "demo.png"
    tables.save(norm_trees.table_for(recipes.load(demo.RUNS["dualized"])), table_file)
    runs = demo.train(args.workdir, args.overrides)
    console.print(demo.summary(runs))
    demo.picture(runs, picture_file)
    console.print(f"table {table_file} (bvd norms show {table_file}), picture {picture_file}, runs in {args.workdir}")
    return 0
