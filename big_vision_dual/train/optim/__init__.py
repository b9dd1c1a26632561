"""Durations, schedules and the optimizer chain of Big Vision."""

from big_vision_dual.train.optim.chain import leaf_names, make
from big_vision_dual.train.optim.durations import fires, steps
from big_vision_dual.train.optim.schedules import Schedule

__all__ = ["Schedule", "fires", "leaf_names", "make", "steps"]
