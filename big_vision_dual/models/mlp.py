"""Multi-layer perceptron on flattened inputs: the smallest model that a norm table can be tried on."""

from __future__ import annotations

import math
from typing import Any

import jax
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module, NormError
from big_vision_dual.models import arch, init, transformer
from big_vision_dual.models.family import Family, Options


class MLP(nn.Module):
    """inputs_Bx... -> (logits_BxC, intermediates dense00, ..., pre_logits, logits); see `Model` for the fields."""

    num_classes: int
    width: int
    depth: int
    scaling: arch.Scaling
    head_zeroinit: bool | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> tuple[jax.Array, dict[str, Any]]:
        del train  # no dropout; the argument is every model's
        inits = init.initializers(self.scaling.init)
        out: dict[str, Any] = {}
        x = inputs.reshape(len(inputs), -1)
        for i in range(self.depth):
            x = out[f"dense{i:02d}"] = nn.Dense(self.width, kernel_init=inits.dense, name=f"Dense_{i}")(x)
            x = transformer.gelu(x, self.scaling.gelu)
        out["pre_logits"] = x
        head = nn.Dense(self.num_classes, kernel_init=inits.head(self.head_zeroinit), name="head")
        out["logits"] = head(x)
        return out["logits"], out


def Model(num_classes: int, *, width: int, depth: int, **options: Any) -> MLP:
    """`depth` hidden layers of `width` GELUs and a head.

    scaling: see `arch.scaling`; only `gelu` and `init` concern an MLP. head_zeroinit: as in `vit.Model`.
    Raises `ValueError` for unknown options.
    """
    return models.build(MLP, num_classes=num_classes, width=width, depth=depth, **options)


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """Norm tree of Dense layers with GELU between them, and a head, on the flattened input."""
    if blocks_mass is not None:
        raise NormError(f"norms.blocks_mass is {blocks_mass}, but an MLP has no residual blocks; leave it out.")
    scaling = arch.scaling(model.get("scaling", "standard"))
    features = math.prod(input_shape)
    tree: Module = bonds.PATCHIFY
    for index in range(model["depth"]):
        dense = atoms.dense(f"Dense_{index}", (features,), (model["width"],))
        tree, features = bonds.gelu(scaling.gelu) @ dense @ tree, model["width"]
    return atoms.dense("head", (features,), (num_classes,)) @ tree


FAMILY = Family(norm_tree=norm_tree, standard={"scaling": "standard"}, dual={"scaling": "dual"})
