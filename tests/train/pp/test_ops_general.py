"""General ops against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from big_vision_dual.train import pp
from big_vision_dual.train.pp.quiet_tf import tf


def run(string, **example):
    tensors = tf.nest.map_structure(tf.constant, example)
    return tf.nest.map_structure(
        lambda value: value.numpy(), pp.get_preprocess_fn(string)(tensors, tf.constant([0, 1]))
    )


def test_onehot():
    result = run('onehot(4, key="label", key_result="labels")', label=2)
    np.testing.assert_array_equal(result["labels"], [0, 0, 1, 0])
    assert result["labels"].dtype == np.float32
    assert result["label"] == 2
    np.testing.assert_array_equal(run("onehot(4)", labels=[0, 3, 3])["labels"], [1, 0, 0, 1])
    smooth = run("onehot(4, on=0.1, off=0.7)", labels=[0, 2])["labels"]
    np.testing.assert_array_equal(smooth, np.array([0.1, 0.7, 0.1, 0.7], np.float32))
    np.testing.assert_array_equal(run("onehot(3, multi=False)", labels=[2, 0])["labels"], [[0, 0, 1], [1, 0, 0]])


def test_choosing_entries():
    assert run('keep("b")', a=1, b=2) == {"b": 2}
    assert run('drop("b", "absent")', a=1, b=2) == {"a": 1}
    assert run('copy("a", "c")', a=1) == {"a": 1, "c": 1}
    assert run("flatten", a={"b": 1, "c": {"d": 2}}, e=3) == {"a/b": 1, "a/c/d": 2, "e": 3}


def test_lookup():
    assert run("lookup((5, 6, 9))", label=2)["label"] == 9


def test_shapes():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    np.testing.assert_array_equal(run("squeeze_last_dim", image=image)["image"], image[..., 0])
    np.testing.assert_array_equal(run("reshape((4, -1))", image=image)["image"], image.reshape(4, 6))
    assert run('cast("bfloat16")', image=image)["image"].dtype == tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize(("where", "before"), [("after", (0, 0)), ("before", (3, 2)), ("both", (1, 1))])
def test_pad_to_shape(where, before):
    image = np.ones((2, 3, 1), np.uint8)
    padded = run(f'pad_to_shape((5, 5, None), pad_value=7, where="{where}")', image=image)["image"]
    want = np.full((5, 5, 1), 7, np.uint8)
    want[before[0] : before[0] + 2, before[1] : before[1] + 3] = 1
    np.testing.assert_array_equal(padded, want)


def test_choice():
    values = np.arange(10)
    assert run("choice", image=values)["image"] in values
    chosen = run("choice(4)", image=values)["image"]
    assert len(set(chosen.tolist())) == 4
