"""Keeps weights where they belong: decay by a rate or a radius, hyperballs, projection (docs/size.md)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize import groups as groups_lib
from big_vision_dual.core.dualize.placement import Placement
from big_vision_dual.core.tables.schema import Row, TargetNormTable

KINDS = ("none", "decay", "radius", "hyperball", "project")
FORMER_NAMES = {"frank_wolfe": "radius"}
NORMS: dict[str, tuple[Callable[[str, jax.Array, jax.Array], jax.Array], groups_lib.OverTaps]] = {
    "frobenius": (geometry.size, geometry.rms),
    "own": (geometry.weight_norm, jnp.max),
}
"""What a hyperball holds, of a matrix and over a convolution's taps: both are 1 for a unit dual (`step_size` says how
they differ)."""

Rate = float | Callable[[Any], Any]
ByRow = float | Sequence[tuple[str, float | None]]
"""One number for all atoms, or ordered (regex, number or None) pairs; a regex matches an atom kind or a whole path."""


class HyperballState(NamedTuple):
    """sizes: {row.key: norm to hold, one entry per batch index}; 0 leaves a weight free. float32."""

    sizes: dict[str, jax.Array]


def project(
    params: Any,
    table: TargetNormTable | str,
    *,
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
    shard_axis: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Any:
    """Every atom back to unit norm in its own norm, Modula's projection; structure and dtypes of `params`.

    Linear: the nearest matrix with all singular values sqrt(fan_out/fan_in). MaxLinear: columns of length
    1/sqrt(fan_in). Embed: rows of RMS 1. DepthwiseConv: each channel's taps on their sphere. Bias and Scale, which
    start at 0 or carry their size as meaning, only return to the unit ball: RMS(b) <= 1, abs(g) <= 1. What is zero
    stays zero; a Rate and atoms of target_norm 0 stay as they are.

    shard_axis, mesh: each device projects its share of the matrices (see `placement`).
    """
    table, placement = tables.resolve(table), Placement(shard_axis, mesh)

    def moved(group: groups_lib.Group, stack: jax.Array) -> jax.Array:
        return geometry.project(group.atom, stack, _gains(group, stack), polar, dtype)

    weights = groups_lib.split(params, table)
    projected = dict(weights)  # empty leaves are in no group
    for group, stack in _stacks(weights, table, placement):
        kept = group.unpack(placement.replicated(jnp.where(_massful(group, stack), moved(group, stack), stack)))
        projected |= {key: weight.astype(weights[key].dtype) for key, weight in kept.items()}
    return groups_lib.join(projected, params, table)


def constrain(
    kind: str,
    table: TargetNormTable | str,
    *,
    rate: Rate = 0.0,
    radius: ByRow = 1.0,
    cautious: bool = False,
    size: ByRow | None = None,
    norm: str = "frobenius",
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
    shard_axis: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    target_norms: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """The last link of an optax chain: adds to the step u (already times -lr) what keeps the weights w bounded.

        'none'       w <- w + u
        'decay'      w <- (1 - rate) w + u for all atoms but Bias, Scale and Rate
        'radius'     w <- (1 - g) w + u with g = rate * target_norm / radius, for all atoms but Rate
        'hyperball'  w <- (w + u) * size / norm(w + u) for the same atoms as 'decay'
        'project'    w <- project(w + u)

    With rate = lr * schedule, the rate that made u, 'radius' is Frank-Wolfe over the ball of that radius in each atom's
    norm: u = -g * radius * dual, so a weight that starts in the ball stays in it (arXiv 2502.07529). Random gradients
    leave it far inside, at `step_size.settled`: so radii of 10 to 50 are usual, and 1 is the narrowest of all.

    rate: a number or a schedule of the step count.
    radius: above 0; None in a rule leaves an atom alone: `[("Bias|Scale", None), ("head/.*", 500), (".*", 25)]`.
    cautious: 'decay' and 'radius' only where the step itself brings an entry closer to 0 (arXiv 2510.12402).
    size: the norm that a hyperball holds, or rules for it; None for the one at `init`. What is 0 then stays free.
    norm: of a hyperball, 'frobenius' (over that of a unit dual, see `step_size`) or 'own', the atom's.
    polar, dtype: of 'project'. shard_axis, mesh: 'project' and hyperballs in the own norm share their work over this
      axis (see `placement`); the others work entry by entry.
    target_norms: of 'radius', in place of the table's, as in `scale_by_dualize`.

    Wrap in `optax.masked` for leaves that are frozen or not dualized.
    """
    kind = FORMER_NAMES.get(kind, kind)
    if kind not in KINDS:
        raise ValueError(f"weight constraint is {kind!r}; possible: {', '.join(map(repr, KINDS))}.")
    if norm not in NORMS:
        raise ValueError(f"norm of a hyperball is {norm!r}; possible: {', '.join(map(repr, NORMS))}.")
    table, placement = tables.resolve(table), Placement(shard_axis, mesh)
    if kind == "none":
        return optax.identity()
    if kind == "decay":
        return _shrink(kind, table, rate, {row.key: float(_is_matrix(row)) for row in table.rows}, cautious)
    if kind == "radius":
        return _shrink(kind, table, rate, _over_radius(table, radius, target_norms), cautious)
    if kind == "hyperball":
        return _hyperball(table, None if size is None else by_row(size, table, "size"), norm, placement)
    options = {"polar": polar, "dtype": dtype, "shard_axis": shard_axis, "mesh": mesh}
    return optax.stateless(
        lambda updates, params: _difference(
            project(optax.apply_updates(_required(params, kind), updates), table, **options), params
        )
    )


def by_row(values: ByRow, table: TargetNormTable, what: str) -> dict[str, float | None]:
    """{row.key: number} from one number or from rules, the first match wins; None leaves an atom alone.

    Raises `ValueError` for a number that is not above 0 and for atoms that no rule covers.
    """
    rules = values if isinstance(values, list | tuple) else [(".*", values)]
    for _, value in rules:
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(
                f"{what} is {value}; possible: a number above 0, or rules such as [('Bias|Scale', None), ('.*', 25)] "
                "with None for what is left alone."
            )
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    found, uncovered = {}, []
    for row in table.rows:
        matching = (value for pattern, value in compiled if pattern.fullmatch(row.atom) or pattern.fullmatch(row.path))
        try:
            found[row.key] = next(matching)
        except StopIteration:
            uncovered.append(row.key)
    if uncovered:
        raise ValueError(
            f"{what}: {len(uncovered)} atoms match no pattern: {', '.join(uncovered[:5])}. Patterns, first match wins: "
            f"{[pattern for pattern, _ in rules]}. Add a last rule ('.*', number or None) to cover the rest."
        )
    return found


def _over_radius(table: TargetNormTable, radius: ByRow, target_norms: Mapping[str, Any] | None) -> dict[str, Any]:
    """{row.key: target_norm / radius}, broadcastable against the row's array; 0 where an atom is left alone."""
    radii = by_row(radius, table, "radius")

    def shrinkage(row: Row) -> Any:
        of_row = radii[row.key]
        if of_row is None or geometry.ATOMS[row.atom].projects_to == "itself":
            return 0.0
        value = row.target_norm if target_norms is None else target_norms[row.key]
        target_norm = value if isinstance(value, jax.Array) else np.asarray(value, np.float32)
        return target_norm.reshape(target_norm.shape + (1,) * (target_norm.ndim * (len(row.shape) - 1))) / of_row

    return {row.key: shrinkage(row) for row in table.rows}


