"""Modular duality as optax transformations: orthogonalization, one dual map per atom, grouping, projection, norms."""

from big_vision_dual.dualize.graft import scale_by_dualize

__all__ = ["scale_by_dualize"]
