"""What a Mamba or Mamba-2 configuration means: sizes, slices of fused projections, switches. Standard library.

Models, norm trees and muP tables all read these values. Letters as in the papers (arXiv 2312.00752, 2405.21060):
D d_model, E d_inner, N d_state, R dt_rank, H heads, P d_head, G groups, K d_conv, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from big_vision_dual.models import arch

SCANS = ("chunked", "sequential", "associative")
MIXER_OUT = {"mamba": 1 / 7, "mamba2": 1 / 9}
"""`Spec.mixer_out` of a dualized model, by model name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What both models share.

    expand: E = expand * D. d_conv: taps of the causal convolution. scan, chunk: see `models.scans`.
    scaling: `arch.Scaling`; a stream of L residual branches reads `residual` and `init`, the rest has no meaning here.
    mup_base_width: None, or the width at which muP and the standard parametrization agree: then there are no gains
      in the norms of the residual stream, and the head's input is divided by `width_mult`. Initial standard
      deviations and multipliers are data, see `tables.mup`.
    mixer_out: factor on a mixer's values before out_proj, as `attention_out` in a transformer: those in `MIXER_OUT`
      give a layer a sensitivity of about 1 in the norm tree, and so a deep model one that does not explode.
    dtype_mm: of the large matrix products; convolution, Delta, scan, norms and logits stay float32.
    """

    d_model: int
    n_layers: int
    expand: int = 2
    d_conv: int = 4
    scan: str = "chunked"
    chunk: int = 32
    norm_eps: float = 1e-5
    scaling: arch.Scaling = arch.STANDARD
    mup_base_width: int | None = None
    mixer_out: float = 1.0
    dtype_mm: str = "float32"

    def __post_init__(self) -> None:
        if self.scan not in SCANS:
            raise ValueError(f"scan is {self.scan!r}; possible: {', '.join(map(repr, SCANS))}.")
        for name in ("d_model", "n_layers", "expand", "d_conv", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; possible: a whole number >= 1.")
        used = dataclasses.replace(arch.STANDARD, residual=self.scaling.residual, init=self.scaling.init)
        if self.scaling not in (used, dataclasses.replace(arch.DUAL, residual=used.residual, init=used.init)):
            raise ValueError(
                f"scaling is {self.scaling}, but a state-space model has no GELU and no attention; "
                "possible: 'standard', 'dual', or a dict of the switches residual and init."
            )

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    @property
    def width_mult(self) -> float:
        """m = D / mup_base_width, 1 without muP."""
        return self.d_model / self.mup_base_width if self.mup_base_width else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba(Spec):
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2(Spec):
    """d_head: P; heads, E / P, must be whole. d_state: N. n_groups: G heads that share B and C."""

    d_head: int
    d_state: int = 64
    n_groups: int = 1

    knobs: ClassVar[tuple[str, ...]] = ("dt",)
    """Slices of in_proj of which each output is a knob of its own, a head's Delta, and not a feature."""

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


SpecT = TypeVar("SpecT", bound=Spec)


def spec(cls: type[SpecT], options: Mapping[str, Any]) -> SpecT:
    """`config.model` -> `Mamba` or `Mamba2`. Raises `ValueError` naming unknown or missing options."""
    fields = dataclasses.fields(cls)
    known = [field.name for field in fields]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown options of {cls.__name__}: {unknown}; possible: {known}.")
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in options]
    if missing:
        raise ValueError(f"{cls.__name__} needs {missing} in config.model; given: {sorted(options)}.")
    return cls(**{**options, "scaling": arch.scaling(options.get("scaling", "standard"))})


@dataclasses.dataclass(frozen=True)
class VisionMamba:
    """A Mamba stack over patches. head_zeroinit: None leaves it to the init, as in `models.vit`."""

    spec: Mamba
    patch_size: tuple[int, int]
    head_zeroinit: bool | None = None


def vision_mamba(model: Mapping[str, Any]) -> VisionMamba:
    """`config.model` with `variant` ('S/16', width and depth of that ViT) or width, depth and patch_size.

    The other options are those of `Mamba`, without muP. Raises `ValueError` for unknown or missing ones.
    """
    options = dict(model)
    variant, zero = options.pop("variant", None), options.pop("head_zeroinit", None)
    if variant:
        size = arch.vit_size(variant)
        options = {"width": size.width, "depth": size.depth, "patch_size": size.patch_size, **options}
    missing = [name for name in ("width", "depth", "patch_size") if options.get(name) is None]
    if missing:
        raise ValueError(f"Vision Mamba needs {missing}; or variant='NAME/PATCH', NAME in {list(arch.VIT_SIZES)}.")
    if options.get("mup_base_width"):
        raise ValueError("Vision Mamba has no muP rules; leave mup_base_width out.")
    patch = options.pop("patch_size")
    sizes = {"d_model": options.pop("width"), "n_layers": options.pop("depth")}
    pair = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
    return VisionMamba(spec(Mamba, {**sizes, **options}), pair, zero)
