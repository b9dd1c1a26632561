"""Vision transformer with Big Vision's parameter tree and intermediates, and the switches of `arch.Scaling`.

Sources: Dosovitskiy et al., arXiv 2010.11929; Beyer et al., arXiv 2205.01580 (gap, sincos2d); Zhai et al.,
arXiv 2106.04560 (map). Shapes: B batch, h and w patches per side, T tokens, D width, C classes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Module, NormError
from big_vision_dual.models import arch, init, transformer
from big_vision_dual.models.family import Family, Options

POOL_TYPES = ("gap", "tok", "map", "0")
POSEMBS = ("learn", "sincos2d")


def posemb_sincos_2d(height: int, width: int, features: int, temperature: float = 10_000.0) -> np.ndarray:
    """Sine-cosine position embedding of MoCo v3 (arXiv 2104.02057), (1, height * width, features) float32.

    A quarter of the features each: sin x, cos x, sin y, cos y.
    """
    if features % 4 or features < 8:
        raise ValueError(
            f"sincos2d needs a width divisible by 4 and at least 8, not {features}; or use posemb='learn'."
        )
    omega = temperature ** (-np.arange(features // 4) / (features // 4 - 1))
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1, dtype=np.float32)[None]


class MAPHead(nn.Module):
    """Multi-head attention pooling by one learned probe: x_BxTxD -> BxD (the residual is that of one layer)."""

    spec: transformer.BlockSpec
    train: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        batch, _, width = x_BxTxD.shape
        probe = self.param("probe", init.initializers(self.spec.scaling.init).probe, (1, 1, width))
        probe_Bx1xD = jnp.broadcast_to(probe, (batch, 1, width))
        attention = transformer.MultiHeadDotProductAttention(self.spec, name="MultiHeadDotProductAttention_0")
        x = attention(probe_Bx1xD, x_BxTxD).astype(jnp.float32)
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        y = transformer.MlpBlock(self.spec, self.train, name="MlpBlock_0")(y)
        return transformer.residual(x, y, self.spec.scaling.residual, branches=2)[:, 0]


class ViT(nn.Module):
    """image_BxHxWx3 -> (logits_BxC, intermediates with Big Vision's names); see `Model` for the fields."""

    num_classes: int | None
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int]
    scaling: arch.Scaling
    pool_type: str = "gap"
    posemb: str = "learn"
    rep_size: int | bool = False
    dropout: float = 0.0
    head_zeroinit: bool | None = None
    scan: bool = False
    remat_policy: str = "none"
    dtype_mm: str = "float32"

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        spec = transformer.BlockSpec(self.mlp_dim, self.num_heads, self.scaling, self.dropout, self.dtype_mm)
        out: dict[str, Any] = {}
        stem_BxhxwxD = out["stem"] = self.embed_patches(image)
        x_BxTxD = out["with_posemb"] = self.add_positions(stem_BxhxwxD)
        if self.pool_type == "tok":
            cls = self.param("cls", init.initializers(self.scaling.init).cls, (1, 1, self.width))
            x_BxTxD = jnp.concatenate([jnp.broadcast_to(cls, (len(x_BxTxD), 1, self.width)), x_BxTxD], axis=1)
        x_BxTxD = nn.Dropout(self.dropout)(x_BxTxD, deterministic=not train)
        encoder = transformer.Encoder(spec, self.depth, self.scan, self.remat_policy, name="Transformer")
        x_BxTxD, out["encoder"] = encoder(x_BxTxD, train)
        out["encoded"] = x_BxTxD
        pooled_BxD = out["head_input"] = self.pool(x_BxTxD, spec, train)
        patches_BxTxD = x_BxTxD[:, 1:] if self.pool_type == "tok" else x_BxTxD
        return self.classify(pooled_BxD, patches_BxTxD.reshape(stem_BxhxwxD.shape), out), out

    def embed_patches(self, image: jax.Array) -> jax.Array:
        """(B, H, W, channels) -> (B, h, w, D): a convolution without overlap, as one matrix product.

        Pixels that do not fill a last patch are left out, as in Big Vision.
        """
        batch, height, width, channels = image.shape
        p, q = self.patch_size
        h, w = height // p, width // q
        if not h or not w:
            raise ValueError(f"an image of {height} x {width} pixels holds no patch of {p} x {q}; resize it.")
        patches = image[:, : h * p, : w * q].reshape(batch, h, p, w, q, channels)
        kernel_init = init.initializers(self.scaling.init).patch
        return nn.DenseGeneral(
            self.width, axis=(2, 4, 5), dtype=self.dtype_mm, kernel_init=kernel_init, name="embedding"
        )(patches)

    def add_positions(self, stem_BxhxwxD: jax.Array) -> jax.Array:
        """Flattens the grid and adds the position embedding: (B, h, w, D) -> (B, h * w, D) float32."""
        batch, h, w, _ = stem_BxhxwxD.shape
        if self.posemb == "sincos2d":
            positions = jnp.asarray(posemb_sincos_2d(h, w, self.width))
        else:
            initializer = init.initializers(self.scaling.init).positions
            positions = self.param("pos_embedding", initializer, (1, h * w, self.width))
        return stem_BxhxwxD.reshape(batch, h * w, self.width) + positions

    def pool(self, x_BxTxD: jax.Array, spec: transformer.BlockSpec, train: bool) -> jax.Array:
        """Tokens -> one vector: their mean ('gap'), the first ('tok', '0'), or attention by a probe ('map')."""
        if self.pool_type == "map":
            return MAPHead(spec, train, name="MAPHead_0")(x_BxTxD)
        return jnp.mean(x_BxTxD, axis=1) if self.pool_type == "gap" else x_BxTxD[:, 0]

    def classify(self, pooled_BxD: jax.Array, grid_BxhxwxD: jax.Array, out: dict[str, Any]) -> jax.Array:
        """`pre_logits` and `head` on the pooled vector, and on each patch for dense use; fills `out`."""
        inits = init.initializers(self.scaling.init)
        if self.rep_size:
            features = self.width if self.rep_size is True else self.rep_size
            hidden = nn.Dense(features, kernel_init=inits.dense, name="pre_logits")
            pooled_BxD, grid_BxhxwxD = nn.tanh(hidden(pooled_BxD)), nn.tanh(hidden(grid_BxhxwxD))
        out["pre_logits"], out["pre_logits_2d"] = pooled_BxD, grid_BxhxwxD
        if not self.num_classes:
            return pooled_BxD
        head = nn.Dense(self.num_classes, kernel_init=inits.head(self.head_zeroinit), name="head")
        out["logits"], out["logits_2d"] = head(pooled_BxD), head(grid_BxhxwxD)
        return out["logits"]


