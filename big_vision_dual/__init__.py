"""Modular duality for training vision models: norm tables, optax transforms and a Big Vision-style trainer.

>>> import big_vision_dual as bvd, optax
>>> tx = optax.chain(bvd.scale_by_dualize("vit_s16_i1k"), optax.scale_by_learning_rate(0.1))

Attributes are imported when first used, so that tables and norms can be had without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from big_vision_dual import _moved

if TYPE_CHECKING:
    from big_vision_dual.core import rules as rules
    from big_vision_dual.core.dualize import project as project
    from big_vision_dual.core.dualize import scale_by_dualize as scale_by_dualize
    from big_vision_dual.core.tables import TargetNormTable as TargetNormTable
    from big_vision_dual.core.tables import flat as flat_table
    from big_vision_dual.core.tables import load as load_table
    from big_vision_dual.core.tables import save as save_table

_moved.install()

_PUBLIC = {
    "scale_by_dualize": ("core.dualize", "scale_by_dualize"),
    "project": ("core.dualize", "project"),
    "load_table": ("core.tables", "load"),
    "save_table": ("core.tables", "save"),
    "flat_table": ("core.tables", "flat"),
    "rules": ("core", "rules"),
    "TargetNormTable": ("core.tables", "TargetNormTable"),
}
__all__ = ["TargetNormTable", "flat_table", "load_table", "project", "rules", "save_table", "scale_by_dualize"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; possible: {', '.join(__all__)}.")
    module, attribute = _PUBLIC[name]
    if module == "core":
        return importlib.import_module(f"{__name__}.core.{attribute}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
