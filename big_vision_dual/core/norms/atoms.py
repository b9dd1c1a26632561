"""Atoms, the modules that own weights, under given conventions and masses."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from big_vision_dual.core.norms.bonds import NORMALIZE
from big_vision_dual.core.norms.module import Atom, Bond, Module, NormError

KINDS = ("Linear", "MaxLinear", "Embed", "Bias", "Scale", "Rate", "DepthwiseConv", "Conv")
Size = int | Sequence[int]
"""One axis, or several: (heads, d_head), (p, p, channels)."""
Part = tuple[int, int, int] | None
"""(axis, start, stop) of a leaf that holds several atoms; None: the whole leaf."""


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Choices of sensitivities under which a table is built.

    well_normed: a constant ignores its input (s = 0), the mean over tokens has s = 1 (the token norm is a
    maximum). first_attempt: the first public dualized ViT's, where a bias counted s = 1 and the mean over n tokens
    s = 1/n; its norms had attention's factor before `out` wherever its model had it (follows_attention_out).
    """

    name: str
    constant: float
    mean_shrinks: bool
    follows_attention_out: bool = True

    def mean_over(self, tokens: int) -> Bond:
        return Bond.of(f"mean over {tokens} tokens", 1 / tokens if self.mean_shrinks else 1.0)


CONVENTIONS = {
    c.name: c for c in (Conventions("well_normed", 0.0, False), Conventions("first_attempt", 1.0, True, False))
}
_FORMER_NAMES = {"seed": "first_attempt"}


