"""Recipes are found, overridden, and refuse what they do not know."""

from __future__ import annotations

import pytest

from big_vision_dual import recipes


def test_every_recipe_takes_the_fields_of_a_call():
    flags = ["--config.model_init=w.npz", "--config.resume=runs/a", "--config.keep_ckpt_steps=500"]
    recipe = recipes.load("vit_s16_i1k_dual", [*flags, "--config.lr=0.5"])
    assert (recipe.model_init, recipe.resume, recipe.keep_ckpt_steps, recipe.lr) == ("w.npz", "runs/a", 500, 0.5)
    assert "model_init" not in recipes.load("vit_s16_i1k_dual")
    assert recipes.load("transfer", flags).model_load == recipes.load("transfer").model_load


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
