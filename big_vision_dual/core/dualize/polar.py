"""Orthogonalization of stacks of matrices: X = U S V^T -> U V^T, the polar factor.

The iterations apply an odd polynomial to the singular values and leave the singular vectors alone:
X <- a X + (b A + c A^2) X with A = X X^T, which maps sigma to a sigma + b sigma^3 + c sigma^5.
They work with matrix products only, so a stack of matrices is one batched program on a TPU.

Two things make them cheaper (benchmarks/polar.py, docs/performance.md):

- A start at a tight bound on sigma_max instead of the Frobenius norm, so that fewer steps reach as far: `Polar.start`.
- The Gram form for wide matrices: several steps on the n x n matrix A, then one product with X: `Polar.gram`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Coefficients = tuple[tuple[float, float, float], ...]


@dataclasses.dataclass(frozen=True)
class Polar:
    """One way to orthogonalize.

    coefficients: (a, b, c) of each step; empty for the singular value decomposition.
    band: where singular values from [`lowest`, 1] of the start's norm end up, in exact arithmetic.
    source: where the coefficients come from.
    start: what X is divided by. 'frobenius': its norm, sqrt(stable rank) above sigma_max. 'schatten': its Schatten-8
      norm, (sum of sigma^8)^(1/8) >= sigma_max, at most n^(1/8) above it, which the first step's A^2 gives for nothing.
      'aol': every row by a number of its own, from the row sums of abs(A) (AOL, arXiv 2208.03160; "Turbo-Muon", arXiv
      2512.04632): sigma_max <= 1 too, but it is the polar factor of another matrix that comes out.
    gram: steps between two products with X where X is wide, in float32; 1 is the plain iteration. bfloat16 takes two at
      most: rounding makes eigenvalues of A negative, and each step would multiply them by a^2.
    """

    name: str
    coefficients: Coefficients
    band: tuple[float, float]
    source: str
    lowest: float = 1e-3
    start: str = "frobenius"
    gram: int = 1

    def steps_a_product(self, n: int, m: int, dtype: Any) -> int:
        """Steps between two products with a matrix n x m, n <= m: a further one costs 8 n^3 on the Gram matrix and
        4 n^2 m + 2 n^3 on the matrix."""
        most = min(self.gram, len(self.coefficients), 2 if jnp.dtype(dtype) == jnp.bfloat16 else self.gram)
        return most if m >= 1.5 * n else 1

    def first_turn(self, size: int) -> int:
        """Steps before the loop of equal turns: those that do not fill one, and those that have a start to find."""
        return len(self.coefficients) % size or (0 if self.start == "frobenius" else size)

    def flops(self, n: int, m: int, dtype: Any) -> int:
        """Of one matrix: multiplications and additions of its matrix products."""
        n, m = min(n, m), max(n, m)
        size = self.steps_a_product(n, m, dtype)
        steps, first = len(self.coefficients), self.first_turn(size)
        turns = ([first] if first else []) + [size] * ((steps - first) // size)
        return sum(4 * n**2 * m + 2 * n**3 + (turn - 1) * 8 * n**3 for turn in turns)


_UP = 2.0**80  # squares of float32 entries between 2^-126 and 2^-40, times this, are normal numbers; so with 1 / _UP


def _polar_express(steps: int) -> Coefficients:
    """The first `steps` of the published polynomials, the last one repeated beyond the eighth.

    All but the last are divided by (s, s^3, s^5), s = 1.01: singular values that rounding pushed above 1 must not grow.
    """
    published = (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        (1.875, -1.25, 0.375),
    )
    safe = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in published[:-1])
    return (safe + published[-1:] * max(1, steps - len(safe)))[:steps]


_NEWTON_SCHULZ_6 = (
    (3955, -8306, 5008),
    (3735, -6681, 3463),
    (3799, -6499, 3211),
    (4019, -6385, 2906),
    (2677, -3029, 1162),
    (2172, -1833, 682),
)

# Polar Express' construction (`benchmarks/polar.py coefficients`) for singular values from .005 and from .002: the
# published polynomials are for .001, which a tighter start need not reach.
_FROM_005 = (
    (8.071954, -22.533057, 16.196228),
    (3.870961, -2.815044, 0.527113),
    (3.158135, -2.321527, 0.474894),
    (2.199956, -1.576993, 0.40893),
)
_FROM_002 = (
    (8.171876, -22.811994, 16.396721),
    (4.015211, -2.848974, 0.5205),
    (3.693815, -2.707696, 0.517846),
    (2.781172, -2.034887, 0.443302),
    (2.002703, -1.385579, 0.388795),
)
_SOURCE = "benchmarks/polar.py, by the construction of Amsel et al., arXiv 2505.16932"

POLARS = {
    polar.name: polar
    for polar in (
        Polar(
            "newton_schulz_6",
            tuple((a / 1024, b / 1024, c / 1024) for a, b, c in _NEWTON_SCHULZ_6),
            (0.866, 0.999),
            "Modula, github.com/modula-systems/modula; method: arXiv 2410.21265",
        ),
        Polar("polar_express", _polar_express(6), (0.994, 1.001), "Amsel et al., arXiv 2505.16932"),
        Polar(
            "muon_5",
            ((3.4445, -4.7750, 2.0315),) * 5,
            (0.471, 1.202),
            "Keller Jordan, kellerjordan.github.io/posts/muon",
        ),
        Polar("schatten_4", _FROM_005, (0.897, 1.087), _SOURCE, 5e-3, "schatten", gram=4),
        Polar("schatten_5", _FROM_002, (0.962, 1.024), _SOURCE, 2e-3, "schatten", gram=5),
        Polar("aol_4", _FROM_005, (0.897, 1.087), _SOURCE, 5e-3, "aol", gram=4),
        Polar("svd", (), (1.0, 1.0), "LAPACK's, in float32: the reference"),
    )
}


def get(name: str) -> Polar:
    """Looks a method up; 'polar_express:STEPS' chooses its number of steps."""
    base, colon, steps = name.partition(":")
    if base == "polar_express" and steps.isdigit() and int(steps) > 0:
        return dataclasses.replace(POLARS[base], name=name, coefficients=_polar_express(int(steps)))
    if base not in POLARS or colon:
        raise ValueError(f"unknown polar {name!r}; possible: {', '.join(POLARS)}, polar_express:STEPS.")
    return POLARS[base]


def orthogonalize(
    x: jax.Array, polar: str | Polar = "newton_schulz_6", dtype: str = "float32", unroll: bool | int = 1
) -> jax.Array:
    """Polar factor of each matrix of `x` (..., n, m), float32, same shape.

    dtype: 'float32' or 'bfloat16', of the operands of the matrix products and of what a step hands on to the next;
    products accumulate in float32. With float32 they have full precision also where a device's default is lower (a
    TPU's is one bfloat16 pass). bfloat16's error grows with the spread of the spectrum, since the slope at 0, of 3.9 a
      step, multiplies rounding too: newton_schulz_6's relative error is .006 on Gaussian matrices, .014 where singular
      values fall as 1/k, .25 as 1/k^2, 1.8 at rank 1 (docs/size.md). The largest singular value stays in the band: the
      error is noise in directions that the gradient hardly has. The SVD is float32.
    unroll: steps in a turn of the loop, True for all of them, for cost models that count the body of a loop once.
    Any scale of `x` will do, 1e-30 as well as 1e30; a zero matrix gives a zero matrix.
    """
    method = get(polar) if isinstance(polar, str) else polar
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"polar dtype is {dtype!r}; possible: 'float32', 'bfloat16'.")
    if x.shape[-2] > x.shape[-1]:  # the Gram matrix shall be the smaller one
        return orthogonalize(x.mT, method, dtype, unroll).mT
    if method.start == "frobenius":
        x = normalized(x)
    else:  # the start finds the scale; here it only has to be one that squares bear
        _, x = over_largest(x, (-2, -1))
    return _iterate(x, method, jnp.dtype(dtype), unroll) if method.coefficients else _svd(x)


def normalized(x: jax.Array, axes: tuple[int, ...] = (-2, -1)) -> jax.Array:
    """`x` divided by its Euclidean norm over `axes` (the Frobenius norm of each matrix), float32; zero stays zero.
    Over no axes it is the sign.

    Squares are summed at three scales at once, of which one suits: to find the largest entry first would take a pass
    more over `x`, which for the many short vectors of a model is most of the work.
    """
    x = x.astype(jnp.float32)
    if not axes:
        return jnp.sign(x)
    of_small, as_it_is, of_large = (jnp.sum((x * scale) ** 2, axis=axes, keepdims=True) for scale in (_UP, 1, 1 / _UP))
    small, large = as_it_is < 1 / _UP, as_it_is > _UP
    square = jnp.where(small, of_small, jnp.where(large, of_large, as_it_is))
    scale = jnp.where(small, _UP, jnp.where(large, 1 / _UP, 1))
    return x * scale * jax.lax.rsqrt(jnp.where(square == 0, 1, square))


def over_largest(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """(largest absolute entry over `axes`, `x` divided by it), float32: squares of the latter cannot underflow."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    return largest, x / jnp.where(largest > 0, largest, 1)


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Batched product accumulated and returned in float32; float32 operands are not rounded on the way."""
    exact = x.dtype == jnp.float32
    precision = jax.lax.Precision.HIGHEST if exact else None
    return jnp.matmul(x, y, precision=precision, preferred_element_type=jnp.float32)


def _iterate(x: jax.Array, method: Polar, dtype: jnp.dtype, unroll: bool | int) -> jax.Array:
    """A loop, because unrolled steps triple the compile time (measured on ViT-S/16's shapes: 3.0 s to 1.0 s)."""
    n, m = x.shape[-2:]
    size = method.steps_a_product(n, m, dtype)
    first = method.first_turn(size)
    x = x.astype(dtype)
    if first:
        x = _turn(x, method.coefficients[:first], method.start)
    turns = jnp.asarray(method.coefficients[first:], jnp.float32).reshape(-1, size, 3)
    return jax.lax.scan(lambda x, steps: (_turn(x, steps), None), x, turns, unroll=unroll)[0].astype(jnp.float32)


def _turn(x: jax.Array, steps: Sequence[Any] | jax.Array, start: str = "frobenius") -> jax.Array:
    """`steps`, and one product with the matrix, in its dtype. start: of the first of all steps.

    One step is a X + (b A + c A^2) X. Several are X <- R_k .. R_1 X with R = a 1 + b A + c A^2 and A <- R A R. In this
    order: written out, a^2 A + 2 a (b A + c A^2) A + .. cancels, and bfloat16 then leaves nothing of it.
    """

    def product(y: jax.Array, z: jax.Array) -> jax.Array:
        return matmul(y.astype(x.dtype), z.astype(x.dtype))

    gram = matmul(x, x.mT)
    if start == "aol":
        x, gram = _even_rows(x, gram)
    done = None
    for index, (a, b, c) in enumerate(steps):
        square = product(gram, gram)
        if start == "schatten" and index == 0:
            bound = _bound(square)
            a, b, c = a / bound, b / bound**3, c / bound**5
        polynomial = b * gram + c * square
        if len(steps) == 1:
            return (a * x + product(polynomial, x)).astype(x.dtype)
        factor = a * jnp.eye(x.shape[-2]) + polynomial
        done = factor if done is None else product(factor, done)
        if index + 1 < len(steps):
            gram = product(product(factor, gram), factor)
    assert done is not None
    return product(done, x).astype(x.dtype)


def _bound(square: jax.Array) -> jax.Array:
    """Schatten-8 norm of X, (..., 1, 1), from A^2; 1 for zero."""
    norm = jnp.sqrt(jnp.sqrt(jnp.linalg.norm(square, axis=(-2, -1), keepdims=True)))
    return jnp.where(norm > 0, norm, 1)


def _even_rows(x: jax.Array, gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X and A with each row of X over the square root of the sum of abs(A) in it: sigma_max <= 1; zero stays zero."""
    sums = jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.where(sums > 0, sums, 1))
    return (scale * x).astype(x.dtype), scale * gram * scale.mT


def _svd(x: jax.Array) -> jax.Array:
    """U V^T over the range of `x`: directions without gradient stay zero.

    One matrix after another: batches that run at the same time can wait for each other forever (jaxlib 0.10.2, CPU).
    """

    def of_one(x: jax.Array) -> jax.Array:
        u, s, vt = jnp.linalg.svd(x, full_matrices=False)
        noise = jnp.finfo(jnp.float32).eps * x.shape[-1] * s[0]
        return matmul(u * (s > noise), vt)

    return jax.lax.map(of_one, x.reshape(-1, *x.shape[-2:])).reshape(x.shape)
