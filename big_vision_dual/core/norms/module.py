"""The algebra of modules with mass and sensitivity, and its dry run (arXiv 2405.14813, section 3).

Modules are immutable values without weights. `outer @ inner` composes, `a + b` runs branches side by side
(a tuple, or its sum), `c * module` scales, `block ** depth` stacks, `module.tare(mass)` sets the mass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator


class NormError(ValueError):
    """A norm tree that has no well-defined norm, or a description of one that cannot be read."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A map with its share of feature learning, `mass`, and a Lipschitz estimate, `sensitivity`."""

    mass: float
    sensitivity: float

    def __post_init__(self) -> None:
        for name in ("mass", "sensitivity"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise NormError(f"{self}: {name} is {value}; possible: a finite number >= 0.")

    def __matmul__(self, inner: Module) -> Module:
        return Compose.of(self, inner)

    def __add__(self, other: Module) -> Module:
        return Parallel.of(self, other)

    def __rmul__(self, factor: float) -> Module:
        return Bond.of(f"multiplication by {factor:g}", abs(factor)) @ self

    def __pow__(self, depth: int) -> Module:
        """`depth` independent copies, the first one innermost; see `Atom.at_layer` for their paths."""
        if depth < 1:
            raise NormError(f"{self} ** {depth}: the exponent is a depth, a whole number >= 1.")
        stacked = self.map_atoms(lambda atom: atom.at_layer(0, depth))
        for layer in range(1, depth):
            stacked = self.map_atoms(lambda atom, layer=layer: atom.at_layer(layer, depth)) @ stacked
        return stacked

    def tare(self, absolute: float | None = None, *, relative: float | None = None) -> Module:
        """The same module with the masses of its atoms scaled so that they total `absolute`, or `relative` times as
        much as before; with neither to 1. 0 freezes it.
        """
        if absolute is not None and relative is not None:
            raise NormError(f"{self}.tare got absolute={absolute} and relative={relative}; give one of them.")
        if relative is not None:
            return self.map_atoms(lambda atom: dataclasses.replace(atom, mass=atom.mass * relative))
        total = 1.0 if absolute is None else absolute
        if self.mass == 0:
            raise NormError(f"{self} has no mass to tare to {total}; tare a module with atoms.")
        return self.map_atoms(lambda atom: dataclasses.replace(atom, mass=atom.mass * total / self.mass))

    def map_atoms(self, function: Callable[[Atom], Atom]) -> Module:
        """The same tree with every atom replaced by `function(atom)`."""
        raise NotImplementedError

    def targets(self, budget: float, downstream: float) -> Iterator[Target]:
        """One `Target` per atom, given the norm budget and the sensitivity of what follows the module."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Target:
    """What the dry run leaves at an atom: its target norm and the sensitivity downstream of it."""

    atom: Atom
    sensitivity: float
    target_norm: float


@dataclasses.dataclass(frozen=True)
class Atom(Module):
    """A module that owns weights: one leaf of the parameter tree, or a slice of one.

    Axes are those of the leaf, see `tables.schema.Row`. layer: (index, depth) where copies of a block
    share one stacked leaf, else None.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    layer: tuple[int, int] | None = None
    slice: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"

    def at_layer(self, index: int, depth: int) -> Atom:
        """The copy for one layer: "{layer}" in its path is filled in; without it the copies share a leaf."""
        if "{layer}" in self.path:
            return dataclasses.replace(self, path=self.path.replace("{layer}", str(index)))
        return dataclasses.replace(self, layer=(index, depth))

    def map_atoms(self, function: Callable[[Atom], Atom]) -> Module:
        return function(self)

    def targets(self, budget: float, downstream: float) -> Iterator[Target]:
        yield Target(self, downstream, budget)


@dataclasses.dataclass(frozen=True)
class Bond(Module):
    """A module without weights, such as an activation function."""

    name: str

    @classmethod
    def of(cls, name: str, sensitivity: float) -> Bond:
        return cls(0.0, float(sensitivity), name)

    def __str__(self) -> str:
        return self.name

    def map_atoms(self, function: Callable[[Atom], Atom]) -> Module:  # noqa: ARG002
        return self

    def targets(self, budget: float, downstream: float) -> Iterator[Target]:  # noqa: ARG002
        return iter(())


@dataclasses.dataclass(frozen=True)
class Compose(Module):
    """outer(inner(x)): mass adds, sensitivity multiplies."""

    outer: Module
    inner: Module

    @classmethod
    def of(cls, outer: Module, inner: Module) -> Compose:
        if inner.mass > 0 and outer.sensitivity == 0:
            raise NormError(
                f"{outer} has sensitivity 0, so nothing that feeds it can learn, yet {inner} has mass "
                f"{inner.mass:g}. Give {outer} a positive sensitivity, or tare {inner} to 0."
            )
        return cls(outer.mass + inner.mass, outer.sensitivity * inner.sensitivity, outer, inner)

    def __str__(self) -> str:
        return f"{self.outer} after {_innermost(self.inner)}" if isinstance(self.outer, Bond) else str(self.outer)

    def map_atoms(self, function: Callable[[Atom], Atom]) -> Module:
        return Compose.of(self.outer.map_atoms(function), self.inner.map_atoms(function))

    def targets(self, budget: float, downstream: float) -> Iterator[Target]:
        share = budget / self.mass if self.mass else 0.0
        through_outer = self.inner.mass * share / self.outer.sensitivity if self.inner.mass else 0.0
        yield from self.inner.targets(through_outer, downstream * self.outer.sensitivity)
        yield from self.outer.targets(self.outer.mass * share, downstream)


@dataclasses.dataclass(frozen=True)
class Parallel(Module):
    """(a(x), b(x), ...), or the sum of the branches: masses and sensitivities add."""

    branches: tuple[Module, ...]

    @classmethod
    def of(cls, *branches: Module) -> Parallel:
        return cls(sum(b.mass for b in branches), sum(b.sensitivity for b in branches), branches)

    def __str__(self) -> str:
        return f"({' + '.join(map(str, self.branches))})"

    def map_atoms(self, function: Callable[[Atom], Atom]) -> Module:
        return Parallel.of(*(branch.map_atoms(function) for branch in self.branches))

    def targets(self, budget: float, downstream: float) -> Iterator[Target]:
        share = budget / self.mass if self.mass else 0.0
        for branch in self.branches:
            yield from branch.targets(branch.mass * share, downstream)


def _innermost(module: Module) -> Module:
    return _innermost(module.outer) if isinstance(module, Compose) else module


IDENTITY = Bond.of("identity", 1.0)


def dry_run(module: Module, t: float = 1.0) -> tuple[Target, ...]:
    """Distributes a norm budget `t` over the atoms of a tree without touching an array.

    Composition gives inner t*(m_inner/m)/s_outer and outer t*(m_outer/m); branch i gets t*m_i/m
    (arXiv 2405.14813, section 3). Raises `NormError` if one atom stands in two places: its two budgets
    would overwrite each other.
    """
    targets = tuple(module.targets(t, 1.0))
    seen: set[tuple] = set()
    for atom in (target.atom for target in targets):
        place = (atom.path, atom.layer, atom.slice)
        if place in seen:
            raise NormError(f"{atom} is used twice in one tree. Give each use its own atom, with its own path.")
        seen.add(place)
    return targets
