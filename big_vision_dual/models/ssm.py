"""What Mamba and Mamba-2 share: initial values, causal convolution, and the language model around their mixers.

A mixer is a Flax module with the field `spec` and three methods, the last two for generation:
`__call__(u_BxLxD) -> (out_BxLxD, intermediates)`, `step(state, u_BxD) -> (state, out_BxD)`, and
`init_state(spec, batch) -> state`, a static method. B batch, L time, D width, C channels, K taps, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.models import arch_ssm, init, transformer

Acts = dict[str, Any]
DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4
BASE_STD = 0.02  # of every matrix in mamba.py, out_proj's over sqrt(2L)


@dataclasses.dataclass(frozen=True)
class Initializers:
    """One initializer per role; A_log, D, dt_bias and gains do not depend on the kind."""

    embedding: init.Initializer
    dense: init.Initializer
    knobs: init.Initializer
    out_proj: init.Initializer
    conv_kernel: init.Initializer
    conv_bias: init.Initializer


def initializers(spec: arch_ssm.Spec) -> Initializers:
    """'standard': those of mamba.py; 'dual': unit modular norm, every slice of a fused projection by itself."""
    if spec.scaling.init == "dual":
        return Initializers(
            embedding=init.unit_rows,
            dense=init.scaled_orthogonal,
            knobs=_unit_taps,
            out_proj=init.scaled_orthogonal,
            conv_kernel=_unit_taps,
            conv_bias=nn.initializers.zeros,
        )
    normal, uniform = nn.initializers.normal, _uniform(1 / math.sqrt(spec.d_conv))
    out_std = BASE_STD / math.sqrt(2 * spec.n_layers)
    return Initializers(normal(BASE_STD), normal(BASE_STD), normal(BASE_STD), normal(out_std), uniform, uniform)


def _by_slices(slices: Sequence[tuple[int, init.Initializer]]) -> init.Initializer:
    """Draws each slice (fan_in, width) of a fused kernel (fan_in, sum of widths) as a matrix of its own."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, len(slices))
        parts = [draw_one(k, (shape[0], width), dtype) for k, (width, draw_one) in zip(keys, slices, strict=True)]
        return jnp.concatenate(parts, axis=1)

    return draw


