"""Keeps weights where the modular norm wants them: projection, decay and Frank-Wolfe steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import geometry
from big_vision_dual.core.dualize import groups as groups_lib
from big_vision_dual.core.tables.schema import Row, TargetNormTable

KINDS = ("none", "decay", "project", "frank_wolfe")

Rate = float | Callable[[Any], Any]


def project(
    params: Any, table: TargetNormTable | str, *, polar: str = "newton_schulz_6", dtype: str = "float32"
) -> Any:
    """Every atom back to unit norm in its own norm, Modula's projection; structure and dtypes of `params`.

    Linear: the nearest matrix with all singular values sqrt(fan_out/fan_in). MaxLinear: columns of length
    1/sqrt(fan_in). Embed: rows of RMS 1. DepthwiseConv: each channel's taps on their sphere. Bias and Scale, which
    start at 0 or carry their size as meaning, only return to the unit ball: RMS(b) <= 1, abs(g) <= 1. What is zero
    stays zero; a Rate and atoms of target_norm 0 stay as they are.
    """
    table = tables.resolve(table)
    weights = groups_lib.split(params, table)
    projected = {}
    for group in groups_lib.make(table.rows).values():
        present = group.only(weights)
        if not present.layouts:
            continue
        stack = present.pack(weights)
        moved = geometry.project(group.atom, stack, jnp.asarray(present.gains), polar, dtype)
        massful = jnp.asarray(present.target_norms > 0)[:, None, None]
        kept = present.unpack(jnp.where(massful, moved, stack))
        projected |= {key: weight.astype(weights[key].dtype) for key, weight in kept.items()}
    return groups_lib.join(projected, params, table)


def constrain(
    kind: str,
    table: TargetNormTable | str,
    *,
    rate: Rate = 0.0,
    radius: float = 1.0,
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
) -> optax.GradientTransformation:
    """The last link of an optax chain: adds to the step u (already times -lr) what keeps the weights w bounded.

        'none'         w <- w + u
        'decay'        w <- (1 - rate) w + u for all atoms but Bias, Scale and Rate
        'project'      w <- project(w + u)
        'frank_wolfe'  w <- (1 - g) w + u with g = rate * target_norm / radius

    With rate = lr * schedule, the rate that made u, the last is Frank-Wolfe over the ball of that radius in each atom's
    norm: u = -g * radius * dual, so a weight that starts in the ball stays in it (arXiv 2502.07529). A Rate is free.

    rate: a number or a schedule of the step count. Wrap in `optax.masked` for leaves that are frozen or not dualized.
    """
    if kind not in KINDS:
        raise ValueError(f"weight constraint is {kind!r}; possible: {', '.join(map(repr, KINDS))}.")
    table = tables.resolve(table)
    if kind == "none":
        return optax.identity()
    if kind == "project":
        return optax.stateless(
            lambda updates, params: _difference(
                project(optax.apply_updates(_required(params, kind), updates), table, polar=polar, dtype=dtype), params
            )
        )
    shrinkage = _decay if kind == "decay" else _frank_wolfe(radius)
    return _shrink(kind, table, rate, shrinkage)


def _shrink(
    kind: str, table: TargetNormTable, rate: Rate, shrinkage: Callable[[Row], Any]
) -> optax.GradientTransformation:
    """Adds -rate(count) * shrinkage(row) * w to each atom's update."""
    rows = table.by_key()

    def init(params: Any) -> Any:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        now = rate(state.count) if callable(rate) else rate
        weights = groups_lib.split(_required(params, kind), table)
        steps = {
            key: (step - now * shrinkage(rows[key]) * weights[key]).astype(step.dtype)
            for key, step in groups_lib.split(updates, table).items()
        }
        return groups_lib.join(steps, updates, table), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def _decay(row: Row) -> float:
    return float(geometry.ATOMS[row.atom].projects_to == "sphere")  # the others mean something at their present size


def _frank_wolfe(radius: float) -> Callable[[Row], np.ndarray]:
    def shrinkage(row: Row) -> np.ndarray:
        free = geometry.ATOMS[row.atom].projects_to == "itself"
        target_norm = np.asarray(row.target_norm, np.float32) * (not free)
        return target_norm.reshape(target_norm.shape + (1,) * (target_norm.ndim * (len(row.shape) - 1))) / radius

    return shrinkage


def _required(params: Any, kind: str) -> Any:
    if params is None:
        raise ValueError(f"weight constraint {kind!r} moves the weights: call update(updates, state, params).")
    return params


def _difference(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: n - o, new, old)
