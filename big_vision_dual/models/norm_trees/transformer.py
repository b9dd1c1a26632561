"""Norm trees of the pre-LayerNorm transformer parts that ViT and GPT share."""

from __future__ import annotations

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Module
from big_vision_dual.models.arch import Scaling


def attention_core(scaling: Scaling, head_dim: int, query: Module, key: Module, value: Module) -> Module:
    """apply(values, softmax(Q K^T)): query, key and value count once each."""
    logits = bonds.attention_logits(scaling.attention_logits, head_dim)
    return bonds.APPLY_SCORES @ (value + bonds.SOFTMAX @ logits @ (query + key))


def self_attention(atoms: Atoms, scaling: Scaling, path: str, width: int, heads: int) -> Module:
    """Multi-head self-attention with biases, kernels (d, heads, d/heads) and (heads, d/heads, d)."""
    split = (heads, width // heads)
    query, key, value = (atoms.dense(f"{path}/{name}", (width,), split) for name in ("query", "key", "value"))
    return attention_out(atoms, scaling, f"{path}/out", split, width, (query, key, value))


def attention_out(
    atoms: Atoms, scaling: Scaling, path: str, split: tuple[int, int], width: int, inputs: tuple[Module, Module, Module]
) -> Module:
    """The `out` projection of attention to (query, key, value), with the factor of `Scaling` in its place."""
    at_values, at_output = scaling.attention_out_factors
    if not atoms.conventions.follows_attention_out:
        at_values, at_output = scaling.attention_out, 1.0
    out = atoms.dense(path, split, (width,)) @ times(at_values, attention_core(scaling, split[1], *inputs))
    return times(at_output, out)


def times(factor: float, module: Module) -> Module:
    """factor * module, without a bond for 1."""
    return module if factor == 1 else factor * module


def mlp(atoms: Atoms, scaling: Scaling, path: str, width: int, hidden: int) -> Module:
    """Dense, GELU, Dense."""
    first = atoms.dense(f"{path}/Dense_0", (width,), (hidden,))
    return atoms.dense(f"{path}/Dense_1", (hidden,), (width,)) @ bonds.gelu(scaling.gelu) @ first


def residual(scaling: Scaling, branch: Module, branches: int) -> Module:
    """x + f(x), or the convex (1 - 1/n) x + f(x)/n with n residual branches in the whole network."""
    if scaling.residual == "sum":
        return IDENTITY + branch
    return (1 - 1 / branches) * IDENTITY + (1 / branches) * branch


def block(atoms: Atoms, scaling: Scaling, path: str, width: int, heads: int, hidden: int, depth: int) -> Module:
    """One encoder block: attention, then MLP, each behind its own LayerNorm and a residual connection."""
    attention = self_attention(atoms, scaling, f"{path}/MultiHeadDotProductAttention_0", width, heads)
    feed_forward = mlp(atoms, scaling, f"{path}/MlpBlock_0", width, hidden)
    attend = residual(scaling, attention @ atoms.layer_norm(f"{path}/LayerNorm_0", width), 2 * depth)
    return residual(scaling, feed_forward @ atoms.layer_norm(f"{path}/LayerNorm_1", width), 2 * depth) @ attend


def encoder(
    atoms: Atoms, scaling: Scaling, width: int, heads: int, hidden: int, depth: int, *, scan: bool, mass: float
):
    """`depth` blocks tared to `mass`, and the final LayerNorm; stacked leaves where `scan`."""
    path = "Transformer/encoderblock" if scan else "Transformer/encoderblock_{layer}"
    blocks = (block(atoms, scaling, path, width, heads, hidden, depth) ** depth).tare(mass)
    return atoms.layer_norm("Transformer/encoder_norm", width) @ blocks
