"""Modular duality as optax transformations: orthogonalization, one dual map per atom, grouping, projection, norms."""

from big_vision_dual.core.dualize import measure
from big_vision_dual.core.dualize.constrain import constrain, project
from big_vision_dual.core.dualize.graft import DualizeState, scale_by_dualize
from big_vision_dual.core.dualize.initial import initialize
from big_vision_dual.core.dualize.optimizer import dualized
from big_vision_dual.core.dualize.polar import orthogonalize

__all__ = [
    "DualizeState", "constrain", "dualized", "initialize", "measure", "orthogonalize", "project", "scale_by_dualize",
]  # fmt: skip
