"""Fresh parameters, and initializers by role: Big Vision's ('standard') and those of unit modular norm ('dual').

Matrices reach an initializer as (..., fan_in, fan_out): Flax's DenseGeneral flattens its axes to two first, so a
q/k/v kernel (d, heads, d_head) is drawn as one (d, heads * d_head) matrix and `out` as one (heads * d_head, d).
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core import trees
from big_vision_dual.models import mup

Initializer = Callable[..., jax.Array]  # (key, shape, dtype) -> array
_REDRAW = 1  # folded into the seed of what muP draws anew


def params(config: Any, model: nn.Module, seed: Any = None) -> Any:
    """The model's fresh parameters, with muP's deviations under `config.mup`; under `jax.eval_shape` their shapes.

    config: a mapping; reads seed, input_shape (H, W, C), (L,) of tokens or (D,), input_dtype, mup. seed: in place of
    the config's.
    """
    key = jax.random.key(config.get("seed", 0) if seed is None else seed)
    drawn = model.init(key, jnp.zeros((1, *config["input_shape"]), input_dtype(config)))["params"]
    if not config.get("mup"):
        return drawn
    return redraw(drawn, mup.init_stds(mup.for_config(config, drawn)), jax.random.fold_in(key, _REDRAW))


def of_tokens(config: Any) -> bool:
    """Whether an example is a window of L tokens, each to be predicted, and neither an image nor D numbers."""
    return len(config["input_shape"]) == 1 and not config.get("input_dtype")


def input_dtype(config: Any) -> Any:
    """Of what the model sees: int32 tokens, float32 pixels, or config.input_dtype."""
    return jnp.dtype(config.get("input_dtype") or ("int32" if of_tokens(config) else "float32"))


def redraw(params: Mapping[str, Any], stds: Mapping[str, float], key: jax.Array) -> dict[str, Any]:
    """`params` with each leaf in {path: std} drawn anew from N(0, std^2), independently of the others.

    A leaf's values depend on `key`, its path and its shape alone. Raises `ValueError` for a path that is no leaf.
    """
    leaves = trees.flatten(params)
    unknown = sorted(set(stds) - set(leaves))
    if unknown:
        raise ValueError(f"no parameters {unknown[:5]} to redraw; possible: {', '.join(leaves)}.")

    def draw(path: str, leaf: jax.Array) -> jax.Array:
        if path not in stds:
            return leaf
        leaf_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return stds[path] * jax.random.normal(leaf_key, leaf.shape, leaf.dtype)

    return trees.map_with_path(draw, params)


def scaled_orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Random matrix with all singular values sqrt(fan_out / fan_in); the last axis is fan_out, the others are fan_in.

    So sqrt(fan_in / fan_out) * sigma_max = 1: the Linear atom's unit norm (arXiv 2405.14813, section 3).
    """
    fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
    orthogonal = jax.random.orthogonal(key, fan_in, dtype=dtype, m=fan_out)
    return math.sqrt(fan_out / fan_in) * orthogonal.reshape(shape)


def unit_rows(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gaussian vectors along the last axis, each scaled to an RMS of 1: the Embed atom's unit norm."""
    rows = jax.random.normal(key, shape, dtype)
    return rows / jnp.sqrt(jnp.mean(rows**2, axis=-1, keepdims=True))


def _positions(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Normal with standard deviation 1 / sqrt(width), as Big Vision's learned position embedding."""
    return jax.random.normal(key, shape, dtype) / math.sqrt(shape[-1])


@dataclasses.dataclass(frozen=True)
class Initializers:
    """One initializer per role of a leaf. Biases not named here start at 0, scales at 1.

    patch, block, dense: kernels of the patch embedding, of attention and MLP blocks, of `pre_logits` and head.
    mlp_bias: biases of an MLP block. positions, tokens: rows of a learned embedding.
    cls, probe: the vectors of shape (1, 1, width) that pool by attention. The norm tree counts them as biases, but
      a dual one starts at RMS 1, unit norm, and not at 0: all keys look alike to a zero query, which then passes
      no gradient to them.
    head_zero: whether a head starts at 0 when the model's `head_zeroinit` leaves it open.
    """

    patch: Initializer
    block: Initializer
    dense: Initializer
    mlp_bias: Initializer
    positions: Initializer
    tokens: Initializer
    cls: Initializer
    probe: Initializer
    head_zero: bool

    def head(self, zero: bool | None) -> Initializer:
        """The head kernel's initializer; `zero` None leaves it to `head_zero`."""
        return nn.initializers.zeros if (self.head_zero if zero is None else zero) else self.dense


STANDARD = Initializers(
    patch=nn.initializers.lecun_normal(),
    block=nn.initializers.xavier_uniform(),
    dense=nn.initializers.lecun_normal(),
    mlp_bias=nn.initializers.normal(1e-6),
    positions=_positions,
    tokens=nn.initializers.normal(0.02),
    cls=nn.initializers.zeros,
    probe=nn.initializers.xavier_uniform(),
    head_zero=True,
)
DUAL = Initializers(
    patch=scaled_orthogonal,
    block=scaled_orthogonal,
    dense=scaled_orthogonal,
    mlp_bias=nn.initializers.zeros,
    positions=unit_rows,
    tokens=unit_rows,
    cls=unit_rows,
    probe=unit_rows,
    head_zero=False,
)


def initializers(kind: str) -> Initializers:
    """`arch.Scaling.init`, 'standard' or 'dual' -> its initializers."""
    return {"standard": STANDARD, "dual": DUAL}[kind]
