"""Durations, schedules and the optimizer chain of Big Vision."""

from big_vision_dual.optim.chain import leaf_names, make
from big_vision_dual.optim.durations import fires, steps
from big_vision_dual.optim.schedules import Schedule

__all__ = ["Schedule", "fires", "leaf_names", "make", "steps"]
