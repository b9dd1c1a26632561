"""What a training step costs on a slice that is not there: the trainer's own step, compiled by the TPU compiler.

The step is that between two logged ones (`log_atom_norms=False`); everything else is the config's. Nothing is
allocated: `train.setup.prepare` builds shapes. Needs libtpu.
"""

from __future__ import annotations

import collections
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from big_vision_dual.pods import topologies
from big_vision_dual.pods.hlo import Collective, Program
from big_vision_dual.pods.roofline import Roofline, roofline
from big_vision_dual.pods.topologies import Slice
from big_vision_dual.train import compile_cache, data
from big_vision_dual.train.data import arrays

_IMAGENET = {"train": 1_281_167, "validation": 50_000}


@dataclass(frozen=True)
class Memory:
    """Bytes of HBM per device. `outputs` are those that do not take the place of an argument."""

    arguments: int
    outputs: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.code


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind in a step: how many run, and the bytes of their full buffers per device."""

    kind: str
    count: float
    bytes: float


@dataclass(frozen=True)
class Misfit:
    """A step that the compiler refused: bytes per device that it would need, and those there are."""

    needed: int
    capacity: int


@dataclass(frozen=True)
class StepCost:
    """A compiled step, per device. Loop bodies are counted as often as they run.

    compiler_seconds: the compiler's own estimate, None where it gives none that can be believed; `compiler_note`
    says why, or how it was read. unknown_loops: loops of unknown length, counted once (mixup draws from a beta
    distribution by rejection). compile_seconds: wall time on this machine. trace_cpu_seconds, compile_cpu_seconds: of
    its processors, until the compiler has its program, and until it is compiled; a restart repeats the first.
    """

    memory: Memory
    flops: float
    bytes: float
    traffic: tuple[Traffic, ...]
    roofline: Roofline
    compiler_seconds: float | None
    compiler_note: str
    unknown_loops: int
    compile_seconds: float
    trace_cpu_seconds: float
    compile_cpu_seconds: float

    @property
    def seconds(self) -> float:
        """The best estimate of a step's time: the compiler's, else the roofline's, which is a lower bound."""
        return self.compiler_seconds or self.roofline.seconds


@dataclass(frozen=True)
class Examples:
    """Training data of which only the size is known."""

    num_examples: int
    num_classes: int | None = None

    def shapes(self) -> dict[str, Any]:
        raise data.DataError("a preflight reads no data: give --config.input_shape='(H, W, C)'.")

    def batches(self, start_step: int = 0) -> Iterator:
        raise NotImplementedError(f"a preflight reads no data (step {start_step})")


def num_examples(config: Any, given: int | None = None) -> int:
    """Training examples of an epoch: `given`, or ImageNet's by its split, or those of an array source.

    Raises `DataError` naming --num-examples where neither is known.
    """
    name, split = config.input.data.get("name"), config.input.data.get("split", "train")
    if given is not None:
        return given
    part = re.fullmatch(r"(\w+)(?:\[(\d*)%?:(\d*)%?\])?", split)
    if name == "imagenet2012" and part and part[1] in _IMAGENET:
        low, high = int(part[2] or 0), int(part[3] or 100)
        return round(_IMAGENET[part[1]] * high / 100) - round(_IMAGENET[part[1]] * low / 100)
    if arrays.is_array_name(name):
        return data.make(config.input, seed=0).num_examples
    raise data.DataError(f"the size of {name}:{split} is not known without its files; give --num-examples N.")


@dataclass
class _Watch:
    """Wall-clock and processor seconds since it was made."""

    wall: float = field(default_factory=time.monotonic)
    processors: float = field(default_factory=time.process_time)

    def read(self) -> tuple[float, float]:
        return time.monotonic() - self.wall, time.process_time() - self.processors


