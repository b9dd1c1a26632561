"""What do logging, evaluation and checkpoints take from the steps? Training with each of them, and without.

    python benchmarks/stalls.py [--rounds 2] [--keep]       about 3 minutes of one core

The demo's dual ViT at width 64, depth 2, batch 50 on MNIST digits, 200 steps: every run is made twice, with 220 and
with 20 steps, and the difference counts, so that starting, compiling and ending have no part in it. The least of the
rounds is shown, in wall-clock and in processor seconds (all threads: a checkpoint is written by one of its own). With
`--keep` the rows are added to benchmarks/results/stalls.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import tempfile
import time
from typing import Any

import jax

from big_vision_dual.pods.step_cost import changed
from big_vision_dual.train import loop, recipes

RESULTS = pathlib.Path(__file__).parent / "results" / "stalls.jsonl"
SHORT, LONG = 20, 220
NEVER = 10**6
EVENTS = {"nothing": {}, "log": {"log_training_steps": 10}, "evaluate": {"eval": 40}, "checkpoint": {"ckpt_steps": 40}}
EVENTS["all"] = {name: period for event in list(EVENTS.values()) for name, period in event.items()}
COUNTS = {"log": 20, "evaluate": 5, "checkpoint": 5}


def config_of(event: str, steps: int) -> Any:
    """The demo's recipe with an event's period; the others only happen at the run's end."""
    periods = {"log_training_steps": NEVER, "ckpt_steps": NEVER, "eval": NEVER} | EVENTS[event]
    config = changed(
        recipes.load("mnist5k_vit_dual"), model__depth=2, input__batch_size=50, total_steps=steps,
        log_training_steps=periods["log_training_steps"], ckpt_steps=periods["ckpt_steps"],
    )  # fmt: skip
    with config.unlocked():
        for spec in config.evals.values():
            for name in [name for name in spec if name.startswith("log_")]:
                del spec[name]
            spec.log_steps = periods["eval"]
    return config


def seconds(event: str, steps: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of a whole run."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        wall, processor = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            loop.fit(config_of(event, steps), folder)
        return time.perf_counter() - wall, time.process_time() - processor


def measured(rounds: int) -> dict[str, tuple[float, float]]:
    """{event: (wall-clock, processor) seconds of the 200 steps}, least of the rounds, which take turns."""
    least: dict[tuple[str, int], tuple[float, float]] = {}
    seconds("all", SHORT)  # what is compiled and loaded once must not be the first event's
    for _ in range(rounds):
        for event in EVENTS:
            for steps in (SHORT, LONG):
                now, before = seconds(event, steps), least.get((event, steps))
                least[event, steps] = now if before is None else (min(now[0], before[0]), min(now[1], before[1]))
    return {
        event: (least[event, LONG][0] - least[event, SHORT][0], least[event, LONG][1] - least[event, SHORT][1])
        for event in EVENTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    found = measured(args.rounds)
    base = found["nothing"]
    print("| with | steps/s | steps per processor second | ms an event, wall | processor |")
    print("|---|---:|---:|---:|---:|")
    for event, (wall, processor) in found.items():
        each = [(spent - of) / COUNTS[event] * 1e3 for spent, of in zip((wall, processor), base, strict=True)
                ] if event in COUNTS else []  # fmt: skip
        steps = LONG - SHORT
        cells = [f"{value:.0f}" for value in each] or ["", ""]
        print(f"| {event} | {steps / wall:.1f} | {steps / processor:.1f} | {' | '.join(cells)} |")
        if args.keep:
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                row = {"with": event, "steps": steps, "wall": round(wall, 3), "processor": round(processor, 3)}
                file.write(json.dumps(row | {"rounds": args.rounds, "jax": jax.__version__}) + "\n")


if __name__ == "__main__":
    main()
