"""Ops on one image (height, width, channels): decoding, resizing, cropping, flipping, value range.

`size` is a number of pixels or (height, width). `method` is one of tf.image.resize's; `antialias` widens
its kernel when shrinking. Resizing keeps the dtype: values are clipped to its range, then truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from big_vision_dual.train.pp.quiet_tf import Tensor, tf
from big_vision_dual.train.pp.registry import register

Size = int | Sequence[int]
_JPEG = b"\xff\xd8\xff"  # what a JPEG file begins with
_SCALES = (1, 2, 4, 8)  # that libjpeg divides by while it decodes
_OVERSHOOTING = ("bicubic", "lanczos3", "lanczos5", "mitchellcubic")  # their kernels have negative lobes
_METHODS = ("area", "bilinear", "gaussian", "nearest", *_OVERSHOOTING)


def _pair(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size is {size!r}; possible: a number of pixels or (height, width), above 0.")
    return pair


def _check_method(method: str) -> None:
    if method not in _METHODS:
        raise ValueError(f"method is {method!r}; possible: {', '.join(_METHODS)}.")


def _resized(image: Tensor, size: Any, method: str, antialias: bool) -> Tensor:
    dtype = image.dtype
    resized = tf.image.resize(image, size, method=method, antialias=antialias)
    if method in _OVERSHOOTING:
        resized = tf.clip_by_value(resized, dtype.min, dtype.max)
    return tf.cast(resized, dtype)


def _dct(precise: bool) -> str:
    """libjpeg's inverse DCT: the accurate one agrees with PIL and across machines, the default is faster."""
    return "INTEGER_ACCURATE" if precise else ""


@register("decode", key="image")
def decode(channels: int = 3, precise: bool = False) -> Callable[[Tensor], Tensor]:
    """Encoded bytes -> uint8 image; JPEG, PNG, GIF (first frame) or BMP, with `precise` JPEG only."""
    if precise:
        return lambda data: tf.image.decode_jpeg(data, channels=channels, dct_method=_dct(precise))
    return lambda data: tf.io.decode_image(data, channels=channels, expand_animations=False)


@register("resize", key="image")
def resize(size: Size, method: str = "bilinear", antialias: bool = False) -> Callable[[Tensor], Tensor]:
    """Resizes to exactly `size`, whatever the aspect ratio."""
    shape = _pair(size)
    _check_method(method)
    return lambda image: _resized(image, shape, method, antialias)


def _resize_side(size: int, side: Callable, method: str, antialias: bool) -> Callable[[Tensor], Tensor]:
    _check_method(method)

    def apply(image: Tensor) -> Tensor:
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        scaled = tf.cast(tf.round(shape * (size / side(shape))), tf.int32)
        return _resized(image, tf.maximum(scaled, 1), method, antialias)  # 1 pixel of 1,200 is no 0 of 16

    return apply


@register("resize_small", key="image")
def resize_small(smaller_size: int, method: str = "area", antialias: bool = False) -> Callable[[Tensor], Tensor]:
    """Resizes so that the smaller side has `smaller_size` pixels, keeping the aspect ratio."""
    return _resize_side(smaller_size, tf.reduce_min, method, antialias)


@register("resize_long", key="image")
def resize_long(longer_size: int, method: str = "area", antialias: bool = True) -> Callable[[Tensor], Tensor]:
    """Resizes so that the longer side has `longer_size` pixels, keeping the aspect ratio."""
    return _resize_side(longer_size, tf.reduce_max, method, antialias)


def _check_fits(image: Tensor, height: int, width: int) -> None:
    tf.debugging.assert_greater_equal(
        tf.shape(image)[:2],
        (height, width),
        f"the image is smaller than the crop of {height} x {width} pixels; resize it before.",
    )


@register("central_crop", key="image")
def central_crop(crop_size: Size) -> Callable[[Tensor], Tensor]:
    """Cuts the middle `crop_size` pixels out; an odd rest leaves one more row or column below or right."""
    height, width = _pair(crop_size)

    def apply(image: Tensor) -> Tensor:
        _check_fits(image, height, width)
        top, left = (tf.shape(image)[0] - height) // 2, (tf.shape(image)[1] - width) // 2
        return tf.image.crop_to_bounding_box(image, top, left, height, width)

    return apply


@register("random_crop", key="image", random=True)
def random_crop(crop_size: Size) -> Callable[[Tensor, Tensor], Tensor]:
    """Cuts `crop_size` pixels out at a place drawn uniformly."""
    height, width = _pair(crop_size)

    def apply(image: Tensor, seed: Tensor) -> Tensor:
        _check_fits(image, height, width)
        return tf.image.stateless_random_crop(image, (height, width, image.shape[-1] or tf.shape(image)[-1]), seed)

    return apply


