"""The modular-norm algebra: modules, atoms, bonds, their dry run, and the norm tree of each model."""

from big_vision_dual.core.norms.atoms import Atoms, Conventions
from big_vision_dual.core.norms.module import IDENTITY, Atom, Bond, Module, NormError, Target, dry_run

__all__ = ["IDENTITY", "Atom", "Atoms", "Bond", "Conventions", "Module", "NormError", "Target", "dry_run"]
