"""Norm trees of the parts that Mamba, Mamba-2 and Vision Mamba share.

A product of k branches that are each at most 1 changes by at most the sum of their changes: its sensitivity is the sum
of theirs. Two things here are conventions, not bounds: the scan is counted with gain 1 in x, B, C and Delta each, and
A_log as a gain on Delta. A_log and Delta's bias set decay rates over many steps: they get a tenth of an atom's mass.
Delta is about the exponential of what softplus takes, so that is measured by the largest entry: MaxLinear and Rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from big_vision_dual.core.norms import bonds
from big_vision_dual.core.norms.atoms import Atoms
from big_vision_dual.core.norms.module import IDENTITY, Bond, Module
from big_vision_dual.models import arch_ssm
from big_vision_dual.models.norm_trees import transformer

SOFTPLUS = Bond.of("softplus", 1.0)
SLOW = 0.1  # share of an atom's mass


def fused(
    atoms: Atoms, path: str, fan_in: int, slices: Mapping[str, int], knobs: Sequence[str] = ()
) -> dict[str, Module]:
    """One Linear atom a slice of a fused kernel (fan_in, sum of widths), MaxLinear for those in `knobs`."""
    parts, start = {}, 0
    for name, width in slices.items():
        atom = atoms.max_linear if name in knobs else atoms.linear
        parts[name] = atom(f"{path}/kernel", (fan_in,), (width,), part=(1, start, start + width))
        start += width
    return parts


def conv(atoms: Atoms, path: str, taps: int, channels: int) -> Module:
    """Depthwise convolution with bias, and its SiLU."""
    return bonds.SILU @ (
        atoms.depthwise_conv(f"{path}/kernel", taps, channels) + atoms.bias(f"{path}/bias", (channels,))
    )


def slow(atom: Module) -> Module:
    return atom.tare(SLOW * atom.mass)


def rms_norm(atoms: Atoms, spec: arch_ssm.Spec, path: str) -> Module:
    """A norm of the residual stream, without gain under muP."""
    if spec.mup_base_width is not None:
        return bonds.NORMALIZE
    return atoms.scale(f"{path}/scale", (spec.d_model,)) @ bonds.NORMALIZE


def layer(atoms: Atoms, spec: arch_ssm.Spec, path: str, mixer: Module) -> Module:
    branch = mixer @ rms_norm(atoms, spec, f"{path}/norm")
    return transformer.residual(spec.scaling, branch, spec.n_layers)


def language_model(
    atoms: Atoms, spec: arch_ssm.Spec, mixer: Module, num_classes: int, blocks_mass: float | None
) -> Module:
    """Embedding, layers tared to `blocks_mass` (None for one each), norm and head of `models.ssm.LanguageModel`."""
    one = layer(atoms, spec, "layers_{layer}", mixer)
    blocks = (one**spec.n_layers).tare(spec.n_layers if blocks_mass is None else blocks_mass)
    head_input = rms_norm(atoms, spec, "norm_f")
    if spec.width_mult != 1:
        head_input = (1 / spec.width_mult) * head_input
    head = atoms.linear("head/kernel", (spec.d_model,), (num_classes,))
    return head @ head_input @ blocks @ atoms.embed("embedding/embedding", num_classes, spec.d_model)


def scaled(factor: float, module: Module) -> Module:
    return module if factor == 1 else factor * module


def mamba_mixer(atoms: Atoms, spec: arch_ssm.Mamba, path: str) -> Module:
    """out_proj(factor * y * silu(z)), y = scan(Delta, B, C, x) + D x, of which x is read five times."""
    inner = spec.d_inner
    into = fused(atoms, f"{path}/in_proj", spec.d_model, spec.in_proj)
    select = fused(atoms, f"{path}/x_proj", inner, spec.x_proj)
    rates = slow(atoms.rate(f"{path}/A_log", (inner, spec.d_state), constant=False))
    shift = slow(atoms.rate(f"{path}/dt_proj/bias", (inner,), constant=True))
    delta = SOFTPLUS @ (atoms.max_linear(f"{path}/dt_proj/kernel", (spec.rank,), (inner,)) + shift) @ select["dt"]
    y = rates @ delta + select["B"] + select["C"] + IDENTITY + atoms.scale(f"{path}/D", (inner,))
    gated = y @ conv(atoms, f"{path}/conv", spec.d_conv, inner) @ into["x"] + bonds.SILU @ into["z"]
    return atoms.linear(f"{path}/out_proj/kernel", (inner,), (spec.d_model,)) @ scaled(spec.mixer_out, gated)


def mamba2_mixer(atoms: Atoms, spec: arch_ssm.Mamba2, path: str) -> Module:
    """out_proj(factor * RMSNorm(y * silu(z))); x, B and C pass the convolution as one tuple."""
    inner, heads = spec.d_inner, spec.n_heads
    into = fused(atoms, f"{path}/in_proj", spec.d_model, spec.in_proj, spec.knobs)
    mixed = conv(atoms, f"{path}/conv", spec.d_conv, spec.conv_channels) @ (into["x"] + into["B"] + into["C"])
    rates = slow(atoms.rate(f"{path}/A_log", (heads,), constant=False))
    delta = SOFTPLUS @ (into["dt"] + slow(atoms.rate(f"{path}/dt_bias", (heads,), constant=True)))
    y = (IDENTITY + atoms.scale(f"{path}/D", (heads,))) @ mixed + rates @ delta
    normed = atoms.scale(f"{path}/norm/scale", (inner,)) @ bonds.NORMALIZE @ (y + bonds.SILU @ into["z"])
    return atoms.linear(f"{path}/out_proj/kernel", (inner,), (spec.d_model,)) @ scaled(spec.mixer_out, normed)
