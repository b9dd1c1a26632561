"""Causal transformer over tokens (bytes, for instance): the blocks of the ViT with a causal mask."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module
from big_vision_dual.models import arch, init, transformer
from big_vision_dual.models.family import Family, Options


class GPT(nn.Module):
    """tokens_BxT (integers below C) -> (logits_BxTxC of each next token, intermediates); see `Model` for the fields."""

    num_classes: int
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    scaling: arch.Scaling
    dropout: float = 0.0
    head_zeroinit: bool | None = None
    scan: bool = False
    remat_policy: str = "none"
    dtype_mm: str = "float32"

    @nn.compact
    def __call__(self, tokens_BxT: jax.Array, *, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        inits = init.initializers(self.scaling.init)
        spec = transformer.BlockSpec(
            self.mlp_dim, self.num_heads, self.scaling, self.dropout, self.dtype_mm, causal=True
        )
        out: dict[str, Any] = {}
        embed = nn.Embed(self.num_classes, self.width, embedding_init=inits.tokens, name="embedding")
        stem_BxTxD = out["stem"] = embed(tokens_BxT)
        positions = self.param("pos_embedding", inits.positions, (1, tokens_BxT.shape[1], self.width))
        x_BxTxD = out["with_posemb"] = stem_BxTxD + positions
        x_BxTxD = nn.Dropout(self.dropout)(x_BxTxD, deterministic=not train)
        encoder = transformer.Encoder(spec, self.depth, self.scan, self.remat_policy, name="Transformer")
        x_BxTxD, out["encoder"] = encoder(x_BxTxD, train)
        out["encoded"] = out["pre_logits"] = x_BxTxD
        head = nn.Dense(self.num_classes, kernel_init=inits.head(self.head_zeroinit), name="head")
        out["logits"] = head(x_BxTxD)
        return out["logits"], out


def Model(num_classes: int, *, variant: str | None = None, **options: Any) -> GPT:
    """A GPT with a vocabulary of `num_classes`. Sizes as in `vit.Model`, less the patch size; so are the options.

    The length of the position embedding is that of the tokens which the model is initialized with.
    Raises `ValueError` for unknown options or values.
    """
    sizes = dataclasses.asdict(transformer.size_of({"variant": variant, **options}))
    del sizes["patch_size"]
    return models.build(GPT, num_classes=num_classes, **{**options, **sizes})


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """The norm tree of a GPT, see `Family.norm_tree`. input_shape: (tokens,); num_classes: the vocabulary."""
    size = transformer.size_of(model)
    scaling = arch.scaling(model.get("scaling", "standard"))
    encoder = transformer.encoder_tree(
        atoms, scaling, size.width, size.num_heads, size.mlp_dim, size.depth,
        scan=model.get("scan", False), mass=2 * size.depth if blocks_mass is None else blocks_mass,
    )  # fmt: skip
    stem = atoms.embed("embedding/embedding", num_classes, size.width)
    stem = stem + atoms.positions("pos_embedding", input_shape[0], size.width)
    return atoms.dense("head", (size.width,), (num_classes,)) @ encoder @ stem


FAMILY = Family(
    norm_tree=norm_tree,
    mup=transformer.MUP,
    standard={"scaling": "standard"},
    dual={"scaling": "dual"},
    unrolled={"scan": False},
    activations=transformer.activations,
    blocks=functools.partial(transformer.blocks, stem="embedding/embedding", causal=True),
)
