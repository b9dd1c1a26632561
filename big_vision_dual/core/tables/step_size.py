"""What a step does to an atom, in units that recipes can be compared in, and where its size settles.

A step of a row has norm lr * target_norm in the row's own norm. Standard library only.

*Size*, here and in `dualize.measure.atom_sizes`: Frobenius norm over that of a unit dual of the same shape, so 1 for a
matrix of dual initialization. It is the RMS over singular values (of a Linear) or vectors (of the other atoms) where
the atom's own norm is the maximum: a matrix of random entries has an own norm of up to twice its size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from big_vision_dual.core.tables.schema import Row

GAINS: dict[str, Callable[[int, int], float]] = {
    "Linear": lambda fan_in, fan_out: math.sqrt(fan_out / fan_in),
    "MaxLinear": lambda fan_in, _: 1 / math.sqrt(fan_in),
    "Embed": lambda _, fan_out: math.sqrt(fan_out),
    "Bias": lambda _, fan_out: math.sqrt(fan_out),
    "Scale": lambda *_: 1.0,
    "Rate": lambda *_: 1.0,
    "DepthwiseConv": lambda fan_in, _: 1 / math.sqrt(fan_in),
    "Conv": lambda fan_in, fan_out: math.sqrt(fan_out / fan_in),  # over the number of taps, see `gain`
}
"""(fan_in, fan_out) -> largest singular value, or length of each vector, of a dual of unit norm."""

_COLUMNS = ("MaxLinear", "DepthwiseConv")  # their vectors run along fan_in
_SPECTRAL = ("Linear", "Conv")
_ENTRIES = ("Scale", "Rate")  # their vectors are single entries


def fans(row: Row) -> tuple[int, int]:
    """(fan_in, fan_out) of one matrix of a row, of a Conv that of one tap; vectors have fan_in 1."""
    fan_in_axes = row.fan_in[len(tap_axes(row)) :]
    fan_in, fan_out = (math.prod(row.shape[axis] for axis in axes) for axes in (fan_in_axes, row.fan_out))
    return fan_in, fan_out


def tap_axes(row: Row) -> tuple[int, ...]:
    """Axes of a Conv over which it has a matrix each; none for other atoms."""
    return row.fan_in[:-1] if row.atom == "Conv" else ()


def gain(row: Row) -> float:
    """Largest singular value (Linear, a tap of Conv) or length of a vector (other atoms) of a step of norm 1."""
    return GAINS[row.atom](*fans(row)) / math.prod(row.shape[axis] for axis in tap_axes(row))


def unit_rms(row: Row) -> float:
    """RMS of an entry of a step of norm 1."""
    fan_in, fan_out = fans(row)
    if row.atom in _SPECTRAL:
        return gain(row) / math.sqrt(max(fan_in, fan_out))
    length = fan_in if row.atom in _COLUMNS else 1 if row.atom in _ENTRIES else fan_out
    return gain(row) / math.sqrt(length)


def unit_spectral(row: Row) -> float | None:
    """Largest singular value of a step of norm 1 (of a gain: as a diagonal); None where the norm leaves it open."""
    return gain(row) if row.atom in ("Linear", "Bias", "Scale") else None


def largest(value: float | tuple[float, ...]) -> float:
    """A row's number, of stacked layers the largest."""
    return max(value) if isinstance(value, tuple) else value


@dataclasses.dataclass(frozen=True)
class Momentum:
    """How long a direction lasts: `nesterov` as in `scale_by_dualize`."""

    beta: float = 0.95
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ValueError(f"momentum is {self.beta}; possible: a number in [0, 1).")

    @property
    def share(self) -> float:
        """Autocorrelation of independent gradients' directions k steps apart, over beta^k."""
        if not self.nesterov:
            return 1.0
        beta = self.beta
        variance = (1 + beta) ** 2 + beta**4 / (1 - beta**2)  # of (beta m + (1 - beta) g) / (1 - beta)
        return beta * (1 + beta + beta**3 / (1 - beta**2)) / variance

    def gain(self, decay: float = 0.0) -> float:
        """Variance of a sum of steps over that of as many independent ones, while `decay` forgets the older ones.

        Autocorrelations a beta^k, forgotten by phi = 1 - decay a step, sum to 1 + 2 a phi beta / (1 - phi beta):
        (1 + beta) / (1 - beta) for a small decay.
        """
        kept = (1 - decay) * self.beta
        return 1 + 2 * self.share * kept / (1 - kept)


def settled(step: float, decay: float, momentum: Momentum) -> float:
    """The size at which a weight settles: random steps of norm `step` against a decay of this share a step.

        step * sqrt(gain / (decay (2 - decay)))      about step * sqrt((1 + beta) / ((1 - beta) 2 decay))

    `decay` = step / R gives sqrt(step R (1 + beta) / (2 (1 - beta))). Infinite without decay. Gradients that agree from
    step to step make it larger, up to step / decay.
    """
    return step * math.sqrt(momentum.gain(decay) / (decay * (2 - decay))) if decay > 0 else math.inf


def adam_step(lr: float, b1: float = 0.9) -> float:
    """RMS of an entry of Adam's step where gradients are noise: momentum averages, the denominator does not."""
    return lr * math.sqrt((1 - b1) / (1 + b1))
