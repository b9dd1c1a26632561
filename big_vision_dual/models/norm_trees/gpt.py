"""The norm tree of `models.gpt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module
from big_vision_dual.models import arch
from big_vision_dual.models.norm_trees import transformer


def module(
    model: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """Norm tree of a GPT with learned positions. input_shape: (tokens,); num_classes: the vocabulary."""
    size = arch.vit_size_of(model)
    scaling = arch.scaling(model.get("scaling", "standard"))
    encoder = transformer.encoder(
        atoms, scaling, size.width, size.num_heads, size.mlp_dim, size.depth,
        scan=model.get("scan", False), mass=2 * size.depth if blocks_mass is None else blocks_mass,
    )  # fmt: skip
    stem = atoms.embed("embedding/embedding", num_classes, size.width)
    stem = stem + atoms.positions("pos_embedding", input_shape[0], size.width)
    return atoms.dense("head", (size.width,), (num_classes,)) @ encoder @ stem
