"""Cost of one optimizer update on all of ViT-S/16: stacked dualization, the same one leaf at a time, and Muon.

    python benchmarks/dualize.py                    about 1 minute on 2 quiet cores
    python benchmarks/dualize.py --rounds 1 --table vit_ti16_i1k
    python benchmarks/dualize.py --topology v5e-4 --dtype bfloat16
                                                    compile time and memory by the TPU compiler, for one of its devices

Compared: FLOPs of the orthogonalization, update time (least of the interleaved rounds, wall clock and processor time),
compile time, and memory (temporaries + outputs of the compiled update). `optax.contrib.muon` updates biases and scales
with Adam. With `--keep` the rows are added to benchmarks/results/dualize.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.core.dualize import geometry, groups, polar
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.pods import topologies

RESULTS = pathlib.Path(__file__).parent / "results" / "dualize.jsonl"


@dataclasses.dataclass
class Timing:
    """Wall-clock and processor seconds."""

    wall: float = float("inf")
    processor: float = float("inf")

    def least(self, other: Timing) -> Timing:
        return Timing(min(self.wall, other.wall), min(self.processor, other.processor))


@dataclasses.dataclass
class Subject:
    """One optimizer, compiled; `update` is the least over all rounds."""

    name: str
    steps: int
    gflop: float
    compiled: Any
    state: Any
    compile: Timing
    update: Timing = dataclasses.field(default_factory=Timing)

    @property
    def megabytes(self) -> float:
        memory = self.compiled.memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6


def timed(function: Callable[[], Any]) -> tuple[Any, Timing]:
    wall, processor = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return result, Timing(time.perf_counter() - wall, time.process_time() - processor)


def one_leaf_at_a_time(table: TargetNormTable, **options: Any) -> optax.GradientTransformation:
    """The same functions without stacking: a transformation of its own for every leaf."""
    single: dict[str, Any] = {
        path: dualize.scale_by_dualize(dataclasses.replace(table, rows=rows), **options)
        for path, rows in table.by_path().items()
    }

    def init(params: Any) -> Any:
        return {path: single[path].init({path: leaf}) for path, leaf in trees.flatten(params).items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        done = {path: single[path].update({path: leaf}, state[path]) for path, leaf in trees.flatten(updates).items()}
        directions = {path: new[path] for path, (new, _) in done.items()}
        return trees.unflatten(directions), {path: new_state for path, (_, new_state) in done.items()}

    return optax.GradientTransformation(init, update)


def muon(table: TargetNormTable, method: polar.Polar) -> optax.GradientTransformation:
    """`optax.contrib.muon` with the table's axes and the given iterations."""
    rows = table.by_path()

    def dimensions(params: Any) -> Any:
        def of(path: str, _: Any) -> Any:
            row = rows[path][0]
            return optax.contrib.MuonDimensionNumbers(row.fan_in, row.fan_out) if row.atom == "Linear" else None

        return trees.map_with_path(of, params)

    return optax.contrib.muon(
        1.0, method.coefficients, len(method.coefficients), nesterov=False, muon_weight_dimension_numbers=dimensions
    )


def gigaflop(table: TargetNormTable, method: polar.Polar, dtype: str) -> float:
    """Of orthogonalizing every matrix of the table once."""
    spectral = [group for group in groups.make(table.rows).values() if geometry.ATOMS[group.atom].spectral]
    return sum(group.shape[0] * method.flops(*group.shape[1:], dtype) for group in spectral) / 1e9


def compiled(name: str, method: polar.Polar, tx: optax.GradientTransformation, gradients: Any, gflop: float) -> Subject:
    abstract = isinstance(jax.tree.leaves(gradients)[0], jax.ShapeDtypeStruct)
    state = _placed(jax.eval_shape(tx.init, gradients), gradients) if abstract else jax.jit(tx.init)(gradients)
    lowered = jax.jit(tx.update).lower(gradients, state, gradients)
    wall, processor = time.perf_counter(), time.process_time()
    program = lowered.compile()
    spent = Timing(time.perf_counter() - wall, time.process_time() - processor)
    return Subject(name, len(method.coefficients), gflop, program, state, spent)


