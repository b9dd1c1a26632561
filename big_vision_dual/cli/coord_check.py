"""`bvd coord-check`: do activations, and their change in training, depend on width or depth?"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from big_vision_dual.cli import checks

EXAMPLES = (
    "", "--settings dualize --axis depth --sizes 2,4,8", "--config mamba_bytes --sizes 32,64,128",
    "--model my_package.nets:Net --data FILE.npz --axis units --sizes 16,32,64",
)  # fmt: skip
_FEWEST = 3  # points of a slope
LRS = {"adamw": 2**-7, "adamw_dual": 2**-7, "mup": 2**-7}  # and .1 where dualized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    checks.add_study(parser, sizes="64,128,256,512", out="runs/coord_check")
    parser.add_argument("--steps", type=checks.whole(1), default=5, help="of training, 3 at least for the change")
    parser.add_argument(
        "--statistic",
        choices=("change", "rms", "mean_abs"),
        default="change",
        help="of each activation: RMS change since initialization (default), or its own RMS or mean absolute value",
    )
    parser.add_argument(
        "--lr", type=checks.number("(0, inf)"), help="default 2^-7 for AdamW and muP, .1 where dualized"
    )
    parser.add_argument(
        "--hidden", type=checks.number("(0, inf)"), default=0.2, help="largest slope of a hidden activation"
    )
    parser.add_argument(
        "--logits", type=checks.number("(0, inf)"), default=0.4, help="the same for logits and attention logits"
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints and draws; the status is 1 where a setting is not flat."""
    from big_vision_dual.lab.report import coord_plot
    from big_vision_dual.lab.studies import coord_check, settings
    from big_vision_dual.lab.studies.results import Results

    if args.steps < coord_check.STATISTICS[args.statistic]:
        raise ValueError(
            f"--steps {args.steps}: a change counts from step {coord_check.STATISTICS[args.statistic]} on."
        )
    if len(args.sizes) * args.seeds < _FEWEST:
        raise ValueError(
            f"{len(args.sizes)} sizes of {args.seeds} seed each: a slope with an interval takes {_FEWEST} trainings; "
            "give another size, or --seeds 2."
        )
    console = Console()
    base = checks.subject(args).to_dict()
    results = Results(args.out / "results.jsonl")
    drawn, flat = {}, {}
    planned = {}
    for setting in args.settings or settings.default(base):
        lr = args.lr or LRS.get(setting, 0.1)
        planned[setting] = coord_check.trials(base, setting, args.axis, args.sizes, lr, args.seeds, args.steps)
    checks.buildable(trial.config for trials in planned.values() for trial in trials)
    for setting, trials in planned.items():
        records = coord_check.run(trials, results)
        slopes = coord_check.slopes(records, args.axis, args.statistic, hidden=args.hidden, logits=args.logits)
        console.print(
            _table(f"{setting}: slope of log {args.statistic} against log {args.axis}, 95 % interval", slopes)
        )
        modules = [slope.module for slope in slopes]
        drawn[setting] = coord_check.means(records, args.axis, modules, args.statistic)
        flat[setting] = all(slope.flat for slope in slopes)
    picture = args.out / f"coord_{args.statistic}.png"
    coord_plot.draw(drawn, args.sizes, args.axis, args.statistic, picture)
    console.print(f"wrote {picture} and {args.out / 'results.jsonl'}")
    return 0 if all(flat.values()) else 1


def _table(title: str, slopes: list) -> Table:
    steps = list(slopes[0].steps)
    view = Table(title=title)
    for name in ("module", *(f"step {step}" for step in steps), "allowed", ""):
        view.add_column(name, justify="left" if name == "module" else "right")
    for slope in slopes:
        values = [str(slope.steps[step]) for step in steps]
        view.add_row(slope.module, *values, f"{slope.threshold:g}", "flat" if slope.flat else "[red]not flat")
    return view
