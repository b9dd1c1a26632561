"""Finds and loads config files: Python files with `get_config(arg)`, as in Big Vision."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

_PACKAGE = pathlib.Path(__file__).parent


class RecipeError(ValueError):
    """A config file that does not exist, or an override that does not fit it."""


def data_dir(name: str) -> pathlib.Path:
    """Folder `configs` or `norm_cache`: beside the package in a clone, inside it in a wheel."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def find(config: str) -> str:
    """'configs/x.py', 'x.py' or 'x', each with an optional ':arg' -> the path of the file with that arg."""
    name, colon, arg = config.partition(":")
    stem = pathlib.Path(name).name.removesuffix(".py")
    for candidate in (pathlib.Path(name), data_dir("configs") / f"{stem}.py"):
        if candidate.is_file():
            return f"{candidate}{colon}{arg}"
    known = sorted(path.stem for path in data_dir("configs").glob("[!_]*.py"))
    raise RecipeError(f"no config {name!r}; possible: a path to a Python file, or one of {', '.join(known)}.")


def load(config: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Loads a recipe and applies `--config.key=value` overrides; the result is locked against new keys."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    try:
        values(["bvd", f"--config={find(config)}", *overrides])
        return values["config"].value
    except (flags.Error, KeyError, AttributeError, TypeError) as error:
        raise RecipeError(f"config {config} with overrides {list(overrides)}: {error}") from error
