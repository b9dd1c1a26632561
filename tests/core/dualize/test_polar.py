"""Claims about orthogonalization, against float64 SVD. Bands: evaluated on a grid of singular values in [.003, 1]."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.core.dualize import polar

BANDS = {"newton_schulz_6": (0.9955, 0.9994), "polar_express": (0.9974, 1.0012), "polar_express:8": (1, 1)}


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


@pytest.mark.parametrize("name", ["svd", "newton_schulz_6", "polar_express", "muon_5"])
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
