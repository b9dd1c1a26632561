"""The norm tree of `models.vision_mamba`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module
from big_vision_dual.models import arch_ssm
from big_vision_dual.models.norm_trees import ssm


def module(
    model: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """Norm tree of a Vision Mamba. input_shape: (height, width, channels)."""
    sizes = arch_ssm.vision_mamba(model)
    spec, patch = sizes.spec, sizes.patch_size
    tokens = math.prod(side // size for side, size in zip(input_shape, patch, strict=False))
    ahead, back = (ssm.mamba_mixer(atoms, spec, f"layers_{{layer}}/{name}") for name in ("forward", "backward"))
    one = ssm.layer(atoms, spec, "layers_{layer}", 0.5 * (ahead + back))
    blocks = (one**spec.n_layers).tare(spec.n_layers if blocks_mass is None else blocks_mass)
    stem = atoms.dense("embedding", (*patch, input_shape[2]), (spec.d_model,)) @ bonds.PATCHIFY
    pooled = atoms.conventions.mean_over(tokens) @ ssm.rms_norm(atoms, spec, "norm_f") @ blocks @ stem
    return atoms.dense("head", (spec.d_model,), (num_classes,)) @ pooled
