"""The modular-norm algebra: modules with mass and sensitivity, and the dry run that gives each atom its target norm.

    mlp = dense("out", 256, 64) @ RELU @ dense("in", 64, 256)      # outer @ inner; what holds no weights is a bond
    blocks = residual(mlp @ layer_norm("norm", 64), 12) ** 12      # a + b, c * f, f ** depth, f.tare(mass)

Atoms take a leaf's path ("in/kernel"), `dense` and the norms a module's ("in"). They have mass 1 and well-normed
conventions; `Atoms.of` makes the same ones with other masses. Standard library only.
"""

from big_vision_dual.core.norms.atoms import KINDS, Atoms, Conventions
from big_vision_dual.core.norms.bonds import (
    APPLY_SCORES,
    CAUSAL_MASK,
    FLATTEN,
    MEAN,
    NORMALIZE,
    PATCHIFY,
    RELU,
    ROPE,
    SELECT_TOKEN,
    SILU,
    SOFTMAX,
    TANH,
    attention_logits,
    bond,
    gelu,
    softmax,
)
from big_vision_dual.core.norms.compounds import QK, attention, residual
from big_vision_dual.core.norms.module import IDENTITY, Atom, Bond, Module, NormError, Target, dry_run

_USUAL = Atoms.of()
linear, max_linear, embed, positions = _USUAL.linear, _USUAL.max_linear, _USUAL.embed, _USUAL.positions
bias, scale, rate = _USUAL.bias, _USUAL.scale, _USUAL.rate
conv, depthwise_conv = _USUAL.conv, _USUAL.depthwise_conv
dense, layer_norm, rms_norm = _USUAL.dense, _USUAL.layer_norm, _USUAL.rms_norm

__all__ = [
    "APPLY_SCORES", "CAUSAL_MASK", "FLATTEN", "IDENTITY", "KINDS", "MEAN", "NORMALIZE", "PATCHIFY", "QK",
    "RELU", "ROPE", "SELECT_TOKEN", "SILU", "SOFTMAX", "TANH", "Atom", "Atoms", "Bond", "Conventions", "Module",
    "NormError", "Target", "attention", "attention_logits", "bias", "bond", "conv", "dense", "depthwise_conv",
    "dry_run", "embed", "gelu", "layer_norm", "linear", "max_linear", "positions", "rate", "residual", "rms_norm",
    "scale", "softmax",
]  # fmt: skip
