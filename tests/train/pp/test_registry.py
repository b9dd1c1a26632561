"""Binding calls to ops: keys, seeds, users' modules, and errors that name what was near."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from big_vision_dual.train import pp
from big_vision_dual.train.pp.quiet_tf import tf

SEED = (0, 7)


def run(string, example, seed=SEED, **kwargs):
    return pp.get_preprocess_fn(string, **kwargs)(example, tf.constant(seed, tf.int64))


def test_inkey_outkey_and_key():
    example = {"image": tf.constant([[[255]]]), "other": tf.constant([[[51]]])}
    result = run('value_range(0, 1, outkey="a")|value_range(0, 1, key="other")', example)
    assert sorted(result) == ["a", "image", "other"]
    assert float(result["a"][0, 0, 0]) == 1
    assert float(result["other"][0, 0, 0]) == pytest.approx(0.2)
    assert "a" not in example  # the caller's example is left alone
    assert float(run('value_range(0, 1, inkey="other")', example)["image"][0, 0, 0]) == pytest.approx(0.2)


def test_each_random_op_has_a_seed_of_its_own():
    example = {"a": tf.range(1000), "b": tf.range(1000)}
    result = run('choice(500, key="a")|choice(500, key="b")', example)
    assert not np.array_equal(result["a"], result["b"])
    again = run('choice(500, key="a")|choice(500, key="b")', example)
    np.testing.assert_array_equal(result["b"], again["b"])
    assert not np.array_equal(result["a"], run('choice(500, key="a")', example, seed=(0, 8))["a"])
    assert not np.array_equal(result["a"], run('choice(500, key="a")', example, seed=(1, 7))["a"])


def test_user_modules(tmp_path, monkeypatch):
    (tmp_path / "my_ops.py").write_text(
        "from big_vision_dual.train.pp import register\n"
        "@register('my_scale', key='image')\n"
        "def my_scale(factor=2):\n"
        "    return lambda image: image * factor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = run("my_scale(factor=3)", {"image": tf.constant(5)}, modules=["my_ops", "ops_general", "archive.randaug"])
    assert int(result["image"]) == 15
    sys.modules.pop("my_ops")
    pp.load_modules(["my_ops"])  # the same op again is no clash
    with pytest.raises(pp.PreprocessError, match=r"op 'my_scale' of .* exists already in my_ops; choose another name"):
        pp.register("my_scale")(lambda: dict)


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("flip_rl", r"unknown op 'flip_rl' in 'flip_rl'; nearest: flip_lr.*config.pp_modules"),
        ("xyz", r"unknown op 'xyz'.* possible: cast, central_crop, choice"),
        ("resize(9, metod='area')", r"'metod': nearest: method. The op is resize\(size, method='bilinear', antialias="),
        ("resize()", r"missing a required argument: 'size'. The op is resize\(size"),
        ("resize(9, method='aria')", r"method is 'aria'; possible: area, bilinear.* The op is resize"),
        ("resize((9, 0))", r"size is \(9, 0\); possible: a number of pixels or \(height, width\)"),
        ("decode_jpeg_and_inception_crop(9, area_min=0)", r"area_min=0, area_max=100; possible: percent"),
        ("inception_crop(9, ratio_min=2)", r"ratio_min=2, ratio_max=1.33; possible: 0 < ratio_min <= ratio_max"),
        ("randaug(0, 10)", r"num_layers=0, magnitude=10; possible: num_layers >= 1"),
        ("value_range(1, -1)", r"\[0, 255\] -> \[1, -1\]; possible"),
        ("cast('float33')", r"dtype is 'float33'; possible: a NumPy name"),
        ("pad_to_shape((2,), where='left')", r"where is 'left'; possible: 'after', 'before', 'both'"),
    ],
)
def test_wrong_calls_are_refused_before_data_is_read(string, message):
    with pytest.raises(pp.PreprocessError, match=message):
        pp.get_preprocess_fn(string)


def test_missing_module():
    with pytest.raises(pp.PreprocessError, match=r"pp_modules names 'no_such_ops': .*PYTHONPATH"):
        pp.get_preprocess_fn("", modules=["no_such_ops"])


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("flip_lr(key='img')", r"reads 'img', but at this point the example has \['image', 'label'\]"),
        ("keep('image', 'labels')", r"keep needs \['labels'\], but at this point the example has \['image', 'label'\]"),
        ("onehot(10)", r"onehot needs \['labels'\]"),
        ("copy('img', 'b')", r"copy needs \['img'\]"),
    ],
)
def test_missing_entries(string, message):
    with pytest.raises(pp.PreprocessError, match=message):
        run(string, {"image": tf.zeros((2, 2, 3), tf.uint8), "label": tf.constant(1)})


def test_randaug_wants_pixels():
    with pytest.raises(ValueError, match=r"randaug got a float32 image; possible: uint8. Place it before value_range"):
        run("value_range|randaug", {"image": tf.zeros((4, 4, 3), tf.uint8)})
