"""Reads a compiled program's text: what its collectives move, and what each loop body adds every time it runs.

XLA's own cost analysis counts the body of a `while` once however often it runs. `Program.executions` says how often
each computation runs, and `costs` weighs by it. Branches count as not run: the trainer's only conditional is the
measurement at logging steps.
"""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(calls|body|true_computation|false_computation|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_COLLECTIVE = re.compile(r"^(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?$")
_BRANCHES = ("true_computation", "false_computation", "branch_computations")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}


@dataclass(frozen=True)
class Instruction:
    """One line: `shape` and `operands` as text and names, `rest` everything after the operands."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @property
    def bytes(self) -> int:
        return sum(math.prod(dims) * width for width, dims in arrays(self.shape))


@dataclass(frozen=True)
class Collective:
    """A collective: `bytes` of its full buffer per device (the output of an all-gather, else the input), times run."""

    kind: str
    bytes: int
    group_size: int
    times: float


@dataclass(frozen=True)
class Costs:
    """FLOPs of matrix products and convolutions, bytes in and out of instructions, the compiler's estimated cycles."""

    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0

    def __add__(self, other: Costs) -> Costs:
        return Costs(self.flops + other.flops, self.bytes + other.bytes, self.cycles + other.cycles)

    def __mul__(self, times: float) -> Costs:
        return Costs(self.flops * times, self.bytes * times, self.cycles * times)


def arrays(shape: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(bytes per element, dimensions) of every array in a shape, which may be a tuple."""
    for dtype, dims in _ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype).group())  # type: ignore[union-attr]
        yield max(1, bits // 8), tuple(int(dim) for dim in dims.split(",") if dim)


class Program:
    """A compiled module's computations, by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header[2]] = {}
                self.entry = header[2] if header[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                instruction = _parse(found[1], found[2])
                current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("no ENTRY computation: give the text of a compiled module, `compiled.as_text()`.")

    @functools.cached_property
    def unknown_loops(self) -> int:
        """Loops whose trip count the text does not tell; their bodies are counted once."""
        whiles = (i for body in self.computations.values() for i in body.values() if i.opcode == "while")
        return sum(self._trips(loop) is None for loop in whiles)

    def executions(self, *, loops: bool = True, branches: bool = False) -> dict[str, float]:
        """How often each computation runs in a step, or is counted by XLA (loops=False, branches=True)."""
        times: dict[str, float] = collections.defaultdict(float)

        def visit(name: str, count: float) -> None:
            times[name] += count
            for instruction in self.computations[name].values():
                for role, called in _calls(instruction):
                    trips = (self._trips(instruction) or 1) if loops and role == "body" else 1
                    skipped = role in _BRANCHES and not branches
                    visit(called, 0.0 if skipped else count * trips)

        visit(self.entry, 1.0)
        return dict(times)

    def _trips(self, loop: Instruction) -> int | None:
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.rest)
        assert condition, loop.rest
        lines = [i for i in self.computations[condition[1]].values() if i.opcode == "constant"]
        limits = {value[1] for i in lines if (value := re.match(r"(\d+)\)", i.rest))}
        return int(limits.pop()) if len(limits) == 1 else None

    # ---- what the computations cost

    def costs(self, executions: dict[str, float]) -> Costs:
        """The whole program's costs per device, each computation as often as `executions` says."""
        total = Costs()
        fused = self._fused
        for name, times in executions.items():
            body = self.computations[name]
            for instruction in body.values() if times else ():
                total += Costs(flops=_flops(instruction, body)) * times
                if name not in fused:
                    total += Costs(bytes=self._traffic(instruction, body), cycles=_cycles(instruction)) * times
        return total

    @functools.cached_property
    def _fused(self) -> set[str]:
        """Computations inside fusions: their values stay on the chip."""
        inside: set[str] = set()
        fusions = (i for body in self.computations.values() for i in body.values() if i.opcode == "fusion")
        pending = [called for fusion in fusions for _, called in _calls(fusion)]
        while pending:
            name = pending.pop()
            if name not in inside:
                inside.add(name)
                pending += [called for i in self.computations[name].values() for _, called in _calls(i)]
        return inside

    def _traffic(self, instruction: Instruction, body: dict[str, Instruction]) -> float:
        """Bytes read and written. What a slice does not touch is not read, what an update leaves is not written."""
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            return 0.0
        if instruction.opcode == "dynamic-slice":
            return 2.0 * instruction.bytes
        if instruction.opcode == "dynamic-update-slice":
            return 2.0 * body[instruction.operands[1]].bytes
        reads = [body[name].bytes for name in instruction.operands if name in body]
        writes = float(instruction.bytes)
        for _, called in _calls(instruction) if instruction.opcode == "fusion" else ():
            reads = self._fusion_reads(called)
            updated = [i for i in self.computations[called].values() if i.opcode == "dynamic-update-slice"]
            writes -= sum(i.bytes - self.computations[called][i.operands[1]].bytes for i in updated)
        return sum(reads) + max(writes, 0.0)

    def _fusion_reads(self, name: str) -> list[int]:
        """Bytes that a fused computation reads of each of its parameters."""
        body = self.computations[name]
        reads = []
        for parameter in (i for i in body.values() if i.opcode == "parameter"):
            users = [i for i in body.values() if parameter.name in i.operands]
            if users and all(i.opcode == "dynamic-slice" for i in users):
                reads.append(sum(i.bytes for i in users))
            elif users and all(i.opcode == "dynamic-update-slice" and i.operands[0] == parameter.name for i in users):
                reads.append(0)
            else:
                reads.append(parameter.bytes)
        return reads

    def collectives(self) -> list[Collective]:
        """Every collective that runs in a step.

        The TPU compiler may write a reduce-scatter as a computation of that name, and repeats an asynchronous
        collective, with one channel and chain, in every fusion that carries a part of it.
        """
        found: dict[str, Collective] = {}
        for name, times in self.executions().items():
            body = self.computations[name]
            for instruction in body.values():
                kind = _COLLECTIVE.match(instruction.opcode)
                if kind and times:
                    scatter = kind[1] == "all-reduce" and name.startswith("all-reduce-scatter")
                    chain = re.search(r"channel_id=\d+.*chain_id=\"\d+\"", instruction.rest)
                    collective = _collective("reduce-scatter" if scatter else kind[1], instruction, body, times)
                    found.setdefault(chain[0] if chain else f"{name}/{instruction.name}", collective)
        return [collective for collective in found.values() if collective.group_size > 1]


def _parse(name: str, text: str) -> Instruction:
    shape_end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, text = text[:shape_end], text[shape_end:].lstrip()
    opcode, _, _ = text.partition("(")
    end = _closing(text, len(opcode))
    inside = text[len(opcode) + 1 : end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, shape, opcode, operands, text[end + 1 :] if operands else inside + text[end:])


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses: {text[:120]}")


def _calls(instruction: Instruction) -> Iterator[tuple[str, str]]:
    for role, names in _CALLED.findall(instruction.rest):
        for name in re.findall(r"%([\w.\-]+)", names):
            yield role, name


def _collective(kind: str, instruction: Instruction, body: dict[str, Instruction], times: float) -> Collective:
    inputs = sum(body[name].bytes for name in instruction.operands)
    size = _group_size(instruction.rest)
    return Collective(kind, inputs * size if kind == "all-gather" else inputs, size, times)


def _group_size(rest: str) -> int:
    """Devices in one replica group, in each of the ways the text may give it."""
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(groups[1].split(","))
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(groups[1])
    if groups := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", rest):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", groups[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'([^']+)'", groups[2]))
    pairs = re.search(r"source_target_pairs=\{(\{.*?\})\}", rest)
    return pairs[1].count("{") if pairs else 0


