"""RandAugment on the devices: the operations of `pp.randaug`, on a whole batch at once, drawn image by image.

On a host each image goes through the two operations drawn for it. A device would compute all 16 for every image and
keep one, so they are put together into four that have per-image arguments, each the identity for images that drew
another one:

    resample    Rotate, ShearX, ShearY, TranslateX, TranslateY: an affine map, nearest pixel
    look up     AutoContrast, Equalize, Invert, Posterize, Solarize, SolarizeAdd: 256 new levels a channel
    blend       Color, Contrast, Brightness, Sharpness: degenerate + factor * (image - degenerate)
    cut out     Cutout: a grey square

Images are uint8 (B, H, W, 3). Where TensorFlow computes in float64 (AutoContrast) or rounds another way (Rotate), a
level, or a pixel on the edge between two, can differ (tests/train/data/test_randaug.py says how many).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_vision_dual.train.data.base import DataError
from big_vision_dual.train.pp import randaug_scale as scale

_LEVELS = 256


def randaug(num_layers: int = 2, magnitude: float = 10) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(key, images) -> images: `num_layers` operations, each drawn uniformly from 16, with random sign.

    magnitude: 0 to 10 and beyond, as in `pp.randaug`. Raises `DataError` for images that are no uint8 with 3 channels.
    """
    if num_layers < 1 or magnitude < 0:
        raise DataError(f"randaug({num_layers}, {magnitude}); possible: num_layers >= 1, magnitude >= 0.")

    def apply(key: jax.Array, images_BxHxWx3: jax.Array) -> jax.Array:
        if images_BxHxWx3.dtype != jnp.uint8 or images_BxHxWx3.shape[-1:] != (3,):
            raise DataError(
                f"randaug got {images_BxHxWx3.dtype} images of shape {images_BxHxWx3.shape[1:]}; possible: uint8 and 3 "
                "channels, before anything that scales them."
            )
        drawn = jax.random.uniform(key, (num_layers, 4, len(images_BxHxWx3)))
        for choice_B, sign_B, *center in drawn:
            operation_B = (choice_B * len(scale.NAMES)).astype(jnp.int32)
            sign_B = jnp.where(sign_B < 0.5, -1.0, 1.0)
            images_BxHxWx3 = layer(images_BxHxWx3, operation_B, sign_B, jnp.stack(center, axis=1), magnitude)
        return images_BxHxWx3

    return apply


def layer(
    images_BxHxWx3: jax.Array, operation_B: jax.Array, sign_B: jax.Array, center_Bx2: jax.Array, magnitude: float
) -> jax.Array:
    """One operation an image: an index into `NAMES`, -1 or 1, and (y, x) in fractions of the sides."""
    strength = scale.Strength(magnitude)

    def drew(name: str) -> jax.Array:
        return operation_B == scale.NAMES.index(name)

    images = _resampled(images_BxHxWx3, _matrices(drew, strength, sign_B, images_BxHxWx3.shape[1:3]))
    images = _looked_up(images, _tables(images, drew, strength))
    images = _blended(images, drew, strength.factor)
    return jnp.where(_squares(images.shape, center_Bx2, strength.half) & drew("Cutout")[:, None, None, None],
                     jnp.uint8(scale.FILL), images)  # fmt: skip


_Drew = Callable[[str], jax.Array]


def _matrices(drew: _Drew, strength: scale.Strength, sign_B: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    """(B, 6): pixel (x, y) is taken from (a x + b y + c, d x + e y + f)."""
    angle_B = jnp.where(drew("Rotate"), sign_B * strength.degrees * (math.pi / 180), 0)
    cos_B, sin_B = jnp.cos(angle_B), jnp.sin(angle_B)
    y, x = ((side - 1) / 2 for side in sides)
    shear_B, shift_B = sign_B * strength.shear, sign_B * strength.shift
    return jnp.stack(
        [
            cos_B,
            jnp.where(drew("ShearX"), shear_B, -sin_B),
            x - cos_B * x + sin_B * y + jnp.where(drew("TranslateX"), shift_B, 0),
            jnp.where(drew("ShearY"), shear_B, sin_B),
            cos_B,
            y - sin_B * x - cos_B * y + jnp.where(drew("TranslateY"), shift_B, 0),
        ],
        axis=1,
    )


def _resampled(images: jax.Array, matrix_Bx6: jax.Array) -> jax.Array:
    height, width = images.shape[1:3]
    a, b, c, d, e, f = matrix_Bx6.T[:, :, None, None]
    y_Hx1, x_W = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)
    x_BxHxW, y_BxHxW = (_nearest(p * x_W + q * y_Hx1 + r) for p, q, r in ((a, b, c), (d, e, f)))
    inside = (x_BxHxW >= 0) & (x_BxHxW < width) & (y_BxHxW >= 0) & (y_BxHxW < height)
    taken = jax.vmap(lambda image, y, x: image.at[y, x].get(mode="clip"))(images, y_BxHxW, x_BxHxW)
    return jnp.where(inside[..., None], taken, jnp.uint8(scale.FILL))


