"""Grafts a target_norm table onto optax: momentum, then every atom's dual map, scaled to its target norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from big_vision_dual.core import tables, trees
from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize import groups as groups_lib
from big_vision_dual.core.dualize import polar as polar_lib
from big_vision_dual.core.dualize.placement import Placement
from big_vision_dual.core.tables.schema import TargetNormTable

_FALLBACKS = ("adam", "dualize")
_MOMENTUM_KINDS = ("ema", "trace", "debiased")
# Matrices in one program where nothing is sharded: stacks of equal size share their kernels, and what leaves a larger
# stack takes longer to compile (docs/performance.md).
_MATRICES = 4
# Steps in a turn of the loop where a pod shares the work: the second writes where the first has read, while with one
# a TPU copies every result (0.3 % of ViT-S/16's step on v3-8). It makes compilation longer, so not elsewhere.
_STEPS_A_TURN = 2


class DualizeState(NamedTuple):
    """Momentum of one group: a single stack (B, n, m) of all its matrices, or an array for each leaf of vectors, in the
    leaf's own shape where that is biases or scales.

    The layout does not depend on where the momentum lives, so that a run moves from a laptop to a pod.
    """

    momentum: tuple[jax.Array, ...]


class DebiasedState(NamedTuple):
    """The same, with the number of steps taken: for momentum of kind 'debiased' under Nesterov."""

    momentum: tuple[jax.Array, ...]
    count: jax.Array


def scale_by_dualize(
    table: TargetNormTable | str,
    *,
    momentum: Any = 0.95,
    momentum_kind: str = "ema",
    nesterov: bool = False,
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
    per_head: bool = False,
    scale_floor: bool = False,
    unroll: bool | int = False,
    fallback: Sequence[tuple[str, str]] = (),
    fallback_scale: float = 1.0,
    adam: Mapping[str, Any] | None = None,
    mu_dtype: Any = "float32",
    shard_axis: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    target_norms: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """Steepest descent under the modular norm: every atom's update has the table's target_norm in the atom's own norm.

        m <- momentum m + (1 - momentum) g          (with nesterov: the direction is momentum m + (1 - momentum) g)
        update = target_norm * dual(direction)      (`geometry.dual`; arXiv 2405.14813, 2410.21265)

    The update points uphill: follow with `optax.scale_by_learning_rate`. All atoms of one kind and shape are a group,
    computed as stacks; `optax.partition` gives each group its transformation. Updates have their gradients' dtypes.
    Any tree will do (`core.trees`); empty leaves pass through. At init it raises `TableError` where the table does not
    fit the parameters (`tables.check`) or a parameter is no real floating-point number.

    table: a table, a path, or a name in norm_cache.
    momentum_kind: 'ema' as above, or 'trace' (m <- momentum m + g). Dual maps ignore the scale of their argument, so
      the two give the same updates; the stored momentum differs. 'debiased' is 'ema' with Adam's bias correction, which
      only Nesterov's direction feels: in step t the gradient weighs (1 - momentum^(t+1)) / (1 - momentum^t) times as
      much there, as in NAdam and `optax.contrib.muon`.
    polar, dtype, unroll: see `polar.orthogonalize`; False stands for 2 with a shard_axis, else for 1.
    per_head: a Linear with fan-out (heads, d_head), as query, key and value, counts as one Linear per head; each head's
      update then has the target norm in the norm of a Linear fan_in -> d_head.
    scale_floor: Linear updates are scaled by max(1, sqrt(fan_out/fan_in)); with fan_out < fan_in they exceed the
      target norm by sqrt(fan_in/fan_out). The same as Muon's scaling where all target norms are 1.
    fallback: ordered (regex of the whole path, kind) pairs, the first match wins; kind 'adam' sends a leaf to
      `optax.scale_by_adam(**adam)`, in float32, 'dualize' exempts it from later pairs.
    fallback_scale: factor on Adam's update: the ratio of its learning rate to the dualized one. adam: b1, b2, eps,
      nesterov and whatever else `optax.scale_by_adam` takes.
    mu_dtype: of the stored momentum; by name ("bfloat16") under `optax.inject_hyperparams`, which calls a dtype.
    shard_axis, mesh: shard momentum and orthogonalization over this mesh axis (see `placement`).
    target_norms: {row.key: scalar, or vector over axis 0} in place of the table's; may be traced, for vmapped sweeps.
    """
    table = tables.resolve(table)
    if momentum_kind not in _MOMENTUM_KINDS:
        raise ValueError(f"momentum_kind is {momentum_kind!r}; possible: {', '.join(map(repr, _MOMENTUM_KINDS))}.")
    if isinstance(momentum, jax.Array):  # injected, in the dtype of the parameters
        momentum = momentum.astype(jnp.float32)
    rule = _Rule(
        momentum=momentum,
        gradient_weight=1.0 if momentum_kind == "trace" else 1 - momentum,
        nesterov=nesterov,
        debiased=nesterov and momentum_kind == "debiased",
        polar=polar_lib.get(polar),
        dtype=dtype,
        unroll=unroll or (1 if shard_axis is None else _STEPS_A_TURN),
        mu_dtype=mu_dtype,
        placement=Placement(shard_axis, mesh),
    )
    kinds = _kinds(table, fallback)
    dualized = [row for row in table.rows if kinds[row.path] == "dualize"]
    groups = groups_lib.make(dualized, per_head=per_head, scale_floor=scale_floor, target_norms=target_norms)
    transforms = {name: _dualize_group(group, rule) for name, group in groups.items()}
    transforms |= {"adam": _adam(fallback_scale, **(adam or {})), "empty": optax.identity()}
    labels = {row.key: "empty" if groups_lib.is_empty(row) else "adam" for row in table.rows}
    labels |= {layout.key: name for name, group in groups.items() for layout in group.layouts}
    return _on_atoms(table, transforms, labels)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How one group is updated; the fields are those of `scale_by_dualize`."""

    momentum: Any
    gradient_weight: Any
    nesterov: bool
    debiased: bool
    polar: polar_lib.Polar
    dtype: str
    unroll: bool | int
    mu_dtype: Any
    placement: Placement

    def advance(
        self, old: jax.Array, gradient: jax.Array, state: DualizeState | DebiasedState
    ) -> tuple[jax.Array, jax.Array]:
        """(new momentum, what the dual is taken of), float32, from the momentum as it was kept."""
        gradient = self.gradient_weight * gradient
        mu = self.momentum * old.astype(jnp.float32) + gradient
        if not self.nesterov:
            return mu, mu
        if isinstance(state, DebiasedState):
            steps = state.count + 1.0
            gradient = gradient * (1 - self.momentum ** (steps + 1)) / (1 - self.momentum**steps)
        return mu, self.momentum * mu + gradient


