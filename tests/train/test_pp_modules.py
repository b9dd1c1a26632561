"""A preprocessing op of the user's own, found by config.pp_modules in training and in evaluation."""

from __future__ import annotations

import pytest
import tiny_tfds

from big_vision_dual.train.loop import fit
from big_vision_dual.train.pp import PreprocessError

OPS = '''
from big_vision_dual.train import pp
from big_vision_dual.train.pp.quiet_tf import tf

@pp.register("users_label", key="label")
def users_label(name):
    """Every image gets the label `name`."""
    return lambda label: tf.fill(tf.shape(label), tf.cast(name, label.dtype))
'''


def pp_labelling(label):
    to_labels = 'onehot(5, key="label", key_result="labels")|keep("image", "labels")'
    return f"decode|resize(8)|value_range(-1, 1)|users_label({label})|{to_labels}"


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    """Trains on labels that are all 2, by an op of `users_ops`; evaluates where they are all 2, and all 1."""
    (tmp_path / "users_ops.py").write_text(OPS)
    monkeypatch.syspath_prepend(tmp_path)
    data_dir = tiny_tfds.write(tmp_path)
    config = tiny("--config.total_steps=4", model="mlp")
    val = {"type": "classification", "data": {"name": "tiny", "split": "test", "data_dir": data_dir}, "log_steps": 4}
    with config.unlocked():
        config.input.data = {"name": "tiny", "split": "train", "data_dir": data_dir}
        del config.input.augment
        config.input.batch_size = 8
        config.input.shuffle_buffer_size = 8
        config.input.pp = pp_labelling(2)
        config.evals = {"is_2": {**val, "pp_fn": pp_labelling(2)}, "is_1": {**val, "pp_fn": pp_labelling(1)}}
        config.pp_modules = ("users_ops",)
    return config


def test_users_ops_work_in_training_and_evaluation(config):
    last = fit(config)
    assert (last["is_2/acc@1"], last["is_1/acc@1"]) == (1.0, 0.0)
    assert last["training_loss"] < last["is_1/loss"]


def test_a_module_that_is_not_there_is_named(config):
    with config.unlocked():
        config.pp_modules = ("user_ops",)
    with pytest.raises(PreprocessError, match=r"pp_modules names 'user_ops': .*on PYTHONPATH"):
        fit(config)
