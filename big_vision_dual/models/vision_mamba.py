"""Bidirectional Mamba over the patches of an image, after Vision Mamba (Zhu et al., arXiv 2401.09417).

Each layer reads the patch sequence forwards and backwards with a mixer each, and adds the mean of both. Leaves:
embedding and head as in `models.vit`; layers_{i}/{norm, forward, backward} as in `models.mamba`; norm_f.
Shapes: B batch, T tokens, D width, C classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.models import arch_ssm, init, mamba, ssm, transformer, vit


class BidirectionalLayer(nn.Module):
    """x + (forward(RMSNorm(x)) + backward(RMSNorm(x))) / 2, or its convex form."""

    spec: arch_ssm.Mamba

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> tuple[jax.Array, ssm.Acts]:
        normed = nn.RMSNorm(epsilon=self.spec.norm_eps, name="norm")(x_BxTxD)
        ahead, _ = mamba.Mixer(self.spec, name="forward")(normed)
        back, _ = mamba.Mixer(self.spec, name="backward")(jnp.flip(normed, axis=1))
        mixed = (ahead + jnp.flip(back, axis=1)) / 2
        x_BxTxD = transformer.residual(x_BxTxD, mixed, self.spec.scaling.residual, self.spec.n_layers)
        return x_BxTxD, {"mixer": mixed, "out": x_BxTxD}


class VisionMamba(nn.Module):
    """image_BxHxWx3 -> (logits_BxC, intermediates)."""

    num_classes: int
    sizes: arch_ssm.VisionMamba

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> tuple[jax.Array, ssm.Acts]:
        del train  # the trainer passes it to every model; nothing here depends on it
        spec, patch = self.sizes.spec, self.sizes.patch_size
        inits = init.initializers(spec.scaling.init)
        embed = nn.Conv(
            spec.d_model, patch, patch, "VALID", dtype=spec.dtype_mm, kernel_init=inits.patch, name="embedding"
        )
        patches_BxhxwxD = embed(image)
        batch, h, w, width = patches_BxhxwxD.shape
        if not h or not w:
            raise ValueError(f"an image of shape {image.shape[1:]} holds no patch of {patch}; resize it.")
        x = patches_BxhxwxD.reshape(batch, h * w, width) + vit.posemb_sincos_2d(h, w, width)
        out: ssm.Acts = {"with_posemb": x}
        for i in range(spec.n_layers):
            x, out[f"layer{i:02d}"] = BidirectionalLayer(spec, name=f"layers_{i}")(x)
        out["encoded"] = nn.RMSNorm(epsilon=spec.norm_eps, name="norm_f")(x)
        out["pre_logits"] = jnp.mean(out["encoded"], axis=1)
        head = nn.Dense(self.num_classes, kernel_init=inits.head(self.sizes.head_zeroinit), name="head")
        out["logits"] = head(out["pre_logits"])
        return out["logits"], out


def Model(num_classes: int, **options: Any) -> VisionMamba:
    """A Vision Mamba from `config.model`, see `arch_ssm.vision_mamba`; `variant` ('S/16') gives a ViT's sizes."""
    return VisionMamba(num_classes, arch_ssm.vision_mamba(options))
