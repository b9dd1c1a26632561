"""Target norms from measurement: how far a unit step of each atom moves the output of a model, on a real batch.

A norm tree declares a bound on that (arXiv 2405.14813, proposition 3); here it is measured, by forward-mode derivatives
along steps of unit norm. Nothing needs to be known of the model but a function (params, batch) -> output.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_dual.core import tables, trees
from big_vision_dual.core.dualize import groups
from big_vision_dual.core.dualize.graft import scale_by_dualize
from big_vision_dual.core.tables import Row, TableError, TargetNormTable

PyTree = Any
Apply = Callable[[PyTree, PyTree], jax.Array]
Loss = Callable[[PyTree, PyTree], jax.Array]
ALONG = ("gradient", "random", "largest")
OVER = ("max", "mean")
FLOOR = 0.1


class MeasureError(ValueError):
    """A model whose output cannot be measured."""


@dataclasses.dataclass(frozen=True)
class Change:
    """How far steps move the output, RMS over features, for one atom of a row.

    largest, mean: over tokens and batch. Each a float, or a tuple over the layers of a stacked row.
    """

    largest: float | tuple[float, ...]
    mean: float | tuple[float, ...]


def output_changes(
    apply: Apply, params: PyTree, batch: PyTree, steps: PyTree, table: TargetNormTable, *, at_once: int = 4
) -> dict[str, Change]:
    """{row.key: change of the output to first order when this atom alone takes its part of `steps`}.

    apply: (params, batch) -> (..., features), without randomness. steps: a tree like params: one step of any optimizer,
      signs do not matter. table: says what the atoms are; its target norms are not read. at_once: atoms in one program;
      memory is that of so many forward passes. Raises `MeasureError` for an output that is no array of real
      numbers, or not finite.
    """
    _checked_output(apply, params, batch)
    return _finite(table, _compiled(apply, table, at_once)(params, batch, steps))


def unit_steps(table: TargetNormTable, gradients: PyTree) -> PyTree:
    """The dual of each atom's gradient at unit norm, a tree like `gradients`; zero gradients have zero steps."""
    tx = scale_by_dualize(
        table, momentum=0.0, polar="polar_express", target_norms={row.key: _ones(row) for row in table.rows}
    )
    return tx.update(gradients, tx.init(gradients))[0]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Changes of the output per unit step of each atom.

    gradient: along the dual of a real gradient; None where no loss was given. random: along duals of Gaussian matrices,
      one measurement each. All {row.key: Change}.
    """

    table: TargetNormTable
    gradient: Mapping[str, Change] | None
    random: tuple[Mapping[str, Change], ...]

    def amplification(self, along: str = "largest", over: str = "max") -> dict[str, np.ndarray]:
        """{row.key: change per unit step, (layers,) or scalar}.

        along: 'gradient', 'random' (their root mean square) or 'largest' of all. over: tokens and batch, 'max' or
        'mean'.
        """
        _one_of("along", along, ALONG)
        _one_of("over", over, OVER)
        if along == "gradient" and self.gradient is None:
            raise MeasureError("along='gradient' needs a loss: pass loss=(params, batch) -> scalar.")
        field = "largest" if over == "max" else "mean"
        found = {}
        for key in self.table.by_key():
            drawn = [np.asarray(getattr(each[key], field)) for each in self.random]
            real = [] if self.gradient is None else [np.asarray(getattr(self.gradient[key], field))]
            if along == "random":
                found[key] = np.sqrt(np.mean(np.square(drawn), axis=0))
            else:
                found[key] = real[0] if along == "gradient" else np.max(drawn + real, axis=0)
        return found

    def spread(self, over: str = "max") -> float:
        """The median over atoms of (largest / smallest) among the random directions; 1 where there is only one."""
        field = "largest" if over == "max" else "mean"
        ratios = []
        for key in self.table.by_key():
            drawn = np.array([getattr(each[key], field) for each in self.random]).reshape(len(self.random), -1)
            alive = drawn.min(axis=0) > 0
            ratios += list((drawn.max(axis=0) / np.where(alive, drawn.min(axis=0), 1))[alive])
        return float(np.median(ratios)) if ratios else 1.0


def measure(
    apply: Apply,
    params: PyTree,
    batch: PyTree,
    *,
    key: jax.Array,
    atoms: TargetNormTable | None = None,
    loss: Loss | None = None,
    directions: int = 2,
    more_batches: Sequence[PyTree] = (),
    at_once: int = 4,
) -> Measurement:
    """Measures every atom along `directions` random unit steps, and along the dual of the gradient of `loss`.

    atoms: says what the atoms are, by default `flat_table(params)`. more_batches: gradients and changes are averaged
    over `batch` and these, one in memory at a time. Others: see `output_changes`.
    """
    if directions < 1 and loss is None:
        raise MeasureError(f"directions is {directions} and there is no loss: nothing to measure along; give one.")
    table = tables.flat(params) if atoms is None else atoms
    tables.check(table, params)

    batches = [batch, *more_batches]
    for each in batches:
        _checked_output(apply, params, each)
    changes_of = _compiled(apply, table, at_once)

    @jax.jit
    def unit(gradients: PyTree) -> PyTree:
        return unit_steps(table, gradients)

    def along(gradients: PyTree) -> dict[str, Change]:
        step = unit(gradients)
        return _finite(table, np.mean([np.asarray(changes_of(params, each, step)) for each in batches], axis=0))

    real = None if loss is None else along(_mean(jax.jit(jax.grad(loss)), params, batches))
    drawn = tuple(along(_gaussian(jax.random.fold_in(key, number), params)) for number in range(directions))
    return Measurement(table, real, drawn)


def measured_table(
    apply: Apply,
    params: PyTree,
    batch: PyTree,
    *,
    key: jax.Array | None = None,
    atoms: TargetNormTable | None = None,
    masses: Sequence[tuple[str, float]] = (),
    loss: Loss | None = None,
    along: str = "largest",
    over: str = "max",
    directions: int = 2,
    more_batches: Sequence[PyTree] = (),
    floor: float = FLOOR,
    at_once: int = 4,
) -> TargetNormTable:
    """A table whose target norms are mass share / measured change of the output per unit step.

    So that at learning rate lr each atom moves the output by lr times its share of the mass, on this batch.

    apply, params, batch, loss, directions, more_batches, at_once: see `measure`. key: of the random directions.
    atoms: which atoms there are, and their masses; by default `flat_table(params)`, all of mass 1.
    masses: ordered (regex of the whole row key, mass) pairs, the first match wins, in place of those.
    along, over: see `Measurement.amplification`.
    floor: an atom that moves the output by less than this share of the median atom counts as if it moved it by so
      much: a dead atom must not get an endless step. The header's norms name those atoms.
    """
    if not (math.isfinite(floor) and floor > 0):
        raise MeasureError(f"floor is {floor}; possible: a share of the median amplification > 0, such as {FLOOR}.")
    key = jax.random.key(0) if key is None else key
    measurement = measure(
        apply, params, batch, key=key, atoms=atoms, loss=loss, directions=directions, more_batches=more_batches,
        at_once=at_once,
    )  # fmt: skip
    amplification = measurement.amplification(along, over)
    median = float(np.median(np.concatenate([np.ravel(value) for value in amplification.values()])))
    if median == 0:
        raise MeasureError(
            "no step of most atoms moves the output. Does it depend on the parameters given? A head that starts at 0 "
            "hides all below it: measure after some training, or what the head sees (features) in place of logits."
        )
    least = floor * median
    norms = {
        "conventions": "measured",
        "along": along,
        "over": over,
        "directions": directions,
        "floor": floor,
        "floored": [row_key for row_key, value in amplification.items() if np.any(value < least)],
        "spread": measurement.spread(over),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "batch": _digest([batch, *more_batches]),
        "batches": 1 + len(more_batches),
    }
    lifted = {row_key: np.maximum(value, least) for row_key, value in amplification.items()}
    return _with_amplification(_with_masses(measurement.table, masses), lifted, norms)


class RefreshState(NamedTuple):
    """count: updates so far. target_norms: {row.key: array}, those in use. inner: of `scale_by_dualize`."""

    count: jax.Array
    target_norms: dict[str, jax.Array]
    inner: Any


def scale_by_measured(
    apply: Apply, table: TargetNormTable, *, every: int, floor: float = FLOOR, at_once: int = 4, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """`scale_by_dualize` whose target norms are measured anew every `every` updates, along the update's own gradient.

    table: the atoms, their masses, and the target norms in use until the first update. Its `update` wants `params` and
    `batch=...`. options: of `scale_by_dualize`. Other arguments: see `measured_table`.
    """
    if every < 1:
        raise MeasureError(f"every is {every}; possible: a number of updates >= 1.")
    shares = {row.key: np.asarray(row.mass, np.float32) / table.mass for row in table.rows}

    def inner(target_norms: Mapping[str, Any]) -> optax.GradientTransformation:
        return scale_by_dualize(table, target_norms=target_norms, **options)

    def init(params: PyTree) -> RefreshState:
        given = {row.key: jnp.asarray(row.target_norm, jnp.float32) for row in table.rows}
        return RefreshState(jnp.zeros([], jnp.int32), given, inner(given).init(params))

    def remeasured(gradients: PyTree, params: PyTree, batch: PyTree) -> dict[str, Any]:
        changes_A = changes(apply, params, batch, unit_steps(table, gradients), table, at_once)[:, 0]
        amplification = _split_by_row(table, changes_A)
        least = floor * jnp.median(changes_A)
        return {row_key: shares[row_key] / jnp.maximum(value, least) for row_key, value in amplification.items()}

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, RefreshState]:
        batch = extra.get("batch")
        if params is None or batch is None:
            raise MeasureError("scale_by_measured measures: call its update(gradients, state, params, batch=batch).")
        target_norms = jax.lax.cond(
            state.count % every == 0, lambda: remeasured(updates, params, batch), lambda: state.target_norms
        )
        updates, inner_state = inner(target_norms).update(updates, state.inner, params)
        return updates, RefreshState(jnp.asarray(optax.safe_increment(state.count)), target_norms, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def changes(
    apply: Apply, params: PyTree, batch: PyTree, steps: PyTree, table: TargetNormTable, at_once: int
) -> jax.Array:
    """(atoms, 2): largest and mean change of the output, atoms in the order of the rows, layers of a row together."""
    _, forward = jax.linearize(lambda params: apply(params, batch), params)
    step_of = groups.split(steps, table)
    owners, layers = (jnp.asarray(column) for column in zip(*_atoms(table), strict=True))

    def change(atom: tuple[jax.Array, jax.Array]) -> jax.Array:
        owner, layer = atom
        moved = {
            row.key: jnp.where(owner == index, _only_layer(row, step_of[row.key], layer), 0)
            for index, row in enumerate(table.rows)
        }
        delta = forward(groups.join(moved, params, table)).astype(jnp.float32)
        rms = jnp.sqrt(jnp.mean(jnp.square(delta), axis=-1))
        return jnp.stack([jnp.max(rms), jnp.mean(rms)])

    return jax.lax.map(change, (owners, layers), batch_size=at_once)


def _only_layer(row: Row, step: jax.Array, layer: jax.Array) -> jax.Array:
    if not isinstance(row.mass, tuple):
        return step
    chosen = jnp.arange(row.shape[0]) == layer
    return jnp.where(chosen.reshape(-1, *[1] * (step.ndim - 1)), step, 0)


def _atoms(table: TargetNormTable) -> list[tuple[int, int]]:
    """(index of its row, layer) of each atom."""
    return [(index, layer) for index, row in enumerate(table.rows) for layer in range(_layers(row))]


def _layers(row: Row) -> int:
    return len(row.mass) if isinstance(row.mass, tuple) else 1


def _ones(row: Row) -> np.ndarray:
    return np.ones(np.shape(row.mass), np.float32)


def _split_by_row(table: TargetNormTable, values_A: Any) -> dict[str, Any]:
    """Values of all atoms -> {row.key: (layers,), or a scalar where the row is one atom}."""
    found, start = {}, 0
    for row in table.rows:
        part = values_A[start : start + _layers(row)]
        found[row.key] = part if isinstance(row.mass, tuple) else part[0]
        start += _layers(row)
    return found


def _compiled(apply: Apply, table: TargetNormTable, at_once: int) -> Callable[[PyTree, PyTree, PyTree], jax.Array]:
    return jax.jit(lambda params, batch, steps: changes(apply, params, batch, steps, table, at_once))


def _finite(table: TargetNormTable, changes_Ax2: jax.Array) -> dict[str, Change]:
    """The changes by row; raises `MeasureError` that names the atoms whose change is not finite."""
    found = _by_row(table, np.asarray(changes_Ax2))
    broken = [key for key, change in found.items() if not np.all(np.isfinite([change.largest, change.mean]))]
    if broken:
        raise MeasureError(
            f"the output is not finite where {len(broken)} atoms move: {', '.join(broken[:5])}. Look for NaN in the "
            "batch and parameters, and for roots, norms and logarithms whose derivative is infinite at 0."
        )
    return found


def _by_row(table: TargetNormTable, changes_Ax2: np.ndarray) -> dict[str, Change]:
    largest, mean = (_split_by_row(table, changes_Ax2[:, column]) for column in (0, 1))
    return {row.key: Change(_value(largest[row.key]), _value(mean[row.key])) for row in table.rows}


def _value(number: np.ndarray) -> float | tuple[float, ...]:
    return tuple(map(float, number)) if np.ndim(number) else float(number)


def _checked_output(apply: Apply, params: PyTree, batch: PyTree) -> None:
    """Raises `MeasureError` unless apply gives one finite array of real numbers with a feature axis."""
    output = apply(params, batch)
    if not hasattr(output, "shape"):
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(output)]
        raise MeasureError(
            f"apply gives a {type(output).__name__} with leaves {', '.join(paths[:5])}; it must give one array: "
            f"apply=lambda params, batch: model(params, batch){paths[0] if paths else '[...]'}."
        )
    if not jnp.issubdtype(output.dtype, jnp.floating) or output.ndim < 1:
        raise MeasureError(
            f"apply gives {output.dtype}{list(output.shape)}; possible: real numbers (..., features), such as logits."
        )
    if not bool(jnp.all(jnp.isfinite(output))):
        raise MeasureError("apply gives NaN or infinity on this batch; measure a model whose output is finite.")
    if not bool(jnp.allclose(output, apply(params, batch), rtol=1e-2, atol=1e-6)):
        raise MeasureError(
            "apply gives another output at each call. Switch dropout off (deterministic=True), or fix its key."
        )


def _mean(gradient: Callable[[PyTree, PyTree], PyTree], params: PyTree, batches: Sequence[PyTree]) -> PyTree:
    """The mean gradient over batches."""
    total = gradient(params, batches[0])
    for batch in batches[1:]:
        total = jax.tree.map(jnp.add, total, gradient(params, batch))
    return jax.tree.map(lambda x: x / len(batches), total)


def _gaussian(key: jax.Array, params: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, [x.astype(leaf.dtype) for x, leaf in zip(drawn, leaves, strict=True)])


def _with_masses(table: TargetNormTable, masses: Sequence[tuple[str, float]]) -> TargetNormTable:
    if not masses:
        return table
    given = trees.first_match([*masses, (".*", None)], [row.key for row in table.rows], "masses")
    if set(given.values()) == {None}:
        raise TableError(f"no row matches any of masses {list(masses)}; the first rows are {[*given][:5]}.")

    def weighed(row: Row) -> Row:
        mass = given[row.key]
        return row if mass is None else dataclasses.replace(row, mass=_like(row, float(mass)))

    return dataclasses.replace(table, rows=tuple(map(weighed, table.rows)))


def _like(row: Row, value: float) -> float | tuple[float, ...]:
    return (value,) * _layers(row) if isinstance(row.mass, tuple) else value


def _with_amplification(
    table: TargetNormTable, amplification: Mapping[str, np.ndarray], norms: Mapping[str, Any]
) -> TargetNormTable:
    total = float(sum(np.sum(row.mass) for row in table.rows))
    rows = tuple(
        dataclasses.replace(
            row,
            sensitivity=_value(np.asarray(amplification[row.key], float)),
            target_norm=_value(np.asarray(row.mass) / total / amplification[row.key]),
        )
        for row in table.rows
    )
    return dataclasses.replace(table, norms=dict(norms), mass=total, rows=rows)


def _digest(batch: PyTree) -> str:
    """SHA-256 over the bytes of all arrays of a batch."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(batch):
        array = np.asarray(leaf)
        total.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def _one_of(name: str, given: str, possible: Sequence[str]) -> None:
    if given not in possible:
        raise MeasureError(f"{name} is {given!r}; possible: {', '.join(possible)}.")
