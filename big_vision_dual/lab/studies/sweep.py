"""Runs a grid of trials: those that differ only in numbers as one vmapped program, the others one after another."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.lab.studies.grid import Trial, by_program
from big_vision_dual.lab.studies.program import Numbers, Program, TrainState, one_by_one, stacked
from big_vision_dual.lab.studies.results import Record, Results
from big_vision_dual.train.progress import Work

POINTS = 20  # of the loss curve; the training loss of a trial is the mean over the last two
_MEMORY_SHARE = 0.5  # of a device's memory that one program may take


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall seconds of a sweep: compiling, and all of it. trials: how many were run, not read from the file."""

    compile: float
    total: float
    trials: int


def run(
    trials: Sequence[Trial],
    results: Results,
    *,
    at_once: int | None = None,
    quiet: bool = False,
    program: type[Program] = Program,
) -> tuple[list[Record], Timing]:
    """The records of `trials` in their order, and the time it took; runs those that `results` lacks.

    Trials whose configs differ only in `grid.NUMBERS`, seed or target norms run together, sharded over all
    devices, at most `at_once` of them (None: as many as fit in memory). Which trials share a batch depends on the grid
    alone, and a batch that a kill interrupted is run again as a whole: so the numbers do not depend on interruptions.
    Trials that diverge are recorded with 'finite': false. program: a subclass that measures more; its results want a
    file of their own.
    """
    started, compiling, ran = time.monotonic(), 0.0, 0
    groups = by_program(trials)
    done = {trial.digest: trial in results for trial in trials}
    with Work("trials", len(done), sum(done.values()), quiet) as work:
        for group in groups:
            if all(trial in results for trial in group):
                continue
            batch = _Batch.of(program.of(group[0].config), len(group), at_once)
            compiling += batch.compile_seconds
            for part in _parts(group, batch.size):
                missing = [trial for trial in part if trial not in results]
                if missing:
                    new = len(missing) / len(part)  # a part is run whole, and what the file has counts once
                    finished = batch.run(part, lambda trials, new=new: work.advance(new * trials))
                    for trial, result in zip(part, finished, strict=True):
                        if trial not in results:
                            results.add(trial, result)
                    ran += len(missing)
    return results.of(trials), Timing(compiling, time.monotonic() - started, ran)


def edges(total_steps: int) -> np.ndarray:
    """Steps between which the points of a curve lie, from 0 to the last."""
    return np.unique(np.linspace(0, total_steps, POINTS + 1).round().astype(np.int32))


def _parts(group: list[Trial], size: int) -> list[list[Trial]]:
    return [group[start : start + size] for start in range(0, len(group), size)]


@dataclasses.dataclass(frozen=True)
class _Batch:
    """A program compiled for `size` trials at once."""

    program: Program
    size: int
    init: Callable[[Numbers], TrainState]
    advance: Callable[..., Any]
    evaluate: Callable[..., Any]
    shard: Callable[[Any], Any]
    data: Any
    compile_seconds: float

    @classmethod
    def of(cls, program: Program, wanted: int, at_once: int | None) -> _Batch:
        """Compiles for as many of the wanted trials as memory holds: a multiple of the number of devices."""
        devices = jax.devices()
        size = _multiple(min(wanted, at_once or wanted), len(devices))
        while True:
            started = time.monotonic()
            compiled = _compile(program, size, devices)
            needed, allowed = _bytes(compiled["advance"]), _MEMORY_SHARE * _memory(devices[0])
            if needed <= allowed or size == len(devices):
                return cls(program, size, **compiled, compile_seconds=time.monotonic() - started)
            size = _multiple(max(1, int(size * allowed / needed)), len(devices), down=True)

    def run(self, trials: Sequence[Trial], finished: Callable[[float], None]) -> list[dict[str, Any]]:
        """Trains all trials of a part from the start. `finished` hears how many trials' worth of work was done."""
        filled = [*trials, *[trials[-1]] * (self.size - len(trials))]
        given = [self.program.numbers_of(trial.config) for trial in filled]
        numbers, state = self.shard(stacked(given)), self.shard(one_by_one(self.init, given))
        first = jax.tree.map(np.asarray, self.evaluate(state, self.data))
        curves: list[dict[str, np.ndarray]] = []
        for start, stop in itertools.pairwise(edges(self.program.total_steps)):
            state, measured = self.advance(state, numbers, self.data, start, stop)
            curves.append(jax.tree.map(np.asarray, measured))
            finished(len(trials) * (stop - start) / self.program.total_steps)
        final = jax.tree.map(np.asarray, self.evaluate(state, self.data))
        return [_result(first, curves, final, index) for index in range(len(trials))]


def _compile(program: Program, size: int, devices: Sequence[Any]) -> dict[str, Any]:
    """Compiles init, advance and evaluate for `size` trials, sharded over devices. Allocates the data only."""
    mesh = Mesh(np.array(devices), ("trials",))
    sharded, replicated = NamedSharding(mesh, P("trials")), NamedSharding(mesh, P())
    one = program.numbers_of(program.config)
    numbers = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *np.shape(x)), x.dtype, sharding=sharded), one)
    jit = functools.partial(jax.jit, out_shardings=sharded)
    init = jax.jit(program.init).lower(one).compile()
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded),
        jax.eval_shape(jax.vmap(program.init), numbers),
    )
    data = jax.device_put(program.data(), replicated)
    step = np.int32(0)
    advance = jit(jax.vmap(program.advance, in_axes=(0, 0, None, None, None)), donate_argnums=0)
    return {
        "init": init,
        "advance": advance.lower(state, numbers, data, step, step).compile(),
        "evaluate": jit(jax.vmap(program.evaluate, in_axes=(0, None))).lower(state, data).compile(),
        "shard": lambda tree: jax.device_put(tree, sharded),
        "data": data,
    }


def _result(
    first: dict[str, np.ndarray], curves: Sequence[dict[str, np.ndarray]], final: dict[str, np.ndarray], index: int
) -> dict[str, Any]:
    """One trial's entry in the results file; 'start' is the evaluation before the first step."""
    start = {name: float(value[index]) for name, value in first.items()}
    curve = {name: [float(point[name][index]) for point in curves] for name in curves[0]}
    result = {name: float(value[index]) for name, value in final.items()}
    train_loss = float(np.mean(curve["loss"][-2:]))
    finite = bool(np.isfinite([train_loss, result["val_loss"]]).all())
    return {"train_loss": train_loss, **result, "finite": finite, "start": start, "curve": curve}


def _multiple(count: int, of: int, down: bool = False) -> int:
    rounded = count // of if down else -(-count // of)
    return max(1, rounded) * of


def _bytes(compiled: Any) -> int:
    """What a compiled program needs on one device."""
    analysis = compiled.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes


def _memory(device: Any) -> int:
    """Bytes of a device; of the machine for a CPU."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.devices())
