"""Finds and loads config files: Python files with `get_config(arg)`, as in Big Vision."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from big_vision_dual.core import files
from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train import big_vision, schema

DUALIZE = "big_vision_dual.scale_by_dualize"
"""The name of our optimizer in `config.optax_name`."""
MASSES = {
    "Bias": 1 / 64, "Scale": 1 / 64, "(query|key|value)/": 1 / 3, "Dense_1/kernel": 8.0, "embedding/kernel": 1 / 4,
    "head/kernel": 5 / 2,
}  # fmt: skip
"""Of the dualized ViT recipes: found by benchmarks/recipe_search.py on MNIST digits at width 64, at depths 2 and 8
together (docs/track.md)."""
BLOCKS_MASS = 4.0  # of all blocks together, at every depth, so that the best learning rate stays


class RecipeError(schema.ConfigError):
    """A config file that does not exist, or an override that does not fit it."""


def find(config: str) -> str:
    """'configs/x.py', 'x.py' or 'x', each with an optional ':arg' -> the path of the file with that arg."""
    name, colon, arg = config.partition(":")
    stem = pathlib.Path(name).name.removesuffix(".py")
    stem = files.FORMER_NAMES.get(stem, stem)
    for candidate in (pathlib.Path(name), files.shipped("configs") / f"{stem}.py"):
        if candidate.is_file():
            return f"{candidate}{colon}{arg}"
    known = sorted(path.stem for path in files.shipped("configs").glob("[!_]*.py"))
    near = did_you_mean(stem, known)
    raise RecipeError(f"no config {name!r}{near}; possible: a path to a Python file, or one of {', '.join(known)}.")


def choice(recipe: str, given: str, possible: Collection[str]) -> str:
    """`given`, the argument of 'recipe:given'; raises `RecipeError` where it is none of the possible ones."""
    if given not in possible:
        near = did_you_mean(given, possible)
        raise RecipeError(f"{recipe}:{given}{near}: possible: {', '.join(f'{recipe}:{name}' for name in possible)}.")
    return given


def load(config: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Loads a recipe and applies `--config.key=value` overrides; the result is checked, and locked against new keys.

    config: what `find` takes. Raises `RecipeError` for an override of no field, `schema.ConfigError` for wrong values.
    """
    name, _, arg = find(config).partition(":")
    path = pathlib.Path(name)
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is no Python file; a config is a Python file with get_config(arg).")
    module = importlib.util.module_from_spec(spec)
    with big_vision.importable(path):
        spec.loader.exec_module(module)
        recipe = module.get_config(*([arg] if arg else []))
    with recipe.unlocked():
        big_vision.adapt(recipe, big_vision.is_upstreams(path, module))
    override(recipe, overrides)
    schema.check(recipe)
    recipe.lock()
    return recipe


def dualized(
    name: str,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    warmup: float = 0.1,
    masses: Mapping[str, float] = MASSES,
    blocks_mass: float | None = BLOCKS_MASS,
    radius: float | None = None,
    polar: str = "newton_schulz_6",
    dtype: str = "float32",
    shard_axis: str | None = None,
    mixer_out: float | None = None,
) -> ml_collections.ConfigDict:
    """The recipe `name` with the dual architecture, the well-normed table and `scale_by_dualize`.

    The defaults are a ViT's, searched and raced as docs/track.md says. lr, momentum, nesterov: of `scale_by_dualize`.
    warmup: share of all steps. masses: by atom kind and role, see `Atoms.of`. blocks_mass: of all blocks together, None
    for what the norm tree gives them. radius: in place of the recipe's decay, see `dualize.constrain`; None keeps that.
    polar, dtype: how matrices are orthogonalized, and in which products. shard_axis: mesh axis over which momentum and
    orthogonalization are spread. mixer_out: of a state-space model, see `ssm.Spec`.
    Clipping goes: the dual has unit norm whatever the gradient's.
    """
    recipe: Any = load(name)
    with recipe.unlocked():
        recipe.model.scaling = "dual"
        if mixer_out is not None:
            recipe.model.mixer_out = mixer_out
        blocks = config_dict.FieldReference(blocks_mass, field_type=float)
        recipe.norms = {"conventions": "well_normed", "blocks_mass": blocks, "masses": dict(masses)}
        recipe.grad_clip_norm = None
        recipe.optax_name = DUALIZE
        axis = config_dict.FieldReference(shard_axis, field_type=str)
        recipe.optax = {
            "momentum": momentum, "nesterov": nesterov, "polar": polar, "dtype": dtype, "shard_axis": axis,
        }  # fmt: skip
        if radius is not None:
            recipe.weight_constraint, recipe.wd = {"kind": "radius", "radius": radius}, 0.0
        recipe.lr = lr
        recipe.schedule = {**({"warmup_percent": warmup} if warmup else {"warmup_steps": 0}), "decay_type": "cosine"}
    return recipe