def _shrink(
    kind: str, table: TargetNormTable, rate: Rate, shares: Mapping[str, Any], cautious: bool
) -> optax.GradientTransformation:
    """Adds -rate(count) * share * w to each atom's update; cautiously only where update and weight differ in sign."""

    def init(params: Any) -> Any:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = rate(state.count) if callable(rate) else rate
        weights = groups_lib.split(_required(params, kind), table)

        def shrunk(key: str, step: jax.Array) -> jax.Array:
            if isinstance(shares[key], float) and shares[key] == 0:
                return step
            decay = now * shares[key] * weights[key]
            decay = jnp.where(step * weights[key] <= 0, decay, 0) if cautious else decay
            return (step - decay).astype(step.dtype)

        steps = {key: shrunk(key, step) for key, step in groups_lib.split(updates, table).items()}
        return groups_lib.join(steps, updates, table), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def _hyperball(
    table: TargetNormTable, given: Mapping[str, float | None] | None, norm: str, placement: Placement
) -> optax.GradientTransformation:
    """Rescales matrices after the step; see `constrain`."""
    held = {row.key: row for row in table.rows if _is_matrix(row) and (given is None or given[row.key] is not None)}
    only = dataclasses.replace(table, rows=tuple(held.values()))
    of_matrix, over_taps = NORMS[norm]

    def norms(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        measured: dict[str, jax.Array] = {}
        for group, stack in _stacks({key: w for key, w in weights.items() if key in held}, only, placement):
            values_B = of_matrix(group.atom, stack, _gains(group, stack))
            measured |= group.per_row(placement.replicated(values_B), over_taps)
        return measured

    def init(params: Any) -> HyperballState:
        measured = norms(groups_lib.split(params, table))
        if given is None:
            return HyperballState(measured)
        return HyperballState({key: jnp.full_like(size, given[key] or 0.0) for key, size in measured.items()})

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, HyperballState]:
        weights = groups_lib.split(_required(params, "hyperball"), table)
        steps = groups_lib.split(updates, table)
        moved = {key: weights[key] + steps[key] for key in state.sizes}
        for key, now in norms(moved).items():
            factor = jnp.where((state.sizes[key] > 0) & (now > 0), state.sizes[key] / jnp.where(now > 0, now, 1), 1)
            shape = [size if axis in held[key].batch else 1 for axis, size in enumerate(held[key].shape)]
            rescaled = moved[key] * factor.reshape(shape) - weights[key]
            steps[key] = rescaled.astype(steps[key].dtype)
        return groups_lib.join(steps, updates, table), state

    return optax.GradientTransformation(init, update)


def _stacks(weights: Mapping[str, jax.Array], table: TargetNormTable, placement: Placement):
    """(group, its stack of whole matrices, shared by the devices of a mesh axis) for all groups that are present."""
    for group in groups_lib.make(table.rows).values():
        present = group.only(weights)
        if present.layouts:
            yield present, placement.whole_matrices(present.pack(weights))


def _gains(group: groups_lib.Group, stack: jax.Array) -> jax.Array:
    """(B,), padded to the stack's length, which is that of a sharded stack."""
    return jnp.pad(jnp.asarray(group.gains), (0, len(stack) - len(group.gains)), constant_values=1.0)


def _massful(group: groups_lib.Group, stack: jax.Array) -> jax.Array:
    target_norms = jnp.asarray(group.target_norms)
    return jnp.pad(target_norms, (0, len(stack) - len(target_norms)))[:, None, None] > 0


def _is_matrix(row: Row) -> bool:
    """Whether the row's size is free to be held; others start at 0 or mean something at their present size."""
    return geometry.ATOMS[row.atom].projects_to == "sphere"


def _required(params: Any, kind: str) -> Any:
    if params is None:
        raise ValueError(f"weight constraint {kind!r} moves the weights: call update(updates, state, params).")
    return params


def _difference(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: n - o, new, old)
