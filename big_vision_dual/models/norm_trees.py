"""Which norm tree a config has, and which table it trains with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from big_vision_dual import models
from big_vision_dual.core import rules, tables, trees
from big_vision_dual.core.norms.atoms import Atoms, named_conventions
from big_vision_dual.core.norms.module import Module, NormError
from big_vision_dual.core.tables.schema import Row, TargetNormTable
from big_vision_dual.models import family, init


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
    tree, shape = family.of(config["model_name"]).norm_tree, tuple(config["input_shape"])
    if tree is None:
        raise NormError(
            f"{config['model_name']} has no norm tree; give its module FAMILY = Family(norm_tree=...), see "
            "docs/your_model.md. `tables.flat(params)` makes a table from the leaves alone."
        )
    module = tree(config.get("model") or {}, shape, config["num_classes"], atoms, norms.get("blocks_mass"))
    if unused := atoms.unused(module):
        raise NormError(
            f"config.norms.masses has {unused}, found in no parameter's path of {config['model_name']!r}; "
            "`bvd norms show` lists the paths."
        )
    return module


def table_for(config: Any, params: Any = None) -> TargetNormTable:
    """The table that a config trains and is measured with; nothing else decides this.

    It is config.optax.table where given, else that of the norm tree, else (another package's model, which has none)
    equal masses. With norms.conventions 'flat' every atom has the mean target norm of the well-normed table, so that a
    learning rate means much the same. config.target_norm_scale, ordered [regex, factor] pairs, then scales the rows:
    the first that matches a row's whole path counts.

    config: a ConfigDict or a dict. params: the model's parameters or shapes, read where there is no norm tree; None has
    them drawn as shapes. Raises `NormError` for norms that cannot be had, `TableError` for a table that cannot be read.
    """
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # ConfigDict, without importing it
    given = (plain.get("optax") or {}).get("table")
    table = build(plain, params) if given is None else tables.resolve(given)
    scales = plain.get("target_norm_scale")
    return _scaled(table, scales) if scales else table


def build(config: Mapping[str, Any], params: Any = None) -> TargetNormTable:
    """The table of a config's model, as `for_config` describes its tree, or flat where it has none."""
    norms = {"conventions": "well_normed", **(config.get("norms") or {})}
    if family.of(config["model_name"]).norm_tree is None and not _asks_for_a_tree(norms):
        flat = tables.flat(_shapes(config) if params is None else params)
        return rules.after_dry_run(dataclasses.replace(flat, norms={**norms, **flat.norms}))
    if norms["conventions"] == "flat":
        norms |= {"conventions": "well_normed", "rule": "flat"}
    norms["conventions"] = named_conventions(norms["conventions"]).name
    built = tables.build(
        for_config({**config, "norms": norms}),
        model_name=config["model_name"],
        model={**(config.get("model") or {}), "num_classes": config["num_classes"]},
        input_shape=tuple(config["input_shape"]),
        norms=norms,
    )
    return rules.after_dry_run(built)


def _asks_for_a_tree(norms: Mapping[str, Any]) -> bool:
    """Whether `config.norms` says something that only a norm tree can follow."""
    own = norms["conventions"] not in ("well_normed", "flat")
    return own or bool(norms.get("blocks_mass") or norms.get("masses"))


def _shapes(config: Mapping[str, Any]) -> Any:
    return jax.eval_shape(lambda: init.params(config, models.of(config)))


def _scaled(table: TargetNormTable, scales: Sequence[Sequence[Any]]) -> TargetNormTable:
    paths = (row.path for row in table.rows)
    factors = trees.first_match([*map(tuple, scales), (".*", 1.0)], paths, "config.target_norm_scale")

    def scaled(row: Row) -> Row:
        factor, old = factors[row.path], row.target_norm
        new = tuple(factor * each for each in old) if isinstance(old, tuple) else factor * old
        return dataclasses.replace(row, target_norm=new)

    return dataclasses.replace(table, rows=tuple(map(scaled, table.rows)))
