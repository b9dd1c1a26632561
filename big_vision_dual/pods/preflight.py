"""Asks before a TPU is paid for: does a config fit a slice, how long does it take, what would make it fit?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_collections

from big_vision_dual.pods import xla_flags
from big_vision_dual.pods.step_cost import Misfit, StepCost, changed, measure
from big_vision_dual.pods.topologies import Slice
from big_vision_dual.train import optim


def momentum_only(config: Any) -> Any:
    """The same training with plain momentum in place of its optimizer, and of what holds dualized weights."""
    trace = ml_collections.ConfigDict({"decay": 0.9})
    return changed(config, optax_name="trace", optax=trace, weight_constraint=None)


@dataclass(frozen=True)
class Suggestion:
    """A change of the config that needs less memory, and what it does."""

    change: str
    result: StepCost | Misfit

    @property
    def fits(self) -> bool:
        return isinstance(self.result, StepCost)


def suggestions(
    config: Any, tpu: Slice, examples: int, misfit: Misfit, say: Callable[[str], None]
) -> Iterator[Suggestion]:
    """Compiles what may need less memory: each of `_lighter`, then accumulation, doubled until the step fits."""

    def tried(change: str, config: Any) -> Suggestion:
        say(f"compiling with {change}")
        return Suggestion(change, measure(config, tpu, examples))

    for change, variant in _lighter(config):
        yield tried(change, variant)
    accum = 2 ** math.ceil(math.log2(max(2.0, misfit.needed / misfit.capacity)))
    while config.input.batch_size % (accum * tpu.devices) == 0:
        suggestion = tried(f"--config.input.accum_freq={accum}", changed(config, input__accum_freq=accum))
        yield suggestion
        if suggestion.fits:
            return
        accum *= 2


def _lighter(config: Any) -> Iterator[tuple[str, Any]]:
    """(change, changed config): bfloat16 products, rematerialization, fsdp; what the config has already is left out."""
    model = config.get("model", {})
    if model.get("dtype_mm") == "float32":
        yield "--config.model.dtype_mm=bfloat16", changed(config, model__dtype_mm="bfloat16")
    if model.get("remat_policy") == "none":
        remat = "nothing_saveable"
        yield f"--config.model.remat_policy={remat}", changed(config, model__remat_policy=remat)
    fsdp = [(".*", 'fsdp(axis="data", min_size_to_shard_mb=1)')]
    if config.get("sharding_strategy") != fsdp:
        yield f"config.sharding_strategy = {fsdp}", changed(config, sharding_strategy=fsdp)


@dataclass(frozen=True)
class Report:
    """A config on a slice. `momentum` is the same training with plain momentum, `flagged` {group of XLA's flags: the
    step compiled with it}; rates and hours are of the step's best estimate, TPU-hours count chips."""

    config: str
    tpu: Slice
    batch_size: int
    total_steps: int
    step: StepCost | Misfit
    momentum: StepCost | Misfit | None
    suggestions: tuple[Suggestion, ...]
    flagged: Mapping[str, StepCost | Misfit] = field(default_factory=dict)

    @property
    def hours(self) -> float | None:
        return self.total_steps * self.step.seconds / 3600 if isinstance(self.step, StepCost) else None

    @property
    def tpu_hours(self) -> float | None:
        return self.hours and self.hours * self.tpu.chips

    @property
    def images_per_host_second(self) -> float | None:
        return self.batch_size / self.step.seconds / self.tpu.hosts if isinstance(self.step, StepCost) else None

    def over_momentum(self, quantity: Callable[[StepCost], float | None]) -> float | None:
        """Share by which the step's `quantity` exceeds plain momentum's; None where one of them is not known."""
        if not (isinstance(self.step, StepCost) and isinstance(self.momentum, StepCost)):
            return None
        ours, theirs = quantity(self.step), quantity(self.momentum)
        return ours / theirs - 1 if ours and theirs else None


def preflight(
    name: str,
    config: Any,
    tpu: Slice,
    examples: int,
    *,
    baseline: bool = True,
    flags: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Report:
    """Compiles the config's step for `tpu`, plain momentum's next to it, and smaller variants where it does not fit.

    flags: groups of XLA's flags with each of which the step is compiled once more.
    """
    say(f"compiling {name} for {tpu.name}")
    step = measure(config, tpu, examples)
    momentum, tried = None, ()
    if isinstance(step, Misfit):
        tried = tuple(suggestions(config, tpu, examples, step, say))
    elif baseline and optim.is_dualized(config):
        say("compiling the same with plain momentum")
        momentum = measure(momentum_only(config), tpu, examples)
    total_steps = optim.steps("total", config, examples, config.input.batch_size)
    flagged = {}
    for group in flags if isinstance(step, StepCost) else ():
        say(f"compiling with the XLA flags {group!r}")
        flagged[group] = measure(config, tpu, examples, xla_flags.of([group]))
    return Report(name, tpu, config.input.batch_size, total_steps, step, momentum, tried, flagged)