def _kinds(table: TargetNormTable, fallback: Sequence[tuple[str, str]]) -> dict[str, str]:
    """{path: 'adam' | 'dualize'}."""
    unknown = sorted({kind for _, kind in fallback} - set(_FALLBACKS))
    if unknown:
        raise ValueError(f"fallback kinds {unknown}; possible: {', '.join(_FALLBACKS)}.")
    return trees.first_match([*fallback, (".*", "dualize")], [row.path for row in table.rows], "fallback")


def _on_atoms(
    table: TargetNormTable, transforms: Mapping[str, optax.GradientTransformation], labels: Mapping[str, str]
) -> optax.GradientTransformation:
    """`optax.partition` over the atoms of a tree, {row.key: array}; a sliced leaf has atoms in several groups."""

    def partition(atoms: Mapping[str, Any]) -> optax.GradientTransformation:
        present = {key: labels[key] for key in atoms}
        used = set(present.values())
        return optax.partition({name: tx for name, tx in transforms.items() if name in used}, present)

    def init(params: Any) -> Any:
        tables.check(table, params)
        _check_dtypes(params)
        atoms = groups_lib.split(params, table)
        return partition(atoms).init(atoms)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        atoms = groups_lib.split(updates, table)
        directions, state = partition(atoms).update(atoms, state)
        return groups_lib.join(directions, updates, table), state

    return optax.GradientTransformation(init, update)


def _check_dtypes(params: Any) -> None:
    dtypes = {path: jnp.result_type(leaf) for path, leaf in trees.flatten(params).items()}
    wrong = [f"{path} ({dtype.name})" for path, dtype in dtypes.items() if not jnp.issubdtype(dtype, jnp.floating)]
    if wrong:
        raise tables.TableError(
            f"{len(wrong)} parameters are no real floating-point numbers: {', '.join(wrong[:8])}. "
            "A modular norm is one of real matrices: leave them out with optax.masked, or split complex ones in two."
        )


