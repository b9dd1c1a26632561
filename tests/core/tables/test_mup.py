import json
from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.core.tables import TableError
from big_vision_dual.models import init, mup, torch_weights
from big_vision_dual.train import recipes

MAMBA = {"d_model": 96, "n_layers": 2, "mup_base_width": 24}  # m = 4, dt_rank 6
MAMBA2 = {"d_model": 96, "n_layers": 2, "d_head": 24, "d_state": 12, "mup_base_width": 24}
VIT = {"width": 48, "depth": 2, "num_heads": 3, "patch_size": (4, 4), "scaling": {"attention_logits": "inverse"}}


def shapes(name, options):
    example = jnp.zeros((1, 8, 12, 3)) if name == "vit" else jnp.zeros((1, 5), jnp.int32)
    return jax.eval_shape(models.get(name).Model(7, **options).init, jax.random.key(0), example)["params"]


def table(name, options, **given):
    return mup.build(shapes(name, options), model_name=name, model=options, **{"base_width": 24, **given})


def by_path(rows):
    return {row.path: row for row in rows}


@pytest.mark.parametrize("file", ["mamba1_d32_mup", "mamba2_d32_mup"])
def test_reference_multipliers_are_those_of_the_golden_files(file):
    arrays = dict(np.load(goldens.path(f"mamba/{file}.npz")))
    config = json.loads(str(arrays["meta_json"]))["config"]
    keys = {"d_model", "n_layers", "d_state", "d_head", "dt_rank", "mup_base_width"} & set(config)
    params = torch_weights.from_torch({k[6:]: v for k, v in arrays.items() if k.startswith("param/")})
    name = "mamba2" if "d_head" in keys else "mamba"
    options = {key: config[key] for key in keys}
    rows = mup.build(
        params, model_name=name, model=options, base_width=config["mup_base_width"], rules="reference"
    ).rows
    theirs = {torch_weights.flax_path(k[4:]): tuple(v) for k, v in arrays.items() if k.startswith("opt/")}
    assert {row.path: (row.lr_mult, row.wd_mult) for row in rows} == theirs
    init = trees.flatten(torch_weights.from_torch({k[5:]: v for k, v in arrays.items() if k.startswith("init/")}))
    for row in rows:
        if row.init_std is not None:
            # 5 standard errors of a standard deviation over n draws; the smallest leaf has 128.
            error = 5 * row.init_std / np.sqrt(2 * init[row.path].size)
            assert abs(init[row.path].std() - row.init_std) <= error, row


def test_strict_differs_in_dt_proj_and_epsilon_alone():
    reference, strict = table("mamba", MAMBA, rules="reference"), table("mamba", MAMBA, rules="strict")
    different = {a.path for a, b in zip(reference.rows, strict.rows, strict=True) if a != b}
    assert different == {f"layers_{i}/mixer/dt_proj/kernel" for i in range(2)}
    path = "layers_0/mixer/dt_proj/kernel"
    assert by_path(strict.rows)[path].init_std == pytest.approx(6**-0.5)
    assert by_path(reference.rows)[path].init_std == pytest.approx(6**-0.5 / 2)
    assert (reference.adam_eps, strict.adam_eps) == (1e-8, 1e-15)


def test_decay_per_step_does_not_depend_on_the_width():
    mults = dict(mup.wd_mults(table("mamba2", MAMBA2)))
    assert mults["layers_0/mixer/in_proj/kernel"] == 1.0
    assert mults["layers_0/mixer/A_log"] == 0.0


def test_rules_of_the_vit():
    rows = by_path(table("vit", VIT).rows)
    block = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0"
    classes = {path: (row.cls, row.lr_mult, row.wd_mult) for path, row in rows.items()}
    assert classes["embedding/kernel"] == classes["pos_embedding"] == ("input", 1.0, 1.0)
    assert classes[f"{block}/query/kernel"] == ("hidden", 0.5, 2.0)
    assert classes["head/kernel"] == ("output", 0.5, 2.0)
    assert classes[f"{block}/query/bias"] == ("bias", 1.0, 0.0)
    assert classes["Transformer/encoder_norm/scale"] == ("kept", 1.0, 0.0)
    zero = {path for path, row in rows.items() if row.init_std is not None}
    assert zero == {"head/kernel", f"{block}/query/kernel", f"{block.replace('1', '0', 1)}/query/kernel"}
    assert all(rows[path].init_std == 0.0 for path in zero)