def measure(config: Any, tpu: Slice, examples: int, flags: Mapping[str, str] | None = None) -> StepCost | Misfit:
    """Compiles the config's step for the slice; a `Misfit` where it needs more memory than there is.

    flags: of XLA, {name: value}, for this program alone.
    """
    from big_vision_dual.train import setup

    config = changed(config, log_atom_norms=False)
    watch = _Watch()
    fns = setup.prepare(config, Examples(examples), topologies.devices(tpu)).fns
    lowered = fns.train.lower(fns.state, fns.batch, fns.measured)
    _, traced = watch.read()
    watch = _Watch()
    try:
        with compile_cache.without():
            compiled = lowered.compile(compiler_options=dict(flags or {}))
    except jax.errors.JaxRuntimeError as error:
        if misfit := _misfit(str(error)):
            return misfit
        raise
    return _cost(compiled, tpu, traced, *watch.read())


_SIZE = r"([\d.]+)([KMGT]?)"
_REFUSALS = (rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)", rf"Used {_SIZE} of {_SIZE} hbm")


def _misfit(message: str) -> Misfit | None:
    """Reads the two numbers in the compiler's refusal; both of its wordings were seen."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern in _REFUSALS:
        if found := re.search(pattern, message):
            return Misfit(int(float(found[1]) * units[found[2]]), int(float(found[3]) * units[found[4]]))
    return None


def _cost(compiled, tpu: Slice, traced: float, wall: float, processors: float) -> StepCost:
    analysis, stats = compiled.cost_analysis(), compiled.memory_analysis()
    program = Program(compiled.as_text())
    as_xla = program.costs(program.executions(loops=False, branches=True))
    as_run = program.costs(program.executions())
    with_branches = program.costs(program.executions(branches=True))
    flops = analysis["flops"] + as_run.flops - as_xla.flops
    accessed = analysis["bytes accessed"] + as_run.bytes - as_xla.bytes
    moved = program.collectives()
    limits = roofline(tpu, flops, accessed, moved)
    seconds, note = compiler_seconds(analysis.get("optimal_seconds"), limits)
    loops = with_branches.cycles / as_xla.cycles if as_xla.cycles else 1.0
    return StepCost(
        memory=Memory(
            stats.argument_size_in_bytes,
            stats.output_size_in_bytes - stats.alias_size_in_bytes,
            stats.temp_size_in_bytes,
            stats.generated_code_size_in_bytes,
        ),
        flops=flops,
        bytes=accessed,
        traffic=_traffic(moved),
        roofline=limits,
        compiler_seconds=seconds and seconds * loops,
        compiler_note=note,
        unknown_loops=program.unknown_loops,
        compile_seconds=wall,
        trace_cpu_seconds=traced,
        compile_cpu_seconds=processors,
    )


def compiler_seconds(estimate: float | None, limits: Roofline) -> tuple[float | None, str]:
    """(seconds or None, how it was read) of XLA's `optimal_seconds`.

    The compiler adds -1 for each operation that it cannot time (asynchronous collectives, loops of unknown length).
    Whole seconds below zero are therefore added back; the result counts if peak FLOP/s would allow it.
    """
    if not estimate:
        return None, "the compiler gives no estimate"
    untimed = max(0, math.ceil(-estimate))
    seconds = estimate + untimed
    if untimed and seconds < 0.9 * limits.compute:
        return None, f"the compiler says {estimate:.3g} s"
    return seconds, f"without {untimed} operations that the compiler cannot time" if untimed else ""


def _traffic(moved: list[Collective]) -> tuple[Traffic, ...]:
    counts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    for collective in moved:
        counts[collective.kind][0] += collective.times
        counts[collective.kind][1] += collective.times * collective.bytes
    return tuple(Traffic(kind, *totals) for kind, totals in sorted(counts.items()))


def changed(config: Any, **fields: Any) -> Any:
    """A copy with some fields replaced; a dotted name is written with '__', as in input__accum_freq."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in fields.items():
            *parents, last = name.split("__")
            node = copy
            for parent in parents:
                node = node[parent]
            node[last] = value
    return copy
