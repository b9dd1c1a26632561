"""Preflight reports for people (rich tables) and for programs (JSON)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from big_vision_dual.pods.preflight import Report
from big_vision_dual.pods.step_cost import Misfit, StepCost

GIB = 2**30


def to_json(reports: Sequence[Report]) -> str:
    """All reports with their derived numbers, the peaks used and the versions of the compiler."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    return json.dumps({"versions": versions, "reports": [_as_dict(report) for report in reports]}, indent=2)


def _as_dict(report: Report) -> dict[str, Any]:
    return {
        **dataclasses.asdict(report),
        "slice": {key: getattr(report.tpu, key) for key in ("name", "chips", "devices", "hosts", "hbm_per_device")},
        "fits": isinstance(report.step, StepCost),
        "step": step_as_dict(report.step),
        "momentum": report.momentum and step_as_dict(report.momentum),
        "suggestions": [{"change": s.change, "fits": s.fits, **step_as_dict(s.result)} for s in report.suggestions],
        "flagged": {group: step_as_dict(step) for group, step in report.flagged.items()},
        "hours": report.hours,
        "tpu_hours": report.tpu_hours,
        "images_per_host_second": report.images_per_host_second,
        "seconds_over_momentum": report.over_momentum(lambda step: step.compiler_seconds),
        "flops_over_momentum": report.over_momentum(lambda step: step.flops),
    }


def step_as_dict(step: StepCost | Misfit) -> dict[str, Any]:
    """Every number of a step, for JSON."""
    if isinstance(step, Misfit):
        return dataclasses.asdict(step)
    derived = {"seconds": step.seconds, "memory_total": step.memory.total}
    return dataclasses.asdict(step) | derived | {"roofline": _roofline_as_dict(step)}


def _roofline_as_dict(step: StepCost) -> dict[str, Any]:
    return dataclasses.asdict(step.roofline) | {"seconds": step.roofline.seconds, "bound": step.roofline.bound}


def to_table(reports: Sequence[Report]) -> Table:
    """One column a report, one line a number; the caption cites the peaks."""
    names = ", ".join(dict.fromkeys(report.tpu.name for report in reports))
    table = Table(
        title=f"Preflight on {names}", caption=_sources(reports), caption_justify="left", title_justify="left"
    )
    table.add_column("per step and device")
    for report in reports:
        table.add_column(report.config, justify="right", overflow="fold")
    for label, show in _LINES:
        cells = [show(report) for report in reports]
        if set(cells) != {"-"}:
            table.add_row(label, *cells)
    for kind in dict.fromkeys(t.kind for r in reports if isinstance(r.step, StepCost) for t in r.step.traffic):
        table.add_row(kind, *(_traffic(report, kind) for report in reports))
    for group in dict.fromkeys(group for report in reports for group in report.flagged):
        table.add_row(f"with XLA flags {group}: time, memory", *(_with_flags(report, group) for report in reports))
    for report in reports:
        for suggestion in report.suggestions:
            table.add_row(f"[bold]{_escaped(suggestion.change)}[/bold]", _verdict(report, suggestion.result))
    return table


def _verdict(report: Report, step: StepCost | Misfit) -> str:
    if isinstance(step, Misfit):
        return f"[red]does not fit[/red]: {_gib(step.needed)} of {_gib(step.capacity)}"
    return f"[green]fits[/green]: {_gib(step.memory.total)} of {_gib(report.tpu.hbm_per_device)}"


def _with_flags(report: Report, group: str) -> str:
    """What a group of XLA's flags does to the step's time and memory."""
    step, flagged = report.step, report.flagged.get(group)
    if not (isinstance(step, StepCost) and isinstance(flagged, StepCost)):
        return "-" if flagged is None else _verdict(report, flagged)
    time = "not known"
    if step.compiler_seconds and flagged.compiler_seconds:
        time = f"{flagged.compiler_seconds / step.compiler_seconds - 1:+.2%}"
    return f"{time}, {flagged.memory.total / step.memory.total - 1:+.1%}"


def _of_step(show: Callable[[StepCost], str]) -> Callable[[Report], str]:
    return lambda report: show(report.step) if isinstance(report.step, StepCost) else "-"


def _compiler_seconds(step: StepCost) -> str:
    if step.compiler_seconds is None:
        return f"none: {step.compiler_note}"
    return _ms(step.compiler_seconds) + (f" ({step.compiler_note})" if step.compiler_note else "")


def _share(quantity: Callable[[StepCost], float | None]) -> Callable[[Report], str]:
    def show(report: Report) -> str:
        share = report.over_momentum(quantity)
        return "-" if share is None else f"{share:+.2%}"

    return show


def _duration(report: Report) -> str:
    if report.hours is None or report.tpu_hours is None:
        return "-"
    return f"{report.hours:.4g} h, {report.tpu_hours:.4g} TPU-hours (chips), {report.total_steps:,} steps"


def _input_rate(report: Report) -> str:
    rate = report.images_per_host_second
    return "-" if rate is None else f"{rate:,.0f} images/s"


_LINES: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("slice", lambda r: f"{r.tpu.name}: {r.tpu.chips} chips, {r.tpu.devices} devices, {r.tpu.hosts} hosts"),
    ("memory", lambda r: _verdict(r, r.step)),
    ("  arguments (state, batch)", _of_step(lambda s: _gib(s.memory.arguments))),
    ("  temporaries", _of_step(lambda s: _gib(s.memory.temporaries))),
    ("  other outputs", _of_step(lambda s: _gib(s.memory.outputs))),
    ("  code", _of_step(lambda s: _gib(s.memory.code))),
    ("FLOPs", _of_step(lambda s: f"{s.flops / 1e9:,.2f} G")),
    ("bytes accessed", _of_step(lambda s: f"{s.bytes / 1e9:,.2f} GB")),
    ("roofline", _of_step(lambda s: f"{_ms(s.roofline.seconds)}, {s.roofline.bound}-bound")),
    ("  compute", _of_step(lambda s: _ms(s.roofline.compute))),
    ("  memory", _of_step(lambda s: _ms(s.roofline.memory))),
    ("  interconnect", _of_step(lambda s: _ms(s.roofline.interconnect))),
    ("compiler's estimate", _of_step(_compiler_seconds)),
    ("over plain momentum: time", _share(lambda s: s.compiler_seconds)),
    ("over plain momentum: FLOPs", _share(lambda s: s.flops)),
    ("whole training, by the best estimate", _duration),
    ("input that each host must deliver", _input_rate),
    ("compiled in", _of_step(lambda s: f"{s.compile_seconds:.0f} s")),
)


def _traffic(report: Report, kind: str) -> str:
    traffic = report.step.traffic if isinstance(report.step, StepCost) else ()
    found = [t for t in traffic if t.kind == kind]
    return f"{found[0].count:g} x, {found[0].bytes / 1e6:,.2f} MB" if found else "0"


def _sources(reports: Sequence[Report]) -> str:
    chips = {report.tpu.chip.kind: report.tpu.chip for report in reports}
    return "\n".join(
        f"{kind} chip: {c.flops / 1e12:g} TFLOP/s bf16, {c.hbm_bytes / GIB:g} GiB at {c.hbm_bandwidth / 1e9:g} GB/s, "
        f"{c.links} links of {c.link_bandwidth / 1e9:g} GB/s each way ({c.source})"
        for kind, c in chips.items()
    )


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.2f} MiB"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
