"""The norm tree of `models.mlp`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module, NormError
from big_vision_dual.models import arch


def module(
    model: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
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
