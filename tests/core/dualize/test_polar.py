"""Claims about orthogonalization, against float64 SVD. Bands: evaluated on a grid of singular values in [.003, 1]."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.core.dualize import polar

BANDS = {"newton_schulz_6": (0.9955, 0.9994), "polar_express": (0.9974, 1.0012), "polar_express:8": (1, 1)}
GRAM = ("newton_schulz_6", "polar_express:5", "schatten_4", "schatten_5")


def spectrum(shape, singular_values, seed=0):
    """A float32 matrix with given singular values, and its polar factor in float64."""
    rng = np.random.default_rng(seed)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return jnp.asarray(u * singular_values @ vt, jnp.float32), u @ vt


@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("shape", [(8, 13), (13, 8), (8, 8)])
def test_singular_values_end_in_the_band(name, shape):
    x, factor = spectrum(shape, np.geomspace(0.01, 1, 8))
    got = np.asarray(polar.orthogonalize(x, name), np.float64)
    sigmas = np.linalg.svd(got, compute_uv=False)
    low, high = BANDS[name]
    assert sigmas.min() > low - 1e-5  # float32 rounding; seen 1e-7
    assert sigmas.max() < high + 1e-5
    np.testing.assert_allclose(got, factor, atol=0.0045)  # how far the band reaches below 1; seen 0.002


def test_bfloat16_stays_near_the_polar_factor():
    x, factor = spectrum((32, 48), 1 / np.arange(1, 33))
    for name in ("newton_schulz_6", "polar_express"):
        error = np.linalg.norm(np.asarray(polar.orthogonalize(x, name, "bfloat16"), np.float64) - factor)
        assert error / np.linalg.norm(factor) < 0.027  # design/polar.md: the largest error seen on power-law spectra


@pytest.mark.parametrize("name", list(polar.POLARS))
def test_a_declared_band_is_what_exact_arithmetic_gives(name):
    method, sigma = polar.get(name), np.geomspace(polar.get(name).lowest, 1, 20_001)
    for a, b, c in method.coefficients:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    if method.coefficients:
        assert (sigma.min(), sigma.max()) == pytest.approx(method.band, abs=6e-4)


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (24, 96)])
@pytest.mark.parametrize("name", ["schatten_4", "schatten_5"])
def test_a_tight_start_reaches_as_far_with_fewer_steps(name, shape):
    """From 1/100 of the largest singular value on, be the spectrum flat, where the Frobenius norm is loose, or not."""
    (low, high), n = polar.get(name).band, min(shape)
    for sigma in (np.geomspace(0.01, 1, n), np.r_[np.ones(n - 1), 0.01]):
        x, factor = spectrum(shape, sigma)
        got = np.asarray(polar.orthogonalize(1e-20 * x, name), np.float64)
        sigmas = np.linalg.svd(got, compute_uv=False)
        assert n ** (1 / 8) * polar.get(name).lowest < 0.01  # the start is at most n^(1/8) above the largest
        assert low - 1e-3 < sigmas.min() <= sigmas.max() < high + 1e-3
        assert np.linalg.norm(got - factor) < 0.1 * np.sqrt(n)


def test_aol_bounds_the_spectrum_and_leaves_zero_rows_zero():
    x, _ = spectrum((16, 40), 1 / np.arange(1.0, 17.0))
    x = x.at[3].set(0)
    evened, gram = polar._even_rows(polar.normalized(x), polar.matmul(*(y := polar.normalized(x), y.mT)))
    assert np.linalg.norm(np.asarray(evened, np.float64), 2) <= 1 + 1e-6
    np.testing.assert_allclose(gram, evened @ evened.T, atol=1e-6)
    got = np.asarray(polar.orthogonalize(x, "aol_4"))
    assert not np.any(got[3])
    assert np.linalg.norm(got, 2) < polar.get("aol_4").band[1] + 1e-3


@pytest.mark.parametrize("name", GRAM)
def test_the_gram_form_is_the_plain_iteration(name):
    plain = dataclasses.replace(polar.get(name), gram=1)
    x, _ = spectrum((24, 48), np.geomspace(1e-3, 1, 24))
    for steps in (2, 3, len(plain.coefficients)):
        got = polar.orthogonalize(x, dataclasses.replace(plain, gram=steps))
        np.testing.assert_allclose(got, polar.orthogonalize(x, plain), atol=1e-3)  # seen 3e-4


@pytest.mark.parametrize("name", GRAM)
def test_the_gram_form_in_bfloat16_errs_no_more_than_the_plain_iteration(name):
    """Written as a^2 A + 2 a P A + .. the same step leaves singular values of 1.7 and of 12 here."""
    x, _ = spectrum((48, 96), np.linalg.svd(np.random.default_rng(1).standard_normal((48, 96)))[1])
    exact = np.asarray(polar.orthogonalize(x, dataclasses.replace(polar.get(name), gram=1)))
    errors = [
        np.linalg.norm(
            np.asarray(polar.orthogonalize(x, dataclasses.replace(polar.get(name), gram=gram), "bfloat16")) - exact
        )
        for gram in (1, len(polar.get(name).coefficients))
    ]
    assert errors[1] < max(2 * errors[0], 0.02 * np.linalg.norm(exact))


def test_flops_of_the_forms():
    plain, gram = dataclasses.replace(polar.get("schatten_4"), gram=1), polar.get("schatten_4")
    assert plain.flops(100, 400, "float32") == 4 * (16 + 2) * 100**3
    assert gram.flops(400, 100, "float32") == (16 + 2 + 3 * 8) * 100**3
    assert gram.flops(100, 400, "bfloat16") == 2 * (16 + 2 + 8) * 100**3
    assert gram.flops(100, 100, "float32") == 4 * 6 * 100**3


@pytest.mark.parametrize("name", [*polar.POLARS, "polar_express:5"])
def test_a_stack_is_its_matrices_one_by_one_and_zero_is_zero(name):
    stack = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    stack[0, 1] = 0
    got = polar.orthogonalize(jnp.asarray(stack), name)
    assert not np.any(got[0, 1])
    np.testing.assert_allclose(got[1, 2], polar.orthogonalize(jnp.asarray(stack[1, 2]) * 1e-30, name), atol=1e-5)


def test_svd_leaves_the_null_space_alone():
    x, _ = spectrum((5, 7), np.array([1.0, 0.5, 0, 0, 0]))
    np.testing.assert_allclose(np.linalg.svd(polar.orthogonalize(x, "svd"))[1], [1, 1, 0, 0, 0], atol=1e-5)


def test_polar_express_takes_its_number_of_steps_and_repeats_the_last():
    assert [len(polar.get(name).coefficients) for name in ("polar_express", "polar_express:3")] == [6, 3]
    eight, ten = (polar.get(f"polar_express:{steps}").coefficients for steps in (8, 10))
    assert ten == eight + 2 * ((1.875, -1.25, 0.375),)


def test_unknown_names():
    for name in ("polar_express:0", "muon_5:3", "muon"):
        with pytest.raises(ValueError, match=rf"unknown polar '{name}'; possible: .*svd"):
            polar.get(name)
    with pytest.raises(ValueError, match="polar dtype is 'float16'; possible: 'float32', 'bfloat16'"):
        polar.orthogonalize(jnp.eye(2), dtype="float16")


@pytest.mark.parametrize("exponent", [-32, -27, -24, -18, -12, -6, 0, 6, 12, 18, 24, 30, 37])
def test_vectors_of_any_scale_get_length_1(exponent):
    x = np.random.default_rng(0).standard_normal((3, 50)) * [[1], [1e-3], [0]]
    got = polar.normalized(jnp.asarray(x * 10.0**exponent, jnp.float32), (1,))
    np.testing.assert_allclose(got[:2], (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9))[:2], rtol=2e-6)
    np.testing.assert_array_equal(got[2], 0)


def test_what_is_no_number_stays_none():
    got = polar.normalized(jnp.asarray([[1.0, jnp.nan], [1.0, jnp.inf]]), (1,))
    assert np.isnan(got[0]).all()
    assert np.isnan(got[1, 1])
    assert np.isnan(polar.normalized(jnp.asarray([jnp.nan]), ()))
