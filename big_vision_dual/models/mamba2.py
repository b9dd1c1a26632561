"""Mamba-2 (Dao and Gu, arXiv 2405.21060): one scalar decay a head, computed as structured matrix products.

Leaves of a mixer: in_proj/kernel (D, 2E + 2GN + H), slices z, x, B, C, dt; conv/{kernel (K, 1, E + 2GN), bias}; dt_bias
(H); A_log (H); D (H); norm/scale (E); out_proj/kernel (E, D). The fused projection is one leaf.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.models import arch_ssm, scans, ssm


def decay_rates(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A_log with -A uniform over 1 to 16, one a head."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


class Mixer(nn.Module):
    """u_BxLxD -> BxLxD; see models/ssm.py for the methods."""

    spec: arch_ssm.Mamba2

    def setup(self) -> None:
        spec, inits = self.spec, ssm.initializers(self.spec)
        self.in_proj = ssm.fused(spec, spec.in_proj, spec.knobs)
        self.conv = ssm.CausalConv(spec, spec.conv_channels)
        self.dt_bias = self.param("dt_bias", ssm.inverse_softplus_dt, (spec.n_heads,))
        self.A_log = self.param("A_log", decay_rates, (spec.n_heads,))
        self.D = self.param("D", nn.initializers.ones, (spec.n_heads,))
        self.norm = nn.RMSNorm(epsilon=spec.norm_eps)
        self.out_proj = ssm.dense(spec, spec.d_model, inits.out_proj)

    def __call__(self, u_BxLxD: jax.Array) -> tuple[jax.Array, ssm.Acts]:
        acts: ssm.Acts = {"in_proj": self.in_proj(u_BxLxD).astype(jnp.float32)}
        z, conv_input, dt = self.gates(acts["in_proj"])
        acts["conv"] = nn.silu(self.conv(conv_input))
        acts["delta"] = nn.softplus(dt + self.dt_bias)
        x, b, c = self.heads(acts["conv"])
        y = scans.ssd(x, acts["delta"], -jnp.exp(self.A_log), b, c, scan=self.spec.scan, chunk=self.spec.chunk)
        acts["y"] = (y + self.D[:, None] * x).reshape(z.shape)
        acts["gated"] = self.norm(acts["y"] * nn.silu(z))
        return self.out_proj(self.spec.mixer_out * acts["gated"]).astype(jnp.float32), acts

    def gates(self, in_proj: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(z, what the convolution takes: x, B and C, dt) from in_proj's output."""
        z, conv_input, dt = ssm.split(in_proj, (self.spec.d_inner, self.spec.conv_channels, self.spec.n_heads))
        return z, conv_input, dt

    def heads(self, conv: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x (..., H, P), B (..., G, N), C (..., G, N)) from the convolution's output."""
        spec, lead = self.spec, conv.shape[:-1]
        x, b, c = ssm.split(conv, [spec.in_proj[name] for name in ("x", "B", "C")])
        b, c = (v.reshape(*lead, spec.n_groups, spec.d_state) for v in (b, c))
        return x.reshape(*lead, spec.n_heads, spec.d_head), b, c

    def step(self, state: dict[str, jax.Array], u_BxD: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        z, conv_input, dt = self.gates(self.in_proj(u_BxD).astype(jnp.float32))
        past, conv = self.conv.step(state["conv"], conv_input)
        x, b, c = self.heads(nn.silu(conv))
        s, y = scans.ssd_step(state["ssm"], (x, nn.softplus(dt + self.dt_bias), b, c), -jnp.exp(self.A_log))
        y = (y + self.D[:, None] * x).reshape(z.shape)
        gated = self.norm(y * nn.silu(z))
        return {"conv": past, "ssm": s}, self.out_proj(self.spec.mixer_out * gated).astype(jnp.float32)

    @staticmethod
    def init_state(spec: arch_ssm.Mamba2, batch: int) -> dict[str, jax.Array]:
        return {
            "conv": jnp.zeros((batch, spec.d_conv, spec.conv_channels)),
            "ssm": jnp.zeros((batch, spec.n_heads, spec.d_head, spec.d_state)),
        }


def Model(num_classes: int, **options: Any) -> ssm.LanguageModel:
    """A Mamba-2 language model over `num_classes` tokens; `options` are the fields of `arch_ssm.Mamba2`.

    Raises `ValueError` for unknown or missing options.
    """
    return ssm.LanguageModel(num_classes, arch_ssm.spec(arch_ssm.Mamba2, options), Mixer)
