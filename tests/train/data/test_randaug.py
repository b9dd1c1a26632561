"""`data.randaug` against the TensorFlow operations, image by image, and how it draws them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.train.data import randaug
from big_vision_dual.train.data.augment import augment_fn
from big_vision_dual.train.data.base import DataError
from big_vision_dual.train.pp import randaug as on_host
from big_vision_dual.train.pp.quiet_tf import tf
from big_vision_dual.train.pp.randaug_scale import NAMES

EXACT = [name for name in NAMES if name not in ("AutoContrast", "Rotate", "ShearX", "ShearY")]
CENTER = (0.3, 0.9)


@pytest.fixture(scope="module")
def images():
    """Noise; a smooth image of few levels a channel; one of a single level; each in its 16 operations."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (37, 45, 3))
    smooth = 40 + 3 * np.arange(37)[:, None, None] + np.arange(45)[:, None] // (1 + np.arange(3))
    return np.stack([noise, smooth, np.full_like(noise, 77)]).astype(np.uint8)


@pytest.fixture(scope="module")
def layer():
    return jax.jit(randaug.layer, static_argnames="magnitude")


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", [0, 3.7, 10, 14.1])
def test_each_operation_is_tensorflows(images, layer, magnitude, sign):
    batch = np.repeat(images, len(NAMES), axis=0)
    operation_B = np.tile(np.arange(len(NAMES)), len(images))
    center_Bx2 = np.tile(np.array(CENTER, np.float32), (len(batch), 1))
    got = layer(jnp.asarray(batch), operation_B, np.full(len(batch), np.float32(sign)), center_Bx2, magnitude)
    functions = on_host.operations(magnitude, tf.constant(sign), tf.constant(CENTER))
    for index, result in enumerate(np.asarray(got)):
        name = NAMES[operation_B[index]]
        expected = functions[name](tf.constant(batch[index])).numpy()
        if name in EXACT:
            np.testing.assert_array_equal(result, expected, err_msg=name)
        elif name == "AutoContrast":  # float64 there rounds some exact levels down
            assert np.abs(result.astype(int) - expected).max() <= 1
        else:  # a pixel on the edge between two: a shear of .3 has them at 5, 15, .. pixels; seen .8 %
            assert np.mean(np.any(result != expected, axis=-1)) < 0.01, name


def test_all_operations_are_drawn_alike_with_both_signs(monkeypatch):
    drawn = []
    monkeypatch.setattr(randaug, "layer", lambda images, *args: drawn.append(args) or images)
    randaug.randaug(3, 15)(jax.random.key(0), jnp.zeros((4000, 1, 1, 3), jnp.uint8))
    assert [magnitude for *_, magnitude in drawn] == [15] * 3
    operations, signs = (np.concatenate([one[index] for one in drawn]) for index in (0, 1))
    counts = np.bincount(operations, minlength=len(NAMES))
    assert np.abs(counts - 750).max() < 5 * 750**0.5
    assert abs(np.mean(signs)) < 5 / 12000**0.5
    centers = np.concatenate([one[2] for one in drawn])
    np.testing.assert_allclose(centers.mean(axis=0), 0.5, atol=0.02)


def test_it_is_an_augmentation_that_repeats_with_its_key(images):
    augment = jax.jit(augment_fn("flip_lr|randaug(2,15)"))
    batch = jnp.asarray(np.tile(images, (4, 1, 1, 1)))
    first, again, other = (augment(jax.random.key(seed), batch) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == jnp.uint8
    assert np.any(first != other)
    assert len({image.tobytes() for image in np.asarray(first)}) > len(images)


def test_wrong_uses():
    with pytest.raises(DataError, match=r"randaug\(0, 10\); possible: num_layers >= 1"):
        randaug.randaug(0)
    for wrong in (jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 1), jnp.uint8)):
        with pytest.raises(DataError, match="possible: uint8 and 3 channels"):
            randaug.randaug()(jax.random.key(0), wrong)
