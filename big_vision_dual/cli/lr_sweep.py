"""`bvd lr-sweep`: does the best learning rate stay put when the model grows?"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from big_vision_dual.cli import checks

EXAMPLES = (
    "", "--settings dualize --sizes 16,32 --log2-lrs=-5:-1", "--config study_vit:cifar10 --axis depth",
    "--model my_package.nets:Net --data FILE.npz --axis units --sizes 16,32,64",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    checks.add_study(parser, sizes="16,32,64,128", out="runs/lr_sweep")
    parser.add_argument(
        "--log2-lrs", metavar="LOW:HIGH", help="octaves, e.g. --log2-lrs=-11:-5 (with =); default by setting"
    )
    parser.add_argument(
        "--window", type=checks.number("(0, inf)"), default=2.0, help="octaves around the lowest loss to fit"
    )
    parser.add_argument(
        "--at-once", type=checks.whole(1), help="trials in one program (default: as many as fit in memory)"
    )


def run(args: argparse.Namespace) -> int:
    """Sweeps, prints optima and drifts, draws."""
    from big_vision_dual.lab.report import lr_plot
    from big_vision_dual.lab.studies import lr_transfer, settings, sweep
    from big_vision_dual.lab.studies.results import Results

    console = Console()
    base = checks.subject(args).to_dict()
    results = Results(args.out / "results.jsonl")
    panels, planned = {}, {}
    for setting in args.settings or settings.default(base):
        octaves = lr_transfer.octaves(setting, args.log2_lrs)
        planned[setting] = lr_transfer.trials(base, setting, args.axis, args.sizes, octaves, args.seeds)
    checks.buildable(trial.config for trials in planned.values() for trial in trials)
    for setting, trials in planned.items():
        records, timing = sweep.run(trials, results, at_once=args.at_once)
        transfer = lr_transfer.analyse(records, setting, args.axis, args.window)
        console.print(_table(transfer))
        console.print(f"{timing.trials} trials in {timing.total:.0f} s, {timing.compile:.0f} s of them compiling\n")
        panels[setting] = [lr_plot.line(curve, args.axis) for curve in transfer.curves]
    picture = args.out / f"lr_{args.axis}.png"
    lr_plot.draw(panels, picture)
    console.print(f"wrote {picture} and {args.out / 'results.jsonl'}")
    return 0


def _table(transfer) -> Table:
    caption = f"drift {transfer.per_doubling} octaves a doubling, {transfer.total} in all (95 % bootstrap over seeds)"
    columns = (transfer.axis, "best log2 lr", "loss there", "lowest measured", "diverged")
    view = Table(*columns, title=transfer.setting, caption=caption)
    for curve in transfer.curves:
        edge = " (edge of the grid)" if curve.optimum.at_edge else ""
        diverged = int((curve.loss_LxS == float("inf")).sum())
        loss = f"{curve.optimum.loss:.3f}"
        best, lowest = f"{curve.optimum.interval}{edge}", f"{curve.lowest:.3f}"
        view.add_row(str(curve.size), best, loss, lowest, f"{diverged} of {curve.loss_LxS.size}")
    return view
