"""Cost of one optimizer update on all of ViT-S/16: stacked dualization, the same one leaf at a time, and Muon.

    python benchmarks/dualize.py                    about 1 minute on 2 quiet cores
    python benchmarks/dualize.py --rounds 1 --table vit_ti16_i1k
    python benchmarks/dualize.py --topology v5e-4 --dtype bfloat16
                                                    compile time and memory by the TPU compiler, for one of its devices

Compared: update time (least of the interleaved rounds, wall clock and processor time), compile time, and memory
(temporaries + outputs of the compiled update). `optax.contrib.muon` updates biases and scales with Adam.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
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
from big_vision_dual.core.dualize import polar
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.pods import topologies


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


def compiled(name: str, method: polar.Polar, tx: optax.GradientTransformation, gradients: Any) -> Subject:
    abstract = isinstance(jax.tree.leaves(gradients)[0], jax.ShapeDtypeStruct)
    state = _placed(jax.eval_shape(tx.init, gradients), gradients) if abstract else jax.jit(tx.init)(gradients)
    lowered = jax.jit(tx.update).lower(gradients, state, gradients)
    wall, processor = time.perf_counter(), time.process_time()
    program = lowered.compile()
    spent = Timing(time.perf_counter() - wall, time.process_time() - processor)
    return Subject(name, len(method.coefficients), program, state, spent)


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
    ours, theirs = polar.get("newton_schulz_6"), polar.get("muon_5")
    options: dict[str, Any] = {"polar": ours.name, "dtype": dtype}
    return [
        compiled("stacked (ours)", ours, dualize.scale_by_dualize(table, **options), gradients),
        compiled("one leaf at a time (ours)", ours, one_leaf_at_a_time(table, **options), gradients),
        compiled(
            "one leaf at a time, steps unrolled", ours, one_leaf_at_a_time(table, **options, unroll=True), gradients
        ),
        compiled("optax.contrib.muon, its own steps", theirs, muon(table, theirs), gradients),
        compiled("optax.contrib.muon, our steps", ours, muon(table, ours), gradients),
    ]


def show(found: list[Subject], title: str) -> None:
    report = Table(title=title)
    ran = found[0].update.wall < float("inf")
    timings = ("update", "compile") if ran else ("compile",)
    heads = [head for name in timings for head in (f"{name} s", "cpu s", "ratio")]
    for column in ("", "steps", *heads, "memory MB", "ratio"):
        report.add_column(column, justify="right" if column else "left")
    base = found[0]
    for it in found:
        times = [_against(getattr(it, name), getattr(base, name)) for name in timings]
        memory = (f"{it.megabytes:.0f}", f"{it.megabytes / base.megabytes:.2f}")
        report.add_row(it.name, str(it.steps), *itertools.chain(*times), *memory)
    report.caption = "Ratios are to the first line, of processor seconds: they bear a machine that is shared."
    Console(width=140).print(report)


def _against(spent: Timing, base: Timing) -> tuple[str, str, str]:
    return f"{spent.wall:.1f}", f"{spent.processor:.1f}", f"{spent.processor / base.processor:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="vit_s16_i1k", help="a name in norm_cache, or a path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of our products")
    parser.add_argument("--topology", help="a TPU slice, for example v5e-4: compile for it instead, run nothing")
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
    show(found, f"{options.table}: {len(table.rows)} leaves, {options.dtype}; {versions}")


if __name__ == "__main__":
    main()
