"""A study's trial is the trainer's run: the same losses from the same config, and a refusal where it cannot be."""

import jax
import ml_collections
import numpy as np
import pytest

from big_vision_dual.core import trees
from big_vision_dual.lab.studies import grid, settings
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.train import feed, recipes, setup

STEPS = 4
SMALL = {
    "model.width": 8, "model.depth": 1, "model.num_heads": 2, "total_steps": STEPS, "input.batch_size": 8, "seed": 3,
    "schedule.decay_type": "linear",
}  # fmt: skip
EVERYTHING = {
    "mixup": {"p": 0.3}, "input.accum_freq": 2, "input.augment": "shift(2)", "ema": {"decay": 0.9},
    "init_head_bias": -2.0, "label_smoothing": 0.1, "model.dropout": 0.2, "weight_constraint": "project",
    "loss": "sigmoid_xent",
}  # fmt: skip
BASE = grid.replace(recipes.load("study_vit").to_dict(), SMALL)


def of_the_trainer(config):
    """(losses, last state) of `STEPS` steps."""
    run = setup.prepare(ml_collections.ConfigDict(config))
    state, losses = run.fns.init(), []
    for _, batch in zip(range(STEPS), feed.batches(run.source, run.fns, 0), strict=False):
        state, outputs = run.fns.train(state, batch, False)
        losses.append(float(outputs["loss"]))
    return losses, jax.device_get(state)


def of_a_study(config):
    program = Program.of(config)
    given, data = program.numbers_of(config), program.data()
    state, losses = jax.jit(program.init)(given), []
    update = jax.jit(program.update)
    for _ in range(STEPS):
        done = update(state, given, data)
        state = done.state
        losses.append(float(done.loss))
    return losses, jax.device_get(state)


@pytest.mark.parametrize("setting", ["adamw", "dualize_flat"])
def test_a_trial_and_a_run_of_one_config_have_the_same_losses(setting):
    config = grid.replace(settings.apply(setting, BASE), EVERYTHING)
    expected, run = of_the_trainer(config)
    losses, trial = of_a_study(config)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(set(expected)) == STEPS
    for of_run, of_trial in ((run.params, trial.params), (run.ema_params, trial.ema_params)):
        for path, leaf in trees.flatten(of_run).items():
            if not path.endswith("key/bias"):  # softmax does not see it: its gradient is rounding, which Adam enlarges
                np.testing.assert_allclose(trees.flatten(of_trial)[path], leaf, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("field", ["mixup", "init_head_bias", "model.dropout"])
def test_a_field_changes_a_trial(field):
    """The test above says that it is done right. Softmax would not see a bias that all classes share."""
    plain = grid.replace(settings.apply("adamw", BASE), {"loss": "sigmoid_xent"})
    changed = grid.replace(plain, {field: EVERYTHING[field]})
    assert of_a_study(changed)[0] != of_a_study(plain)[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("input.pp", "flip_lr", "config.input.pp='flip_lr': studies draw batches on the device; use input.augment"),
        ("model_init", "w.npz", "config.model_init='w.npz': studies start afresh"),
        ("evals.val.pred", "predict_ema", "studies validate the parameters themselves"),
    ],
)
def test_what_a_study_cannot_do_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Program.of(grid.replace(BASE, {field: value}))
