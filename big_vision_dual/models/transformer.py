"""The pre-LayerNorm transformer shared by ViT and GPT, with every `arch.Scaling` switch.

Names of modules, leaves and intermediates are Big Vision's (google-research/big_vision, models/vit.py).
Shapes: B batch, T and S tokens (queries and keys), D width, H heads, K width of a head.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.core.norms.bonds import GELU_LIPSCHITZ
from big_vision_dual.models import arch, init

REMAT_POLICIES = (
    "none",
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
)


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a model share. dtype_mm: of the matrix products; norms, softmax and sums stay float32."""

    mlp_dim: int
    num_heads: int
    scaling: arch.Scaling
    dropout: float = 0.0
    dtype_mm: str = "float32"
    causal: bool = False


def gelu(x: jax.Array, kind: str) -> jax.Array:
    """GELU in its tanh form; 'unit' divides by 1.1289, so that the slope is at most 1."""
    return nn.gelu(x) / GELU_LIPSCHITZ if kind == "unit" else nn.gelu(x)


def residual(x: jax.Array, branch: jax.Array, kind: str, branches: int) -> jax.Array:
    """'sum': x + branch. 'convex': (1 - 1/branches) x + branch / branches, for a stream with so many branches."""
    return x + branch if kind == "sum" else (1 - 1 / branches) * x + branch / branches


class MultiHeadDotProductAttention(nn.Module):
    """Attention of queries_BxTxD over inputs_BxSxD -> BxTxD. Sows `attention_logits` (B, H, T, S), unmasked."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, queries_BxTxD: jax.Array, inputs_BxSxD: jax.Array) -> jax.Array:
        spec, width = self.spec, queries_BxTxD.shape[-1]
        dense = functools.partial(
            nn.DenseGeneral, dtype=spec.dtype_mm, kernel_init=init.initializers(spec.scaling.init).block
        )
        split = functools.partial(dense, features=(spec.num_heads, width // spec.num_heads), axis=-1)
        query_BxTxHxK = split(name="query")(queries_BxTxD)
        key_BxSxHxK = split(name="key")(inputs_BxSxD)
        value_BxSxHxK = split(name="value")(inputs_BxSxD)
        weights_BxHxTxS = self.weights(query_BxTxHxK, key_BxSxHxK).astype(value_BxSxHxK.dtype)
        at_values, at_output = spec.scaling.attention_out_factors
        mixed_BxTxHxK = jnp.einsum("BHTS,BSHK->BTHK", weights_BxHxTxS, value_BxSxHxK) * at_values
        return dense(features=width, axis=(-2, -1), name="out")(mixed_BxTxHxK) * at_output

    def weights(self, query_BxTxHxK: jax.Array, key_BxSxHxK: jax.Array) -> jax.Array:
        """Softmax over S of the scaled, masked logits, in float32."""
        head_width = query_BxTxHxK.shape[-1]
        scale = 1 / head_width if self.spec.scaling.attention_logits == "inverse" else head_width**-0.5
        logits_BxHxTxS = jnp.einsum(
            "BTHK,BSHK->BHTS", query_BxTxHxK * scale, key_BxSxHxK, preferred_element_type=jnp.float32
        )
        self.sow("intermediates", "attention_logits", logits_BxHxTxS)
        if self.spec.causal:
            past_TxS = jnp.tril(jnp.ones(logits_BxHxTxS.shape[-2:], bool))
            logits_BxHxTxS = jnp.where(past_TxS, logits_BxHxTxS, -jnp.inf)
        return jax.nn.softmax(logits_BxHxTxS, axis=-1)


class MlpBlock(nn.Module):
    """x_BxTxD -> BxTxD through `mlp_dim` GELUs."""

    spec: BlockSpec
    train: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        inits = init.initializers(self.spec.scaling.init)
        dense = functools.partial(nn.Dense, dtype=self.spec.dtype_mm, kernel_init=inits.block, bias_init=inits.mlp_bias)
        hidden_BxTxM = gelu(dense(self.spec.mlp_dim, name="Dense_0")(x_BxTxD), self.spec.scaling.gelu)
        hidden_BxTxM = nn.Dropout(self.spec.dropout)(hidden_BxTxM, deterministic=not self.train)
        return dense(x_BxTxD.shape[-1], name="Dense_1")(hidden_BxTxM)


class EncoderBlock(nn.Module):
    """One layer: x_BxTxD -> (BxTxD, intermediates sa, +sa, mlp, +mlp). `depth` layers make 2 * depth branches."""

    spec: BlockSpec
    depth: int
    train: bool

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        add = functools.partial(residual, kind=self.spec.scaling.residual, branches=2 * self.depth)
        dropout = functools.partial(nn.Dropout(self.spec.dropout), deterministic=not self.train)
        out = {}
        y = nn.LayerNorm(name="LayerNorm_0")(x_BxTxD)
        y = out["sa"] = MultiHeadDotProductAttention(self.spec, name="MultiHeadDotProductAttention_0")(y, y)
        x = out["+sa"] = add(x_BxTxD, dropout(y))
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        y = out["mlp"] = MlpBlock(self.spec, self.train, name="MlpBlock_0")(y)
        x = out["+mlp"] = add(x, dropout(y))
        return x, out


class Encoder(nn.Module):
    """`depth` blocks and `encoder_norm`: x_BxTxD -> (BxTxD, intermediates block00, ..., pre_ln).

    scan: one stacked leaf per kind under `encoderblock` (compiles once), instead of `encoderblock_{i}`.
    remat_policy: 'none', or what a block keeps for its backward pass: a name in `jax.checkpoint_policies`.
    """

    spec: BlockSpec
    depth: int
    scan: bool = False
    remat_policy: str = "none"

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array, train: bool) -> tuple[jax.Array, dict[str, Any]]:
        block = rematerialized(EncoderBlock, self.remat_policy, self.scan)
        options: dict[str, Any] = {"spec": self.spec, "depth": self.depth, "train": train}
        x = x_BxTxD.astype(jnp.float32)
        out = {}
        if self.scan:
            layers = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                length=self.depth,
            )
            x, stacked = layers(**options, name="encoderblock")(x)
            for i in range(self.depth):
                out[f"block{i:02d}"] = {name: leaf[i] for name, leaf in stacked.items()}
        else:
            for i in range(self.depth):
                x, out[f"block{i:02d}"] = block(**options, name=f"encoderblock_{i}")(x)
        out["pre_ln"] = x
        return nn.LayerNorm(name="encoder_norm")(x), out


def rematerialized(block: type[nn.Module], policy: str, scan: bool) -> type[nn.Module]:
    """`block`, recomputed in the backward pass as `policy` says.

    Outside a scan the compiler sees that work is repeated, and must be kept from sharing it.
    """
    if policy not in REMAT_POLICIES:
        raise ValueError(f"remat_policy is {policy!r}; possible: {', '.join(map(repr, REMAT_POLICIES))}.")
    if policy == "none":
        return block
    return nn.remat(block, prevent_cse=not scan, policy=getattr(jax.checkpoint_policies, policy))