def Model(num_classes: int | None = None, *, variant: str | None = None, **options: Any) -> ViT:
    """A ViT from `config.model`. `variant` ('S/16'; default 'B') gives the sizes, `options` override them one by one.

    width, depth, mlp_dim, num_heads, patch_size: sizes, see `transformer.size_of`.
    pool_type: 'gap' | 'tok' | 'map' | '0'. posemb: 'learn' | 'sincos2d'. rep_size: features of a tanh layer before
      the head; True for the width, False for none. num_classes None: no head, the pooled vector is returned.
    scaling: see `arch.scaling`. dropout: rate. head_zeroinit: None for zero under the standard init and scaled
      orthogonal under the dual one. scan, remat_policy: see `transformer.Encoder`. dtype_mm: of matrix products.

    Raises `ValueError` for unknown options or values.
    """
    for name, possible in (("pool_type", POOL_TYPES), ("posemb", POSEMBS)):
        if options.get(name, possible[0]) not in possible:
            raise ValueError(f"{name} is {options[name]!r}; possible: {', '.join(map(repr, possible))}.")
    sizes = dataclasses.asdict(transformer.size_of({"variant": variant, **options}))
    return models.build(ViT, num_classes=num_classes, **{**options, **sizes})


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """The norm tree of a ViT, see `Family.norm_tree`.

    input_shape: (height, width, channels).
    num_classes: 0 for a model without head. blocks_mass: by default 2 * depth.
    """
    size = transformer.size_of(model)
    scaling = arch.scaling(model.get("scaling", "standard"))
    tokens = _token_count(input_shape, size.patch_size)
    encoder = transformer.encoder_tree(
        atoms, scaling, size.width, size.num_heads, size.mlp_dim, size.depth,
        scan=model.get("scan", False), mass=2 * size.depth if blocks_mass is None else blocks_mass,
    )  # fmt: skip
    pooled = (
        _pool_tree(model, size, tokens, scaling, atoms)
        @ encoder
        @ _stem_tree(model, size, tokens, input_shape[2], atoms)
    )
    return _head_tree(model, size.width, num_classes, atoms) @ pooled


