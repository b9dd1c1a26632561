"""Trials: whole configs as values, made from a base config and axes of dotted fields. No JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Config = dict[str, Any]

NUMBERS = (
    "seed", "lr", "wd", "grad_clip_norm", "optax.b1", "optax.b2", "optax.momentum", "optax.fallback_scale",
    "weight_constraint.radius", "optax.beta", "optax.decay",
)  # fmt: skip
TABLES = ("norms", "target_norm_scale")  # they too only change numbers, the target norms, but for `_layout`


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run. config: all that it depends on. point: its coordinates in a study, for reading results."""

    config: Config
    point: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the config, 16 hexadecimal digits: the name of the trial in a results file."""
        return digest(self.config)


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys; 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def product(
    base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], point: Mapping[str, Any] | None = None
) -> list[Trial]:
    """All combinations of the values of dotted config fields: {'model.width': [32, 64], 'lr': [.1, .2]} -> 4 trials.

    point: further coordinates of all of them.
    """
    combined = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [Trial(replace(base, fields), {**(point or {}), **fields}) for fields in combined]


def replace(config: Mapping[str, Any], fields: Mapping[str, Any]) -> Config:
    """A copy of `config` with dotted fields set: {'model.width': 64}; dicts on the way are made where missing."""
    result: Config = dict(config)
    for name, value in fields.items():
        head, _, rest = name.partition(".")
        result[head] = replace(result.get(head) or {}, {rest: value}) if rest else value
    return result


def get(config: Mapping[str, Any], field: str) -> Any:
    """The value of a dotted field, None where it or its parent is missing."""
    head, _, rest = field.partition(".")
    value = config.get(head)
    return get(value if isinstance(value, Mapping) else {}, rest) if rest else value


def numbers(config: Mapping[str, Any]) -> dict[str, float]:
    """Those of the fields `NUMBERS` that the config gives, in which trials of one program may differ.

    A None or 0 stays out: `optim` builds another chain without clipping or decay.
    """
    values = {name: get(config, name) for name in NUMBERS}
    given = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name: value for name, value in given.items() if value or name == "seed"}


def static(config: Mapping[str, Any]) -> Config:
    """What remains of a config when its numbers are left open: trials that agree in it share one program."""
    dualized = "norms" in config or "target_norm_scale" in config
    opened = replace(config, dict.fromkeys(numbers(config)))
    kept = {name: value for name, value in opened.items() if not (dualized and name in TABLES)}
    return {**kept, "norms": _layout(config.get("norms") or {})} if dualized else kept


def _layout(norms: Mapping[str, Any]) -> Config:
    """What of `config.norms` changes the axes or the atom of a row, and so the program."""
    first = norms.get("conventions") in ("first_attempt", "seed")
    per_head = norms.get("biases_per_head")
    return {"rule": norms.get("rule"), "biases_per_head": first if per_head is None else bool(per_head)}


def by_program(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials grouped by static config, each config once, in their order."""
    groups: dict[str, dict[str, Trial]] = {}
    for trial in trials:
        groups.setdefault(digest(static(trial.config)), {}).setdefault(trial.digest, trial)
    return [list(group.values()) for group in groups.values()]