def of_0_1(name: str, *, lr: float, vector_mass: float = 1.0, blocks_mass: float | None = None, **options: Any):
    """`dualized` as it was in version 0.1: matrices of one mass, uniform decay, momentum .95, no warm-up."""
    masses = {"Bias": vector_mass, "Scale": vector_mass}
    former = {"momentum": 0.95, "nesterov": False, "warmup": 0.0, **options}
    return dualized(name, lr=lr, masses=masses, blocks_mass=blocks_mass, **former)


def mup(name: str, *, lr: float, base_width: int) -> ml_collections.ConfigDict:
    """The recipe `name` of a state-space model under muP's strict rules, relative to `base_width` (see `tables.mup`).

    lr: AdamW's at the base width, and so at every width.
    """
    recipe: Any = load(name)
    with recipe.unlocked():
        recipe.model.mup_base_width = base_width
        recipe.mup = {"base_width": base_width, "rules": "strict"}
        recipe.lr = lr
    return recipe


def override(recipe: ml_collections.ConfigDict, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    """Applies `--config.key=value` flags to a recipe, in place; '--config.key' alone sets True.

    Every field of `schema` can be set, whether the recipe names it or not, and those that may be None can be unset.
    """
    for flag in overrides:
        name, given, text = flag.removeprefix("--config.").partition("=")
        _set(recipe, name, text if given else "True")
    return recipe


def _set(recipe: Any, name: str, text: str) -> None:
    *groups, last = name.split(".")
    there, path = recipe, ""
    for group in groups:
        path = f"{path}.{group}" if path else group
        there = _entered(there, group, path, recipe)
    foreign = schema.is_foreign(name, recipe)
    field = None if foreign else schema.field_of(name)
    parent = schema.field_of(".".join(groups)) if groups else None
    free = groups[:1] == ["model"] if foreign else bool(parent and parent.open)
    if last not in there and (field is None or field.name.endswith("*")) and not free:
        raise RecipeError(f"--{schema.unknown(name, recipe)}.")
    now = there.get(last)
    value = schema.read(text, field, now)
    if field is None and now is not None and type(value) is not type(now):
        raise RecipeError(f"--config.{name}={text}: possible: {type(now).__name__}, as {now!r} in the recipe.")
    with there.unlocked(), there.ignore_type():
        there[last] = value


def _entered(there: Any, group: str, path: str, recipe: Any) -> Any:
    """The dict `there[group]`, made where the schema has it and the recipe does not."""
    field = schema.field_of(path)
    if there.get(group) is None:
        if field is None or dict not in field.kinds or field.name.endswith("*"):
            raise RecipeError(f"--{schema.unknown(path, recipe)}.")
        with there.unlocked(), there.ignore_type():
            there[group] = ml_collections.ConfigDict()
    if not isinstance(there[group], ml_collections.ConfigDict):
        raise RecipeError(f"--config.{path} is {there[group]!r} in the recipe; give --config.{path}=VALUE as a whole.")
    return there[group]
