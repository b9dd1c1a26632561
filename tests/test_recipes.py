"""Recipes are found, overridden, and refuse what they do not know; the schema is whole, and the docs are its."""

from __future__ import annotations

import inspect
import json
import pathlib
from typing import Any

import pytest

from big_vision_dual import models
from big_vision_dual.core import dualize, files, tables
from big_vision_dual.models import arch, gpt, mamba, mamba2, mlp, norm_trees, vision_mamba, vit
from big_vision_dual.train import evaluators, fields, recipes, schema
from big_vision_dual.train.optim import schedules

WRONG = [
    "lr=-1", "lr=x", "lr=None", "lr=inf", "optax.momentum=1.5", "optax.momentum=high", "label_smoothing=2",
    "input.accum_freq=0", "input.accum_freq=-1", "input.batch_size=1.5", "model.patch_size=(4,)", "mixup.p=nan",
    "mixup.p=-1", "model.width=0", "model.depth=1e11", "grad_clip_norm=-1", "loss=None", "loss=softmax",
    "keep_ckpt_steps=often", "weight_constraint=projekt", "norms.masses.Bias=-2", "ema.decay=1", "wd=-1", "seed=-1",
    "evals.val.metric=f1", "schedule.decay_type=cos", "total_percent=2", "model.scaling=duel", "wandb=maybe",
]  # fmt: skip

CONFIGS_0_1 = pathlib.Path(__file__).parent / "goldens" / "configs_0_1"
TODAYS = {"vit_b16_i1k_dual", "vit_ti16_i1k_dual", "vit_s16_i1k_seed"}
"""Those that change the shipped vit_s16_i1k_dual, which they name, and so take today's."""


@pytest.mark.parametrize("flag", WRONG)
def test_a_value_out_of_its_range_is_refused_by_name(flag):
    name = flag.partition("=")[0]
    with pytest.raises(schema.ConfigError, match=rf"a wrong field:\n  config\.{name}=.*; possible: "):
        recipes.load("mnist5k_vit_dual", [f"--config.{flag}"])


def test_all_wrong_fields_are_listed():
    with pytest.raises(schema.ConfigError, match=r"(?s)3 wrong fields:.*batch_size=0.*config.lr=-1.0.*config.wd=-1.0"):
        recipes.load("mnist5k_vit", ["--config.lr=-1", "--config.wd=-1", "--config.input.batch_size=0"])


@pytest.mark.parametrize(
    ("recipe", "flag", "value"),
    [
        ("mnist5k_vit_dual", "grad_clip_norm=1.0", 1.0),
        ("mnist5k_vit_dual", "grad_clip_norm=1", 1.0),
        ("vit_s16_i1k", "grad_clip_norm=None", None),
        ("mnist5k_vit_dual", "wandb=True", True),
        ("mnist5k_vit_dual", "wandb.project=mine", "mine"),
        ("vit_s16_i1k", "wandb=None", None),
        ("vit_s16_i1k", "wandb=False", False),
        ("vit_s16_i1k_dual", "optax.shard_axis=None", None),
        ("mnist5k_vit_dual", "optax.shard_axis=data", "data"),
        ("mnist5k_vit_dual", "model.patch_size=4", 4),
        ("mnist5k_vit_dual", "model.patch_size=[4, 7]", (4, 7)),
        ("mnist5k_vit_dual", "total_steps=1e3", 1000),
        ("mnist5k_vit_dual", "model.scan", True),
        ("mnist5k_vit_dual", "model.scan=false", False),
        ("mnist5k_vit", "mixup.p=0.2", 0.2),
        ("mnist5k_vit", "optax.eps=1e-6", 1e-6),
        ("mnist5k_vit", "lr_mults=[('head/.*', 0.1)]", (("head/.*", 0.1),)),
        ("mnist5k_vit", "evals.val.skip_first=true", True),
        ("mnist5k_vit", "model_init=None.npz", "None.npz"),
    ],
)
def test_every_field_can_be_set_and_optional_ones_unset(recipe, flag, value):
    name = flag.partition("=")[0]
    there: Any = recipes.load(recipe, [f"--config.{flag}"])
    for part in name.split("."):
        there = there[part]
    assert there == value
    assert type(there) is type(value)


def test_a_reference_is_set_in_all_its_places():
    recipe: Any = recipes.load("vit_s16_i1k_dual", ["--config.input.data.data_dir=/d"])
    assert recipe.evals.val.data.data_dir == recipe.evals.minival.data.data_dir == "/d"


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("modelinit=w.npz", "config.model_init"),
        ("model.dept=3", "config.model.depth"),
        ("evals.vall.log_steps=5", "config.evals.val"),
        ("evals.val.loss_nam=x", "config.evals.val.loss_name"),
        ("input.data.nme=x", "config.input.data.name"),
        ("schedule.warmup_step=3", "config.schedule.warmup_steps"),
    ],
)
def test_an_unknown_name_gives_the_nearest(flag, meant):
    with pytest.raises(recipes.RecipeError, match=f" is not a field .*'{meant}'"):
        recipes.load("mnist5k_vit", [f"--config.{flag}"])


