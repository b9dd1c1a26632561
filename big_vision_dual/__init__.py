"""Modular duality for training real models: norm tables, optax transforms and a Big Vision-style trainer.

>>> import big_vision_dual as bvd
>>> tree = bvd.norms.dense("out", 64, 10) @ bvd.norms.RELU @ bvd.norms.dense("in", 784, 64)
>>> tx = bvd.dualized(tree, learning_rate=0.1)  # an optax optimizer for parameters in/kernel, in/bias, out/kernel ...

Attributes are imported when first used, so that tables and norms can be had without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from big_vision_dual import _moved

if TYPE_CHECKING:
    from big_vision_dual.core import norms as norms
    from big_vision_dual.core import rules as rules
    from big_vision_dual.core.dualize import constrain as constrain
    from big_vision_dual.core.dualize import dualized as dualized
    from big_vision_dual.core.dualize import initialize as initialize
    from big_vision_dual.core.dualize import orthogonalize as orthogonalize
    from big_vision_dual.core.dualize import project as project
    from big_vision_dual.core.dualize import scale_by_dualize as scale_by_dualize
    from big_vision_dual.core.measured import measured_table as measured_table
    from big_vision_dual.core.measured import output_changes as output_changes
    from big_vision_dual.core.measured import scale_by_measured as scale_by_measured
    from big_vision_dual.core.tables import Row as Row
    from big_vision_dual.core.tables import TargetNormTable as TargetNormTable
    from big_vision_dual.core.tables import build as build_table
    from big_vision_dual.core.tables import check as check_table
    from big_vision_dual.core.tables import flat as flat_table
    from big_vision_dual.core.tables import load as load_table
    from big_vision_dual.core.tables import save as save_table

__version__ = "0.2.0"

_moved.install()

_PUBLIC = {
    "Row": ("core.tables", "Row"),
    "TargetNormTable": ("core.tables", "TargetNormTable"),
    "build_table": ("core.tables", "build"),
    "check_table": ("core.tables", "check"),
    "constrain": ("core.dualize", "constrain"),
    "dualized": ("core.dualize", "dualized"),
    "flat_table": ("core.tables", "flat"),
    "initialize": ("core.dualize", "initialize"),
    "load_table": ("core.tables", "load"),
    "measured_table": ("core.measured", "measured_table"),
    "norms": ("core.norms", None),
    "orthogonalize": ("core.dualize", "orthogonalize"),
    "output_changes": ("core.measured", "output_changes"),
    "project": ("core.dualize", "project"),
    "rules": ("core.rules", None),
    "save_table": ("core.tables", "save"),
    "scale_by_dualize": ("core.dualize", "scale_by_dualize"),
    "scale_by_measured": ("core.measured", "scale_by_measured"),
}
__all__ = [
    "Row", "TargetNormTable", "build_table", "check_table", "constrain", "dualized", "flat_table", "initialize",
    "load_table", "measured_table", "norms", "orthogonalize", "output_changes", "project", "rules", "save_table",
    "scale_by_dualize", "scale_by_measured",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; possible: {', '.join(__all__)}.")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(f"{__name__}.{module}")
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
