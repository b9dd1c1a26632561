"""Augmentation in JAX, on the devices: `shift(2)|flip_lr|randaug(2,10)`, the syntax of `pp`'s op strings."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_vision_dual.train.data.base import DataError
from big_vision_dual.train.data.randaug import randaug
from big_vision_dual.train.pp.parse import parse

Augment = Callable[[jax.Array, jax.Array], jax.Array]
PURPOSE = 1  # folded into the seed first, so that augmentation and order are independent


def shift(pixels: int, pad: str = "zero") -> Augment:
    """Moves each image by up to `pixels` in both directions, uniformly; what comes in is 0 or the 'edge'."""
    modes = {"zero": "constant", "edge": "edge"}
    if pad not in modes or pixels < 1:
        raise DataError(f"shift({pixels}, pad={pad!r}); possible: pixels >= 1, pad {' or '.join(map(repr, modes))}.")

    def apply(key: jax.Array, images_BxHxWxC: jax.Array) -> jax.Array:
        batch, *shape = images_BxHxWxC.shape
        padded = jnp.pad(images_BxHxWxC, [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)], mode=modes[pad])
        corner_Bx2 = jax.random.randint(key, (batch, 2), 0, 2 * pixels + 1)
        return jax.vmap(lambda image, yx: jax.lax.dynamic_slice(image, (yx[0], yx[1], 0), shape))(padded, corner_Bx2)

    return apply


def flip_lr() -> Augment:
    """Mirrors left and right each image with probability 1/2."""

    def apply(key: jax.Array, images_BxHxWxC: jax.Array) -> jax.Array:
        flip_B = jax.random.bernoulli(key, 0.5, images_BxHxWxC.shape[:1])
        return jnp.where(flip_B[:, None, None, None], images_BxHxWxC[:, :, ::-1], images_BxHxWxC)

    return apply


_AUGMENTS = {"shift": shift, "flip_lr": flip_lr, "randaug": randaug}


@functools.cache  # one function a string, so that what is compiled with it is found again
def augment_fn(string: str) -> Augment:
    """Compiles a string to `f(key, images_BxHxWxC)` -> images; jit-able, on raw pixels of any dtype."""
    functions = []
    for call in parse(string):
        if call.name not in _AUGMENTS:
            raise DataError(f"unknown augmentation {call.text!r}; possible: {', '.join(_AUGMENTS)}.")
        try:
            functions.append(_AUGMENTS[call.name](*call.args, **call.kwargs))
        except TypeError as error:
            raise DataError(f"augmentation {call.text!r}: {error}.") from error

    def apply(key: jax.Array, images_BxHxWxC: jax.Array) -> jax.Array:
        for index, function in enumerate(functions):
            images_BxHxWxC = function(jax.random.fold_in(key, index), images_BxHxWxC)
        return images_BxHxWxC

    return apply


def augmented(augment: Augment, images: jax.Array, seed: int | jax.Array, step: int | jax.Array) -> jax.Array:
    """The images of a step's batch, still as raw pixels."""
    return augment(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), PURPOSE), step), images)


def scaled(images: jax.Array) -> jax.Array:
    """uint8 -> float32 in [-1, 1]; float images unchanged."""
    return images.astype(jnp.float32) / 127.5 - 1 if images.dtype == jnp.uint8 else images
