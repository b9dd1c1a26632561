"""Mamba (Gu and Dao, arXiv 2312.00752): selective state spaces with a diagonal, input-dependent decay.

Leaves of a mixer: in_proj/kernel (D, 2E), slices x, z; conv/{kernel (K, 1, E), bias}; x_proj/kernel (E, R + 2N), slices
dt, B, C; dt_proj/{kernel (R, E), bias}; A_log (E, N); D (E); out_proj/kernel (E, D). Fused projections are one leaf.
"""

from __future__ import annotations

import dataclasses
from typing import Any

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
class Mamba(ssm.Spec):
    """d_state: N. dt_rank: R, None for ceil(D / 16)."""

    d_state: int = 16
    dt_rank: int | None = None

    @property
    def rank(self) -> int:
        return self.dt_rank or -(-self.d_model // 16)

    @property
    def in_proj(self) -> dict[str, int]:
        """Output slices of in_proj, in order."""
        return {"x": self.d_inner, "z": self.d_inner}

    @property
    def x_proj(self) -> dict[str, int]:
        """Output slices of x_proj, in order."""
        return {"dt": self.rank, "B": self.d_state, "C": self.d_state}


def decay_rates(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """A_log with A = -1 .. -N in every channel (S4D-real)."""
    del key
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


class Mixer(nn.Module):
    """u_BxLxD -> BxLxD; see models/ssm.py for the methods."""

    spec: Mamba

    def setup(self) -> None:
        spec, inits = self.spec, ssm.initializers(self.spec)
        self.in_proj, self.x_proj = ssm.fused(spec, spec.in_proj), ssm.fused(spec, spec.x_proj)
        self.conv = ssm.CausalConv(spec, spec.d_inner)
        # mamba.py zeroes the bias of every Linear, this one too, except under muP.
        plain = spec.mup_base_width is None and spec.scaling.init == "standard"
        bias_init = nn.initializers.zeros if plain else ssm.inverse_softplus_dt
        self.dt_proj = nn.Dense(spec.d_inner, kernel_init=inits.max_linear, bias_init=bias_init)
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
    def init_state(spec: Mamba, batch: int) -> dict[str, jax.Array]:
        return {
            "conv": jnp.zeros((batch, spec.d_conv, spec.d_inner)),
            "ssm": jnp.zeros((batch, spec.d_inner, spec.d_state)),
        }


def Model(num_classes: int, **options: Any) -> ssm.LanguageModel:
    """A Mamba language model over `num_classes` tokens; `options` are the fields of `Mamba`.

    Raises `ValueError` for unknown or missing options.
    """
    return ssm.LanguageModel(num_classes, models.build(Mamba, **options), Mixer)


def norm_tree(
    model: Options, input_shape: tuple[int, ...], num_classes: int, atoms: Atoms, blocks_mass: float | None
) -> Module:
    """The norm tree of a Mamba language model, see `Family.norm_tree`. It does not depend on the length."""
    del input_shape
    sizes = models.build(Mamba, **model)
    return ssm.language_model_tree(
        atoms, sizes, mixer_tree(atoms, sizes, "layers_{layer}/mixer"), num_classes, blocks_mass
    )


def mixer_tree(atoms: Atoms, spec: Mamba, path: str) -> Module:
    """out_proj(factor * y * silu(z)), y = scan(Delta, B, C, x) + D x, of which x is read five times."""
    inner = spec.d_inner
    into = ssm.fused_tree(atoms, f"{path}/in_proj", spec.d_model, spec.in_proj)
    select = ssm.fused_tree(atoms, f"{path}/x_proj", inner, spec.x_proj)
    rates = ssm.slow(atoms.rate(f"{path}/A_log", (inner, spec.d_state), constant=False))
    shift = ssm.slow(atoms.rate(f"{path}/dt_proj/bias", (inner,), constant=True))
    delta = ssm.SOFTPLUS @ (atoms.max_linear(f"{path}/dt_proj/kernel", (spec.rank,), (inner,)) + shift) @ select["dt"]
    y = rates @ delta + select["B"] + select["C"] + IDENTITY + atoms.scale(f"{path}/D", (inner,))
    gated = y @ ssm.conv_tree(atoms, f"{path}/conv", spec.d_conv, inner) @ into["x"] + bonds.SILU @ into["z"]
    return atoms.linear(f"{path}/out_proj/kernel", (inner,), (spec.d_model,)) @ transformer.times(spec.mixer_out, gated)


def mup_rows(model: Options, base_width: int, rules: str) -> list[MupRow]:
    spec = models.build(Mamba, **model)
    m = ssm.mup_width_mult(spec, base_width)
    dt_std = spec.rank**-0.5 / (m**0.5 if rules == "reference" else 1.0)
    own = [
        MupRow(".*/mixer/x_proj/kernel", "hidden", 0.02 / m**0.5, 1 / m, m),
        MupRow(".*/mixer/dt_proj/kernel", "hidden", dt_std, 1 / m, m),
        MupRow(".*/mixer/dt_proj/bias", "bias", None, wd_mult=0.0),
        MupRow(".*/mixer/A_log", "kept", None),
    ]
    return own + ssm.mup_rows(spec, m)


FAMILY = Family(
    width="d_model",
    depth="n_layers",
    norm_tree=norm_tree,
    mup=Mup(mup_rows, ssm.mup_model, ssm.ADAM_EPS),
    standard={"scaling": "standard"},
    dual={"scaling": "dual", "mixer_out": 1 / 7},  # gives a layer a sensitivity of about 1
    activations=ssm.activations,
    blocks=ssm.blocks,
)
