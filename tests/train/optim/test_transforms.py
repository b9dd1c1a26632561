"""Transformations of our own against independent NumPy."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from big_vision_dual.train.optim import transforms


def adafactor_update(grads, momentum, decay_rate, beta2_cap, threshold):
    """Float64 reference on one matrix: row and column means of squares, RMS clipping, first moment."""
    row = column = first = 0.0
    for step, grad in enumerate(grads, start=1):
        decay = min(beta2_cap, 1 - step**-decay_rate)
        row = decay * row + (1 - decay) * np.mean(grad**2, axis=1)
        column = decay * column + (1 - decay) * np.mean(grad**2, axis=0)
        update = grad / np.sqrt(np.outer(row, column) / np.mean(row))
        update = update / max(1.0, np.sqrt(np.mean(update**2)) / threshold)
        first = momentum * first + (1 - momentum) * update
    return first


def test_adafactor_equals_its_reference():
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((6, 4, 7)) * np.linspace(0.1, 5, 6)[:, None, None]
    tx = transforms.scale_by_adafactor(2, 0.7, 0, 0.6, 0.9, 0.8, "float32")
    state = tx.init(grads[0].astype(np.float32))
    update: Any = None
    for grad in grads.astype(np.float32):
        update, state = tx.update(grad, state, grad)
    np.testing.assert_allclose(update, adafactor_update(grads, 0.8, 0.7, 0.6, 0.9), rtol=2e-5)


def test_moments_are_half_precision_by_default():
    param = np.ones((64, 32), np.float32)
    for factory, cells in ((transforms.momentum_hp, 64 * 32), (transforms.scale_by_adafactor, 64 * 32)):
        halves = [leaf for leaf in jax.tree.leaves(factory().init(param)) if leaf.dtype == "bfloat16"]
        assert [leaf.size for leaf in halves] == [cells]


def test_names_are_attribute_paths_of_optax():
    assert transforms.find("scale_by_adam") is optax.scale_by_adam
    assert transforms.find("contrib.scale_by_muon") is optax.contrib.scale_by_muon
    with pytest.raises(ValueError, match=r"unknown optax_name 'scale_by_adma' \(did you mean .*'scale_by_adam'"):
        transforms.find("scale_by_adma")


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "contrib.muon", "scale_by_learning_rate"])
def test_what_goes_downhill_by_itself_is_refused(name):
    with pytest.raises(ValueError, match=f"optax_name='{name}' goes downhill by itself.*scale_by_"):
        transforms.make(name, {"learning_rate": 1.0})


@pytest.mark.parametrize("name", ["scale_by_adam", "scale_by_lion", "scale_by_rms", "identity", "scale_by_polyak"])
def test_what_goes_uphill_is_taken(name):
    """The first two are the examples of the message about an unknown name."""
    assert transforms.make(name, {})


def test_options_of_a_wrong_type_are_named():
    with pytest.raises(ValueError, match=r"config.optax={.*'momentum': None}, for .*scale_by_dualize: unsupported"):
        transforms.make(transforms.DUALIZE, {"table": "mamba_bytes", "momentum": None})
    assert transforms.find("big_vision.sgd") is optax.identity
