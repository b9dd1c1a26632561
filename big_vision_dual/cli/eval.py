"""`bvd eval`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console
from rich.table import Table

from big_vision_dual.train import recipes

EXAMPLES = (
    "--config mnist5k_vit --workdir runs/mnist --only val",
    "--config vit_s16_i1k --config.model_init=FILE.npz --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is evaluated, and by which evaluators."""
    from big_vision_dual.train import distributed

    parser.add_argument("--config", required=True, help="the recipe, with the --config.KEY=VALUE it was trained with")
    parser.add_argument("--workdir", help="of a run; without one, --config.model_init=FILE.npz is evaluated")
    parser.add_argument("--only", default="", metavar="NAMES", help="evaluators, e.g. val,minival (default all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--distributed", choices=distributed.MODES, default="auto", help="join a pod's other hosts")


def run(args: argparse.Namespace) -> int:
    """Evaluates; the first host prints."""
    import jax

    from big_vision_dual.train import distributed, evaluate

    with distributed.joined(args.distributed):
        config = recipes.load(args.config, args.overrides)
        result = evaluate.evaluate(config, args.workdir, [name for name in args.only.split(",") if name])
    if jax.process_index() == 0:
        _show(result, as_json=args.json)
    return 0


def _show(result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
        return
    at = "" if result.step is None else f", step {result.step:,}"
    view = Table("metric", title=f"{result.weights}{at}")
    view.add_column("value", justify="right")
    for name, value in result.metrics.items():
        view.add_row(name, f"{value:.6g}")
    Console().print(view)
