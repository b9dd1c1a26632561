"""Entries: functions from a track's base config to what to train and what of it to tune. No JAX."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from big_vision_dual.core import rules as core_rules
from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.lab.studies import settings
from big_vision_dual.lab.studies.grid import Config, replace
from big_vision_dual.lab.studies.settings import BALANCED_MASSES, DUALIZE
from big_vision_dual.lab.track import rules
from big_vision_dual.lab.track.rules import Track, TrackError
from big_vision_dual.lab.track.space import Axis, Space, among, octaves
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

WARMUP = {"warmup_percent": 0.1, "decay_type": "cosine"}
DIGITS_MASSES = {
    **BALANCED_MASSES, "(query|key|value)/": 1 / 3, "Dense_1/kernel": 16.0, "embedding/kernel": 1 / 8,
}  # fmt: skip
"""Of the second walk, best on the digits at depth 4; the best learning rate then falls with the depth."""
RADIUS = {"kind": "radius", "radius": 100.0}


@dataclasses.dataclass(frozen=True)
class Entry:
    """config: what is trained, `rules.OPEN` fields of the base changed. space: what is tuned, and from where."""

    config: Config
    space: Space


Make = Callable[[Config], Entry]


def adamw(base: Config, scaling: str = "standard", log2: float = -8.0, **optax: Any) -> Entry:
    """AdamW, b2 .95, clipping to 1. Further arguments are `optax.scale_by_adam`'s."""
    fields = {
        "model.scaling": scaling, "optax_name": "scale_by_adam", "optax": {"b1": 0.9, "b2": 0.95, **optax},
        "grad_clip_norm": 1.0, "schedule": WARMUP,
    }  # fmt: skip
    return Entry(replace(base, fields), {"lr": octaves(log2), "optax.b1": among(0.9, 0.8, 0.9, 0.95)})


def sgd(base: Config) -> Entry:
    """Nesterov momentum, clipping to 1."""
    fields = {
        "model.scaling": "dual", "optax_name": "trace", "optax": {"decay": 0.9, "nesterov": True},
        "grad_clip_norm": 1.0, "schedule": WARMUP,
    }  # fmt: skip
    return Entry(replace(base, fields), {"lr": octaves(-2), "optax.decay": among(0.9, 0.8, 0.9, 0.95)})


def muon(base: Config, scaling: str = "dual", log2: float = -5.0, rms: float | None = 0.2, aux: float = 1.0) -> Entry:
    """`optax.contrib.muon`, every kernel a matrix, Nesterov momentum .9; vectors by Adam at `aux` times its lr.

    rms: its consistent_rms, None for max(1, sqrt(fan_out/fan_in)).
    """
    optax = {"beta": 0.9, "consistent_rms": rms, "fallback_scale": aux}
    fields = {
        "model.scaling": scaling, "optax_name": "big_vision_dual.muon", "optax": optax, "grad_clip_norm": None,
        "schedule": WARMUP,
    }  # fmt: skip
    tuned = {"lr": octaves(log2), "optax.fallback_scale": Axis(aux, 4.0), "optax.beta": among(0.9, 0.8, 0.9, 0.95)}
    return Entry(replace(base, fields), tuned)


def dualized(base: Config, log2: float, momentum: float, fields: Mapping[str, Any]) -> Entry:
    """`scale_by_dualize` on the dual architecture with the well-normed table, changed by `fields`."""
    always = {
        "model.scaling": "dual", "optax_name": DUALIZE, "grad_clip_norm": None, "optax": {"momentum": momentum},
        "schedule": {"warmup_steps": 0, "decay_type": "cosine"}, "norms": {"conventions": "well_normed"},
    }  # fmt: skip
    space = {"lr": octaves(log2), "optax.momentum": among(momentum, 0.8, 0.9, 0.95)}
    return Entry(replace(replace(base, always), fields), space)


def light_vectors(base: Config) -> Entry:
    """The recipe of the demo until 0.1: vectors a tenth of a matrix, momentum .95."""
    masses = {"masses": {"Bias": 0.1, "Scale": 0.1}, "blocks_mass": 2 * base["model"]["depth"] * 7 / 16}
    return dualized(base, -3.3, 0.95, {"norms": {"conventions": "well_normed", **masses}})


