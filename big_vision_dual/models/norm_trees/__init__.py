"""The norm tree, and from it the table, of each model configuration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core import rules, tables
from big_vision_dual.core.norms.atoms import Atoms, named_conventions
from big_vision_dual.core.norms.module import Module, NormError
from big_vision_dual.core.tables.schema import TargetNormTable

_NOT_MODELS = {"ssm", "transformer"}


def for_config(config: Mapping[str, Any]) -> Module:
    """The norm tree of a config: of its model_name, model, num_classes, input_shape and norms.

    norms may hold conventions ('well_normed' | 'first_attempt'), blocks_mass (a number; None for the model's
    default) and masses ({atom kind or regex on paths: mass}, see `Atoms.of`); `rules.STEPS` are for `table_for`.
    Raises `NormError`.
    """
    norms = dict(config.get("norms") or {})
    possible = ("conventions", "blocks_mass", "masses", *rules.STEPS)
    unknown = sorted(set(norms) - set(possible))
    if unknown:
        raise NormError(f"config.norms has unknown keys {unknown}; possible: {', '.join(possible)}.")
    atoms = Atoms.of(norms.get("conventions", "well_normed"), norms.get("masses"))
    missing = [key for key in ("model_name", "input_shape", "num_classes") if config.get(key) is None]
    if missing:
        raise NormError(f"a norm tree needs config.{', config.'.join(missing)}; give them in the config.")
    tree = _tree(config["model_name"])
    shape = tuple(config["input_shape"])
    module = tree(config.get("model") or {}, shape, config["num_classes"], atoms, norms.get("blocks_mass"))
    if unused := atoms.unused(module):
        raise NormError(
            f"config.norms.masses has {unused}, found in no parameter's path of {config['model_name']!r}; "
            "`bvd norms show` lists the paths."
        )
    return module


def table_for(config: Any) -> TargetNormTable:
    """The table of a config's model, as `for_config` describes its tree, after the steps that config.norms asks for.

    config: a ConfigDict or a dict.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # ConfigDict, without importing it
    given = {"conventions": "well_normed", **(plain.get("norms") or {})}
    given["conventions"] = named_conventions(given["conventions"]).name
    built = tables.build(
        for_config(plain),
        model_name=plain["model_name"],
        model={**(plain.get("model") or {}), "num_classes": plain["num_classes"]},
        input_shape=tuple(plain["input_shape"]),
        norms=given,
    )
    return rules.after_dry_run(built)


def _tree(model_name: str):
    known = sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NOT_MODELS)
    if model_name not in known:
        raise NormError(
            f"no norm tree for model_name {model_name!r}; possible: {', '.join(known)}. "
            "For any other Flax model `tables.flat(params)` makes a table from its leaves alone."
        )
    return importlib.import_module(f"{__name__}.{model_name}").module
