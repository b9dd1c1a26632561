"""How close does each way to orthogonalize come to the polar factor, and what does it cost?

    python benchmarks/polar.py run              a minute of one core; adds to benchmarks/results/polar/bands.jsonl
    python benchmarks/polar.py show             the tables of docs/performance.md, as Markdown
    python benchmarks/polar.py coefficients     the polynomials of schatten_4 and schatten_5, computed

Matrices of known singular values, 96 x 192, all in float64 but the method. 'error': relative Frobenius error over the
directions whose singular value is at least `Polar.lowest` of the start's norm, here the Frobenius norm: what the method
claims. 'all': over all directions. 'largest': the largest singular value of what comes out.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import polar

RESULTS = pathlib.Path(__file__).parent / "results" / "polar" / "bands.jsonl"
SHAPE = (96, 192)
DTYPES = ("float32", "bfloat16")
_PLAIN = dataclasses.replace(polar.get("schatten_4"), gram=1)
METHODS: dict[str, polar.Polar] = {
    **{name: polar.get(name) for name in ("newton_schulz_6", "polar_express", "polar_express:5", "muon_5", "aol_4")},
    "schatten_4": polar.get("schatten_4"),
    "schatten_4, not in Gram form": _PLAIN,
    "schatten_5": polar.get("schatten_5"),
    "newton_schulz_6, in Gram form": dataclasses.replace(polar.get("newton_schulz_6"), gram=6),
}


def spectra(n: int) -> dict[str, np.ndarray | None]:
    """{name: singular values, None for those of a Gaussian matrix}."""
    k = np.arange(1, n + 1)
    powers = {f"k^-{power}": k**-power for power in (0.5, 1.0, 2.0)}
    return {"Gaussian": None, **powers, "rank 8": (k <= 8) * 1.0, "rank 1": (k <= 1) * 1.0}


def matrix(values: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, singular values, V^T) of a random matrix."""
    u, s, vt = np.linalg.svd(np.random.default_rng(seed).standard_normal(SHAPE), full_matrices=False)
    return u, s if values is None else values, vt


def measured(method: polar.Polar, dtype: str, values: np.ndarray | None, seed: int) -> dict[str, float]:
    u, s, vt = matrix(values, seed)
    found = np.asarray(polar.orthogonalize(jnp.asarray(u * s @ vt, jnp.float32), method, dtype), np.float64)
    range_of = s > 0
    covered = s >= method.lowest * np.linalg.norm(s)
    ends = np.einsum("ik,ij,kj->k", u, found, vt)
    off = u.T @ found @ vt.T - np.diag(range_of.astype(float))
    return {
        "error": float(np.linalg.norm(off[np.ix_(covered, covered)]) / np.sqrt(covered.sum())),
        "all": float(np.linalg.norm(found - u[:, range_of] @ vt[range_of]) / np.sqrt(range_of.sum())),
        "lowest": float(ends[covered].min()),
        "largest": float(np.linalg.norm(found, 2)),
    }


def run(seeds: int = 3) -> None:
    """Measures what the results lack; a row is the mean over seeds, the ends of a band their extremes."""
    done = {(row["polar"], row["dtype"], row["spectrum"]) for row in rows()}
    how = {"error": np.mean, "all": np.mean, "lowest": np.min, "largest": np.max}
    for name, dtype, (spectrum, values) in itertools.product(METHODS, DTYPES, spectra(SHAPE[0]).items()):
        if (name, dtype, spectrum) in done:
            continue
        each = [measured(METHODS[name], dtype, values, seed) for seed in range(seeds)]
        row = {key: round(float(reduce([one[key] for one in each])), 4) for key, reduce in how.items()}
        with RESULTS.open("a") as file:
            file.write(json.dumps({"polar": name, "dtype": dtype, "spectrum": spectrum, "n": seeds, **row}) + "\n")


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def markdown(dtype: str) -> Iterator[str]:
    """A method a line: cost over newton_schulz_6's on ViT-S/16, and 'error [lowest, largest]' of each spectrum."""
    names = list(spectra(SHAPE[0]))
    yield f"| {dtype} | cost | {' | '.join(names)} |"
    yield f"|---|---:|{'---|' * len(names)}"
    found = {(row["polar"], row["spectrum"]): row for row in rows() if row["dtype"] == dtype}
    base = flops(METHODS["newton_schulz_6"], dtype)
    for name, method in METHODS.items():
        cells = (found[name, spectrum] for spectrum in names)
        told = " | ".join(f"{row['error']:.3f} [{row['lowest']:.2f}, {row['largest']:.2f}]" for row in cells)
        yield f"| {name} | {flops(method, dtype) / base:.2f} | {told} |"


def flops(method: polar.Polar, dtype: str, table: str = "vit_s16_i1k") -> int:
    """Of orthogonalizing every matrix of a table once."""
    total = 0
    for row in tables.load(table).rows:
        if row.atom in ("Linear", "Conv"):
            fan_in, fan_out = (int(np.prod([row.shape[axis] for axis in axes])) for axes in (row.fan_in, row.fan_out))
            total += method.flops(fan_in, fan_out, dtype)
    return total


def best_quintic(low: float, high: float) -> tuple[np.ndarray, float]:
    """((a, b, c), error): a x + b x^3 + c x^5 nearest to 1 on [low, high], by Remez' exchange."""
    points = np.array([low, low + 0.3 * (high - low), low + 0.75 * (high - low), high])
    for _ in range(100):
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        *abc, error = np.linalg.solve(system, np.ones(4))
        a, b, c = abc
        squares = np.roots([5 * c, 3 * b, a])  # where the derivative is 0
        moved = np.array([low, *np.sqrt(np.sort(squares.real)), high])
        if np.allclose(points, moved, rtol=1e-13):
            break
        points = moved
    return np.array(abc), abs(error)


def express(lowest: float, steps: int, cushion: float = 0.024, safety: float = 1.01) -> list[tuple[float, ...]]:
    """Polar Express (arXiv 2505.16932): each step the best quintic on where the steps before leave [lowest, 1].

    cushion: an interval is taken to begin at this share of its end, so that no step is too steep. safety: all steps but
    the last divide by (s, s^3, s^5): what rounding pushed above 1 must not grow.
    """
    low, high, found = lowest, 1.0, []
    for step in range(steps):
        abc, error = best_quintic(max(low, cushion * high), high)
        if low < cushion * high:  # centre where the whole interval ends, not only its part above the cushion
            abc = abc * 2 / (_value(abc, low) + 1 + error)
        scale = safety if step + 1 < steps else 1.0
        found.append(tuple(float(x) for x in np.round(abc / scale ** np.array([1, 3, 5]), 6)))
        low = _value(abc, low)
        high = 2 - low
    return found


def _value(abc: np.ndarray, x: float) -> float:
    return float(abc @ np.array([x, x**3, x**5]))


def coefficients() -> Iterator[str]:
    for name, lowest, steps in (("schatten_4, aol_4", 0.005, 4), ("schatten_5", 0.002, 5)):
        yield f"{name}, from {lowest}:"
        yield from (f"    {abc}" for abc in express(lowest, steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show", "coefficients"))
    what = parser.parse_args().what
    if what == "run":
        jax.config.update("jax_platforms", "cpu")
        run()
    print("\n".join(coefficients() if what == "coefficients" else [*markdown("float32"), "", *markdown("bfloat16")]))


if __name__ == "__main__":
    main()
