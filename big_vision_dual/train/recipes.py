"""Finds and loads config files: Python files with `get_config(arg)`, as in Big Vision."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from big_vision_dual.core import files

_ANY_TAKES: dict[str, type] = {"keep_ckpt_steps": int, "model_init": str, "resume": str}
"""Fields that belong to a call rather than to a recipe: they can be given to one that does not name them."""


class RecipeError(ValueError):
    """A config file that does not exist, or an override that does not fit it."""


def find(config: str) -> str:
    """'configs/x.py', 'x.py' or 'x', each with an optional ':arg' -> the path of the file with that arg."""
    name, colon, arg = config.partition(":")
    stem = pathlib.Path(name).name.removesuffix(".py")
    for candidate in (pathlib.Path(name), files.shipped("configs") / f"{stem}.py"):
        if candidate.is_file():
            return f"{candidate}{colon}{arg}"
    known = sorted(path.stem for path in files.shipped("configs").glob("[!_]*.py"))
    raise RecipeError(f"no config {name!r}; possible: a path to a Python file, or one of {', '.join(known)}.")


def choice(recipe: str, given: str, possible: Collection[str]) -> str:
    """`given`, the argument of 'recipe:given'; raises `RecipeError` where it is none of the possible ones."""
    if given not in possible:
        raise RecipeError(f"{recipe}:{given}: possible: {', '.join(f'{recipe}:{name}' for name in possible)}.")
    return given


def load(config: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Loads a recipe and applies `--config.key=value` overrides; the result is locked against new keys.

    config: what `find` takes. Raises `RecipeError` for an override that names no key or has the wrong type.
    """
    path, _, arg = find(config).partition(":")
    spec = importlib.util.spec_from_file_location(f"recipe_{pathlib.Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{path} is no Python file; a config is a Python file with get_config(arg).")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = module.get_config(*([arg] if arg else []))
    given = {flag.partition("=")[0].removeprefix("--config.") for flag in overrides}
    with recipe.unlocked():
        for field in given & _ANY_TAKES.keys() - set(recipe):
            recipe[field] = config_dict.placeholder(_ANY_TAKES[field])
    recipe.lock()
    return override(recipe, overrides)


def dualized(
    name: str,
    *,
    lr: float,
    momentum: float = 0.95,
    vector_mass: float = 1.0,
    blocks_mass: float | None = None,
    dtype: str = "float32",
    shard_axis: str | None = None,
    mixer_out: float | None = None,
) -> ml_collections.ConfigDict:
    """The recipe `name` with the dual architecture, the well-normed table and `scale_by_dualize`.

    lr, momentum: of `scale_by_dualize`. vector_mass: the mass of biases and scales, where a matrix has 1. blocks_mass:
    of all blocks together, None for what the norm tree gives them. dtype: of the orthogonalization's matrix products.
    shard_axis: mesh axis over which momentum and orthogonalization are spread. mixer_out: of a state-space model, see
    `arch_ssm.MIXER_OUT`. Clipping and warm-up go: the dual has unit norm whatever the gradient's.
    """
    recipe: Any = load(name)
    masses = {"Bias": vector_mass, "Scale": vector_mass}
    with recipe.unlocked():
        recipe.model.scaling = "dual"
        if mixer_out is not None:
            recipe.model.mixer_out = mixer_out
        blocks = config_dict.FieldReference(blocks_mass, field_type=float)
        recipe.norms = {"conventions": "well_normed", "blocks_mass": blocks, "masses": masses}
        recipe.grad_clip_norm = None
        recipe.optax_name = "big_vision_dual.scale_by_dualize"
        axis = config_dict.FieldReference(shard_axis, field_type=str)
        recipe.optax = {
            "momentum": momentum, "nesterov": False, "polar": "newton_schulz_6", "dtype": dtype, "shard_axis": axis,
        }  # fmt: skip
        recipe.lr = lr
        recipe.schedule = {"warmup_steps": 0, "decay_type": "cosine"}
    return recipe


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
    """Applies `--config.key=value` flags to a recipe, in place, with ml_collections' own parsing."""
    values = flags.FlagValues()
    arguments = ["bvd", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", recipe, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise RecipeError(f"{' '.join(overrides)}: {_explain(recipe, overrides, error)}") from error
    return recipe


def _explain(recipe: ml_collections.ConfigDict, overrides: Sequence[str], error: Exception) -> str:
    known = [f"--config.{key}" for key in _keys(recipe)]
    unknown = [flag for flag in (o.partition("=")[0] for o in overrides) if flag not in known]
    if not unknown:
        return str(error).strip("\"'").splitlines()[0]
    near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{unknown[0]} is not in the config. {hint}Top-level keys: {', '.join(sorted(recipe))}."


def _keys(recipe: Any, prefix: str = "") -> Iterator[str]:
    for key, value in recipe.items():
        yield f"{prefix}{key}"
        if isinstance(value, ml_collections.ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")
