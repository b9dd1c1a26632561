"""Statistics of the studies: optima, slopes and effects with their intervals. NumPy and SciPy only."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

LEVEL = 0.95
_RESAMPLES = 1000
WINDOW = 2.0  # octaves on each side of the lowest point that the parabola is fitted to


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Interval:
        """Percentile bootstrap."""
        low, high = np.percentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        return cls(float(value), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The bottom of a loss curve over log2 lr.

    log2_lr: vertex of the parabola. loss: its value there. resampled: vertices of bootstrap resamples of the seeds.
    at_edge: the lowest point of the grid is its first or last, so that the optimum may lie outside.
    """

    log2_lr: float
    loss: float
    resampled: np.ndarray
    at_edge: bool

    @property
    def interval(self) -> Interval:
        return Interval.of(self.log2_lr, self.resampled)


def optimum(log2_lr_L: np.ndarray, loss_LxS: np.ndarray, window: float = WINDOW) -> Optimum:
    """Fits the mean over seeds; bootstraps by drawing seeds with replacement, the same for all learning rates.

    Points where any seed diverged (inf) are left out. With S seeds there are few distinct resamples (10 for 3): read
    the interval as the range that the seeds span rather than as exact coverage.
    """
    seeds = loss_LxS.shape[1]
    draws_RxS = np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))
    mean_L = loss_LxS.mean(axis=1)
    vertex, loss = parabola(log2_lr_L, mean_L, window)
    resampled = np.array([parabola(log2_lr_L, loss_LxS[:, draw].mean(axis=1), window)[0] for draw in draws_RxS])
    return Optimum(vertex, loss, resampled, int(np.argmin(mean_L)) in (0, len(mean_L) - 1))


def parabola(x_L: np.ndarray, y_L: np.ndarray, window: float = WINDOW) -> tuple[float, float]:
    """Vertex (x, y) of the least-squares parabola through the points within `window` octaves of the lowest one.

    A cliff inside the window bends it: then the vertex lies far below every point. The lowest point itself where there
    are fewer than three, where the parabola opens downwards, or where its vertex leaves the window.
    """
    lowest = int(np.argmin(y_L))
    near = np.isfinite(y_L) & (np.abs(x_L - x_L[lowest]) <= window)
    if near.sum() >= 3:
        a, b, c = np.polyfit(x_L[near] - x_L[lowest], y_L[near], 2)
        if a > 0 and abs(b / (2 * a)) <= window:
            return float(x_L[lowest] - b / (2 * a)), float(c - b * b / (4 * a))
    return float(x_L[lowest]), float(y_L[lowest])


def slope(x_N: np.ndarray, y_NxR: np.ndarray) -> np.ndarray:
    """Least-squares slope of each column, (R,)."""
    centred = x_N - x_N.mean()
    return centred @ y_NxR / (centred @ centred)


def slope_interval(x_N: np.ndarray, y_N: np.ndarray) -> Interval:
    """Least-squares slope with its t interval, which without a third point is everything."""
    best = float(slope(x_N, y_N[:, None])[0])
    if len(x_N) < 3:
        return Interval(best, -np.inf, np.inf)
    centred = x_N - x_N.mean()
    residual_N = y_N - y_N.mean() - best * centred
    error = np.sqrt(residual_N @ residual_N / (len(x_N) - 2) / (centred @ centred))
    return _around(best, float(error), len(x_N) - 2)


def mean_interval(values_S: np.ndarray) -> Interval:
    """Mean of paired differences with its t interval over S seeds."""
    error = np.std(values_S, ddof=1) / np.sqrt(len(values_S))
    return _around(float(np.mean(values_S)), float(error), len(values_S) - 1)


def jointly(interval: Interval, count: int, seeds: int) -> Interval:
    """A `mean_interval` as wide as `count` of them must be to hold all at once with 95 % (Bonferroni)."""
    alone, together = stats.t.ppf([(1 + LEVEL) / 2, 1 - (1 - LEVEL) / (2 * count)], seeds - 1)
    half = (interval.high - interval.value) * together / alone
    return Interval(interval.value, interval.value - half, interval.value + half)


def _around(value: float, error: float, freedom: int) -> Interval:
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Interval(value, value - half, value + half)