def _token_count(input_shape: tuple[int, ...], patch_size: tuple[int, int]) -> int:
    height, width, _ = input_shape
    if height < patch_size[0] or width < patch_size[1]:
        raise NormError(f"an image of {height} x {width} pixels is smaller than a patch, {patch_size}.")
    return (height // patch_size[0]) * (width // patch_size[1])


def _stem_tree(model: Options, size: transformer.Size, tokens: int, channels: int, atoms: Atoms) -> Module:
    stem = atoms.dense("embedding", (*size.patch_size, channels), (size.width,)) @ bonds.PATCHIFY
    if model.get("posemb", "learn") == "learn":
        stem = stem + atoms.positions("pos_embedding", tokens, size.width)
    if model.get("pool_type", "gap") == "tok":
        stem = stem + atoms.bias("cls", (1, 1, size.width))
    return stem


def _pool_tree(model: Options, size: transformer.Size, tokens: int, scaling: arch.Scaling, atoms: Atoms) -> Module:
    kind = model.get("pool_type", "gap")
    if kind == "gap":
        return atoms.conventions.mean_over(tokens)
    if kind == "map":
        return _map_head_tree(size, scaling, atoms)
    return bonds.SELECT_TOKEN


def _map_head_tree(size: transformer.Size, scaling: arch.Scaling, atoms: Atoms) -> Module:
    """Attention pooling: a learned probe attends to the tokens, then one residual MLP."""
    path, split = "MAPHead_0", (size.num_heads, size.width // size.num_heads)
    names = {name: f"{path}/MultiHeadDotProductAttention_0/{name}" for name in ("query", "key", "value", "out")}
    probe = atoms.bias(f"{path}/probe", (1, 1, size.width))
    query, key, value = (atoms.dense(names[name], (size.width,), split) for name in ("query", "key", "value"))
    feed_forward = transformer.mlp_tree(atoms, scaling, f"{path}/MlpBlock_0", size.width, size.mlp_dim)
    branch = feed_forward @ atoms.layer_norm(f"{path}/LayerNorm_0", size.width)
    attend = transformer.attention_out_tree(
        atoms, scaling, names["out"], split, size.width, (query @ probe, key, value)
    )
    return bonds.SELECT_TOKEN @ transformer.residual_tree(scaling, branch, 2) @ attend


def _head_tree(model: Options, width: int, num_classes: int, atoms: Atoms) -> Module:
    rep_size = model.get("rep_size", False)
    features = width if rep_size in (False, True) else int(rep_size)
    head = atoms.dense("head", (features,), (num_classes,)) if num_classes else IDENTITY
    return head @ bonds.TANH @ atoms.dense("pre_logits", (width,), (features,)) if rep_size else head


FAMILY = Family(
    norm_tree=norm_tree,
    mup=transformer.MUP,
    standard={"scaling": "standard"},
    dual={"scaling": "dual"},
    unrolled={"scan": False},
    activations=transformer.activations,
    blocks=functools.partial(transformer.blocks, stem="embedding/kernel", causal=False),
)
