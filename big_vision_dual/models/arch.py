"""The switches between the standard and the dual architecture. Standard library only.

Models and norm trees both read them, so the table follows the architecture by itself.
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
