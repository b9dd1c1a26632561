"""Norms, dual norms and dual maps of the atoms (arXiv 2405.14813, 2410.21265), on stacks of matrices.

Every atom is a matrix W of shape (fan_in, fan_out), and its norm has one of two forms:

    spectral   |W| = sigma_max(W) / gain          dual norm of G: gain * sum of singular values
    vectors    |W| = max over v of |v|_2 / gain   dual norm of G: gain * sum over v of |v|_2

where v runs over the rows, the columns or the single entries of the matrix. The dual map, the steepest direction
of unit norm, is gain * polar(G) or, vector by vector, gain * v / |v|_2; <dual(G), G> is the dual norm of G.
MaxLinear's is the row norm of Scion (arXiv 2502.07529).

| atom          | matrix              | form             | gain                   | so the norm is                     |
|---------------|---------------------|------------------|------------------------|------------------------------------|
| Linear        | fan_in x fan_out    | spectral         | sqrt(fan_out/fan_in)   | RMS-to-RMS operator norm           |
| MaxLinear     | fan_in x fan_out    | vectors: columns | 1/sqrt(fan_in)         | RMS-to-max operator norm           |
| Embed         | rows n x d          | vectors: rows    | sqrt(d)                | max over rows of RMS(row)          |
| Bias          | 1 x d               | vectors: the row | sqrt(d)                | RMS(b)                             |
| Scale, Rate   | 1 x d               | vectors: entries | 1                      | max abs(g)                         |
| DepthwiseConv | taps k x channels d | vectors: columns | 1/sqrt(k)              | max over channels of sqrt(k)|w_c|2 |
| Conv, k taps  | fan_in x fan_out    | spectral         | sqrt(fan_out/fan_in)/k | max over taps of k * a tap's norm  |

A Conv has one matrix a tap (arXiv 2405.14813): its norm is the largest of theirs, its dual norm their sum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_vision_dual.core.dualize import polar as polar_lib
from big_vision_dual.core.tables.step_size import GAINS

_SQUARINGS = 8  # sigma_max is overestimated by at most n ** (1 / 1024): 0.6 % at n = 384, 1 % at n = 26,000


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The norm of one kind of atom.

    vector_axes: matrix axes that one vector extends over; None for the spectral form.
    gain: (fan_in, fan_out) -> gain.
    projects_to: the set that `project` returns the weight to. 'sphere': its initial value has unit norm. 'ball': it
      starts at 0 or its size carries meaning, and only what has left the unit ball comes back. 'itself': it is a
      logarithm, of which no value is large.
    """

    vector_axes: tuple[int, ...] | None
    gain: Callable[[int, int], float]
    projects_to: str

    @property
    def spectral(self) -> bool:
        return self.vector_axes is None


ATOMS = {
    kind: Geometry(vector_axes, GAINS[kind], projects_to)
    for kind, vector_axes, projects_to in (
        ("Linear", None, "sphere"),
        ("MaxLinear", (-2,), "sphere"),
        ("Embed", (-1,), "sphere"),
        ("Bias", (-1,), "ball"),
        ("Scale", (), "ball"),
        ("Rate", (), "itself"),
        ("DepthwiseConv", (-2,), "sphere"),
        ("Conv", None, "sphere"),
    )
}


def unit_dual(
    kind: str,
    g_BxNxM: jax.Array,
    polar: str | polar_lib.Polar = "newton_schulz_6",
    dtype: str = "float32",
    unroll: bool | int = 1,
) -> jax.Array:
    """The dual of each gradient before its gain: the polar factor, or vectors of length 1; zero stays zero."""
    axes = ATOMS[kind].vector_axes
    return (
        polar_lib.orthogonalize(g_BxNxM, polar, dtype, unroll) if axes is None else polar_lib.normalized(g_BxNxM, axes)
    )


def dual(
    kind: str,
    g_BxNxM: jax.Array,
    gain_B: jax.Array,
    polar: str | polar_lib.Polar = "newton_schulz_6",
    dtype: str = "float32",
) -> jax.Array:
    """The direction of unit norm with the largest inner product with each gradient; 0 where the gradient is 0.

    Spectral atoms may come transposed: their gain says which way round they are.
    """
    return gain_B[:, None, None] * unit_dual(kind, g_BxNxM, polar, dtype)


