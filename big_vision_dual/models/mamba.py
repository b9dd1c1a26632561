"""Mamba (Gu and Dao, arXiv 2312.00752): selective state spaces with a diagonal, input-dependent decay.

Leaves of a mixer: in_proj/kernel (D, 2E), slices x, z; conv/{kernel (K, 1, E), bias}; x_proj/kernel (E, R + 2N), slices
dt, B, C; dt_proj/{kernel (R, E), bias}; A_log (E, N); D (E); out_proj/kernel (E, D). Fused projections are one leaf.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual.models import arch_ssm, scans, ssm


def decay_rates(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """A_log with A = -1 .. -N in every channel (S4D-real)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


class Mixer(nn.Module):
    """u_BxLxD -> BxLxD; see models/ssm.py for the methods."""

    spec: arch_ssm.Mamba

    def setup(self) -> None:
        spec, inits = self.spec, ssm.initializers(self.spec)
        self.in_proj, self.x_proj = ssm.fused(spec, spec.in_proj), ssm.fused(spec, spec.x_proj)
        self.conv = ssm.CausalConv(spec, spec.d_inner)
        # mamba.py zeroes the bias of every Linear, this one too, except under muP.
        plain = spec.mup_base_width is None and spec.scaling.init == "standard"
        bias_init = nn.initializers.zeros if plain else ssm.inverse_softplus_dt
        self.dt_proj = nn.Dense(spec.d_inner, kernel_init=inits.knobs, bias_init=bias_init)
        self.A_log = self.param("A_log", decay_rates, (spec.d_inner, spec.d_state))
        self.D = self.param("D", nn.initializers.ones, (spec.d_inner,))
        self.out_proj = ssm.dense(spec, spec.d_model, inits.out_proj)

    def __call__(self, u_BxLxD: jax.Array) -> tuple[jax.Array, ssm.Acts]:
        acts: ssm.Acts = {"in_proj": self.in_proj(u_BxLxD).astype(jnp.float32)}
        x, z = ssm.split(acts["in_proj"], self.spec.in_proj.values())
        acts["conv"] = self.conv(x)
        x = nn.silu(acts["conv"])
        acts["x_proj"] = self.x_proj(x).astype(jnp.float32)
        acts["delta"], b, c = self.select(acts["x_proj"])
        y = scans.selective_scan(
            x, acts["delta"], -jnp.exp(self.A_log), b, c, scan=self.spec.scan, chunk=self.spec.chunk
        )
        acts["y"] = y + self.D * x
        acts["gated"] = acts["y"] * nn.silu(z)
        return self.out_proj(self.spec.mixer_out * acts["gated"]).astype(jnp.float32), acts

    def select(self, x_proj: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The input-dependent (Delta, B, C) from x_proj's output."""
        dt, b, c = ssm.split(x_proj, self.spec.x_proj.values())
        return nn.softplus(self.dt_proj(dt)), b, c

    def step(self, state: dict[str, jax.Array], u_BxD: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        x, z = ssm.split(self.in_proj(u_BxD).astype(jnp.float32), self.spec.in_proj.values())
        past, x = self.conv.step(state["conv"], x)
        x = nn.silu(x)
        delta, b, c = self.select(self.x_proj(x).astype(jnp.float32))
        h, y = scans.selective_step(state["ssm"], (x, delta, b, c), -jnp.exp(self.A_log))
        gated = (y + self.D * x) * nn.silu(z)
        out_BxD = self.out_proj(self.spec.mixer_out * gated).astype(jnp.float32)
        return {"conv": past, "ssm": h}, out_BxD

    @staticmethod
    def init_state(spec: arch_ssm.Mamba, batch: int) -> dict[str, jax.Array]:
        return {
            "conv": jnp.zeros((batch, spec.d_conv, spec.d_inner)),
            "ssm": jnp.zeros((batch, spec.d_inner, spec.d_state)),
        }


def Model(num_classes: int, **options: Any) -> ssm.LanguageModel:
    """A Mamba language model over `num_classes` tokens; `options` are the fields of `arch_ssm.Mamba`.

    Raises `ValueError` for unknown or missing options.
    """
    return ssm.LanguageModel(num_classes, arch_ssm.spec(arch_ssm.Mamba, options), Mixer)
