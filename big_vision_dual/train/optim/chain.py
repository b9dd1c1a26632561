"""The optimizer that a config describes: Big Vision's chain of optax transformations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from big_vision_dual.core import trees
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.models import mup
from big_vision_dual.train.optim import constraints, schedules, transforms

PyTree = Any
KERNELS_ONLY = ((".*/kernel", 1.0),)


def make(
    config: Any,
    params: PyTree,
    *,
    total_steps: int,
    batch_size: int,
    data_size: int | None = None,
    table: TargetNormTable | None = None,
) -> tuple[optax.GradientTransformation, dict[str, schedules.Schedule]]:
    """(transformation whose updates are added to the parameters, {'global_schedule'...: step -> factor}).

    In order: clip by the global norm of what is not frozen (grad_clip_norm), `optax_name(**optax)`, times lr,
    times lr_mults, plus wd * wd_mults * parameter, times the schedule, times -1. So a step takes
    wd * schedule(t) * p off a parameter whatever lr is. Last comes `weight_constraint` (see `constraints`).

    config: a mapping; lr, wd, lr_mults, wd_mults, grad_clip_norm and the numbers in `optax` may be traced
      arrays, so that a sweep can vmap over them. lr_mults and schedule are ordered [(regex, value)] lists;
      lr_mults is 1 where none matches, a schedule must cover every parameter (or be one value for all); None freezes:
      updates 0, no optimizer state. wd_mults lists what decays, by default the kernels.
    params: arrays or shapes. table: target norms, where `needs_table(config)`; see `norm_trees.table_for`.

    config.mup = dict(base_width=, rules=): lr_mults, wd_mults and Adam's eps are those of `tables.mup`.
    """
    config = _with_mup(config, params) if config.get("mup") else config
    names = trees.names(params)
    if table is None and needs_table(config):
        raise ValueError(
            f"optax_name={config['optax_name']!r} with weight_constraint={config.get('weight_constraint')!r} needs "
            "target norms; give table=norm_trees.table_for(config)."
        )
    rules = schedule_rules(config)
    rule_of = _match([(pattern, i) for i, (pattern, _) in enumerate(rules)], names, "config.schedule")
    trained = jax.tree.map(lambda rule: rules[rule][1] is not None, rule_of)
    sizes = {"total_steps": total_steps, "batch_size": batch_size, "data_size": data_size}
    dualized = _dualized(config, names)
    functions = [None if value is None else schedules.make(value, **sizes) for _, value in rules]
    stages = [
        *_clip(config.get("grad_clip_norm"), trained),
        optax.masked(_optimizer(config, table if is_dualized(config) else None), trained),
        optax.scale(config["lr"]),
        *_multiply(config.get("lr_mults"), names),
        *_decay(config, names, dualized),
        _scale_by_schedules(functions, rule_of),
        optax.scale(-1.0),
        *constraints.make(config, functions, rule_of, dualized, table),
    ]
    used = [function for function in functions if function is not None]
    return optax.chain(*stages), {f"global_schedule{i or ''}": function for i, function in enumerate(used)}


def is_dualized(config: Any) -> bool:
    """Whether the optimizer is `scale_by_dualize`."""
    return config["optax_name"] == transforms.DUALIZE


def needs_table(config: Any) -> bool:
    """Whether the chain of a config reads target norms: of its optimizer, or of its weight constraint."""
    return is_dualized(config) or constraints.kind(config) != "none"


def _with_mup(config: Any, params: PyTree) -> dict[str, Any]:
    """The config with muP's multipliers and epsilon in it; they hold for Adam, and take the place of one's own."""
    given = [name for name in ("lr_mults", "wd_mults") if config.get(name)]
    if given or config["optax_name"] != "scale_by_adam":
        raise ValueError(
            f"config.mup sets lr_mults and wd_mults for optax_name='scale_by_adam'; given: {config['optax_name']!r}"
            f"{', ' + ', '.join(given) if given else ''}. Leave out config.mup, or those."
        )
    table = mup.for_config(config, params)
    optax_options = {"eps": table.adam_eps, **(config.get("optax") or {})}
    return {**config, "optax": optax_options, "lr_mults": mup.lr_mults(table), "wd_mults": mup.wd_mults(table)}


def _match(rules: Sequence[tuple[str, Any]], names: PyTree, what: str) -> PyTree:
    """A tree like `names` with the value of each leaf's first matching rule."""
    matched = trees.first_match(rules, jax.tree.leaves(names), what)
    return jax.tree.map(matched.__getitem__, names)


def schedule_rules(config: Any) -> list[tuple[str, Any]]:
    """config.schedule as ordered (regex, schedule) pairs."""
    schedule = config.get("schedule", {})
    return list(schedule) if isinstance(schedule, (list, tuple)) else [(".*", schedule)]


def _clip(max_norm: Any, trained: PyTree) -> list[optax.GradientTransformation]:
    return [] if _is_zero(max_norm) else [optax.masked(optax.clip_by_global_norm(max_norm), trained)]


def _optimizer(config: Any, table: Any) -> optax.GradientTransformation:
    options = dict(config.get("optax") or {}) | ({} if table is None else {"table": table})
    return transforms.make(config["optax_name"], options)


def _dualized(config: Any, names: PyTree) -> PyTree:
    """Which leaves `scale_by_dualize` does not hand to its fallback; all of them under another optimizer."""
    fallback = (config.get("optax") or {}).get("fallback", ())
    return jax.tree.map(lambda kind: kind == "dualize", _match([*fallback, (".*", "dualize")], names, "fallback"))


def _multiply(rules: Any, names: PyTree) -> list[optax.GradientTransformation]:
    if not rules:
        return []
    frozen = [(pattern, mult) for pattern, mult in rules if _is_zero(mult)]
    if frozen:
        raise ValueError(f"config.lr_mults has {frozen}; possible: factors above 0. Freeze with a schedule of None.")
    mults = _match([*rules, (".*", 1.0)], names, "config.lr_mults")
    return [optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, mults))]


def _decay(config: Any, names: PyTree, dualized: PyTree) -> list[optax.GradientTransformation]:
    """Adds wd * mult * parameter; leaves that no pattern matches, or that a constraint holds, do not decay."""
    wd, held = config.get("wd"), constraints.replaces_wd(config, dualized)
    if _is_zero(wd) or all(jax.tree.leaves(held)):
        return []
    mults = _match([*config.get("wd_mults", KERNELS_ONLY), (".*", 0.0)], names, "config.wd_mults")
    mults = jax.tree.map(lambda mult, is_held: 0.0 if is_held else mult, mults, held)

    def decay(updates: PyTree, params: PyTree) -> PyTree:
        return jax.tree.map(lambda u, p, mult: u if _is_zero(mult) else u + wd * mult * p, updates, params, mults)

    return [optax.stateless(decay)]


def _scale_by_schedules(
    functions: Sequence[schedules.Schedule | None], rule_of: PyTree
) -> optax.GradientTransformation:
    """Multiplies each leaf by its own rule's schedule, by 0 where that is None; counts steps once for all."""

    def init(params: PyTree) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, optax.ScaleByScheduleState]:
        del params
        factors = [None if function is None else function(state.count) for function in functions]

        def scale(update: jax.Array, rule: int) -> jax.Array:
            factor = factors[rule]
            return jnp.zeros_like(update) if factor is None else update * factor.astype(update.dtype)

        return jax.tree.map(scale, updates, rule_of), optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _is_zero(value: Any) -> bool:
    """True for None and for a plain 0; a traced value counts as not zero."""
    return value is None or (isinstance(value, (int, float)) and value == 0)