def inverse_softplus_dt(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Bias b with softplus(b) log-uniform over .001 to .1, at least 1e-4 (arXiv 2312.00752, section 3.6)."""
    low, high = map(math.log, DT_RANGE)
    dt = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), DT_FLOOR)
    return dt + jnp.log(-jnp.expm1(-dt))


def _unit_taps(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Gaussian taps (K, 1, C) with sqrt(K) ||w_c|| = 1: the unit norm of DepthwiseConv, and of MaxLinear (K, C)."""
    taps = jax.random.normal(key, shape, dtype)
    return taps / (math.sqrt(shape[0]) * jnp.linalg.norm(taps, axis=0))


def _uniform(bound: float) -> init.Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class CausalConv(nn.Module):
    """Depthwise convolution over the past: y_t = bias + sum_k kernel[k] x_{t-K+1+k}, in float32.

    The kernel is (K, 1, C), as Flax has it for one group a channel.
    """

    spec: arch_ssm.Spec
    channels: int

    def setup(self) -> None:
        inits = initializers(self.spec)
        self.kernel = self.param("kernel", inits.conv_kernel, (self.spec.d_conv, 1, self.channels))
        self.bias = self.param("bias", inits.conv_bias, (self.channels,))

    def __call__(self, x_BxLxC: jax.Array) -> jax.Array:
        taps, length = self.spec.d_conv, x_BxLxC.shape[1]
        padded = jnp.pad(x_BxLxC, ((0, 0), (taps - 1, 0), (0, 0)))
        return self.bias + sum(self.kernel[k, 0] * padded[:, k : k + length] for k in range(taps))

    def step(self, past_BxKxC: jax.Array, x_BxC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the last K inputs, the next one) -> (the last K inputs, y_BxC)."""
        past_BxKxC = jnp.concatenate([past_BxKxC[:, 1:], x_BxC[:, None]], axis=1)
        return past_BxKxC, self.bias + jnp.einsum("bkc,kc->bc", past_BxKxC, self.kernel[:, 0])


def dense(spec: arch_ssm.Spec, features: int, kernel_init: init.Initializer) -> nn.Dense:
    """A projection without bias, in `dtype_mm`."""
    return nn.Dense(features, use_bias=False, dtype=spec.dtype_mm, kernel_init=kernel_init)


def fused(spec: arch_ssm.Spec, slices: Mapping[str, int], knobs: Sequence[str] = ()) -> nn.Dense:
    """Several projections of one input as one kernel; `slices` are their widths, in order, `knobs` MaxLinear atoms."""
    inits = initializers(spec)
    drawn = [(width, inits.knobs if name in knobs else inits.dense) for name, width in slices.items()]
    return dense(spec, sum(slices.values()), _by_slices(drawn))


def split(x: jax.Array, widths: Iterable[int]) -> list[jax.Array]:
    """Cuts the last axis into consecutive parts of the given widths."""
    parts, start = [], 0
    for width in widths:
        parts.append(x[..., start : start + width])
        start += width
    return parts


class Layer(nn.Module):
    """x + mixer(RMSNorm(x)), or the convex (1 - 1/L) x + mixer(RMSNorm(x)) / L."""

    spec: arch_ssm.Spec
    mixer_class: type[nn.Module]

    def setup(self) -> None:
        self.norm = rms_norm(self.spec)
        self.mixer: Any = self.mixer_class(self.spec)

    def __call__(self, x_BxLxD: jax.Array) -> tuple[jax.Array, Acts]:
        normed = self.norm(x_BxLxD)
        branch, acts = self.mixer(normed)
        x_BxLxD = self.add(x_BxLxD, branch)
        return x_BxLxD, {"norm": normed, **acts, "mixer": branch, "out": x_BxLxD}

    def step(self, state: Any, x_BxD: jax.Array) -> tuple[Any, jax.Array]:
        state, branch = self.mixer.step(state, self.norm(x_BxD))
        return state, self.add(x_BxD, branch)

    def add(self, x: jax.Array, branch: jax.Array) -> jax.Array:
        return transformer.residual(x, branch, self.spec.scaling.residual, self.spec.n_layers)


def rms_norm(spec: arch_ssm.Spec) -> nn.RMSNorm:
    """A norm of the residual stream; under muP it has no gains."""
    return nn.RMSNorm(epsilon=spec.norm_eps, use_scale=spec.mup_base_width is None)


class LanguageModel(nn.Module):
    """tokens_BxL -> (logits_BxLxV in float32, intermediates); logits at t see tokens up to t.

    Leaves: embedding/embedding (V, D); layers_{i}/norm/scale; layers_{i}/mixer/...; norm_f/scale; head/kernel (D, V).
    Intermediates: embedding, layer00 .. (each: norm, the mixer's own, mixer, out), norm_f, head_input, logits.
    """

    num_classes: int
    spec: arch_ssm.Spec
    mixer_class: type[nn.Module]

    def setup(self) -> None:
        inits = initializers(self.spec)
        self.embedding = nn.Embed(self.num_classes, self.spec.d_model, embedding_init=inits.embedding)
        self.layers = [Layer(self.spec, self.mixer_class) for _ in range(self.spec.n_layers)]
        self.norm_f = rms_norm(self.spec)
        self.head = dense(self.spec, self.num_classes, inits.dense)

    def __call__(self, tokens_BxL: jax.Array, *, train: bool = False) -> tuple[jax.Array, Acts]:
        del train  # the trainer passes it to every model; nothing here depends on it
        x = self.embedding(tokens_BxL)
        out: Acts = {"embedding": x}
        for i, layer in enumerate(self.layers):
            x, out[f"layer{i:02d}"] = layer(x)
        out["norm_f"] = self.norm_f(x)
        out["head_input"] = out["norm_f"] / self.spec.width_mult
        out["logits"] = self.head(out["head_input"]).astype(jnp.float32)
        return out["logits"], out

    def decode(self, states: list[Any], token_B: jax.Array) -> tuple[jax.Array, list[Any]]:
        """`step`, as a method for `apply`."""
        x, after = self.embedding(token_B), []
        for layer, state in zip(self.layers, states, strict=True):
            state, x = layer.step(state, x)
            after.append(state)
        return self.head(self.norm_f(x) / self.spec.width_mult).astype(jnp.float32), after

    @nn.nowrap
    def init_state(self, batch: int) -> list[Any]:
        """The state before the first token, one entry a layer."""
        return [self.mixer_class.init_state(self.spec, batch) for _ in range(self.spec.n_layers)]  # pyright: ignore

    @nn.nowrap
    def step(self, params: Any, state: list[Any], token_B: jax.Array) -> tuple[jax.Array, list[Any]]:
        """Feeds one token a sequence: (logits_BxV of the next one, state). Equal to the parallel form."""
        return self.apply({"params": params}, state, token_B, method="decode")  # pyright: ignore
