"""`bvd preflight`."""

from __future__ import annotations

import argparse
import itertools
import os

from big_vision_dual.cli import checks
from big_vision_dual.pods import xla_flags

EXAMPLES = (
    "--config vit_s16_i1k_dual --topology v3-8 v4-32 --vs vit_s16_i1k",
    "--config mnist5k_vit --topology v5e-4 --json",
    "--config vit_s16_i1k_dual --topology v5e-16 --xla-flags vmem async",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bvd preflight`."""
    parser.add_argument("--config", required=True, help="recipe; --config.key=value changes it")
    parser.add_argument("--topology", required=True, nargs="+", help="slices, for example v3-8 v4-32 v5e-16 v6e-256")
    parser.add_argument("--vs", help="a second recipe to compare with, same overrides")
    parser.add_argument(
        "--num-examples", type=checks.whole(1), help="training examples of an epoch, where the data is not known"
    )
    parser.add_argument("--no-momentum", action="store_true", help="do not compile plain momentum for comparison")
    parser.add_argument(
        "--xla-flags", nargs="*", choices=tuple(xla_flags.GROUPS), metavar="GROUP",
        help=f"compile with each of these groups of XLA's flags too ({', '.join(xla_flags.GROUPS)}; all without names)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Runs `bvd preflight` with `args.overrides`; 0 if every config fits every slice, 1 if one does not."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from rich.console import Console

    from big_vision_dual.pods import preflight, preflight_report, step_cost, topologies
    from big_vision_dual.train import recipes
    from big_vision_dual.train.progress import Work

    flags = () if args.xla_flags is None else tuple(args.xla_flags) or tuple(xla_flags.GROUPS)
    slices = [topologies.parse(name) for name in args.topology]
    configs = {name: recipes.load(name, args.overrides) for name in filter(None, (args.config, args.vs))}
    examples = {name: step_cost.num_examples(config, args.num_examples) for name, config in configs.items()}
    reports = []
    with Work("configs on slices", len(configs) * len(slices)) as work:
        for (name, config), tpu in itertools.product(configs.items(), slices):
            options = {"baseline": not args.no_momentum, "flags": flags, "say": work.say}
            reports.append(preflight.preflight(name, config, tpu, examples[name], **options))
            work.advance()
    if args.json:
        print(preflight_report.to_json(reports))
    else:
        for tpu in slices:
            Console().print(preflight_report.to_table([report for report in reports if report.tpu == tpu]))
    return 0 if all(isinstance(report.step, step_cost.StepCost) for report in reports) else 1