def _cycles(instruction: Instruction) -> float:
    estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return float(estimate[1]) if estimate and instruction.opcode not in _FREE else 0.0


def _flops(instruction: Instruction, body: dict[str, Instruction]) -> float:
    """FLOPs of a matrix product or convolution, a multiply-add being two; 0 for everything else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0.0
    (_, out), (_, lhs), (_, rhs) = (
        next(arrays(shape)) for shape in (instruction.shape, *(body[name].shape for name in instruction.operands))
    )
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        return 2.0 * math.prod(out) * math.prod(lhs[int(d)] for d in contracted[1].split(",")) if contracted else 0.0
    return 2.0 * _multiply_adds(instruction.rest, lhs, rhs, out)


def _multiply_adds(rest: str, lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    assert labels, rest
    of_lhs, of_rhs, of_out = labels.groups()
    products = out[of_out.index("b")] * out[of_out.index("f")] * rhs[of_rhs.index("i")]
    window = re.search(r"window=\{(.*?)\}", rest)
    for axis in range(len(of_out) - 2):
        options = dict(part.split("=") for part in window[1].split()) if window else {}
        sizes = (shape[of.index(str(axis))] for shape, of in ((lhs, of_lhs), (rhs, of_rhs), (out, of_out)))
        products *= _valid_pairs(*sizes, axis=axis, window=options)
    return float(products)


def _valid_pairs(size: int, kernel: int, out: int, *, axis: int, window: dict[str, str]) -> int:
    """(output, kernel) positions of one axis that meet an input element, neither padding nor a hole of dilation.

    The TPU compiler writes batched matrix products as convolutions that are mostly holes.
    """

    def option(name: str, default: str) -> str:
        values = window.get(name)
        return values.split("x")[axis] if values else default

    stride, holes, spread = (int(option(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    low = int(option("pad", "0_0").split("_")[0])
    reach = (size - 1) * holes + 1
    position = stride * np.arange(out)[:, None] + spread * np.arange(kernel) - low
    return int(np.count_nonzero((position >= 0) & (position < reach) & (position % holes == 0)))
