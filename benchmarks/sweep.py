"""A sweep of 32 trials against 32 separate runs: wall time, and how much of the gain is compilation.

Command: python benchmarks/sweep.py [--measured 3]   (so many separate runs are timed, and their mean taken times 32)
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

from big_vision_dual.lab.studies import grid, settings, sweep
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.train import recipes


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description="Times a sweep of 32 trials against separate runs.")
    parser.add_argument("--measured", type=int, default=3, help="separate runs to measure (default 3)")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    sizes = {"model.width": args.width, "model.depth": 2, "total_steps": args.steps, "input.batch_size": 32}
    base = settings.dualize(grid.replace(recipes.load("study_vit").to_dict(), sizes))
    trials = grid.product(base, {"lr": [2.0**x for x in range(-6, 2)], "seed": range(4)})
    together = _timed(trials)
    apart = [_timed([trial]) for trial in trials[: args.measured]]
    each_total = sum(timing.total for timing in apart) / len(apart)
    each_compile = sum(timing.compile for timing in apart) / len(apart)
    print(f"together: {together.total:.0f} s, of which compiling {together.compile:.0f} s")
    print(
        f"apart:    {len(trials)} x {each_total:.1f} s, of which compiling {each_compile:.1f} s (mean of {len(apart)})"
    )
    print(f"ratio of wall times {together.total / (len(trials) * each_total):.3f}")
    running = (together.total - together.compile) / (len(trials) * (each_total - each_compile))
    print(f"ratio without compilation {running:.2f}")


def _timed(trials: list[grid.Trial]) -> sweep.Timing:
    with tempfile.TemporaryDirectory() as folder:
        return sweep.run(trials, Results(pathlib.Path(folder) / "r.jsonl"), quiet=True)[1]


if __name__ == "__main__":
    main()