def recipe(
    base: Config, log2: float = -1.4, masses: Mapping[str, float] = recipes.MASSES, constraint: Any = RADIUS
) -> Entry:
    """`recipes.dualized`, with a weight constraint in place of decay; None keeps decay."""
    made = settings.recipe(replace(base, {"schedule": {"decay_type": "cosine"}}), masses)
    if constraint is not None:
        made = replace(made, {"weight_constraint": constraint, "wd": 0.0})
    return Entry(made, {"lr": octaves(log2), "optax.momentum": among(0.9, 0.8, 0.9, 0.95)})


def by_rule(base: Config, name: str, log2: float, wd: float = 0.0) -> Entry:
    """Another's rule as a table (`core.rules`), on the dual architecture. wd: what a step takes off, over lr."""
    described = replace(base, {"model.scaling": "dual", "norms": {"conventions": "well_normed"}})
    rule = core_rules.get(name)(norm_trees.table_for({**described, "optax": {}}))
    fields = {"norms": {"conventions": "well_normed", "rule": name}, "optax": dict(rule.options), "schedule": WARMUP}
    if rule.constraint is not None:
        fields |= {"weight_constraint": rule.constraint, "wd": 0.0}
    made = dualized(base, log2, rule.options["momentum"], fields)
    lr = octaves(log2, also={"wd": wd} if wd else {})
    return Entry(made.config, {**made.space, "lr": lr})


STANDARD: dict[str, Make] = {
    "adamw": lambda base: adamw(base),
    "adamw_dual": lambda base: adamw(base, "dual", -6.6),
    "nadamw_dual": lambda base: adamw(base, "dual", -6.6, nesterov=True),
    "sgd_dual": sgd,
    "muon": lambda base: muon(base, "standard", -6.0),
    "muon_dual": muon,
    "moonlight_dual": lambda base: by_rule(base, "moonlight", -5.0, wd=0.1),
    "scion_dual": lambda base: by_rule(base, "scion", -9.0),
    "dualized_0.1": light_vectors,
    "dualized": recipe,
    "dualized_balanced": lambda base: recipe(base, masses=BALANCED_MASSES, constraint=None),
    "dualized_digits": lambda base: recipe(base, -0.9, DIGITS_MASSES),
    "hyperball": lambda base: recipe(
        base, masses=BALANCED_MASSES, constraint={"kind": "hyperball", "norm": "frobenius"}
    ),
}


def load(track: Track, names: str, strangers: list[str]) -> dict[str, Entry]:
    """{name: entry}: those of a comma-separated list (empty: the track's own) and strangers' FILE.py:FUNCTION.

    Raises `TrackError` for an unknown name, a file without that function, a changed field that is the track's, or a
    tuned field that is not the entry's to tune.
    """
    made: dict[str, Make] = {}
    for name in [name for name in names.split(",") if name] or (() if strangers else track.entries):
        if name not in STANDARD:
            raise TrackError(f"no entry {name!r}{did_you_mean(name, STANDARD)}; possible: {', '.join(STANDARD)}.")
        made[name] = STANDARD[name]
    for given in strangers:
        file, _, function = given.rpartition(":")
        own: Any = getattr(rules.module(pathlib.Path(file)), function, None) if file else None
        if not callable(own):
            raise TrackError(f"--entry {given}: possible: FILE.py:FUNCTION, a function of the base config.")
        made[function] = cast(Make, own)
    return {name: _checked(name, make(track.base), track) for name, make in made.items()}


def _checked(name: str, entry: Entry, track: Track) -> Entry:
    if not isinstance(entry, Entry):
        raise TrackError(f"entry {name} is a {type(entry).__name__}; it must return entries.Entry(config, space).")
    for field in [
        *rules.changed(track.base, entry.config),
        *(f for n, axis in entry.space.items() for f in (n, *axis.also)),
    ]:
        if not rules.is_open(field):
            raise TrackError(
                f"entry {name} changes {field!r}{did_you_mean(field, rules.OPEN)}, which is track {track.name}'s; "
                f"possible: {', '.join(rules.OPEN)}."
            )
    return entry
