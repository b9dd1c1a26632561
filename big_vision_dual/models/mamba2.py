"""Mamba-2 (Dao and Gu, arXiv 2405.21060): one scalar decay a head, computed as structured matrix products.

Leaves of a mixer: in_proj/kernel (D, 2E + 2GN + H), slices z, x, B, C, dt; conv/{kernel (K, 1, E + 2GN), bias}; dt_bias
(H); A_log (H); D (H); norm/scale (E); out_proj/kernel (E, D). The fused projection is one leaf.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Module
from big_vision_dual.models import scans, ssm, transformer
from big_vision_dual.models.family import Family, Mup, MupRow, Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2(ssm.Spec):
    """d_head: P; heads, E / P, must be whole. d_state: N. n_groups: G heads that share B and C."""

    d_head: int
    d_state: int = 64
    n_groups: int = 1

    max_linear: ClassVar[tuple[str, ...]] = ("dt",)
    """Slices of in_proj of which each output stands for itself, a head's Delta, and is no feature among others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_inner % self.d_head:
            raise ValueError(f"d_head {self.d_head} does not divide expand * d_model = {self.d_inner}; change d_head.")
        if self.n_heads % self.n_groups:
            raise ValueError(f"n_groups {self.n_groups} does not divide the {self.n_heads} heads; change n_groups.")

    @property
    def n_heads(self) -> int:
        return self.d_inner // self.d_head

    @property
    def in_proj(self) -> dict[str, int]:
        """Output slices of in_proj, in order."""
        shared = self.n_groups * self.d_state
        return {"z": self.d_inner, "x": self.d_inner, "B": shared, "C": shared, "dt": self.n_heads}

    @property
    def conv_channels(self) -> int:
        return self.d_inner + 2 * self.n_groups * self.d_state


def decay_rates(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A_log with -A uniform over 1 to 16, one a head."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


class Mixer(nn.Module):
    """u_BxLxD -> BxLxD; see models/ssm.py for the methods."""

    spec: Mamba2

    def setup(self) -> None:
        spec, inits = self.spec, ssm.initializers(self.spec)
        self.in_proj = ssm.fused(spec, spec.in_proj, spec.max_linear)
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
    def init_state(spec: Mamba2, batch: int) -> dict[str, jax.Array]:
        return {
            "conv": jnp.zeros((batch, spec.d_conv, spec.conv_channels)),
            "ssm": jnp.zeros((batch, spec.n_heads, spec.d_head, spec.d_state)),
        }


def Model(num_classes: int, **options: Any) -> ssm.LanguageModel:
    """A Mamba-2 language model over `num_classes` tokens; `options` are the fields of `Mamba2`.

    Raises `ValueError` for unknown or missing options.
    """
    return ssm.LanguageModel(num_classes, models.build(Mamba2, **options), Mixer)


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """The norm tree of a Mamba-2 language model, see `Family.norm_tree`. It does not depend on the length."""
    del input_shape
    sizes = models.build(Mamba2, **model)
    return ssm.language_model_tree(
        atoms, sizes, mixer_tree(atoms, sizes, "layers_{layer}/mixer"), num_classes, blocks_mass
    )


def mixer_tree(atoms: Atoms, spec: Mamba2, path: str) -> Module:
    """out_proj(factor * RMSNorm(y * silu(z))); x, B and C pass the convolution as one tuple."""
    inner, heads = spec.d_inner, spec.n_heads
    into = ssm.fused_tree(atoms, f"{path}/in_proj", spec.d_model, spec.in_proj, spec.max_linear)
    mixed = ssm.conv_tree(atoms, f"{path}/conv", spec.d_conv, spec.conv_channels) @ (into["x"] + into["B"] + into["C"])
    rates = ssm.slow(atoms.rate(f"{path}/A_log", (heads,), constant=False))
    delta = ssm.SOFTPLUS @ (into["dt"] + ssm.slow(atoms.rate(f"{path}/dt_bias", (heads,), constant=True)))
    y = (IDENTITY + atoms.scale(f"{path}/D", (heads,))) @ mixed + rates @ delta
    normed = atoms.scale(f"{path}/norm/scale", (inner,)) @ bonds.NORMALIZE @ (y + bonds.SILU @ into["z"])
    return atoms.linear(f"{path}/out_proj/kernel", (inner,), (spec.d_model,)) @ transformer.times(
        spec.mixer_out, normed
    )


def mup_rows(model: Options, base_width: int, rules: str) -> list[MupRow]:
    del rules
    spec = models.build(Mamba2, **model)
    own = [
        MupRow(".*/mixer/dt_bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/A_log", "kept", None, wd_mult=0.0),
        MupRow(".*/mixer/norm/scale", "kept", None, wd_mult=0.0),
    ]
    return own + ssm.mup_rows(spec, ssm.mup_width_mult(spec, base_width))


FAMILY = Family(
    width="d_model",
    depth="n_layers",
    norm_tree=norm_tree,
    mup=Mup(mup_rows, ssm.mup_model, ssm.ADAM_EPS),
    standard={"scaling": "standard"},
    dual={"scaling": "dual", "mixer_out": 1 / 9},  # gives a layer a sensitivity of about 1
    activations=ssm.activations,
    blocks=ssm.blocks,
)
