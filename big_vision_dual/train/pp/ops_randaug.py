"""The op `randaug`: a few operations of `randaug.py`, drawn at random for every image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from big_vision_dual.train.pp import randaug as randaug_ops
from big_vision_dual.train.pp.quiet_tf import Tensor, tf
from big_vision_dual.train.pp.registry import register


@register("randaug", key="image", random=True)
def randaug(num_layers: int = 2, magnitude: float = 10) -> Callable[[Tensor, Tensor], Tensor]:
    """Applies `num_layers` of RandAugment's operations, each drawn uniformly from 16, with random sign.

    Takes and gives uint8, so it stands before value_range. magnitude: 0 to 10 and beyond, see `randaug.py`.
    """
    if num_layers < 1 or magnitude < 0:
        raise ValueError(f"num_layers={num_layers}, magnitude={magnitude}; possible: num_layers >= 1, magnitude >= 0.")

    def one_layer(image: Tensor, drawn_4: Tensor) -> Tensor:
        sign = tf.where(drawn_4[1] < 0.5, -1.0, 1.0)
        branches = [partial(op, image) for op in randaug_ops.operations(magnitude, sign, drawn_4[2:]).values()]
        return tf.switch_case(tf.cast(drawn_4[0] * len(branches), tf.int32), branches)

    def apply(image: Tensor, seed: Tensor) -> Tensor:
        if image.dtype != tf.uint8:
            raise ValueError(f"randaug got a {image.dtype.name} image; possible: uint8. Place it before value_range.")
        shape = image.shape
        for drawn_4 in tf.unstack(tf.random.stateless_uniform((num_layers, 4), seed)):
            image = one_layer(image, drawn_4)
        return tf.ensure_shape(image, shape)

    return apply
