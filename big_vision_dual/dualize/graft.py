"""Grafts a target_norm table onto optax: momentum, then every atom's dual map, scaled to its target norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from big_vision_dual import tables, trees
from big_vision_dual.dualize import atoms as atoms_lib
from big_vision_dual.dualize import groups as groups_lib
from big_vision_dual.dualize import polar as polar_lib
from big_vision_dual.dualize.placement import Placement
from big_vision_dual.tables.schema import TargetNormTable

_FALLBACKS = ("adam", "dualize")


class DualizeState(NamedTuple):
    """Momentum of one group, as a stack (B, n, m)."""

    momentum: jax.Array


def scale_by_dualize(
    table: TargetNormTable | str,
    *,
    momentum: float = 0.95,
    momentum_kind: str = "ema",
    nesterov: bool = False,
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
    per_head: bool = False,
    scale_floor: bool = False,
    fallback: Sequence[tuple[str, str]] = (),
    fallback_scale: float = 1.0,
    mu_dtype: Any = jnp.float32,
    shard_axis: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    target_norms: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """Steepest descent under the modular norm: every atom's update has the table's target_norm in the atom's own norm.

        m <- momentum m + (1 - momentum) g          (with nesterov: the direction is momentum m + (1 - momentum) g)
        update = target_norm * dual(direction)      (`atoms.dual`; arXiv 2405.14813, 2410.21265)

    The update points uphill: follow with `optax.scale_by_learning_rate`. All atoms of one kind and shape are one
    stack; `optax.partition` gives each stack its transformation.

    table: a table, a path, or a name in norm_cache; checked against the parameters at init (`tables.check`).
    momentum_kind: 'ema' as above, or 'trace' (m <- momentum m + g). Dual maps ignore the scale of their argument, so
      the two give the same updates; the stored momentum differs.
    polar, dtype: see `polar.orthogonalize`.
    per_head: a Linear with fan-out (heads, d_head), as query, key and value, counts as one Linear per head; each head's
      update then has the target norm in the norm of a Linear fan_in -> d_head.
    scale_floor: Linear updates are scaled by max(1, sqrt(fan_out/fan_in)); with fan_out < fan_in they exceed the
      target norm by sqrt(fan_in/fan_out), as in Muon and the first attempt at a dualized ViT.
    fallback: ordered (regex of the whole path, kind) pairs, the first match wins; kind 'adam' sends a leaf to
      `optax.scale_by_adam` (its defaults), 'dualize' exempts it from later pairs.
    fallback_scale: factor on Adam's update: the ratio of its learning rate to the dualized one.
    mu_dtype: of the stored momentum.
    shard_axis, mesh: shard momentum and orthogonalization over this mesh axis (see `placement`).
    target_norms: {row.key: scalar, or vector over axis 0} in place of the table's; may be traced, for vmapped sweeps.
    """
    table = tables.resolve(table)
    if momentum_kind not in ("ema", "trace"):
        raise ValueError(f"momentum_kind is {momentum_kind!r}; possible: 'ema', 'trace'.")
    polar_lib.get(polar)  # an unknown name fails here, not in the first step
    gradient_weight = 1 - momentum if momentum_kind == "ema" else 1.0
    placement = Placement(shard_axis, mesh)
    kinds = _kinds(table, fallback)
    dualized = [row for row in table.rows if kinds[row.path] == "dualize"]
    groups = groups_lib.make(dualized, per_head=per_head, scale_floor=scale_floor, target_norms=target_norms)
    transforms = {
        name: _dualize_group(group, momentum, gradient_weight, nesterov, polar, dtype, mu_dtype, placement)
        for name, group in groups.items()
    }
    transforms["adam"] = optax.chain(optax.scale_by_adam(), optax.scale(fallback_scale))
    labels = {layout.key: name for name, group in groups.items() for layout in group.layouts}
    labels |= {row.key: "adam" for row in table.rows if kinds[row.path] == "adam"}

    def partition(atoms: Mapping[str, Any]) -> optax.GradientTransformation:
        present = {key: labels[key] for key in atoms}
        used = set(present.values())
        return optax.partition({name: tx for name, tx in transforms.items() if name in used}, present)

    def init(params: Any) -> Any:
        tables.check(table, params)
        atoms = groups_lib.split(params, table)
        return partition(atoms).init(atoms)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        atoms = groups_lib.split(updates, table)
        directions, state = partition(atoms).update(atoms, state)
        return groups_lib.join(directions, updates, table), state

    return optax.GradientTransformation(init, update)


def _kinds(table: TargetNormTable, fallback: Sequence[tuple[str, str]]) -> dict[str, str]:
    """{path: 'adam' | 'dualize'}."""
    unknown = sorted({kind for _, kind in fallback} - set(_FALLBACKS))
    if unknown:
        raise ValueError(f"fallback kinds {unknown}; possible: {', '.join(_FALLBACKS)}.")
    return trees.first_match([*fallback, (".*", "dualize")], [row.path for row in table.rows], "fallback")


def _dualize_group(
    group: groups_lib.Group,
    momentum: float,
    gradient_weight: float,
    nesterov: bool,
    polar: str,
    dtype: str,
    mu_dtype: Any,
    placement: Placement,
) -> optax.GradientTransformation:
    """One group's momentum and dual, on {key: array} with `optax.MaskedNode` at the keys of other groups."""

    def members(atoms: Mapping[str, Any]) -> tuple[groups_lib.Group, dict[str, jax.Array]]:
        present = {key: atom for key, atom in atoms.items() if not isinstance(atom, optax.MaskedNode)}
        return group.only(present), present

    def init(params: Mapping[str, Any]) -> DualizeState:
        present, _ = members(params)
        return DualizeState(placement.momentum(jnp.zeros(present.shape, mu_dtype)))

    def update(updates: Mapping[str, Any], state: DualizeState, params: Any = None) -> tuple[Any, DualizeState]:
        del params
        present, gradients = members(updates)
        gradient = gradient_weight * placement.momentum(present.pack(gradients))
        mu = momentum * state.momentum.astype(jnp.float32) + gradient
        direction = momentum * mu + gradient if nesterov else mu
        dual = _dual(present, direction, polar, dtype, placement)
        new_state = DualizeState(placement.momentum(mu.astype(mu_dtype)))
        return {**updates, **present.unpack(dual, gradients)}, new_state

    return optax.GradientTransformation(init, update)


def _dual(group: groups_lib.Group, direction: jax.Array, polar: str, dtype: str, placement: Placement) -> jax.Array:
    """target_norm * dual(direction) of a whole stack."""
    if atoms_lib.ATOMS[group.atom].spectral:
        direction = placement.whole_matrices(direction)
    else:
        direction = placement.replicated(direction)  # small vectors: not worth a second layout
    unit = atoms_lib.unit_dual(group.atom, direction, polar, dtype)
    unit = placement.replicated(unit)[: group.shape[0]]
    return (group.gains * group.target_norms)[:, None, None] * unit
