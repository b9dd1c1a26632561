"""What each optimizer adds to a ViT's training step on a TPU slice, by the TPU compiler; no TPU needed.

Command: python benchmarks/pod.py --topology v3-8 --variant S/16 --batch 1024
Without arguments all 40 cells run: 1 to 5 minutes each on two cores. Every finished cell is a line of
benchmarks/results/pod.jsonl and is not run again; `--write` renders them into docs/performance.md.

The recipe is vit_s16_i1k_dual with bfloat16 products and only the optimizer exchanged. Mixup is off: its rejection
sampling is a loop of unknown length, which the compiler cannot time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_collections
import optax

from big_vision_dual.pods import step_cost, topologies
from big_vision_dual.pods.preflight_report import step_as_dict
from big_vision_dual.train import recipes

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "pod.jsonl"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- pods: written by benchmarks/pod.py -->", "<!-- end of pods -->"
KEYS = ("topology", "variant", "batch", "optimizer")
EXAMPLES = 1_268_355
MATRICES = {
    2: optax.contrib.MuonDimensionNumbers(0, 1),
    4: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3),
    "out": optax.contrib.MuonDimensionNumbers((0, 1), 2),
    "qkv": optax.contrib.MuonDimensionNumbers(0, (1, 2)),
}


def muon_matrices(params: Any) -> Any:
    """Every kernel as the matrix fan-in x fan-out, as the dualized step has it; None (Adam) for the rest."""

    def of_leaf(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("/kernel"):
            return None
        return MATRICES[leaf.ndim if leaf.ndim != 3 else "out" if "/out/" in name else "qkv"]

    return jax.tree_util.tree_map_with_path(of_leaf, params)


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("trace", dict(decay=0.9)),
    "adam": ("scale_by_adam", {}),
    "muon": ("contrib.muon", dict(learning_rate=1.0, muon_weight_dimension_numbers=muon_matrices)),
    "dualize": (recipes.DUALIZE, dict(momentum=0.95, dtype="bfloat16")),
    "dualize sharded": (recipes.DUALIZE, dict(momentum=0.95, dtype="bfloat16", shard_axis="data")),
}


def config_of(variant: str, batch: int, optimizer: str) -> Any:
    """The recipe of one cell."""
    name, options = OPTIMIZERS[optimizer]
    return step_cost.changed(
        recipes.load("vit_s16_i1k_dual"),
        model__variant=variant,
        model__dtype_mm="bfloat16",
        input__batch_size=batch,
        mixup=None,
        weight_constraint=None,
        optax_name=name,
        optax=ml_collections.ConfigDict(options),
    )


def run_cell(topology: str, variant: str, batch: int, optimizer: str) -> dict[str, Any]:
    """Compiles one cell; the row of the results file."""
    cost = step_cost.measure(config_of(variant, batch, optimizer), topologies.parse(topology), EXAMPLES)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu", "optax")}
    cell = dict(zip(KEYS, (topology, variant, batch, optimizer), strict=True))
    return cell | {"fits": isinstance(cost, step_cost.StepCost), "versions": versions} | step_as_dict(cost)


def finished() -> dict[tuple, dict[str, Any]]:
    """{cell: its row}."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = [json.loads(line) for line in lines]
    return {tuple(row[key] for key in KEYS): row for row in rows}


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    """The page's section: one table per slice, variant and batch; percentages are over plain momentum."""
    rows = list(rows)
    versions = ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
    parts = [
        "## Pods",
        "What the TPU compiler says a training step costs, per device, between two logged steps; compiled on a machine "
        "without a TPU, not measured on one. Mixup is off, and arithmetic is in bfloat16.",
        f"Command: `python benchmarks/pod.py` ({versions}). Percentages are over plain momentum.",
    ]
    for group, cells in itertools.groupby(sorted(rows, key=_order), key=lambda row: tuple(row[k] for k in KEYS[:3])):
        parts.append(f"**{group[0]}, ViT-{group[1]}, batch {group[2]}**\n\n" + _table(list(cells)))
    return "\n\n".join(parts)


def _order(row: dict[str, Any]) -> tuple:
    return (*(str(row[key]) for key in KEYS[:3]), list(OPTIMIZERS).index(row["optimizer"]))


def _table(cells: list[dict[str, Any]]) -> str:
    base = next((cell for cell in cells if cell["optimizer"] == "momentum" and cell["fits"]), None)
    lines = ["| optimizer | GFLOP | GB | compiler's ms | arguments MiB | temporaries MiB | collectives MB |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for cell in cells:
        if not cell["fits"]:
            lines.append(f"| {cell['optimizer']} | does not fit | | | | | |")
            continue
        gflop, gb = cell["flops"] / 1e9, cell["bytes"] / 1e9
        ms = "none" if cell["compiler_seconds"] is None else f"{cell['compiler_seconds'] * 1e3:.2f}"
        arguments, temporaries = (cell["memory"][key] / 2**20 for key in ("arguments", "temporaries"))
        moved = ", ".join(f"{traffic['kind']} {traffic['bytes'] / 1e6:.1f}" for traffic in cell["traffic"])
        fields = (
            cell["optimizer"],
            f"{gflop:,.0f}{_over(cell, base, 'flops')}",
            f"{gb:.2f}{_over(cell, base, 'bytes')}",
            f"{ms}{_over(cell, base, 'compiler_seconds')}",
            f"{arguments:,.0f}",
            f"{temporaries:,.0f}",
            moved,
        )
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(lines)


def _over(cell: dict[str, Any], base: dict[str, Any] | None, key: str) -> str:
    if base is None or cell is base or not cell[key] or not base[key]:
        return ""
    return f" ({cell[key] / base[key] - 1:+.2%})"


def write(section: str) -> None:
    """Puts the section between its two marks in docs/performance.md, and leaves the rest of the page alone."""
    page = PAGE.read_text() if PAGE.exists() else "# Performance\n"
    block = f"{BEGIN}\n{section}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if rest else ""
    PAGE.write_text(f"{before.rstrip()}\n\n{block}" + (f"\n{after}" if after else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", nargs="+", default=["v3-8", "v4-32"])
    parser.add_argument("--variant", nargs="+", default=["S/16", "B/16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--optimizer", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--write", action="store_true", help="render all finished cells into docs/performance.md")
    args = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    for cell in itertools.product(args.topology, args.variant, args.batch, args.optimizer):
        if cell not in finished():
            row = run_cell(*cell)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(*cell, f"{row['compile_seconds']:.0f} s to compile" if row["fits"] else "does not fit", flush=True)
    if args.write:
        write(markdown(finished().values()))


if __name__ == "__main__":
    main()
