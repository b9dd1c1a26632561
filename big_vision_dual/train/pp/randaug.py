"""RandAugment's 16 image operations, each with its magnitude scale. uint8 images (height, width, 3).

Cubuk et al. 2019, arXiv 1909.13719, with the operations of Big Vision: no Identity, but Invert, Cutout
and SolarizeAdd. `magnitude` is on a scale where 10 is the strongest setting of AutoAugment (arXiv
1805.09501, table 6), and strength grows with it everywhere: Solarize inverts more and Posterize keeps
fewer bits. Enhancements (Color to Sharpness) follow AutoAugment: factor 0.1 at magnitude 0, 1.9 at 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from big_vision_dual.train.pp.quiet_tf import Tensor, tf
from big_vision_dual.train.pp.randaug_scale import ADD_BELOW, FILL, NAMES, Strength


def _to_uint8(image: Tensor) -> Tensor:
    return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)


def _blend(degenerate: Tensor, image: Tensor, factor: float) -> Tensor:
    """PIL's ImageEnhance: 0 gives `degenerate` (float32), 1 the image, more exaggerates the difference."""
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _grey(image: Tensor) -> Tensor:
    """ITU-R 601-2 luma in every channel, rounded as PIL rounds it: integers, float32 (height, width, 3)."""
    weights_3x3 = tf.tile(tf.constant([[19595.0], [38470.0], [7471.0]]), (1, 3))
    scaled = tf.matmul(tf.reshape(tf.cast(image, tf.float32), (-1, 3)), weights_3x3)  # below 2**24, so exact
    return tf.reshape(tf.floor((scaled + 0x8000) / 0x10000), tf.shape(image))


def color(image: Tensor, factor: float) -> Tensor:
    """Saturation."""
    return _blend(_grey(image), image, factor)


def contrast(image: Tensor, factor: float) -> Tensor:
    """Distance from the mean grey level of the image's pixels."""
    mean = tf.floor(tf.reduce_mean(_grey(image)) + 0.5)
    return _blend(mean, image, factor)


def brightness(image: Tensor, factor: float) -> Tensor:
    """Distance from black."""
    return _to_uint8(tf.cast(image, tf.float32) * factor)


def sharpness(image: Tensor, factor: float) -> Tensor:
    """Distance from the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the border stays as it is."""
    pixels = tf.cast(image, tf.float32)
    columns = pixels[:-2] + pixels[1:-1] + pixels[2:]  # sums of slices: far faster than pooling or convolution here
    box = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    inner = _blend(tf.round((box + 4 * pixels[1:-1, 1:-1]) / 13), image[1:-1, 1:-1], factor)
    rows = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], rows, image[-1:]], axis=0)


def _per_pixel(values_3: Tensor, image: Tensor) -> Tensor:
    """One value a channel -> (width * 3,), to broadcast over `_rows`; along channels it is several times slower."""
    return tf.tile(values_3, [tf.shape(image)[1]])


def _rows(image: Tensor) -> Tensor:
    """(height, width, 3) -> (height, width * 3)."""
    return tf.reshape(image, (tf.shape(image)[0], tf.shape(image)[1] * 3))


def autocontrast(image: Tensor) -> Tensor:
    """Stretches each channel linearly to 0..255; a channel of one level stays."""
    low_3, high_3 = (
        tf.cast(reduce(tf.reshape(reduce(_rows(image), axis=0), (-1, 3)), axis=0), tf.float64)
        for reduce in (tf.reduce_min, tf.reduce_max)
    )
    scale_3 = tf.where(high_3 > low_3, 255 / tf.maximum(high_3 - low_3, 1), 1)
    offset_3 = tf.where(high_3 > low_3, -low_3 * scale_3, 0)
    rows = tf.cast(_rows(image), tf.float64)  # in float64 and in this order, to truncate where PIL does
    stretched = rows * _per_pixel(scale_3, image) + _per_pixel(offset_3, image)
    return tf.reshape(_to_uint8(stretched), tf.shape(image))