def weight_norm(kind: str, w_BxNxM: jax.Array, gain_B: jax.Array) -> jax.Array:
    """Norm of each weight (or update) of the stack, (B,) float32; a spectral one within 1 %, never below the truth."""
    axes = ATOMS[kind].vector_axes
    largest = spectral_norm(w_BxNxM) if axes is None else jnp.max(_lengths(w_BxNxM, axes), axis=(-2, -1))
    return largest / gain_B


def size(kind: str, w_BxNxM: jax.Array, gain_B: jax.Array) -> jax.Array:
    """Frobenius norm of each weight over that of a unit dual, (B,): the RMS where `weight_norm` is the maximum."""
    axes = ATOMS[kind].vector_axes
    n, m = w_BxNxM.shape[-2:]
    vectors = min(n, m) if axes is None else n * m // math.prod(w_BxNxM.shape[axis] for axis in axes)
    return _lengths(w_BxNxM, (-2, -1))[:, 0, 0] / (gain_B * math.sqrt(vectors))


def rms(values: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.mean(values * values, axis=axis))


def dual_norm(
    kind: str, g_BxNxM: jax.Array, gain_B: jax.Array, polar: str = "polar_express", dtype: str = "float32"
) -> jax.Array:
    """Dual norm of each gradient of the stack, (B,) float32: its inner product with its dual.

    The largest entry is divided out first: products of tiny entries would underflow.
    """
    scale_B = jnp.max(jnp.abs(g_BxNxM.astype(jnp.float32)), axis=(-2, -1))
    g_BxNxM = g_BxNxM / jnp.where(scale_B > 0, scale_B, 1)[:, None, None]
    return scale_B * jnp.sum(dual(kind, g_BxNxM, gain_B, polar, dtype) * g_BxNxM, axis=(-2, -1))


def spectral_norm(x_BxNxM: jax.Array) -> jax.Array:
    """Largest singular value of each matrix, (B,): power iteration on all directions at once, by repeated squaring.

    With A = X X^T / |X|_F^2 (n x n) and p = 2^8, |A^p|_F^(1/2p) is the Schatten-4p norm of X / |X|_F, which lies
    between sigma_max and n^(1/4p) sigma_max. Unlike power iteration of one vector it needs no start and no gap.
    """
    if x_BxNxM.shape[-2] > x_BxNxM.shape[-1]:
        return spectral_norm(x_BxNxM.mT)
    scale_B = _lengths(x_BxNxM, (-2, -1))[:, 0, 0]
    unit = polar_lib.normalized(x_BxNxM)
    power, norm_B = _over_norm(polar_lib.matmul(unit, unit.mT))

    def square(squaring: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        power, log_norm_B = carry
        power, norm_B = _over_norm(polar_lib.matmul(power, power))
        return power, log_norm_B + jnp.log(norm_B) / 2.0 ** (squaring + 1)

    _, log_norm_B = jax.lax.fori_loop(0, _SQUARINGS, square, (power, jnp.log(norm_B)))
    return scale_B * jnp.exp(log_norm_B / 2)


def _over_norm(x_BxNxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Matrices over their Frobenius norms, and those norms; for zero 0 and 1."""
    norm_B = jnp.linalg.norm(x_BxNxN, axis=(-2, -1))
    norm_B = jnp.where(norm_B > 0, norm_B, 1)
    return x_BxNxN / norm_B[:, None, None], norm_B


def project(
    kind: str,
    w_BxNxM: jax.Array,
    gain_B: jax.Array,
    polar: str | polar_lib.Polar = "newton_schulz_6",
    dtype: str = "float32",
) -> jax.Array:
    """Each weight back to unit norm: onto the sphere of its dual maps, or into the ball (`Geometry.projects_to`)."""
    geometry, gain = ATOMS[kind], gain_B[:, None, None]
    if geometry.projects_to == "itself":
        return w_BxNxM
    if geometry.vector_axes is None or geometry.projects_to == "sphere":
        return dual(kind, w_BxNxM, gain_B, polar, dtype)
    return w_BxNxM / jnp.maximum(1, _lengths(w_BxNxM, geometry.vector_axes) / gain)


def _lengths(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Euclidean norms over `axes`, kept as axes of size 1, without underflow of squares."""
    largest, scaled = polar_lib.over_largest(x, axes)
    return largest * jnp.sqrt(jnp.sum(scaled * scaled, axis=axes, keepdims=True))
