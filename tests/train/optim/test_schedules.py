"""Schedules: shape, warm-up, cooldown, errors. The golden chain test compares their values with Big Vision's."""

import jax
import numpy as np
import pytest

from big_vision_dual.train.optim import schedules

SIZES = {"total_steps": 20, "batch_size": 64, "data_size": 320}


def values(**config):
    return np.array([schedules.make(config, **SIZES)(step) for step in range(SIZES["total_steps"])])


def test_first_update_of_a_warmup_is_zero_and_its_end_is_the_peak():
    warmup = values(decay_type="cosine", warmup_epochs=1)
    np.testing.assert_allclose(warmup[:6], [0, 0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    assert warmup[-1] == pytest.approx(0.5 * (1 + np.cos(np.pi * 14 / 15)), rel=1e-5)


def test_polynomial_ends_at_end():
    steps = np.arange(20)
    expected = 0.25 + (2.0 - 0.25) * (1 - steps / 20) ** 2
    np.testing.assert_allclose(values(decay_type="polynomial", power=2, end=0.25, mult=2.0), expected, rtol=1e-6)


def test_linear_and_polynomial_are_one():
    np.testing.assert_array_equal(values(decay_type="linear", linear_end=0.1), values(decay_type="polynomial", end=0.1))


def test_rsqrt_is_continuous_at_the_end_of_warmup_and_counts_the_shift():
    got = values(decay_type="rsqrt", timescale_examples=256, shift=3, warmup_steps=5)
    steps = np.arange(20)
    expected = np.minimum(1, steps / 5) / np.sqrt(1 + (np.maximum(steps - 5, 0) + 3) / 4)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_cooldown_multiplies_the_end():
    np.testing.assert_allclose(values(cooldown_percent=0.25)[14:], [1, 1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)


def test_peak_scales_with_the_batch_size():
    np.testing.assert_allclose(values(scale_with_batchsize=True), 64 / 256)


def test_schedule_traces_and_vmaps():
    schedule = schedules.make({"decay_type": "stair", "steps": [3, 6], "mults": [0.1, 0.01]}, **SIZES)
    got = jax.jit(jax.vmap(schedule))(np.arange(8))
    np.testing.assert_allclose(got, [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"decay_type": "cosin"}, r"unknown decay_type 'cosin' \(did you mean 'cosine'\?\); possible: \['cosine', 'l"),
        ({"decay_type": "cosine", "timescale": 3}, r"config.schedule \(cosine\) has no key 'timescale'"),
        ({"warmup_stepz": 3}, r"no key 'warmup_stepz' \(did you mean 'warmup_steps'"),
        ({"warmup_steps": 20}, r"warm-up of 20 steps fills the whole training of 20 steps; .* warmup_percent"),
        ({"steps": [6, 3], "mults": [1, 1]}, r"steps \[6, 3\] must ascend, with one entry of mults \[1, 1\]"),
        ({"warmup_steps": 3, "warmup_epochs": 1}, r"warmup is given 2 times"),
    ],
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        schedules.make(config, **SIZES)
