"""What a model configuration means: ViT variants and scaling switches. Standard library only.

Models and norm trees both read these values, so the table follows the architecture by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The switches between the standard and the dual architecture, each on its own for bisecting.

    gelu: 'plain' | 'unit' (divided by 1.1289, so that its slope is at most 1).
    attention_logits: 'rsqrt' (q.k / sqrt(d_head)) | 'inverse' (q.k / d_head).
    attention_out: factor on the attention-weighted values; 1 or 1/3.
    attention_out_at: where it acts, on the 'values' before the `out` projection, or on its 'output', bias included (the
      first public dualized ViT's place).
    residual: 'sum' (x + f(x)) | 'convex' ((1 - 1/2L) x + f(x)/2L, with 2L residual branches).
    init: 'standard' (Big Vision's) | 'dual' (unit modular norm: scaled orthogonal matrices).
    """

    gelu: str = "plain"
    attention_logits: str = "rsqrt"
    attention_out: float = 1.0
    residual: str = "sum"
    init: str = "standard"
    attention_out_at: str = "values"

    def __post_init__(self) -> None:
        for field, options in _SCALING_OPTIONS.items():
            value = getattr(self, field)
            if value not in options:
                raise ValueError(f"scaling.{field} is {value!r}; possible: {', '.join(map(repr, options))}.")
        if not 0 < self.attention_out <= 1:
            raise ValueError(f"scaling.attention_out is {self.attention_out!r}; possible: a factor in (0, 1].")

    @property
    def attention_out_factors(self) -> tuple[float, float]:
        """On the attention-weighted values, and on the output of `out`."""
        return (self.attention_out, 1.0) if self.attention_out_at == "values" else (1.0, self.attention_out)


_SCALING_OPTIONS = {
    "gelu": ("plain", "unit"),
    "attention_logits": ("rsqrt", "inverse"),
    "residual": ("sum", "convex"),
    "init": ("standard", "dual"),
    "attention_out_at": ("values", "output"),
}
STANDARD = Scaling()
DUAL = Scaling("unit", "inverse", 1 / 3, "convex", "dual")


def scaling(spec: str | Mapping[str, Any] | Scaling) -> Scaling:
    """'standard', 'dual' or a dict of switches (those not named stay standard) -> `Scaling`."""
    if isinstance(spec, Scaling):
        return spec
    if spec == "standard":
        return STANDARD
    if spec == "dual":
        return DUAL
    if not isinstance(spec, str) and hasattr(spec, "items"):  # ConfigDict is a mapping in all but name
        known = [field.name for field in dataclasses.fields(Scaling)]
        switches = dict(spec.items())
        unknown = sorted(set(switches) - set(known))
        if unknown:
            raise ValueError(f"unknown scaling switches {unknown}; possible: {known}.")
        return Scaling(**switches)
    raise ValueError(f"scaling is {spec!r}; possible: 'standard', 'dual', or a dict of switches.")


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """Sizes of a ViT; the patch size in pixels, (height, width)."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int] = (16, 16)


VIT_SIZES = {  # name: width, depth, mlp_dim, num_heads (google-research/big_vision, models/vit.py)
    "mu": ViTSize(32, 1, 128, 2),
    "Ti": ViTSize(192, 12, 768, 3),
    "S": ViTSize(384, 12, 1536, 6),
    "M": ViTSize(512, 12, 2048, 8),
    "B": ViTSize(768, 12, 3072, 12),
    "L": ViTSize(1024, 24, 4096, 16),
    "So400m": ViTSize(1152, 27, 4304, 16),
    "H": ViTSize(1280, 32, 5120, 16),
    "g": ViTSize(1408, 40, 6144, 16),
    "g-opt": ViTSize(1536, 40, 6144, 16),
    "G": ViTSize(1664, 48, 8192, 16),
}


def vit_size(variant: str) -> ViTSize:
    """'S/16' -> the sizes of ViT-S with patches of 16 x 16 pixels, also the default of a bare 'S'."""
    name, _, patch = variant.partition("/")
    if name not in VIT_SIZES or (patch and not patch.isdigit()):
        raise ValueError(f"unknown ViT variant {variant!r}; possible: NAME or NAME/PATCH, NAME in {list(VIT_SIZES)}.")
    return dataclasses.replace(VIT_SIZES[name], patch_size=(int(patch),) * 2) if patch else VIT_SIZES[name]


def vit_size_of(model: Mapping[str, Any]) -> ViTSize:
    """The sizes that a `config.model` gives: its variant (default B), overridden by sizes given on their own.

    A width without mlp_dim takes mlp_dim = 4 * width, as Big Vision does.
    """
    size = vit_size(model.get("variant") or "B")
    given = {f.name: model[f.name] for f in dataclasses.fields(ViTSize) if model.get(f.name) is not None}
    if "width" in given and "mlp_dim" not in given:
        given["mlp_dim"] = 4 * given["width"]
    size = dataclasses.replace(size, **{name: _pair(v) if name == "patch_size" else v for name, v in given.items()})
    if size.width % size.num_heads:
        raise ValueError(f"width {size.width} does not divide into {size.num_heads} heads; change one of them.")
    return size


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
