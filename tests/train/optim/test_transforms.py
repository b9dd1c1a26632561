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


def test_a_small_step_has_a_direction_too():
    assert transforms.make("scale", {"step_size": 1e-3})
    with pytest.raises(ValueError, match="optax_name='scale' goes downhill by itself"):
        transforms.make("scale", {"step_size": -1e-3})


def test_options_of_a_wrong_type_are_named():
    with pytest.raises(ValueError, match=r"config.optax={.*'momentum': None}, for .*scale_by_dualize: unsupported"):
        transforms.make(transforms.DUALIZE, {"table": "mamba_bytes", "momentum": None})
    assert transforms.find("big_vision.sgd") is optax.identity


def test_muon_takes_attention_and_patch_kernels_as_matrices_and_the_rest_to_adam():
    rng = np.random.default_rng(0)
    shapes = {
        "attention": {"query": {"kernel": (8, 2, 3), "bias": (2, 3)}, "out": {"kernel": (2, 3, 8)}},
        "embedding": {"kernel": (2, 2, 3, 8)},
        "head": {"kernel": (8, 4)},
    }
    draw = lambda shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    grads: Any = jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))
    tx = transforms.muon(consistent_rms=0.2, fallback=[("head/.*", "adam")], fallback_scale=0.5)
    updates: Any = tx.update(grads, tx.init(grads), grads)[0]
    for update, grad, fan_in in (
        (updates["attention"]["query"]["kernel"], grads["attention"]["query"]["kernel"], 8),
        (updates["attention"]["out"]["kernel"], grads["attention"]["out"]["kernel"], 6),
        (updates["embedding"]["kernel"], grads["embedding"]["kernel"], 12),
    ):
        matrix = np.asarray(update).reshape(fan_in, -1)
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        assert (np.abs(singular - 0.95) < 0.3).all(), "five of Jordan's iterations leave .7 to 1.2"
        assert np.sum(matrix * grad.reshape(matrix.shape)) > 0, "uphill"
    for update, grad in ((updates["head"]["kernel"], grads["head"]["kernel"]),
                         (updates["attention"]["query"]["bias"], grads["attention"]["query"]["bias"])):  # fmt: skip
        np.testing.assert_array_equal(np.sign(update), np.sign(grad))
        np.testing.assert_allclose(np.abs(update), np.abs(np.asarray(update)).max(), rtol=1e-4)
        assert np.abs(update).max() < 1.0, "half of Adam's first step (with Nesterov 1.5 at b1 .9 at most)"
    with pytest.raises(ValueError, match=r"fallback kinds \['adamw'\]; possible: adam, muon"):
        transforms.muon(fallback=[("head/.*", "adamw")])
