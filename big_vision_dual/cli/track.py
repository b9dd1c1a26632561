"""`bvd track`: optimizers race on equal terms."""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

EXAMPLES = (
    "digits --out runs/digits",
    "digits --entries adamw_dual,dualized --entry my_optimizer.py:mine",
    "cifar10 --data ~/tensorflow_datasets --entries muon_dual",
    "digits --out runs/digits --no-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which race, who runs, and where the results are."""
    parser.add_argument("track", help="digits, cifar10, cifar10-large, or a path to a track's file")
    parser.add_argument("--entries", default="", help="comma-separated (default: the track's); see docs/track.md")
    parser.add_argument("--entry", action="append", default=[], metavar="FILE.py:FUNCTION", help="your own entry")
    parser.add_argument("--until", metavar="BUDGET", help="stop after this budget (default: the track's last)")
    parser.add_argument("--data", help="TFDS' data_dir, or an NPZ file with arrays {train,test}_{image,label}")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the results (default runs/track_NAME)")
    parser.add_argument("--no-run", action="store_true", help="only show what the results hold")


def run(args: argparse.Namespace) -> int:
    """Runs what the results lack, prints the leaderboard and writes it as picture, HTML and JSON."""
    from big_vision_dual.lab.report import table_view
    from big_vision_dual.lab.track import board, entries, race, rules, views

    track = rules.load(args.track)
    if args.overrides:
        raise rules.TrackError(f"{' '.join(args.overrides)}: a track is frozen; write an entry of your own (--entry).")
    folder = args.out or pathlib.Path("runs") / f"track_{track.name}"
    racing = race.Race(track, entries.load(track, args.entries, args.entry), folder, args.data, args.until)
    outcomes = racing.outcomes() if args.no_run else racing.run()
    made, console = board.make(track, outcomes, racing.seconds()), Console()
    for table in views.tables(made):
        for part in table_view.fitting(table, console):
            console.print(part)
    for file in views.write(made, folder):
        console.print(f"wrote {file}")
    return 0
