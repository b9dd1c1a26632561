"""RandAugment's operations against PIL on a grid of magnitudes, and how `randaug` draws them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from big_vision_dual.train import pp
from big_vision_dual.train.pp import randaug
from big_vision_dual.train.pp.quiet_tf import tf

MAGNITUDES = (0, 1.3, 3.7, 6.1, 8.9, 10, 14.1)
GREY = (128, 128, 128)
CENTER = (0.3, 0.9)  # close enough to the right edge for the square to be clipped there


def affine(image, a, b, c, d, e, f):
    """The map on pixel indices; PIL wants it on coordinates in which pixel centres are at halves."""
    matrix = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=GREY)


def cutout(image, half):
    pixels = np.array(image)
    y, x = int(np.float32(CENTER[0]) * pixels.shape[0]), int(np.float32(CENTER[1]) * pixels.shape[1])
    pixels[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = GREY
    return pixels


def solarize_add(image, addition):
    pixels = np.array(image).astype(int)
    return np.where(pixels < 128, np.minimum(pixels + addition, 255), pixels)


def references(image, magnitude, sign):
    """{operation: the image it should give}, by PIL or, where PIL has no such thing, NumPy."""
    m = magnitude / 10
    factor = 0.1 + 1.8 * m
    return {
        "AutoContrast": ImageOps.autocontrast(image),
        "Equalize": ImageOps.equalize(image),
        "Invert": ImageOps.invert(image),
        "Rotate": image.rotate(sign * 30 * m, fillcolor=GREY),
        "Posterize": ImageOps.posterize(image, 8 - round(4 * m)),
        "Solarize": ImageOps.solarize(image, max(256 - int(256 * m), 0)),
        "Color": ImageEnhance.Color(image).enhance(factor),
        "Contrast": ImageEnhance.Contrast(image).enhance(factor),
        "Brightness": ImageEnhance.Brightness(image).enhance(factor),
        "Sharpness": ImageEnhance.Sharpness(image).enhance(factor),
        "ShearX": affine(image, 1, sign * 0.3 * m, 0, 0, 1, 0),
        "ShearY": affine(image, 1, 0, 0, sign * 0.3 * m, 1, 0),
        "TranslateX": affine(image, 1, 0, sign * 100 * m, 0, 1, 0),
        "TranslateY": affine(image, 1, 0, 0, 0, 1, sign * 100 * m),
        "Cutout": cutout(image, int(40 * m)),
        "SolarizeAdd": solarize_add(image, int(110 * m)),
    }


def ours(photo, magnitude, sign=1.0):
    operations = randaug.operations(magnitude, tf.constant(sign), tf.constant(CENTER))
    return {name: operation(tf.constant(photo)).numpy() for name, operation in operations.items()}


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_operations_agree_with_pil(photo, magnitude):
    for sign in (-1.0, 1.0):
        wanted = references(Image.fromarray(photo), magnitude, sign)
        given = ours(photo, magnitude, sign)
        assert list(given) == list(wanted)
        for name, want in wanted.items():
            got, want = given[name].astype(int), np.asarray(want).astype(int)
            differ = (got != want).any(-1).mean()
            if name not in ("Rotate", "ShearX", "ShearY"):
                assert differ == 0, (name, magnitude, sign)
            elif magnitude != 10:
                # Nearest neighbour rounds float32 here and 16.16 fixed point in PIL; measured: up to 0.3 % of pixels.
                assert differ < 0.01, (name, magnitude, sign, differ)
            # At 10, shear 0.3 puts a tenth of the lines exactly between two pixels: compare statistics.
            assert np.abs(got.mean((0, 1)) - want.mean((0, 1))).max() < 0.5, (name, magnitude, sign)
            assert np.abs(got.std((0, 1)) - want.std((0, 1))).max() < 0.5, (name, magnitude, sign)


def changes(photo, name):
    """Mean change of the pixels at growing magnitudes."""
    return [np.abs(ours(photo, magnitude)[name].astype(int) - photo).mean() for magnitude in (0, 2.5, 5, 10)]


@pytest.mark.parametrize("name", ["Posterize", "Solarize", "Cutout", "SolarizeAdd"])
def test_strength_grows_with_magnitude_from_nothing(photo, name):
    change = changes(photo, name)
    assert change[0] == 0
    assert change == sorted(change)
    assert change[-1] > 0


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"])
def test_more_is_uncovered_as_the_magnitude_grows(name):
    change = changes(np.zeros((150, 130, 3), np.uint8), name)  # what is grey in a black image was uncovered
    assert change[0] == 0
    assert (np.diff(change) > 0).all()


def test_enhancements_are_neutral_at_magnitude_5(photo):
    """Factor 0.1 + 1.8 / 2 = 1 leaves the image alone."""
    given = ours(photo, 5)
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        np.testing.assert_array_equal(given[name], photo)


def test_contrast_moves_away_from_the_mean_grey_level():
    """Big Vision's takes height * width / 256 for the mean: on a bright image it would shift all of it."""
    bright = np.full((40, 50, 3), 200, np.uint8)
    np.testing.assert_array_equal(randaug.contrast(tf.constant(bright), 0.1), bright)


def test_degenerate_images():
    flat = tf.fill((6, 9, 3), tf.constant(77, tf.uint8))
    for name in ("AutoContrast", "Equalize", "Sharpness", "Contrast"):
        np.testing.assert_array_equal(ours(flat.numpy(), 10)[name], flat)


def drawing(string, count, image):
    """Reads the results for `count` seeds, as often as it is called."""
    function = pp.get_preprocess_fn(string)
    dataset = tf.data.Dataset.range(count).map(
        lambda i: function({"image": image}, tf.stack([tf.constant(5, tf.int64), i]))
    )
    return lambda: np.stack([example["image"] for example in dataset.as_numpy_iterator()])


def test_operations_signs_and_centers_are_drawn_evenly(monkeypatch):
    """With operations that write down what they got: 16 equally likely, signs even, centers anywhere."""

    def noted(_, sign, center):
        note = [tf.cast(sign + 1, tf.uint8), *tf.unstack(tf.cast(center * 4, tf.uint8))]
        return {str(i): lambda image, i=i: image * 0 + tf.stack([tf.constant(i, tf.uint8), *note]) for i in range(16)}

    monkeypatch.setattr(randaug, "operations", noted)
    notes = drawing("randaug(1, 10)", 3200, np.zeros((1, 1, 4), np.uint8))()[:, 0, 0]
    for column, values, spread in ((0, range(16), 14), (1, (0, 2), 28), (2, range(4), 25), (3, range(4), 25)):
        counts = [np.sum(notes[:, column] == value) for value in values]
        assert sum(counts) == 3200
        assert max(abs(count - 3200 / len(counts)) for count in counts) < 4 * spread  # 4 standard deviations


def test_result_depends_on_the_seed_alone():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    draw = drawing("randaug(2, 10)", 12, image)
    first = draw()
    np.testing.assert_array_equal(first, draw())
    assert len({drawn.tobytes() for drawn in first}) > 8