def _placed(shapes: Any, like: Any) -> Any:
    """Shapes on the one device that `like` is on."""
    sharding = jax.tree.leaves(like)[0].sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def gradients_of(table: TargetNormTable, topology: str | None) -> Any:
    """Random gradients, or with a topology their shapes on its first device."""
    if topology is None:
        rng = np.random.default_rng(0)
        return jax.device_put(trees.unflatten({r.path: rng.standard_normal(r.shape, np.float32) for r in table.rows}))
    sharding = SingleDeviceSharding(topologies.devices(topologies.parse(topology))[0])
    shapes = {r.path: jax.ShapeDtypeStruct(r.shape, np.float32, sharding=sharding) for r in table.rows}
    return trees.unflatten(shapes)


def subjects(table: TargetNormTable, gradients: Any, dtype: str) -> list[Subject]:
    former, theirs = polar.get("newton_schulz_6"), polar.get("muon_5")

    def ours(name: str, make: Callable[..., Any] = dualize.scale_by_dualize, **options: Any) -> Subject:
        method = polar.get(name)
        title = {dualize.scale_by_dualize: "stacked", one_leaf_at_a_time: "one leaf at a time"}[make]
        title += ", steps unrolled" if options else ""
        tx = make(table, polar=name, dtype=dtype, **options)
        return compiled(f"{title}, {name}", method, tx, gradients, gigaflop(table, method, dtype))

    def optaxs(name: str, method: polar.Polar) -> Subject:
        return compiled(name, method, muon(table, method), gradients, gigaflop(table, method, "float32"))

    return [
        ours("newton_schulz_6"),
        ours("schatten_4"),
        ours("schatten_5"),
        ours("newton_schulz_6", one_leaf_at_a_time),
        ours("newton_schulz_6", one_leaf_at_a_time, unroll=True),
        optaxs("optax.contrib.muon, its own steps", theirs),
        optaxs("optax.contrib.muon, newton_schulz_6", former),
    ]


def keep(found: list[Subject], **where: Any) -> None:
    """Adds a row for each to the results."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as file:
        for it in found:
            row = {"name": it.name, "steps": it.steps, "gflop": round(it.gflop, 1), "megabytes": round(it.megabytes)}
            for name in ("update", "compile"):
                timing = getattr(it, name)
                row |= {f"{name}_{kind}": round(getattr(timing, kind), 3) for kind in ("wall", "processor")}
            file.write(json.dumps(row | where) + "\n")


def show(found: list[Subject], title: str) -> None:
    report = Table(title=title)
    ran = found[0].update.wall < float("inf")
    timings = ("update", "compile") if ran else ("compile",)
    heads = [head for name in timings for head in (f"{name} s", "cpu s", "ratio")]
    for column in ("", "steps", "GFLOP", *heads, "memory MB", "ratio"):
        report.add_column(column, justify="right" if column else "left")
    base = found[0]
    for it in found:
        times = [_against(getattr(it, name), getattr(base, name)) for name in timings]
        memory = (f"{it.megabytes:.0f}", f"{it.megabytes / base.megabytes:.2f}")
        report.add_row(it.name, str(it.steps), f"{it.gflop:.0f}", *itertools.chain(*times), *memory)
    report.caption = "Ratios are to the first line, of processor seconds: they bear a machine that is shared."
    Console(width=140).print(report)


def _against(spent: Timing, base: Timing) -> tuple[str, str, str]:
    return f"{spent.wall:.2f}", f"{spent.processor:.2f}", f"{spent.processor / base.processor:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="vit_s16_i1k", help="a name in norm_cache, or a path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of our products")
    parser.add_argument("--topology", help="a TPU slice, for example v5e-4: compile for it instead, run nothing")
    parser.add_argument("--keep", action="store_true", help="add the rows to benchmarks/results/dualize.jsonl")
    options = parser.parse_args()
    table = tables.load(options.table)
    gradients = gradients_of(table, options.topology)
    found = subjects(table, gradients, options.dtype)
    for _ in range(0 if options.topology else options.rounds):
        for it in found:
            _, spent = timed(lambda it=it: it.compiled(gradients, it.state, gradients))
            it.update = it.update.least(spent)
    where = options.topology or jax.default_backend()
    versions = f"jax {jax.__version__}, optax {optax.__version__}, {platform.machine()}, {where}"
    if options.keep:
        keep(found, table=options.table, dtype=options.dtype, where=where, jax=jax.__version__, optax=optax.__version__)
    show(found, f"{options.table}: {len(table.rows)} leaves, {options.dtype}; {versions}")


if __name__ == "__main__":
    main()
