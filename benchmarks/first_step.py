"""How long until the first step, and what does that cost later? Layers as a loop or scanned, rematerialized or not, and
XLA told how long to look for a faster program (`config.compile_effort`).

    python benchmarks/first_step.py run --topology v3-8 --variant S/16     minutes of one core a cell
    python benchmarks/first_step.py show

The recipe is vit_s16_i1k_dual at batch 1024 in bfloat16 with mixup off (it cannot be timed, see benchmarks/pod.py),
compiled for the slice. Traced: from the config to the program that the compiler gets, which a restart repeats;
compiled: what a cache of compiled programs saves. Both in processor seconds of this machine. Rows are kept in
benchmarks/results/first_step.jsonl; a cell that is there is not run again.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import ml_collections

from big_vision_dual.pods import step_cost, topologies
from big_vision_dual.pods.preflight_report import step_as_dict
from big_vision_dual.train import recipes

RESULTS = pathlib.Path(__file__).parent / "results" / "first_step.jsonl"
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("trace", {"decay": 0.9}),
    **{
        name: (
            recipes.DUALIZE,
            {"momentum": 0.9, "nesterov": True, "polar": name, "dtype": "bfloat16", "shard_axis": "data"},
        )
        for name in ("newton_schulz_6", "schatten_4", "schatten_5")
    },
}
EXAMPLES = 1_268_355
KEYS = ("topology", "variant", "form", "remat", "optimizer", "effort")


def config_of(variant: str, form: str, remat: str, optimizer: str, effort: float) -> Any:
    name, options = OPTIMIZERS[optimizer]
    return step_cost.changed(
        recipes.load("vit_s16_i1k_dual"),
        model__variant=variant,
        model__dtype_mm="bfloat16",
        model__scan=form == "scan",
        model__remat_policy=remat,
        compile_effort=effort,
        mixup=None,
        weight_constraint=None,
        optax_name=name,
        optax=ml_collections.ConfigDict(options),
    )


def run_cell(cell: tuple[Any, ...]) -> dict[str, Any]:
    topology, *rest = cell
    cost = step_cost.measure(config_of(*rest), topologies.parse(topology), EXAMPLES)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    fits = isinstance(cost, step_cost.StepCost)
    return dict(zip(KEYS, cell, strict=True)) | {"fits": fits, "versions": versions} | step_as_dict(cost)


def finished() -> dict[tuple[Any, ...], dict[str, Any]]:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = [json.loads(line) for line in lines]
    return {tuple(row[key] for key in KEYS): row for row in rows}


def run(args: argparse.Namespace) -> None:
    done = finished()
    for cell in itertools.product(args.topology, args.variant, args.form, args.remat, args.optimizer, args.effort):
        if cell in done:
            continue
        row = run_cell(cell)
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            *cell, f"{row['compile_cpu_seconds']:.0f} cpu s to compile" if row["fits"] else "does not fit", flush=True
        )


def show() -> None:
    """Markdown: a line a cell; step time over that of plain momentum in the same form, at the same effort."""
    print("| slice | model | layers | remat | optimizer | effort | traced, cpu s | compiled, cpu s | GB | step, ms |")
    print("|---|---|---|---|---|---:|---:|---:|---:|---:|")
    done = finished()
    for cell, row in sorted(done.items()):
        if not row["fits"]:
            print(f"| {' | '.join(map(str, cell))} | | | | does not fit |")
            continue
        base = done.get((*cell[:-2], "momentum", cell[-1]))
        over = f" ({row['seconds'] / base['seconds'] - 1:+.2%})" if base and base is not row else ""
        times = f"{row['trace_cpu_seconds']:.0f} | {row['compile_cpu_seconds']:.0f} | {row['bytes'] / 1e9:.1f}"
        print(f"| {' | '.join(map(str, cell))} | {times} | {row['seconds'] * 1e3:.2f}{over} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--topology", nargs="+", default=["v3-8"])
    parser.add_argument("--variant", nargs="+", default=["S/16"])
    parser.add_argument("--form", nargs="+", default=["loop"], choices=("scan", "loop"))
    parser.add_argument("--remat", nargs="+", default=["none"])
    parser.add_argument("--optimizer", nargs="+", default=["momentum", "schatten_5"])
    parser.add_argument("--effort", nargs="+", type=float, default=[-1.0, 0.0])
    args = parser.parse_args()
    run(args) if args.what == "run" else show()


if __name__ == "__main__":
    main()
