"""Durations, schedules and the optimizer chain of Big Vision."""

from big_vision_dual.train.optim.chain import is_dualized, make, needs_table
from big_vision_dual.train.optim.durations import fires, steps
from big_vision_dual.train.optim.schedules import Schedule

__all__ = ["Schedule", "fires", "is_dualized", "make", "needs_table", "steps"]