def _nearest(position: jax.Array) -> jax.Array:
    """Rounded, halves away from 0, as TensorFlow does."""
    return (jnp.sign(position) * jnp.floor(jnp.abs(position) + 0.5)).astype(jnp.int32)


def _tables(images: jax.Array, drew: _Drew, strength: scale.Strength) -> jax.Array:
    """(B, 3, 256) uint8: the new level of each old one."""
    level = jnp.arange(_LEVELS)
    pixels_Bx3xP = images.reshape(len(images), -1, 3).mT
    count_Bx3xL = jax.vmap(jax.vmap(lambda pixels: jnp.zeros(_LEVELS, jnp.int32).at[pixels].add(1)))(pixels_Bx3xP)
    posterized = level & (_LEVELS - 2 ** (8 - strength.bits))
    solarized = jnp.where(level < strength.threshold, level, 255 - level)
    added = jnp.where(level < scale.ADD_BELOW, jnp.minimum(level + strength.addition, 255), level)
    tables = {
        "AutoContrast": _stretched(count_Bx3xL), "Equalize": _equalized(count_Bx3xL), "Invert": 255 - level,
        "Posterize": posterized, "Solarize": solarized, "SolarizeAdd": added,
    }  # fmt: skip
    chosen = jnp.broadcast_to(level, count_Bx3xL.shape)
    for name, table in tables.items():
        chosen = jnp.where(drew(name)[:, None, None], table, chosen)
    return chosen.astype(jnp.uint8)


def _stretched(count_Bx3xL: jax.Array) -> jax.Array:
    """Each channel linearly to 0..255, rounded down; of one level it stays."""
    level, used = jnp.arange(_LEVELS), count_Bx3xL > 0
    low = jnp.argmax(used, axis=-1, keepdims=True)
    high = _LEVELS - 1 - jnp.argmax(used[..., ::-1], axis=-1, keepdims=True)
    stretched = jnp.clip((level - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, level)


def _equalized(count_Bx3xL: jax.Array) -> jax.Array:
    """PIL's ImageOps.equalize."""
    level = jnp.arange(_LEVELS)
    last = _LEVELS - 1 - jnp.argmax(count_Bx3xL[..., ::-1] > 0, axis=-1, keepdims=True)
    in_last = jnp.take_along_axis(count_Bx3xL, last, axis=-1)
    step = (jnp.sum(count_Bx3xL, axis=-1, keepdims=True) - in_last) // 255
    below = jnp.cumsum(count_Bx3xL, axis=-1) - count_Bx3xL
    divisor = jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum((below + divisor // 2) // divisor, 255), level)


def _looked_up(images: jax.Array, table_Bx3xL: jax.Array) -> jax.Array:
    return jax.vmap(lambda image, table_3xL: table_3xL[jnp.arange(3), image])(images, table_Bx3xL)


def _blended(images: jax.Array, drew: _Drew, factor: float) -> jax.Array:
    pixels = images.astype(jnp.float32)
    red, green, blue = pixels[..., :1], pixels[..., 1:2], pixels[..., 2:]  # no product: a TPU would round it
    grey = jnp.floor((19595 * red + 38470 * green + 7471 * blue + 0x8000) / 0x10000)
    degenerates = {
        "Color": grey, "Contrast": jnp.floor(jnp.mean(grey, axis=(1, 2, 3), keepdims=True) + 0.5),
        "Brightness": jnp.zeros(()), "Sharpness": _smoothed(pixels),
    }  # fmt: skip
    result = pixels
    for name, degenerate in degenerates.items():
        blended = jnp.floor(jnp.clip(degenerate + factor * (pixels - degenerate), 0, 255))
        result = jnp.where(drew(name)[:, None, None, None], blended, result)
    return result.astype(jnp.uint8)


def _smoothed(pixels: jax.Array) -> jax.Array:
    """By [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13, rounded; the border stays."""
    columns = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    box = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    return pixels.at[:, 1:-1, 1:-1].set(jnp.round((box + 4 * pixels[:, 1:-1, 1:-1]) / 13))


def _squares(shape: tuple[int, ...], center_Bx2: jax.Array, half: int) -> jax.Array:
    """(B, H, W, 1): whether a pixel lies in the square of side 2 `half` about the centre."""

    def near(axis: int) -> jax.Array:
        size = shape[1 + axis]
        first_B = (center_Bx2[:, axis] * size).astype(jnp.int32)
        return jnp.abs(2 * (jnp.arange(size) - first_B[:, None]) + 1) < 2 * half

    return (near(0)[:, :, None] & near(1)[:, None, :])[..., None]
