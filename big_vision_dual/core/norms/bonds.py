"""Modules without weights, with their Lipschitz constants in the token-max RMS norm (docs/norms.md)."""

from __future__ import annotations

import math

from big_vision_dual.core.norms.module import Bond

GELU_LIPSCHITZ = 1.1289  # largest slope of GELU, attained near x = 1.41 (arXiv 2405.14813, appendix)
SILU_LIPSCHITZ = 1.0998  # largest slope of SiLU, attained near x = 2.40

bond = Bond.of
"""bond(name, sensitivity): any other function without weights; sensitivity is its largest slope."""

RELU = Bond.of("ReLU", 1.0)
TANH = Bond.of("tanh", 1.0)
SILU = Bond.of("SiLU", SILU_LIPSCHITZ)
NORMALIZE = Bond.of("normalization without weights", 1.0)  # a bound for inputs of RMS >= 1: it amplifies by 1/RMS
SOFTMAX = Bond.of("softmax", 1.0)
ROPE = Bond.of("rotary positions", 1.0)  # a rotation of each pair of features
CAUSAL_MASK = Bond.of("causal mask", 1.0)
APPLY_SCORES = Bond.of("attention scores applied to values", 1.0)
PATCHIFY = Bond.of("patchify", 1.0)
FLATTEN = Bond.of("flatten", 1.0)
SELECT_TOKEN = Bond.of("selection of one token", 1.0)
MEAN = Bond.of("mean over tokens or pixels", 1.0)  # the token norm is a maximum


def gelu(kind: str = "plain") -> Bond:
    """'plain' GELU, or 'unit', divided by its largest slope."""
    return Bond.of(f"{kind} GELU", GELU_LIPSCHITZ if kind == "plain" else 1.0)


def softmax(scale: float = 1.0) -> Bond:
    """softmax(scale * x); Modula's attention_scale is this scale."""
    return SOFTMAX if scale == 1 else Bond.of(f"softmax of {scale:g} x", abs(scale))


def attention_logits(kind: str, head_dim: int) -> Bond:
    """Q K^T: 'inverse' (over d_head) has sensitivity 1, 'rsqrt' (over its root) has sqrt(d_head)."""
    return Bond.of(f"Q K^T, {kind}", math.sqrt(head_dim) if kind == "rsqrt" else 1.0)
