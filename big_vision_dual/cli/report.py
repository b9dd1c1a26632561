"""`bvd report`."""

from __future__ import annotations

import argparse
import pathlib

from big_vision_dual.report import run_files, run_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, and where the page goes."""
    parser.add_argument("workdir", nargs="+", type=pathlib.Path, help="workdirs of runs, compared in one page")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report.html"), help="default report.html")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    run_page.write([run_files.read(workdir) for workdir in args.workdir], args.out)
    print(f"wrote {args.out}: open it in a browser")
    return 0