def _inception_box(shape: Tensor, seed: Tensor, area: Sequence[float], ratio: Sequence[float]) -> Tensor:
    """Draws a box of `area` percent of the image and aspect ratio (width / height) `ratio` -> (y, x, h, w)."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        area_range=(area[0] / 100, area[1] / 100),
        aspect_ratio_range=ratio,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def _cut(image: Tensor, box: Tensor) -> Tensor:
    """The box (y, x, h, w) of an image."""
    top, left, height, width = tf.unstack(box)
    return tf.ensure_shape(tf.slice(image, (top, left, 0), (height, width, -1)), (None, None, image.shape[-1]))


def _crop_ranges(area_min: float, area_max: float, ratio_min: float, ratio_max: float) -> tuple:
    if not 0 < area_min <= area_max <= 100:
        raise ValueError(
            f"area_min={area_min}, area_max={area_max}; possible: percent, 0 < area_min <= area_max <= 100."
        )
    if not 0 < ratio_min <= ratio_max:
        raise ValueError(f"ratio_min={ratio_min}, ratio_max={ratio_max}; possible: 0 < ratio_min <= ratio_max.")
    return (area_min, area_max), (ratio_min, ratio_max)


@register("inception_crop", key="image", random=True)
def inception_crop(
    size: Size | None = None,
    area_min: float = 5,
    area_max: float = 100,
    ratio_min: float = 0.75,
    ratio_max: float = 1.33,
    method: str = "bilinear",
    antialias: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Random crop of `area_min` to `area_max` percent of the image, resized to `size` if that is given.

    Source: Szegedy et al. 2015, arXiv 1409.4842, section 6. Antialias is off as in Big Vision; turn it on
    to train on what an antialiased evaluation shows.
    """
    area, ratio = _crop_ranges(area_min, area_max, ratio_min, ratio_max)
    finish = resize(size, method, antialias) if size is not None else tf.identity

    def apply(image: Tensor, seed: Tensor) -> Tensor:
        return finish(_cut(image, _inception_box(tf.shape(image), seed, area, ratio)))

    return apply


@register("decode_jpeg_and_inception_crop", key="image", random=True)
def decode_jpeg_and_inception_crop(
    size: Size | None = None,
    area_min: float = 5,
    area_max: float = 100,
    ratio_min: float = 0.75,
    ratio_max: float = 1.33,
    method: str = "bilinear",
    antialias: bool = False,
    precise: bool = False,
    reduced: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Encoded bytes -> what `decode|inception_crop` gives, of a JPEG decoding only the blocks that the crop needs.

    Where the file halves its chroma, the crop's first and last columns may be off by some grey levels. ImageNet has
    a PNG among its JPEGs: what is no JPEG is decoded whole.

    reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size where the crop stays at least `size` then. Faster for large
      images, and not the same pixels: libjpeg averages where `method` alone would skip.
    """
    if reduced and size is None:
        raise ValueError("reduced=True needs a size, which the reduced crop must still have.")
    area, ratio = _crop_ranges(area_min, area_max, ratio_min, ratio_max)
    finish = resize(size, method, antialias) if size is not None else tf.identity

    def crop_jpeg(data: Tensor, seed: Tensor) -> Tensor:
        box = _inception_box(tf.image.extract_jpeg_shape(data), seed, area, ratio)

        def at(scale: int) -> Tensor:
            options = {"channels": 3, "dct_method": _dct(precise), "ratio": scale}
            return tf.image.decode_and_crop_jpeg(data, box // scale, **options)

        if size is None or not reduced:
            return at(1)
        fits = tf.reduce_min(box[2:] // tf.constant(_pair(size)))  # how often the crop holds the result
        index = tf.searchsorted(tf.constant(_SCALES), fits[None], side="right")[0] - 1
        return tf.switch_case(tf.maximum(index, 0), [lambda scale=scale: at(scale) for scale in _SCALES])

    def crop_other(data: Tensor, seed: Tensor) -> Tensor:
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        return _cut(image, _inception_box(tf.shape(image), seed, area, ratio))

    def apply(data: Tensor, seed: Tensor) -> Tensor:
        is_jpeg = tf.strings.substr(data, 0, len(_JPEG)) == _JPEG
        return finish(tf.cond(is_jpeg, lambda: crop_jpeg(data, seed), lambda: crop_other(data, seed)))

    return apply


@register("flip_lr", key="image", random=True)
def flip_lr() -> Callable[[Tensor, Tensor], Tensor]:
    """Mirrors left and right with probability 1/2."""
    return lambda image, seed: tf.image.stateless_random_flip_left_right(image, seed)


@register("value_range", key="image")
def value_range(
    vmin: float = -1, vmax: float = 1, in_min: float = 0, in_max: float = 255, clip_values: bool = False
) -> Callable[[Tensor], Tensor]:
    """Maps [in_min, in_max] linearly to [vmin, vmax], as float32; with `clip_values` nothing leaves it."""
    if in_min >= in_max or vmin >= vmax:
        raise ValueError(
            f"[{in_min}, {in_max}] -> [{vmin}, {vmax}]; possible: each from its smaller to its larger end."
        )
    scale = (vmax - vmin) / (in_max - in_min)
    offset = vmin - in_min * scale

    def apply(image: Tensor) -> Tensor:
        mapped = tf.cast(image, tf.float32) * scale + offset
        return tf.clip_by_value(mapped, vmin, vmax) if clip_values else mapped

    return apply


@register("vgg_value_range", key="image")
def vgg_value_range(
    mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.229, 0.224, 0.225)
) -> Callable[[Tensor], Tensor]:
    """(image / 255 - mean) / std per channel, as float32; the defaults are ImageNet's statistics."""
    mean_C, std_C = (tf.constant(values, tf.float32) for values in (mean, std))
    return lambda image: (tf.cast(image, tf.float32) / 255 - mean_C) / std_C
