"""From the command to the first step, without and with compiled programs on disk.

    python benchmarks/restart.py mnist5k_vit_dual --keep
    python benchmarks/restart.py vit_s16_i1k_dual --keep --config.input.batch_size=8 --config.evals={} ...

Trains one step twice, each time in a new process and a new workdir, with one new `compile_cache` for both. Seconds are
of the whole process, from `python` to its end, in which the step, its log row and a checkpoint are small. With `--keep`
the rows are added to benchmarks/results/restart.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax

RESULTS = pathlib.Path(__file__).parent / "results" / "restart.jsonl"
_COMPILED = re.compile(r"compiled the step in (\d+) s")


def start(config: str, overrides: Sequence[str], workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """One step; wall-clock and processor seconds of the process, and what it says of compiling."""
    command = [sys.executable, "-m", "big_vision_dual.train", "--config", config, "--workdir", str(workdir)]
    command += [f"--config.compile_cache={cache}", "--config.total_steps=1", *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = _COMPILED.search(done.stdout + done.stderr)
    return {"wall": round(wall, 1), "processor": round(processor, 1), "compiled": float(told[1]) if told else -1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--keep", action="store_true")
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("first start", "restart"):
            row = {"config": args.config, "start": name, **start(args.config, overrides, root / name, root / "cache")}
            print(row, flush=True)
            if args.keep:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row | {"overrides": overrides, "jax": jax.__version__}) + "\n")


if __name__ == "__main__":
    main()