def equalize(image: Tensor) -> Tensor:
    """Maps the levels of each channel so that they are used evenly, as PIL's ImageOps.equalize does."""
    levels = tf.cast(_rows(image), tf.int32) + _per_pixel(tf.constant([0, 256, 512]), image)
    histogram_3x256 = tf.reshape(tf.math.bincount(levels, minlength=768, maxlength=768), (3, 256))
    used_3x256 = tf.cast(histogram_3x256 > 0, tf.int32)
    last_level_3 = tf.reduce_max(used_3x256 * tf.range(256), axis=-1)
    in_last_3 = tf.gather(histogram_3x256, last_level_3, batch_dims=1)
    step_3 = (tf.reduce_sum(histogram_3x256, axis=-1) - in_last_3) // 255
    below_3x256 = tf.cumsum(histogram_3x256, axis=-1, exclusive=True)
    divisor_3x1 = tf.maximum(step_3, 1)[:, None]
    mapped_3x256 = tf.minimum((below_3x256 + divisor_3x1 // 2) // divisor_3x1, 255)
    table_3x256 = tf.where(step_3[:, None] > 0, mapped_3x256, tf.range(256))
    equalized = tf.gather(tf.reshape(tf.cast(table_3x256, tf.uint8), (-1,)), levels)
    return tf.reshape(equalized, tf.shape(image))


def invert(image: Tensor) -> Tensor:
    return 255 - image


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keeps the `bits` highest bits of every value."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: Tensor, threshold: int) -> Tensor:
    """Inverts the values at or above `threshold`: 256 changes nothing, 0 inverts the image."""
    return image if threshold > 255 else tf.where(image < threshold, image, 255 - image)


def solarize_add(image: Tensor, addition: int) -> Tensor:
    """Adds to the values below 128, clipping at 255."""
    added = image + tf.minimum(255 - image, addition)
    return tf.where(image < ADD_BELOW, added, image)


def transform(image: Tensor, matrix: tuple[Any, ...]) -> Tensor:
    """Takes pixel (x, y) from (a x + b y + c, d x + e y + f), nearest neighbour; matrix = (a, b, c, d, e, f)."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([tf.cast(value, tf.float32) for value in (*matrix, 0, 0)])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def translate(image: Tensor, down: Any, right: Any, most: int) -> Tensor:
    """Takes pixel (y, x) from (y + down, x + right); whole pixels, at most `most` of them either way."""
    height, width, channels = tf.unstack(tf.shape(image))
    padded = tf.pad(image, [(most, most), (most, most), (0, 0)], constant_values=FILL)
    return tf.slice(padded, (most + down, most + right, 0), (height, width, channels))


def rotate(image: Tensor, degrees: Any) -> Tensor:
    """Turns the image counter-clockwise about its centre."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    middle_y, middle_x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    right, down = middle_x - cos * middle_x + sin * middle_y, middle_y - sin * middle_x - cos * middle_y
    return transform(image, (cos, -sin, right, sin, cos, down))


def cutout(image: Tensor, half: int, center: Tensor) -> Tensor:
    """Greys out a square of side 2 `half` about `center` (y, x as fractions of the sides), clipped at the border."""
    height, width = tf.unstack(tf.shape(image)[:2])
    top, left = (
        tf.cast(center[axis] * tf.cast(size, tf.float32), tf.int32) for axis, size in ((0, height), (1, width))
    )
    rows = tf.abs(2 * (tf.range(height) - top) + 1) < 2 * half
    columns = tf.abs(2 * (tf.range(width * 3) // 3 - left) + 1) < 2 * half
    square = rows[:, None] & columns[None]
    return tf.reshape(tf.where(square, tf.constant(FILL, tf.uint8), _rows(image)), tf.shape(image))


def operations(magnitude: float, sign: Tensor, center: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """{name: function of an image} at a magnitude; sign is -1 or 1, center (y, x) in fractions of the sides."""
    strength = Strength(magnitude)
    degrees, shear = sign * strength.degrees, sign * strength.shear
    shift = tf.cast(sign, tf.int32) * strength.shift
    functions = {
        "AutoContrast": autocontrast,
        "Equalize": equalize,
        "Invert": invert,
        "Rotate": lambda image: rotate(image, degrees),
        "Posterize": lambda image: posterize(image, strength.bits),
        "Solarize": lambda image: solarize(image, strength.threshold),
        "Color": lambda image: color(image, strength.factor),
        "Contrast": lambda image: contrast(image, strength.factor),
        "Brightness": lambda image: brightness(image, strength.factor),
        "Sharpness": lambda image: sharpness(image, strength.factor),
        "ShearX": lambda image: transform(image, (1, shear, 0, 0, 1, 0)),
        "ShearY": lambda image: transform(image, (1, 0, 0, shear, 1, 0)),
        "TranslateX": lambda image: translate(image, 0, shift, strength.shift),
        "TranslateY": lambda image: translate(image, shift, 0, strength.shift),
        "Cutout": lambda image: cutout(image, strength.half, center),
        "SolarizeAdd": lambda image: solarize_add(image, strength.addition),
    }
    return {name: functions[name] for name in NAMES}
