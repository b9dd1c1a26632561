"""`config.weight_constraint`: what keeps weights bounded at the end of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from big_vision_dual.core import dualize, tables
from big_vision_dual.core.dualize.constrain import KINDS
from big_vision_dual.train.optim import arguments, schedules, transforms

PyTree = Any


def kind(config: Any) -> str:
    """'none' | 'decay' | 'project' | 'frank_wolfe', see `dualize.constrain`."""
    return _split(config)[0]


def make(
    config: Any,
    functions: Sequence[schedules.Schedule | None],
    rule_of: PyTree,
    dualized: PyTree,
    table: tables.TargetNormTable | None,
) -> list[optax.GradientTransformation]:
    """The last links of the chain, one per schedule: their rate is the schedule times wd (decay) or lr (frank_wolfe).

    config: weight_constraint is a kind, or dict(kind=, radius=, ...) with further arguments of `dualize.constrain`.
    functions, rule_of: schedules, and which of them each leaf has. dualized: tree of bools; 'project' and
      'frank_wolfe' leave the other leaves alone.
    """
    name, options = _split(config)
    if name == "none" or table is None:
        return []
    arguments.check(dualize.constrain, {"kind": name, "table": table, **options}, "config.weight_constraint")
    if name == "frank_wolfe" and (config["optax_name"] != transforms.DUALIZE or config.get("lr_mults")):
        raise ValueError(
            f"config.weight_constraint='frank_wolfe' holds weights in the ball of optax_name={transforms.DUALIZE!r} "
            f"with one lr for all; given: optax_name={config['optax_name']!r}, lr_mults={config.get('lr_mults')}. "
            "Use 'project' or 'decay' instead."
        )
    if name == "decay" and (config.get("wd") is None or config.get("wd_mults")):
        raise ValueError(
            "config.weight_constraint='decay' takes wd * schedule off all matrices; set config.wd, without wd_mults "
            f"(given: wd={config.get('wd')}, wd_mults={config.get('wd_mults')}), or use 'none' with wd and wd_mults."
        )
    factor = {"decay": config.get("wd"), "frank_wolfe": config["lr"], "project": 1.0}[name]
    bounded = jax.tree.map(lambda flag: flag or name == "decay", dualized)

    def link(rule: int, function: schedules.Schedule) -> optax.GradientTransformation:
        mask = jax.tree.map(lambda own, flag: flag and own == rule, rule_of, bounded)
        return optax.masked(
            dualize.constrain(name, table, rate=lambda count: factor * function(count), **options), mask
        )

    return [link(rule, function) for rule, function in enumerate(functions) if function is not None]


def _split(config: Any) -> tuple[str, dict[str, Any]]:
    """(kind, further arguments)."""
    constraint = config.get("weight_constraint") or "none"
    options = {"kind": constraint} if isinstance(constraint, str) else dict(constraint)
    name = options.pop("kind", None)
    if name not in KINDS:
        raise ValueError(f"config.weight_constraint is {name!r}; possible: {', '.join(KINDS)}.")
    return name, options
