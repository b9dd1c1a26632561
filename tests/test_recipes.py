"""Recipes are found, overridden, and refuse what they do not know."""

from __future__ import annotations

from typing import Any

import pytest

from big_vision_dual.core import tables
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes


def test_every_recipe_takes_the_fields_of_a_call():
    flags = ["--config.model_init=w.npz", "--config.resume=runs/a", "--config.keep_ckpt_steps=500"]
    recipe = recipes.load("vit_s16_i1k_dual", [*flags, "--config.lr=0.5"])
    assert (recipe.model_init, recipe.resume, recipe.keep_ckpt_steps, recipe.lr) == ("w.npz", "runs/a", 500, 0.5)
    assert "model_init" not in recipes.load("vit_s16_i1k_dual")
    assert recipes.load("transfer", flags).model_load == recipes.load("transfer").model_load


@pytest.mark.parametrize(("recipe", "argument"), [("mnist5k_vit", "dual"), ("mnist5k_vit_dual", "equal")])
def test_an_unknown_argument_names_the_possible_ones(recipe, argument):
    with pytest.raises(recipes.RecipeError, match=f"{recipe}:wide: possible: .*{recipe}:{argument}"):
        recipes.load(f"{recipe}:wide")
    assert recipes.load(f"{recipe}:{argument}").lr != recipes.load(recipe).lr


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_byte_recipes_hand_their_text_on_and_train_as_their_tables_say(name):
    dual: Any = recipes.load(f"{name}_bytes_dual:a.txt", ["--config.model.d_model=64"])
    assert dual.input.data.path == dual.evals.val.data.path == "a.txt"
    cached = tables.load(f"{name}_bytes")
    assert norm_trees.table_for(dual).rows == cached.rows
    assert {**dual.model.to_dict(), "num_classes": 256} == cached.model
    scaled: Any = recipes.load(f"{name}_bytes_mup:a.txt")
    assert (scaled.input.data.path, scaled.model.mup_base_width, scaled.mup.base_width) == ("a.txt", 64, 64)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.modelinit=w.npz", "--config.modelinit is not in the config"),
        ("--config.keep_ckpt_steps=often", "keep_ckpt_steps"),
        ("--config.model.dept=3", "Did you mean --config.model.depth"),
    ],
)
def test_other_fields_are_refused(flag, message):
    with pytest.raises(recipes.RecipeError, match=message):
        recipes.load("cifar10_vit", [flag])
