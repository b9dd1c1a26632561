"""Modules put together from others that most networks share."""

from __future__ import annotations

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.module import IDENTITY, Bond, Module

QK = Bond.of("Q K^T / d_head", 1.0)


def residual(branch: Module, branches: int | None = None) -> Module:
    """x + f(x), or with n branches in the whole network the convex (1 - 1/n) x + f(x)/n."""
    if branches is None:
        return IDENTITY + branch
    return (1 - 1 / branches) * IDENTITY + (1 / branches) * branch


def attention(
    query: Module, key: Module, value: Module, *, logits: Module | None = None, scale: float = 1.0, factor: float = 1.0
) -> Module:
    """factor * apply(value, softmax(scale * logits(query, key))): query, key and value count once each.

    logits: what lies between queries, keys and the softmax, by default Q K^T / d_head (sensitivity 1), e.g.
      `CAUSAL_MASK @ attention_logits("rsqrt", 64) @ ROPE`. factor: Modula has 1/3, so that the whole has sensitivity 1
      where query, key and value have; a standard attention has 1.

    The counts are bounds in norms head by head. In the RMS over all features of H heads, T tokens, they are H for query
    and key and sqrt(min(H, T)) for value (docs/size.md).
    """
    scores = bonds.softmax(scale) @ (QK if logits is None else logits) @ (query + key)
    core = bonds.APPLY_SCORES @ (value + scores)
    return core if factor == 1 else factor * core
