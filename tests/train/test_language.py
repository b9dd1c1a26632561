"""Language models over bytes in the ordinary trainer: they learn, resume exactly, and can be sampled from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_rows import repeatable as rows

from big_vision_dual.cli import main
from big_vision_dual.lab.studies import settings
from big_vision_dual.models import init
from big_vision_dual.train import checkpoint, feed, recipes, sampling, setup, signals
from big_vision_dual.train.loop import fit

MODELS = {"mamba": {"d_model": 16, "n_layers": 1, "d_state": 4},
          "mamba2": {"d_model": 16, "n_layers": 1, "d_state": 4, "d_head": 8}}  # fmt: skip
SETTINGS = {"adamw": 2**-5, "mup": 2**-5, "dualize": 0.1}


@pytest.fixture
def text(tmp_path, environment):
    del environment  # compiles fast
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat; " * 60)
    return path


def config_of(text, name, setting="adamw", **fields) -> Any:
    recipe: Any = recipes.load(f"{name}_bytes:{text}")
    with recipe.unlocked():
        recipe.model = {**MODELS[name], "scaling": "standard"}
        recipe.input_shape = (16,)
        recipe.input.data.length = recipe.evals.val.data.length = 16
        recipe.input.batch_size = recipe.evals.val.batch_size = 8
        recipe.update({"total_steps": 40, "log_training_steps": 10, "ckpt_steps": 20, **fields})
    applied = settings.apply(setting, recipe.to_dict())
    return type(recipe)({**applied, "lr": SETTINGS[setting], "evals": recipe.evals})


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls_well_below_that_of_guessing(text, name, setting):
    last = fit(config_of(text, name, setting))
    assert last["val/loss"] < 0.6 * np.log(256)
    assert last["val/bits_per_byte"] == pytest.approx(last["val/loss"] / np.log(2))


@pytest.mark.parametrize(("name", "setting"), [("mamba", "mup"), ("mamba2", "dualize")])
def test_a_run_that_was_stopped_and_restored_equals_one_that_was_not(text, tmp_path, monkeypatch, name, setting):
    config = config_of(text, name, setting, total_steps=8, log_training_steps=1)
    fit(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(signals.StopRequest, "at", lambda _, step: step == 5)  # as after SIGTERM, see test_resume.py
        with pytest.raises(signals.Stopped):
            fit(config, tmp_path / "stopped")
    assert [row["step"] for row in rows(tmp_path / "stopped")] == [1, 2, 3, 4, 5]
    fit(config, tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    (_, whole), (_, stopped) = (sampling.load(tmp_path / run) for run in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, stopped, whole)


def test_mup_redraws_and_multiplies_in_the_trainer(text):
    wide = config_of(text, "mamba", "mup")
    wide.model["d_model"] = 256  # m = 4
    run = setup.prepare(wide)
    params = run.fns.init().params
    assert not np.any(params["head"]["kernel"])
    assert float(params["layers_0"]["mixer"]["in_proj"]["kernel"].std()) == pytest.approx(0.01, rel=0.05)
    tx, _ = step_optimizer(wide, params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates: Any = tx.update(grads, tx.init(params), jax.tree.map(jnp.zeros_like, params))[0]
    hidden, embedding = updates["layers_0"]["mixer"]["in_proj"]["kernel"], updates["embedding"]["embedding"]
    np.testing.assert_allclose(hidden[0, 0] / embedding[0, 0], 0.25, rtol=1e-5)


def step_optimizer(config, params):
    from big_vision_dual.train import optim

    steady = {**config, "schedule": {}, "grad_clip_norm": None}
    return optim.make(steady, params, total_steps=10, batch_size=8)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_sampling_equals_the_argmax_of_the_parallel_form(name):
    from big_vision_dual import models

    model = models.get(name).Model(256, **MODELS[name])
    prompt = jnp.array([[3, 1, 4, 1]])
    params = model.init(jax.random.key(0), prompt)["params"]
    written = sampling.generate(model, params, prompt[0], 6, 0.0, 0)
    tokens = prompt
    for token in written:
        logits_BxLxV, _ = model.apply({"params": params}, tokens)
        assert int(logits_BxLxV[0, -1].argmax()) == int(token)
        tokens = jnp.concatenate([tokens, token[None, None]], axis=1)


def test_sample_prints_prompt_and_text_alike_for_one_seed(text, tmp_path, capsys):
    fit(config_of(text, "mamba2"), tmp_path / "run")
    command = ["sample", str(tmp_path / "run"), "--prompt", "the cat ", "--length", "20", "--seed", "3"]
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert main(command) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("the cat ")


def test_sample_names_what_is_missing(tmp_path, tiny):
    with pytest.raises(checkpoint.CheckpointError, match="has no checkpoint of a run; give the --workdir"):
        sampling.load(tmp_path / "nothing")
    fit(tiny("--config.total_steps=1", "--config.schedule.warmup_steps=0", model="mlp"), tmp_path / "mlp")
    with pytest.raises(ValueError, match="has a mlp, which is no recurrent language model"):
        sampling.load(tmp_path / "mlp")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup": {"p": 0.2}}, "config.mixup averages examples, which tokens do not allow"),
        ({"mup": {"base_width": 8}, "lr_mults": [[".*", 2.0]]}, "config.mup sets lr_mults and wd_mults"),
        ({"mup": {"base_width": 8}, "optax_name": "trace", "optax": {"decay": 0.9}}, "given: 'trace'"),
    ],
)
def test_contradictions_in_the_config_are_named(text, fields, message):
    config = config_of(text, "mamba")
    with config.unlocked():
        config.update(fields)
        if "mup" in fields:
            config.model["mup_base_width"] = 8
    with pytest.raises(ValueError, match=message):
        setup.prepare(config)


def test_a_length_that_the_input_shape_contradicts_is_named(text):
    config = config_of(text, "mamba")
    config.input_shape = (12,)
    run = setup.prepare(config)
    with pytest.raises(ValueError, match=r"'tokens': \(8, 17\).*'tokens': \(8, 13\).*input_shape"):
        next(feed.batches(run.source, run.fns, 0))
    assert init.params(config, run.model)["head"]["kernel"].shape == (16, 256)
