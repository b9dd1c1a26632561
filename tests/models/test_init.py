"""Dual initialization: every atom starts at unit norm, measured in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from big_vision_dual.core import trees
from big_vision_dual.models import init, vit

FAN_IN_AXES = {"query": 1, "key": 1, "value": 1, "out": 2, "embedding": 3}  # the leading axes; 1 for Dense


def rms(rows):
    return np.sqrt((np.asarray(rows, np.float64) ** 2).mean(-1))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (7, 7), (3, 5, 2, 11)])
def test_scaled_orthogonal_has_unit_norm(shape):
    matrix = np.asarray(init.scaled_orthogonal(jax.random.key(0), shape), np.float64).reshape(-1, shape[-1])
    singular = np.linalg.svd(matrix, compute_uv=False) * np.sqrt(matrix.shape[0] / matrix.shape[1])
    np.testing.assert_allclose(singular, 1, rtol=0, atol=2e-6)  # measured: 2.5e-7


@pytest.mark.parametrize("scan", [False, True])
def test_every_leaf_of_a_dual_vit_starts_at_unit_norm(scan):
    model = vit.Model(
        10, width=24, depth=2, mlp_dim=40, num_heads=3, patch_size=(4, 2), pool_type="map", rep_size=17,
        scaling="dual", scan=scan,
    )  # fmt: skip
    params = model.init(jax.random.key(0), np.zeros((1, 12, 8, 3)))["params"]
    for path, leaf in trees.flatten(params).items():
        layer_axes = 1 if path.startswith("Transformer/encoderblock/") else 0
        for layer in np.asarray(leaf, np.float64).reshape(-1, *leaf.shape[layer_axes:]):
            check_atom(path, layer)


def check_atom(path, leaf):
    module, name = path.split("/")[-2:] if "/" in path else ("", path)
    if name == "kernel":
        fan_in = int(np.prod(leaf.shape[: FAN_IN_AXES.get(module, 1)]))
        matrix = leaf.reshape(fan_in, -1)
        norm = np.linalg.norm(matrix, 2) * np.sqrt(matrix.shape[0] / matrix.shape[1])
        assert norm == pytest.approx(1, abs=2e-6), path  # measured: 2.5e-7
    elif name in ("pos_embedding", "probe"):
        np.testing.assert_allclose(rms(leaf), 1, rtol=0, atol=1e-6, err_msg=path)
    else:
        np.testing.assert_array_equal(leaf, 1 if name == "scale" else 0, err_msg=path)


def test_standard_positions_and_rows():
    positions = init.STANDARD.positions(jax.random.key(0), (1, 500, 64))
    assert np.std(positions) == pytest.approx(1 / 8, rel=0.02)
    np.testing.assert_allclose(rms(init.unit_rows(jax.random.key(0), (5, 48))), 1, atol=1e-6)


def test_head_zero_follows_the_init_unless_given():
    key = jax.random.key(0)
    starts_at_zero = [
        [not np.any(init.initializers(kind).head(zero)(key, (6, 4))) for zero in (None, True, False)]
        for kind in ("standard", "dual")
    ]
    assert starts_at_zero == [[True, True, False], [False, True, False]]
