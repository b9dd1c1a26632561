"""`config.weight_constraint`: what keeps weights bounded at the end of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from big_vision_dual.core import dualize, tables
from big_vision_dual.core.dualize.constrain import FORMER_NAMES, KINDS
from big_vision_dual.train.optim import arguments, schedules, transforms

PyTree = Any
_INSTEAD_OF_WD = ("decay", "radius", "hyperball")  # what they hold does not decay by `wd` besides


def kind(config: Any) -> str:
    """'none' | 'decay' | 'radius' | 'hyperball' | 'project', see `dualize.constrain`."""
    return split(config)[0]


def replaces_wd(config: Any, dualized: PyTree) -> PyTree:
    """Tree of bools: the leaves whose decay is the constraint's affair; under 'decay' all of them."""
    name = kind(config)
    return jax.tree.map(lambda flag: name == "decay" or (flag and name in _INSTEAD_OF_WD), dualized)


def make(
    config: Any,
    functions: Sequence[schedules.Schedule | None],
    rule_of: PyTree,
    dualized: PyTree,
    table: tables.TargetNormTable | None,
) -> list[optax.GradientTransformation]:
    """The last links of the chain, one per schedule: their rate is the schedule times wd (decay) or lr (radius).

    config: weight_constraint is a kind, or dict(kind=, radius=, ...) with further arguments of `dualize.constrain`.
    functions, rule_of: schedules, and which of them each leaf has. dualized: tree of bools; all kinds but 'decay'
      leave the other leaves alone.
    """
    name, options = split(config)
    if name == "none":
        return []
    assert table is not None, "chain.make asks for one where needs_table"
    arguments.check(dualize.constrain, {"kind": name, "table": table, **options}, "config.weight_constraint")
    _check(name, config)
    factor = {"decay": config.get("wd"), "radius": config["lr"]}.get(name, 1.0)
    bounded = jax.tree.map(lambda flag: flag or name == "decay", dualized)
    dualize_options = (config.get("optax") or {}) if config["optax_name"] == transforms.DUALIZE else {}
    shared = {name: dualize_options.get(name) for name in ("shard_axis", "target_norms")}

    def link(rule: int, function: schedules.Schedule) -> optax.GradientTransformation:
        mask = jax.tree.map(lambda own, flag: flag and own == rule, rule_of, bounded)
        given = {"rate": lambda count: factor * function(count), **shared, **options}
        return optax.masked(dualize.constrain(name, table, **given), mask)

    return [link(rule, function) for rule, function in enumerate(functions) if function is not None]


def _check(name: str, config: Any) -> None:
    """Raises `ValueError` where a constraint does not go with the rest of the config."""
    if name == "radius" and (config["optax_name"] != transforms.DUALIZE or config.get("lr_mults")):
        raise ValueError(
            f"config.weight_constraint='radius' holds weights in the ball of optax_name={transforms.DUALIZE!r} "
            f"with one lr for all; given: optax_name={config['optax_name']!r}, lr_mults={config.get('lr_mults')}. "
            "Use 'hyperball', 'project' or 'decay' instead."
        )
    if name == "decay" and (config.get("wd") is None or config.get("wd_mults")):
        raise ValueError(
            "config.weight_constraint='decay' takes wd * schedule off all matrices; set config.wd, without wd_mults "
            f"(given: wd={config.get('wd')}, wd_mults={config.get('wd_mults')}), or use 'none' with wd and wd_mults."
        )


def split(config: Any) -> tuple[str, dict[str, Any]]:
    """(kind, further arguments of `dualize.constrain`)."""
    constraint = config.get("weight_constraint") or "none"
    options = {"kind": constraint} if isinstance(constraint, str) else dict(constraint)
    given = str(options.pop("kind", None))
    name = FORMER_NAMES.get(given, given)
    if name not in KINDS:
        raise ValueError(f"config.weight_constraint is {given!r}; possible: {', '.join(KINDS)}.")
    return name, options
