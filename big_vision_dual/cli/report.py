"""`bvd report`."""

from __future__ import annotations

import argparse
import pathlib

from big_vision_dual.lab.report import run_files, run_page, run_picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="workdirs of runs, compared in one page")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"), help="default report.html")
    parser.add_argument("--picture", type=pathlib.Path, help="also draw loss and accuracy into this PNG or SVG file")


def run(args: argparse.Namespace) -> int:
    """Writes the page, and the picture where one is wanted."""
    runs = [run_files.read(workdir) for workdir in args.workdir]
    run_page.write(runs, args.out)
    print(f"wrote {args.out}: open it in a browser")
    if args.picture:
        run_picture.draw({run.label: run.rows for run in runs}, args.picture)
        print(f"wrote {args.picture}")
    return 0
