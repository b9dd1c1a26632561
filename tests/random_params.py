"""Random parameters for a model, drawn in NumPy: no initializer to compile, and no leaf at a telltale 0 or 1."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from big_vision_dual.core import trees


def draw(model: nn.Module, inputs: Any, seed: int = 0) -> dict[str, Any]:
    """The tree of `model.init(key, inputs)`: kernels of variance 1/fan_in, scales around 1, all else of RMS 0.3."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]

    def leaf(path: str, like: Any) -> np.ndarray:
        values = rng.normal(size=like.shape).astype(np.float32)
        if path.endswith("/kernel"):
            return values / math.sqrt(math.prod(like.shape[:-1]))
        return 0.3 * values + (1 if path.endswith("/scale") else 0)

    return trees.map_with_path(leaf, shapes)
