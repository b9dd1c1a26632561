"""Where sizes settle, against sums that are simulated in NumPy, and the table of ../shared/design/size.md."""

from __future__ import annotations

import math

import numpy as np
import pytest

from big_vision_dual.core import tables
from big_vision_dual.core.tables import step_size
from big_vision_dual.core.tables.step_size import Momentum, settled


def simulated(decay: float, beta: float, nesterov: bool) -> float:
    """RMS of w <- (1 - decay) w + u after many steps, u the unit-variance direction of momentum on white noise."""
    rng = np.random.default_rng(0)
    walkers, steps = 4000, round(4 / decay) + 200
    w, m, square = np.zeros(walkers), np.zeros(walkers), []
    for _ in range(steps):
        gradient = rng.standard_normal(walkers)
        m = beta * m + (1 - beta) * gradient
        u = beta * m + (1 - beta) * gradient if nesterov else m
        square.append(np.mean(u**2))
        w = (1 - decay) * w + u
    return float(np.sqrt(np.mean(w**2) / np.mean(square[-100:])))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("decay", "beta"), [(0.01, 0.9), (0.2, 0.9), (0.01, 0.0)])
def test_a_random_walk_settles_at_the_formula(decay, beta, nesterov):
    """4 %: the standard error of an RMS over 4000 walkers is 1.1 %. With decay .2 the common formula is off by 1.4."""
    assert settled(1.0, decay, Momentum(beta, nesterov)) == pytest.approx(simulated(decay, beta, nesterov), rel=0.04)


def test_a_small_decay_gives_the_common_formula_and_none_no_end():
    step, radius, beta = 0.003, 25.0, 0.95
    common = math.sqrt(step * radius * (1 + beta) / (2 * (1 - beta)))
    assert settled(step, step / radius, Momentum(beta)) == pytest.approx(common, rel=2e-3)
    assert settled(step, 0.0, Momentum(beta)) == math.inf


FIRST, WELL = (
    "vit_s16_i1k_first_attempt",
    {"embedding": 1 / 30, "query": 0.3},
)  # the latter's target norms: docs/norms.md


@pytest.mark.parametrize(
    ("target_norm", "lr", "wd", "size"),
    [
        ("embedding", 0.05, 1e-4, 0.078),
        ("head", 0.05, 1e-4, 0.74),
        ("head", 0.05, 5e-3, 0.10),
        ("Transformer/encoderblock_11/MultiHeadDotProductAttention_0/query", 0.05, 1e-4, 126),
        (WELL["embedding"], 0.1, 1e-4, 1.5),
        (WELL["query"], 0.1, 1e-4, 13),
    ],
)
def test_published_equilibria(target_norm, lr, wd, size):
    """Of the first attempt's table, by leaf, and of the well-normed one; momentum .95."""
    if isinstance(target_norm, str):
        target_norm = step_size.largest(tables.load(FIRST).by_key()[f"{target_norm}/kernel"].target_norm)
    assert settled(lr * target_norm, wd, Momentum(0.95)) == pytest.approx(size, rel=0.05)


def test_momentum_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"momentum is 1.0; possible: a number in \[0, 1\)"):
        Momentum(1.0)