def _adam(scale: Any, **options: Any) -> optax.GradientTransformation:
    """Adam in float32, times `scale`: in float16 its epsilon is 0, and a zero gradient would give 0 / 0."""
    adam = optax.scale_by_adam(**options)

    def as_float32(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape) + leaf.astype(jnp.float32), tree)

    def init(params: Any) -> Any:
        return adam.init(as_float32(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an integer
            steps, state = adam.update(as_float32(updates), state)
        factor = jnp.asarray(scale, jnp.float32)
        return jax.tree.map(lambda step, old: (step * factor).astype(old.dtype), steps, updates), state

    return optax.GradientTransformation(init, update)


def _dualize_group(group: groups_lib.Group, rule: _Rule) -> optax.GradientTransformation:
    """One group's momentum and dual, on {key: array} with `optax.MaskedNode` at the keys of other groups."""

    def members(atoms: Any) -> tuple[tuple[groups_lib.Group, ...], dict[str, jax.Array]]:
        present = {key: atom for key, atom in atoms.items() if not isinstance(atom, optax.MaskedNode)}
        return _stacks(group.only(present)), present

    def init(params: Any) -> Any:
        stacks, _ = members(params)
        momenta = tuple(
            jnp.zeros(stack.layouts[0].permuted, rule.mu_dtype)
            if stack.is_vectors
            else rule.placement.momentum(jnp.zeros(stack.shape, rule.mu_dtype))
            for stack in stacks
        )
        return DebiasedState(momenta, jnp.zeros((), jnp.int32)) if rule.debiased else DualizeState(momenta)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        stacks, present = members(updates)
        gradients, directions, momenta = rule.placement.gradients(present), dict(updates), []
        for stack, momentum in zip(stacks, state.momentum, strict=True):
            step_of = _vectors_step if stack.is_vectors else _stack_step
            mu, steps = step_of(stack, momentum, gradients, state, rule)
            directions |= {key: step.astype(gradients[key].dtype) for key, step in steps.items()}
            momenta.append(mu)
        new = {"momentum": tuple(momenta)} | ({"count": state.count + 1} if rule.debiased else {})
        return directions, state._replace(**new)

    return optax.GradientTransformation(init, update)


def _stacks(group: groups_lib.Group) -> tuple[groups_lib.Group, ...]:
    """The parts of a group whose momentum is one array; vectors are not worth taking out of a stack again."""
    return (group,) if geometry.ATOMS[group.atom].spectral else group.cut(1)


def _parts(stack: groups_lib.Group, rule: _Rule) -> tuple[groups_lib.Group, ...]:
    """The parts of a stack that are computed together."""
    whole = rule.placement.axis is not None or not geometry.ATOMS[stack.atom].spectral
    return (stack,) if whole else stack.cut(_MATRICES)


def _stack_step(
    stack: groups_lib.Group,
    momentum_BxNxM: jax.Array,
    gradients: Mapping[str, jax.Array],
    state: DualizeState | DebiasedState,
    rule: _Rule,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(new momentum (B, n, m) as it is kept, {key: step of its target norm, float32})."""
    momenta, steps, start = [], {}, 0
    for part in _parts(stack, rule):
        old = jax.lax.slice_in_dim(momentum_BxNxM, start, start + part.shape[0])
        mu, direction = rule.advance(old, rule.placement.momentum(part.pack(gradients)), state)
        steps |= part.steps(part.unpack(_unit_dual(part, direction, rule)))
        momenta.append(rule.placement.momentum(mu.astype(rule.mu_dtype)))
        start += part.shape[0]
    return jnp.concatenate(momenta) if len(momenta) > 1 else momenta[0], steps


def _vectors_step(
    vectors: groups_lib.Group,
    momentum: jax.Array,
    gradients: Mapping[str, jax.Array],
    state: DualizeState | DebiasedState,
    rule: _Rule,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The same of a bias or scale, in its own shape: a TPU fuses nothing over a change of shape, and each operation on
    an array takes it its thousand cycles, however short the array is."""
    (layout,) = vectors.layouts
    mu, direction = rule.advance(momentum, gradients[layout.key].astype(jnp.float32), state)
    axes = layout.own_axes(geometry.ATOMS[vectors.atom].vector_axes or ())
    unit = polar_lib.normalized(direction, axes)
    return mu.astype(rule.mu_dtype), {layout.key: layout.step(unit)}


def _unit_dual(group: groups_lib.Group, direction_BxNxM: jax.Array, rule: _Rule) -> jax.Array:
    """The dual before gain and target norm, on every device, in the precision that it travels in."""
    if not geometry.ATOMS[group.atom].spectral:
        return geometry.unit_dual(group.atom, rule.placement.replicated(direction_BxNxM))
    whole = rule.placement.whole_matrices(direction_BxNxM, rule.dtype)
    unit = geometry.unit_dual(group.atom, whole, rule.polar, rule.dtype, rule.unroll).astype(rule.dtype)
    return rule.placement.replicated_matrices(unit, turned=group.columns_are_several)
