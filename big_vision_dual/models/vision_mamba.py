"""Bidirectional Mamba over the patches of an image, after Vision Mamba (Zhu et al., arXiv 2401.09417).

Each layer reads the patch sequence forwards and backwards with a mixer each, and adds the mean of both. Leaves:
embedding and head as in `models.vit`; layers_{i}/{norm, forward, backward} as in `models.mamba`; norm_f.
Shapes: B batch, T tokens, D width, C classes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module
from big_vision_dual.models import init, mamba, ssm, transformer, vit
from big_vision_dual.models.family import Blocks, Family, Options


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A Mamba stack over patches. head_zeroinit: None leaves it to the init, as in `models.vit`."""

    spec: mamba.Mamba
    patch_size: tuple[int, int]
    head_zeroinit: bool | None = None


def sizes_of(model: Options) -> Sizes:
    """`config.model` with `variant` ('S/16', width and depth of that ViT) or width, depth and patch_size.

    The other options are those of `Mamba`, without muP. Raises `ValueError` for unknown or missing ones.
    """
    options = dict(model)
    variant, zero = options.pop("variant", None), options.pop("head_zeroinit", None)
    if variant:
        size = transformer.named_size(variant)
        options = {"width": size.width, "depth": size.depth, "patch_size": size.patch_size, **options}
    missing = [name for name in ("width", "depth", "patch_size") if options.get(name) is None]
    if missing:
        raise ValueError(f"Vision Mamba needs {missing}; or variant='NAME/PATCH', NAME in {list(transformer.SIZES)}.")
    if options.get("mup_base_width"):
        raise ValueError("Vision Mamba has no muP rules; leave mup_base_width out.")
    patch = options.pop("patch_size")
    sizes = {"d_model": options.pop("width"), "n_layers": options.pop("depth")}
    pair = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
    return Sizes(models.build(mamba.Mamba, **{**sizes, **options}), pair, zero)


class BidirectionalLayer(nn.Module):
    """x + (forward(RMSNorm(x)) + backward(RMSNorm(x))) / 2, or its convex form."""

    spec: mamba.Mamba

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
    sizes: Sizes

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
        out: ssm.Acts = {"stem": patches_BxhxwxD, "with_posemb": x}
        for i in range(spec.n_layers):
            x, out[f"layer{i:02d}"] = BidirectionalLayer(spec, name=f"layers_{i}")(x)
        out["encoded"] = nn.RMSNorm(epsilon=spec.norm_eps, name="norm_f")(x)
        out["pre_logits"] = jnp.mean(out["encoded"], axis=1)
        head = nn.Dense(self.num_classes, kernel_init=inits.head(self.sizes.head_zeroinit), name="head")
        out["logits"] = head(out["pre_logits"])
        return out["logits"], out


def Model(num_classes: int, **options: Any) -> VisionMamba:
    """A Vision Mamba from `config.model`, see `sizes_of`; `variant` ('S/16') gives a ViT's sizes."""
    return VisionMamba(num_classes, sizes_of(options))


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """The norm tree of a Vision Mamba, see `Family.norm_tree`. input_shape: (height, width, channels)."""
    sizes = sizes_of(model)
    spec, patch = sizes.spec, sizes.patch_size
    tokens = math.prod(side // size for side, size in zip(input_shape, patch, strict=False))
    ahead, back = (mamba.mixer_tree(atoms, spec, f"layers_{{layer}}/{name}") for name in ("forward", "backward"))
    one = ssm.layer_tree(atoms, spec, "layers_{layer}", 0.5 * (ahead + back))
    blocks = (one**spec.n_layers).tare(spec.n_layers if blocks_mass is None else blocks_mass)
    stem = atoms.dense("embedding", (*patch, input_shape[2]), (spec.d_model,)) @ bonds.PATCHIFY
    pooled = atoms.conventions.mean_over(tokens) @ ssm.rms_norm_tree(atoms, spec, "norm_f") @ blocks @ stem
    return atoms.dense("head", (spec.d_model,), (num_classes,)) @ pooled


def blocks(model: Any, params: Any, images: jax.Array) -> Blocks:
    """For the audit."""
    _, out = model.apply({"params": params}, images)
    spec, stem = model.sizes.spec, ("embedding/kernel", out["stem"])
    return ssm.layers(BidirectionalLayer(spec), spec.n_layers, params, out, stem, out["with_posemb"])


FAMILY = Family(norm_tree=norm_tree, standard={"scaling": "standard"}, dual={"scaling": "dual"}, blocks=blocks)