def named_conventions(name: str) -> Conventions:
    """Looks conventions up; 'seed' is the former name of 'first_attempt'. Raises `NormError` for another."""
    known = _FORMER_NAMES.get(name, name)
    if known not in CONVENTIONS:
        raise NormError(f"norms.conventions is {name!r}; possible: {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[known]


@dataclasses.dataclass(frozen=True)
class Atoms:
    """Makes atoms with the masses of one configuration. Paths may hold "{layer}", see `Atom.at_layer`.

    masses: of each kind. roles: factors on the masses of those atoms in whose path a regex is found.
    """

    conventions: Conventions
    masses: Mapping[str, float]
    roles: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, conventions: str = "well_normed", masses: Mapping[str, float] | None = None) -> Atoms:
        """masses: {atom kind, or a regex with a slash that is searched for in paths: factor}; an atom's are multiplied.

        {"Bias": .1, "Dense_1/kernel": 4, "(query|key)/": .5} gives the bias of a query .05, whatever the order.
        Raises `NormError` for unknown conventions, an unknown atom kind, what is no regex, or a mass that is not
        positive.
        """
        chosen, masses = named_conventions(conventions), dict(masses or {})
        roles = {name: mass for name, mass in masses.items() if "/" in name}
        unknown = sorted(set(masses) - set(KINDS) - set(roles))
        if unknown:
            raise NormError(
                f"norms.masses names unknown atom kinds {unknown}; possible: {', '.join(KINDS)}, or regexes on paths, "
                "which hold a slash ('Dense_1/kernel')."
            )
        for pattern in roles:
            _compiled(pattern)
        return cls(chosen, {kind: masses.get(kind, 1.0) for kind in KINDS}, roles)

    def unused(self, tree: Module) -> list[str]:
        """The regexes of `roles` that are found in no path of a tree."""
        paths: list[str] = []

        def note(atom: Atom) -> Atom:
            paths.append(atom.path)
            return atom

        tree.map_atoms(note)
        return [pattern for pattern in self.roles if not any(re.search(pattern, path) for path in paths)]

    def linear(self, path: str, fan_in: Size, fan_out: Size, part: Part = None, *, out_first: bool = False) -> Atom:
        """x W; the leaf has shape fan_in + fan_out, e.g. (d, heads, d_head) for a query kernel.

        part: (axis, start, stop) of the leaf where it holds several atoms, sizes then being the part's.
        out_first: the leaf has shape fan_out + fan_in, as PyTorch's and Equinox's weights have.
        """
        return self._atom("Linear", path, fan_in, fan_out, 1.0, part, out_first)

    def max_linear(self, path: str, fan_in: Size, fan_out: Size, part: Part = None) -> Atom:
        """x W whose outputs are measured by the largest of them, not by their RMS: each counts on its own."""
        return self._atom("MaxLinear", path, fan_in, fan_out, 1.0, part)

    def embed(self, path: str, rows: int, dim: int) -> Atom:
        """Row lookup in a (rows, dim) leaf."""
        return self._atom("Embed", path, rows, dim, 1.0)

    def positions(self, path: str, tokens: int, dim: int) -> Atom:
        """Learned positions, (1, tokens, dim): a constant with one row a token."""
        return self._atom("Embed", path, (1, tokens), dim, self.conventions.constant)

    def bias(self, path: str, shape: Size, part: Part = None) -> Atom:
        """A constant vector that ignores its input (biases, the class token, the probe)."""
        return self._atom("Bias", path, (), shape, self.conventions.constant, part)

    def scale(self, path: str, shape: Size, part: Part = None) -> Atom:
        """Elementwise gain x * g."""
        return self._atom("Scale", path, (), shape, 1.0, part)

    def rate(self, path: str, shape: Size, *, constant: bool) -> Atom:
        """Logarithm of a decay or of a step size, one an entry. constant: it ignores its input, as a bias does."""
        return self._atom("Rate", path, (), shape, self.conventions.constant if constant else 1.0)

    def conv(self, path: str, taps: Size, fan_in: int, fan_out: int) -> Atom:
        """Convolution; the leaf has shape taps + (fan_in, fan_out), e.g. (3, 3, 64, 64): Modula's norm, tap by tap.

        A kernel that reads each input once, as a patch embedding, is better one `linear` of fan-in taps * channels.
        """
        return self._atom("Conv", path, (*_axes(taps), fan_in), fan_out, 1.0)

    def depthwise_conv(self, path: str, taps: Size, channels: int, part: Part = None) -> Atom:
        """Convolution per channel; the leaf has shape taps + (1, channels)."""
        return self._atom("DepthwiseConv", path, (*_axes(taps), 1), channels, 1.0, part)

    def dense(self, path: str, fan_in: Size, fan_out: Size) -> Module:
        """x W + b, Flax's Dense or DenseGeneral: leaves `path`/kernel and `path`/bias."""
        return self.linear(f"{path}/kernel", fan_in, fan_out) + self.bias(f"{path}/bias", fan_out)

    def layer_norm(self, path: str, dim: int) -> Module:
        """Normalization, gain and bias; the normalization itself has sensitivity 1 (docs/norms.md)."""
        return self.scale(f"{path}/scale", (dim,)) + self.bias(f"{path}/bias", (dim,))

    def rms_norm(self, path: str, dim: int) -> Module:
        """Normalization and gain, without a bias."""
        return self.scale(f"{path}/scale", dim) @ NORMALIZE

    def mass(self, kind: str, path: str) -> float:
        """Of an atom, before any taring."""
        return self.masses[kind] * math.prod(x for pattern, x in self.roles.items() if re.search(pattern, path))

    def _atom(
        self, kind: str, path: str, fan_in: Size, fan_out: Size, sensitivity: float, part: Part = None,
        out_first: bool = False,
    ) -> Atom:  # fmt: skip
        mass = self.mass(kind, path)
        if not (math.isfinite(mass) and mass > 0):
            raise NormError(
                f"{kind} {path} has mass {mass:g}: it would never be updated. Give norms.masses.{kind} a positive "
                'number; to freeze parameters use config.schedule = [(regex, None), (".*", ...)].'
            )
        first, second = (fan_out, fan_in) if out_first else (fan_in, fan_out)
        shape = (*_axes(first), *_axes(second))
        axes = tuple(range(len(shape)))
        sides = axes[: len(_axes(first))], axes[len(_axes(first)) :]
        ins, outs = reversed(sides) if out_first else sides
        return Atom(mass, sensitivity, path, kind, shape, ins, outs, slice=part)


def _axes(size: Size) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise NormError(f"norms.masses has {pattern!r}, which is no regular expression: {error}.") from error
