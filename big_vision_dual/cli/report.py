"""`bvd report`."""

from __future__ import annotations

import argparse
import pathlib
import time

from big_vision_dual.core import files

WATCH_SECONDS = 30

EXAMPLES = (
    "runs/demo/baseline runs/demo/dualized --out demo.html",
    "runs --watch 60",
    "runs/mnist --wandb my-team/my-project",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="workdirs, folders of them, studies, tracks")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"), help="default report.html")
    parser.add_argument("--title", help="the page's title (default: the runs' names)")
    parser.add_argument("--picture", type=pathlib.Path, help="also draw loss and accuracy into this PNG or SVG file")
    parser.add_argument(
        "--watch", nargs="?", type=_seconds, const=WATCH_SECONDS, metavar="SECONDS",
        help=f"write the page again every SECONDS (default {WATCH_SECONDS}) while a run goes on; an open page follows",
    )  # fmt: skip
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT",
        help="also make a W&B report and workspace with the page's sections; without a login, the script that does",
    )  # fmt: skip


def _seconds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; give 1 or more.")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Writes the page, and what else is asked for."""
    from big_vision_dual.lab.report import page, run_picture, runs

    found = runs.find(args.paths)
    running = _write(page, found, args)
    if args.picture:
        run_picture.draw({run.label: run.rows for run in found.runs}, args.picture)
        print(f"wrote {args.picture}")
    if args.wandb:
        from big_vision_dual.lab.report import wandb_report

        print(wandb_report.publish(found.runs, args.wandb, args.out.with_suffix(".wandb.py"), args.title))
    while args.watch and running:
        time.sleep(args.watch)
        running = _write(page, runs.find(args.paths), args, again=True)
    return 0


def _write(page, found, args: argparse.Namespace, again: bool = False) -> bool:
    """Writes the page; returns whether a run is still running."""
    running = any(run.status == "running" for run in found.runs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files.write(args.out, page.render(page.of(found, args.title), refresh=args.watch if running else None))
    if not again:
        print(f"wrote {args.out}: open it in a browser")
    elif not running:
        print("no run is running any more; the page is complete")
    return running
