"""The digits track at 300 steps once more, on fresh seeds: the two best entries at what the track found for each.

Command: bvd track benchmarks/digits_again.py --out benchmarks/results/digits_again
         --entry benchmarks/digits_again.py:dualized --entry benchmarks/digits_again.py:muon_dual
"""

import dataclasses

from big_vision_dual.lab.track import entries, rules
from big_vision_dual.lab.track.space import Axis

DIGITS = rules.load("digits")
LONG = "long"
TRACK = dataclasses.replace(
    DIGITS, name="digits-again", budgets={LONG: rules.Budget(DIGITS.budgets[LONG].steps, trials=1)},
    final_seeds=tuple(range(201, 213)),
)  # fmt: skip


def dualized(base: entries.Config) -> entries.Entry:
    """The recipe at lr 2^-.9, momentum .9."""
    return entries.recipe(base, -0.9)


def muon_dual(base: entries.Config) -> entries.Entry:
    """`optax.contrib.muon` at lr 2^-5, beta .9, Adam for vectors at an eighth of it."""
    made = entries.muon(base)
    return dataclasses.replace(made, space={**made.space, "optax.fallback_scale": Axis(0.125, 4.0)})