def test_saved_and_loaded(tmp_path):
    made = table("mamba2", MAMBA2)
    mup.save(made, tmp_path / "mup.json")
    assert mup.load(tmp_path / "mup.json") == made
    assert len((tmp_path / "mup.json").read_text().splitlines()) == len(made.rows) + 3


@pytest.mark.parametrize("rules", ["reference", "strict"])
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_cached_tables_are_those_of_the_recipes_at_width_512(name, rules):
    recipe: Any = recipes.load(f"{name}_bytes_mup", ["--config.model.d_model=512", f"--config.mup.rules={rules}"])
    made = mup.for_config(recipe, shapes(name, recipe.model.to_dict()))
    assert mup.load(f"{name}_mup_{rules}") == made


def test_config_names_base_width_and_rules():
    config = {"model_name": "mamba", "model": MAMBA, "mup": {"base_width": 24, "rules": "reference"}}
    assert mup.for_config(config, shapes("mamba", MAMBA)) == table("mamba", MAMBA, rules="reference")
    with pytest.raises(TableError, match=r"keys \['width'\]; possible: base_width \(needed\), rules"):
        mup.for_config({**config, "mup": {"width": 24}}, {})


@pytest.mark.parametrize(
    ("name", "options", "given", "message"),
    [
        ("mamba", MAMBA, {"rules": "loose"}, "mup.rules is 'loose'; possible for mamba: 'reference', 'strict'"),
        ("mamba", MAMBA, {"base_width": 32}, "mup.base_width is 32, but the model has mup_base_width 24"),
        ("vit", VIT, {"rules": "reference"}, "mup.rules is 'reference'; possible for vit: 'strict'"),
        ("vit", {**VIT, "scaling": "standard"}, {}, "attention_logits='inverse'"),
        ("vit", {**VIT, "rep_size": 16}, {}, "rep_size 16 does not grow with the width"),
    ],
)
def test_contradictions_are_named(name, options, given, message):
    with pytest.raises(TableError, match=message):
        table(name, options, **given)


def test_no_rules_for_other_models():
    with pytest.raises(TableError, match="no muP rules for model_name 'mlp'; possible: vit, gpt, mamba, mamba2, or"):
        mup.build({}, model_name="mlp", model={}, base_width=8)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "mup.json").write_text('{"mup": {}}')
    with pytest.raises(TableError, match=r"is not a muP table .*make one with tables\.mup\.save"):
        mup.load(tmp_path / "mup.json")


def test_leaves_to_draw_are_those_with_a_deviation():
    stds = mup.init_stds(table("mamba", MAMBA))
    assert stds["head/kernel"] == stds["layers_1/mixer/conv/kernel"] == 0.0
    assert stds["embedding/embedding"] == 0.02
    assert not {"layers_0/mixer/A_log", "layers_0/mixer/D", "layers_0/mixer/conv/bias"} & set(stds)


def test_redraw_gives_each_leaf_its_deviation_and_keeps_the_others():
    params = {"a": {"kernel": jnp.ones((40, 7))}, "b": {"kernel": jnp.ones((40, 7))}, "D": jnp.ones(5)}
    stds = {"a/kernel": 0.5, "b/kernel": 0.5}
    drawn = trees.flatten(jax.jit(lambda key: init.redraw(params, stds, key))(jax.random.key(3)))
    assert abs(float(drawn["a/kernel"].std()) - 0.5) < 5 * 0.5 / np.sqrt(2 * 280)  # 5 standard errors
    assert not np.allclose(drawn["a/kernel"], drawn["b/kernel"])
    assert (drawn["D"] == 1).all()
    with pytest.raises(ValueError, match=r"no parameters \['heads'\] to redraw; possible: D, a/kernel"):
        init.redraw(params, {"heads": 1.0}, jax.random.key(0))
