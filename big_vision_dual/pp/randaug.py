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

from big_vision_dual.pp.quiet_tf import Tensor, tf

FILL = 128  # grey level of what is uncovered or cut out
SCALE = 10
_MAX_ROTATION = 30.0  # degrees, here and below at magnitude `SCALE`
_MAX_SHEAR = 0.3  # pixels sideways per pixel
_MAX_TRANSLATION = 100.0  # pixels
_MAX_CUTOUT = 40  # pixels, half the side
_MAX_ADDITION = 110  # grey levels
_MAX_POSTERIZED_BITS = 4
_ADD_BELOW = 128  # SolarizeAdd brightens grey levels under this


def _to_uint8(image: Tensor) -> Tensor:
    return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)


def _blend(degenerate: Tensor, image: Tensor, factor: float) -> Tensor:
    """PIL's ImageEnhance: 0 gives `degenerate`, 1 the image, more exaggerates the difference."""
    degenerate = tf.cast(degenerate, tf.float32)
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _grey(image: Tensor) -> Tensor:
    """ITU-R 601-2 luma, rounded as PIL rounds it; int32 (height, width, 1)."""
    weighted = tf.cast(image, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.bitwise.right_shift(tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000, 16)


def color(image: Tensor, factor: float) -> Tensor:
    """Saturation."""
    return _blend(_grey(image), image, factor)


def contrast(image: Tensor, factor: float) -> Tensor:
    """Distance from the mean grey level of the image's pixels."""
    mean = tf.floor(tf.reduce_mean(tf.cast(_grey(image), tf.float32)) + 0.5)
    return _blend(mean, image, factor)


def brightness(image: Tensor, factor: float) -> Tensor:
    """Distance from black."""
    return _blend(tf.zeros_like(image), image, factor)


def sharpness(image: Tensor, factor: float) -> Tensor:
    """Distance from the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13; the border stays as it is."""
    pixels = tf.cast(image, tf.float32)[None]
    box = tf.nn.avg_pool2d(pixels, 3, 1, "VALID") * 9
    smooth = _to_uint8(tf.round((box + 4 * pixels[:, 1:-1, 1:-1]) / 13))[0]
    inner = tf.pad(tf.ones_like(smooth, tf.bool), [(1, 1), (1, 1), (0, 0)])
    return _blend(tf.where(inner, tf.pad(smooth, [(1, 1), (1, 1), (0, 0)]), image), image, factor)


def _histogram(image: Tensor) -> Tensor:
    """Pixels at each grey level, int32 (channels, 256)."""
    channels_CxN = tf.transpose(tf.reshape(tf.cast(image, tf.int32), (-1, image.shape[-1])))
    return tf.math.bincount(channels_CxN, minlength=256, maxlength=256, axis=-1)


def _look_up(image: Tensor, table_Cx256: Tensor) -> Tensor:
    """Replaces every pixel by the entry of its channel's table."""
    offset_C = tf.range(image.shape[-1]) * 256
    return tf.gather(tf.reshape(tf.cast(table_Cx256, tf.uint8), (-1,)), tf.cast(image, tf.int32) + offset_C)


def autocontrast(image: Tensor) -> Tensor:
    """Stretches each channel linearly to 0..255; a channel of one level stays."""
    low_C = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float64)
    high_C = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float64)
    scale_C = tf.where(high_C > low_C, 255 / tf.maximum(high_C - low_C, 1), 1)
    offset_C = tf.where(high_C > low_C, -low_C * scale_C, 0)
    levels = tf.range(256, dtype=tf.float64)  # in float64 and in this order, to truncate where PIL does
    return _look_up(image, tf.clip_by_value(levels * scale_C[:, None] + offset_C[:, None], 0, 255))


def equalize(image: Tensor) -> Tensor:
    """Maps the levels of each channel so that they are used evenly, as PIL's ImageOps.equalize does."""
    histogram_Cx256 = _histogram(image)
    last_level = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.int32)
    in_last_C = tf.gather(histogram_Cx256, last_level, batch_dims=1)
    step_C = (tf.reduce_sum(histogram_Cx256, axis=-1) - in_last_C) // 255
    below_Cx256 = tf.cumsum(histogram_Cx256, axis=-1, exclusive=True)
    divisor_Cx1 = tf.maximum(step_C, 1)[:, None]
    mapped_Cx256 = tf.minimum((below_Cx256 + divisor_Cx1 // 2) // divisor_Cx1, 255)
    return _look_up(image, tf.where(step_C[:, None] > 0, mapped_Cx256, tf.range(256)))


def invert(image: Tensor) -> Tensor:
    return 255 - image


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keeps the `bits` highest bits of every value."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: Tensor, threshold: int) -> Tensor:
    """Inverts the values at or above `threshold`: 256 changes nothing, 0 inverts the image."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image: Tensor, addition: int) -> Tensor:
    """Adds to the values below 128, clipping at 255."""
    added = _to_uint8(tf.cast(image, tf.int32) + addition)
    return tf.where(image < _ADD_BELOW, added, image)


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


def rotate(image: Tensor, degrees: Any) -> Tensor:
    """Turns the image counter-clockwise about its centre."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    middle_y, middle_x = tf.unstack((tf.cast(tf.shape(image)[:2], tf.float32) - 1) / 2)
    right, down = middle_x - cos * middle_x + sin * middle_y, middle_y - sin * middle_x - cos * middle_y
    return transform(image, (cos, -sin, right, sin, cos, down))


def cutout(image: Tensor, half: int, center: Tensor) -> Tensor:
    """Greys out a square of side 2 `half` about `center` (y, x as fractions of the sides), clipped at the border."""
    inside = []
    for axis in (0, 1):
        size = tf.shape(image)[axis]
        middle = tf.cast(center[axis] * tf.cast(size, tf.float32), tf.int32)
        inside.append((tf.range(size) >= middle - half) & (tf.range(size) < middle + half))
    square = inside[0][:, None, None] & inside[1][None, :, None]
    return tf.where(square, tf.constant(FILL, tf.uint8), image)


def operations(magnitude: float, sign: Tensor, center: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """{name: function of an image} at a magnitude; sign is -1 or 1, center (y, x) in fractions of the sides."""
    level = magnitude / SCALE
    factor = level * 1.8 + 0.1
    degrees, shear, shift = (sign * level * most for most in (_MAX_ROTATION, _MAX_SHEAR, _MAX_TRANSLATION))
    bits = max(8 - round(level * _MAX_POSTERIZED_BITS), 1)
    threshold = max(256 - int(level * 256), 0)
    return {
        "AutoContrast": autocontrast,
        "Equalize": equalize,
        "Invert": invert,
        "Rotate": lambda image: rotate(image, degrees),
        "Posterize": lambda image: posterize(image, bits),
        "Solarize": lambda image: solarize(image, threshold),
        "Color": lambda image: color(image, factor),
        "Contrast": lambda image: contrast(image, factor),
        "Brightness": lambda image: brightness(image, factor),
        "Sharpness": lambda image: sharpness(image, factor),
        "ShearX": lambda image: transform(image, (1, shear, 0, 0, 1, 0)),
        "ShearY": lambda image: transform(image, (1, 0, 0, shear, 1, 0)),
        "TranslateX": lambda image: transform(image, (1, 0, shift, 0, 1, 0)),
        "TranslateY": lambda image: transform(image, (1, 0, 0, 0, 1, shift)),
        "Cutout": lambda image: cutout(image, int(level * _MAX_CUTOUT), center),
        "SolarizeAdd": lambda image: solarize_add(image, int(level * _MAX_ADDITION)),
    }
