"""The norm tree of every model variant has the model's own leaves, and the declared sensitivities."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.core import norms, trees
from big_vision_dual.models import norm_trees

VIT: dict[str, Any] = dict(model_name="vit", num_classes=10, input_shape=(32, 48, 3))
SMALL: dict[str, Any] = dict(width=32, depth=2, mlp_dim=96, num_heads=4, patch_size=(8, 16))
SWITCHES = [
    "standard", "dual", dict(gelu="unit"), dict(attention_logits="inverse"), dict(attention_out=1 / 3),
    dict(residual="convex"), dict(init="dual"),
]  # fmt: skip


def leaves(config: dict) -> dict[str, tuple[int, ...]]:
    model = models.get(config["model_name"]).Model(config["num_classes"], **config["model"])
    is_tokens = len(config["input_shape"]) == 1
    batch = jnp.zeros((1, *config["input_shape"]), jnp.int32 if is_tokens else jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return {path: leaf.shape for path, leaf in trees.flatten(params).items()}


def rows(config: dict) -> dict[str, tuple[int, ...]]:
    return {row.path: row.shape for row in norm_trees.table_for(config).rows}


@pytest.mark.parametrize(
    ("pool_type", "posemb", "rep_size", "scan"),
    list(itertools.product(["gap", "tok", "map", "0"], ["learn", "sincos2d"], [False, True, 24], [False, True])),
)
def test_vit_table_has_the_models_leaves(pool_type, posemb, rep_size, scan):
    model = dict(**SMALL, pool_type=pool_type, posemb=posemb, rep_size=rep_size, scan=scan)
    assert rows(dict(**VIT, model=model)) == leaves(dict(**VIT, model=model))


@pytest.mark.parametrize("scaling", SWITCHES)
def test_vit_table_has_the_models_leaves_under_every_switch(scaling):
    config = dict(**VIT, model=dict(**SMALL, pool_type="map", scaling=scaling))
    assert rows(config) == leaves(config)


@pytest.mark.parametrize("variant", ["mu/16", "Ti/16", "S/16", "B/16", "L/16"])
def test_vit_variants(variant):
    config = dict(VIT, input_shape=(224, 224, 3), model=dict(variant=variant, posemb="sincos2d", scan=True))
    assert rows(config) == leaves(config)


@pytest.mark.parametrize("scaling", ["standard", "dual"])
def test_mlp_and_gpt_tables_have_the_models_leaves(scaling):
    mlp = dict(model_name="mlp", num_classes=10, input_shape=(4, 6, 3), model=dict(width=20, depth=3, scaling=scaling))
    assert rows(mlp) == leaves(mlp)
    for scan in (False, True):
        model = dict(**{k: v for k, v in SMALL.items() if k != "patch_size"}, scaling=scaling, scan=scan)
        gpt = dict(model_name="gpt", num_classes=64, input_shape=(24,), model=model)
        assert rows(gpt) == leaves(gpt)


@pytest.mark.parametrize("depth", [1, 2, 12, 24])
@pytest.mark.parametrize("pool_type", ["gap", "tok", "0"])
def test_dual_vit_has_sensitivity_one_at_every_depth(depth, pool_type):
    model = dict(SMALL, depth=depth, pool_type=pool_type, scaling="dual")
    assert norm_trees.for_config(dict(**VIT, model=model)).sensitivity == pytest.approx(1, abs=1e-14)


def test_map_pooling_has_two_thirds_because_its_query_ignores_the_input():
    config = dict(**VIT, model=dict(**SMALL, pool_type="map", scaling="dual"))
    assert norm_trees.for_config(config).sensitivity == pytest.approx(2 / 3, abs=1e-14)


def block_sensitivity(switches: dict) -> float:
    """Of one depth-1 ViT: (attention residual) * (MLP residual), everything else has sensitivity 1."""
    model = dict(**{**SMALL, "depth": 1}, posemb="sincos2d", scaling=switches)
    return norm_trees.for_config(dict(**VIT, model=model)).sensitivity


def test_each_switch_changes_the_sensitivity_as_the_architecture_says():
    head_dim, gelu = 8, 1.1289
    attention, mlp = 1 + 2 * head_dim**0.5, gelu
    assert block_sensitivity({}) == pytest.approx((1 + attention) * (1 + mlp))
    assert block_sensitivity(dict(gelu="unit")) == pytest.approx((1 + attention) * 2)
    assert block_sensitivity(dict(attention_logits="inverse")) == pytest.approx((1 + 3) * (1 + mlp))
    assert block_sensitivity(dict(attention_out=1 / 3)) == pytest.approx((1 + attention / 3) * (1 + mlp))
    assert block_sensitivity(dict(residual="convex")) == pytest.approx((1 + attention) / 2 * (1 + mlp) / 2)
    assert block_sensitivity(dict(init="dual")) == block_sensitivity({})


@pytest.mark.parametrize(("conventions", "same"), [("well_normed", False), ("first_attempt", True)])
def test_the_first_attempts_norms_do_not_follow_the_place_of_attentions_factor(conventions, same):
    def rows(place):
        model = dict(**SMALL, posemb="sincos2d", scaling=dict(attention_out=1 / 3, attention_out_at=place))
        return norm_trees.table_for(dict(**VIT, model=model, norms=dict(conventions=conventions))).rows

    values, output = rows("values"), rows("output")
    assert (values == output) is same


def test_blocks_mass_and_masses_shape_the_table():
    config = dict(**VIT, model=dict(**SMALL, posemb="sincos2d", scaling="dual"))
    assert norm_trees.table_for(config).mass == 2 + 4 + 2 + 2
    light = norm_trees.table_for(dict(config, norms=dict(blocks_mass=7.0, masses=dict(Bias=0.1))))
    assert light.mass == pytest.approx(1.1 + 7 + 1.1 + 1.1)
    rows = light.by_key()
    assert rows["head/bias"].target_norm == pytest.approx(0.1 * np.asarray(rows["head/kernel"].target_norm))


def test_masses_by_role_multiply_those_of_the_kind_in_any_order():
    config = dict(**VIT, model=dict(**SMALL, posemb="sincos2d", scaling="dual"))
    masses = {"Bias": 0.5, "(query|key)/": 3.0, "Dense_1/kernel": 4.0}
    table = norm_trees.table_for(dict(config, norms=dict(masses=masses)))
    assert table.rows == norm_trees.table_for(dict(config, norms=dict(masses=dict(reversed(masses.items()))))).rows
    rows, block = table.by_key(), "Transformer/encoderblock_0"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    norm = {key: np.asarray(row.target_norm) for key, row in rows.items()}
    np.testing.assert_allclose(norm[f"{block}/MlpBlock_0/Dense_1/kernel"], 4 * norm[f"{attention}/out/kernel"])
    np.testing.assert_allclose(norm[f"{attention}/query/kernel"], 3 * norm[f"{attention}/value/kernel"])
    np.testing.assert_allclose(norm[f"{attention}/query/bias"], 0.5 * norm[f"{attention}/query/kernel"])


def test_bad_configs_say_what_is_possible():
    model = dict(**SMALL)
    with pytest.raises(ValueError, match=r"unknown model_name 'vitt'; possible: vit, .*'package.module:Name'"):
        norm_trees.for_config(dict(VIT, model_name="vitt", model=model))
    with pytest.raises(norms.NormError, match=r"unknown keys \['mass'\]; possible: conventions, blocks_mass, masses"):
        norm_trees.for_config(dict(**VIT, model=model, norms=dict(mass=3)))
    with pytest.raises(norms.NormError, match=r"\['Dense_7/'\], found in no parameter's path of 'vit'"):
        norm_trees.for_config(dict(**VIT, model=model, norms=dict(masses={"Dense_7/": 2.0, "head/": 1.0})))
    with pytest.raises(norms.NormError, match=r"'\(head/', which is no regular expression"):
        norm_trees.for_config(dict(**VIT, model=model, norms=dict(masses={"(head/": 2.0})))
    with pytest.raises(norms.NormError, match=r"needs config.input_shape"):
        norm_trees.for_config(dict(model_name="vit", num_classes=3, model=model))
    with pytest.raises(norms.NormError, match="smaller than a patch"):
        norm_trees.for_config(dict(VIT, input_shape=(4, 4, 3), model=model))
    with pytest.raises(ValueError, match=r"scaling.gelu is 'unti'; possible: 'plain', 'unit'"):
        norm_trees.for_config(dict(**VIT, model=dict(**SMALL, scaling=dict(gelu="unti"))))