def test_unknown_fields_of_a_config_file_are_refused_but_not_those_of_ones_own_parts():
    config = recipes.load("mnist5k_vit").to_dict() | {"model_name": "my.resnet", "model": {"stages": 3, "width": -1}}
    config["evals"] = {"val": {"type": "my.evaluator", "metric": "f1", "log_steps": 5}}
    schema.check(config, whole=True)
    config["evals"]["val"].update(log_stepz=5, log_epochs="often")
    config |= {"grad_clip_per_example": 1.0, "norms": {"masses": {"Bias": 2, ".*/kernel": 0.5, ".*/head.*": -1}}}
    with pytest.raises(schema.ConfigError) as caught:
        schema.check(config)
    assert "config.grad_clip_per_example is not a field (did you mean 'config.grad_clip_norm'" in str(caught.value)
    assert "config.evals.val.log_epochs='often'" in str(caught.value)
    assert "3 wrong fields" in str(caught.value), "a regex is one key"
    assert "config.norms.masses..*/head.*=-1" in str(caught.value)


def test_a_config_without_what_is_needed_is_told_so():
    config = {k: v for k, v in recipes.load("mnist5k_vit").to_dict().items() if k not in ("lr", "model_name")}
    schema.check(config)
    with pytest.raises(schema.ConfigError, match=r"(?s)config.model_name is missing; .*config.lr is missing"):
        schema.check(config, whole=True)


def test_defaults_are_allowed_and_every_field_says_what_is_possible():
    for field in fields.FIELDS.values():
        assert field.needed or field.allows(field.default), field.name
        assert field.meaning, field.name
        assert not field.allows(object()), field.name


def options_in_code():
    """{field: its defaults} of models, optimizer, schedules, constraint, evaluators; [] for one that must be given."""
    classes = [vit.ViT, mlp.MLP, gpt.GPT, mamba.Mamba, mamba2.Mamba2, vision_mamba.Sizes]
    given = {"num_classes", "name", "parent", "spec", "predict_fn", "source_factory", "workdir"}
    given |= {"mesh", "target_norms", "rate", "clock"}
    named = [("model", cls) for cls in classes] + [("model.scaling", arch.Scaling)]
    named += [("optax", dualize.scale_by_dualize), ("weight_constraint", dualize.constrain)]
    named += [("schedule", decay) for decay in schedules._DECAYS.values()]
    named += [(f"evals.{kind}", evaluators._module(kind, "").Evaluator) for kind in evaluators.EVALUATORS]
    found = {}
    for prefix, function in named:
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in given and (prefix, name) != ("weight_constraint", "table"):
                found.setdefault(f"{prefix}.{name}", []).append(parameter.default)
    return {name: [d for d in defaults if d is not inspect.Parameter.empty] for name, defaults in found.items()}


def test_every_option_in_the_code_is_in_the_schema():
    """A new option needs its line in fields.py."""
    assert sorted(name for name in options_in_code() if schema.field_of(name) is None) == []
    assert fields.FIELDS["model_name"].possible.names == models.MODELS  # type: ignore[union-attr]


def test_the_schemas_defaults_are_those_of_the_code():
    """None in the schema: by who reads it, or by the model, as its meaning says."""
    by_model = {"model.scan", "model.scaling"}
    for name, defaults in options_in_code().items():
        field = schema.field_of(name)
        if field is not None and field.default is not None and name not in by_model:
            assert set(defaults) <= {field.default}, name


def test_docs_config_is_written_from_the_schema():
    page = pathlib.Path(__file__).parent.parent / "docs" / "config.md"
    assert page.read_text() == schema.markdown(), "bvd list fields --markdown > docs/config.md"


@pytest.mark.parametrize("name", sorted(path.stem for path in files.shipped("configs").glob("[!_]*.py")))
def test_every_recipe_fits_the_schema(name):
    schema.check(recipes.load(name), whole=True)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS_0_1.glob("*.py")))
@pytest.mark.filterwarnings("ignore:.* is now .*:DeprecationWarning")
def test_a_config_file_of_version_0_1_means_what_it_meant(name):
    then = json.loads((CONFIGS_0_1 / "resolved.json").read_text())[name]
    text = ":a.txt" if "bytes" in name else ""
    now = json.loads(json.dumps(recipes.load(f"{CONFIGS_0_1 / name}.py{text}").to_dict()))
    assert (now == then) is (name not in TODAYS)


def test_the_imagenet_recipe_has_big_visions_head_and_evaluations_as_options():
    plain: Any = recipes.load("vit_s16_i1k")
    full: Any = recipes.load("vit_s16_i1k:rep,real_v2", ["--config.input.data.data_dir=/d"])
    assert (plain.model.rep_size, full.model.rep_size) == (False, True)
    assert set(full.evals) - set(plain.evals) == {"real", "v2"}
    assert (full.evals.v2.data.name, full.evals.real.data.name) == ("imagenet_v2", "imagenet2012_real")
    assert 'key="real_label"' in full.evals.real.pp_fn
    assert full.evals.v2.data.data_dir == "/d"
    with pytest.raises(
        recipes.RecipeError, match=r"i1k:real \(did you mean 'real_v2' or 'rep'\?\): possible: vit_s16_i1k:rep"
    ):
        recipes.load("vit_s16_i1k:real")


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
