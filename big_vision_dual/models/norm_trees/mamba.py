"""The norm tree of `models.mamba`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import Module
from big_vision_dual.models import arch_ssm
from big_vision_dual.models.norm_trees import ssm


def module(
    model: Mapping[str, Any], input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """Norm tree of a Mamba language model. num_classes: the vocabulary; it does not depend on the length."""
    del input_shape
    spec = arch_ssm.spec(arch_ssm.Mamba, model)
    mixer = ssm.mamba_mixer(atoms, spec, "layers_{layer}/mixer")
    return ssm.language_model(atoms, spec, mixer, num_classes, blocks_mass)
