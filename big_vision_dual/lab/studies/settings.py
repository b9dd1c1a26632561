"""The parametrizations that studies compare, each a function from a base config of any model to a config.

adamw        standard ViT, AdamW
adamw_dual   dual architecture, AdamW
mup          muP for AdamW (Yang et al., arXiv 2203.03466, table 8): see `models.mup`
dualize      dual architecture, dualized with the well-normed table
dualize_recipe   the same as the ViT recipes have it: masses by role, Nesterov momentum .9, a warm-up
dualize_balanced   the same with the masses that the recipes had before: what was found with them can be run again
dualize_first_attempt, dualize_flat   `dualize` with the first attempt's table, and with equal target norms
dualize_measured   `dualize` with a table measured at each size (docs/measured.md)
dualize_fixed   the same with blocks of one total mass at all depths, 8, and not 2 x depth
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from big_vision_dual.lab.studies.grid import Config, replace
from big_vision_dual.models import family
from big_vision_dual.train import recipes
from big_vision_dual.train.recipes import DUALIZE

MUP_BASE_WIDTH = 64
BALANCED_MASSES = {
    "Bias": 1 / 64, "Scale": 1 / 64, "(query|key|value)/": 2 / 3, "Dense_1/kernel": 4.0, "embedding/kernel": 1 / 4,
    "head/kernel": 2.5,
}  # fmt: skip
"""Of the first walk of benchmarks/recipe_search.py, from the balanced table at 120 steps (docs/track.md)."""
WARMUP = 0.09  # 10,000 of the 112,603 steps of Big Vision's ImageNet recipe


def adamw(base: Mapping[str, Any], architecture: Mapping[str, Any] | None = None) -> Config:
    """AdamW as Big Vision trains ViT-S/16: clipping to 1, b2 .999, a warm-up of 9 %.

    architecture: fields of `config.model`; None for the family's standard one.
    """
    fields = {"optax_name": "scale_by_adam", "optax": {}, "grad_clip_norm": 1.0}
    own = family.of(base["model_name"]).standard if architecture is None else architecture
    return warmed_up(_with_model(replace(base, fields), own), WARMUP)


def mup(base: Mapping[str, Any]) -> Config:
    """`config.mup` on the standard architecture, relative to width `MUP_BASE_WIDTH`; what muP asks of the model is set.

    Clipping stays: at lr / m it rescales all gradients alike, and Adam ignores that.
    """
    of_model = family.of(base["model_name"])
    asked = of_model.mup.model(MUP_BASE_WIDTH) if of_model.mup else {}
    config = adamw(base, {**of_model.standard, **asked})
    return replace(config, {"mup": {"base_width": MUP_BASE_WIDTH, "rules": "strict"}})


def dualize(
    base: Mapping[str, Any],
    conventions: str = "well_normed",
    architecture: Mapping[str, Any] | None = None,
    **norms: Any,
) -> Config:
    """Dualized training: neither warm-up nor clipping, since the dual has unit norm whatever the gradient's.

    architecture: fields of `config.model`; None for the family's dual one. norms: further fields of `config.norms`.
    """
    fields = {
        "optax_name": DUALIZE, "optax": {"momentum": 0.95}, "grad_clip_norm": None,
        "norms": {"conventions": conventions, **norms},
    }  # fmt: skip
    own = family.of(base["model_name"]).dual if architecture is None else architecture
    return warmed_up(_with_model(replace(base, fields), own), 0)


def _with_model(config: Config, options: Mapping[str, Any]) -> Config:
    return replace(config, {f"model.{name}": value for name, value in options.items()})


def warmed_up(config: Mapping[str, Any], share: float) -> Config:
    """The config with a warm-up of that share of its steps, in place of any other."""
    kept = {key: value for key, value in config["schedule"].items() if not key.startswith("warmup_")}
    return {**config, "schedule": {**kept, **({"warmup_percent": share} if share else {"warmup_steps": 0})}}


def recipe(base: Mapping[str, Any], masses: Mapping[str, float] = recipes.MASSES) -> Config:
    """A ViT as `recipes.dualized` trains it: masses by role, Nesterov momentum .9, a warm-up of a tenth."""
    fields = {"optax": {"momentum": 0.9, "nesterov": True}}
    made = dualize(base, masses=dict(masses), blocks_mass=recipes.BLOCKS_MASS)
    return warmed_up(replace(made, fields), 0.1)


SETTINGS: dict[str, Callable[[Mapping[str, Any]], Config]] = {
    "adamw": adamw,
    "adamw_dual": lambda base: adamw(base, family.of(base["model_name"]).dual),
    "mup": mup,
    "dualize": dualize,
    "dualize_first_attempt": lambda base: dualize(base, "first_attempt"),
    "dualize_fixed": lambda base: dualize(base, blocks_mass=8.0),
    "dualize_flat": lambda base: dualize(base, "flat"),
    "dualize_measured": lambda base: dualize(base, "measured"),
    "dualize_recipe": recipe,
    "dualize_balanced": lambda base: recipe(base, BALANCED_MASSES),
}


def default(base: Mapping[str, Any]) -> list[str]:
    """What studies compare unless told: muP where the model has its rules, a measured table where it has no tree."""
    of_model = family.of(base["model_name"])
    mup, measured = ["mup"] if of_model.mup else [], [] if of_model.norm_tree else ["dualize_measured"]
    return ["adamw", *mup, "dualize", *measured]


_FORMER_NAMES = {"dualize_seed": "dualize_first_attempt"}


def apply(name: str, base: Mapping[str, Any]) -> Config:
    """The config of a setting; sizes must be in `base` already, since muP's multipliers depend on the width."""
    name = _FORMER_NAMES.get(name, name)
    if name not in SETTINGS:
        raise ValueError(f"unknown setting {name!r}; possible: {', '.join(SETTINGS)}.")
    return SETTINGS[name](base)
