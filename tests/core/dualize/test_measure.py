"""Norms as the trainer logs them, against float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from big_vision_dual.core import trees
from big_vision_dual.core.dualize import geometry, measure
from big_vision_dual.core.tables import Row, TargetNormTable


@pytest.mark.parametrize(
    ("measured", "truth"),
    [(measure.atom_norms, oracle.weight_norm), (measure.dual_norms, oracle.dual_norm)],
)
def test_norms_of_every_atom(table, gradients, measured, truth):
    flat = trees.flatten(gradients)
    got = jax.jit(lambda tree: measured(tree, table))(gradients)
    for row in table.rows:
        wanted = [truth(row.atom, matrix) for matrix in oracle.matrices(flat[row.path], row)]
        assert got[row.key].shape == tuple(row.shape[axis] for axis in sorted(row.batch))
        np.testing.assert_allclose(np.ravel(got[row.key]), wanted, rtol=0.01, err_msg=row.key)


def test_spectral_norm_of_hard_spectra():
    """Flat, nearly degenerate and decaying spectra, tiny scales and zero: within 1 %, never below."""
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.standard_normal((96, 130)), full_matrices=False)
    spectra = [np.ones(96), np.linspace(0.99, 1, 96), 1 / np.arange(1, 97), np.eye(96)[0], 1e-30 * np.ones(96)]
    stack = np.stack([u * s @ vt for s in spectra] + [np.zeros((96, 130))]).astype(np.float32)
    got = np.asarray(jax.jit(geometry.spectral_norm)(stack), np.float64)
    truth = np.array([s.max() for s in spectra])
    assert np.all(got[:-1] >= truth * (1 - 1e-5))  # float32 rounding; seen 1e-7
    assert np.all(got[:-1] <= truth * 96 ** (1 / 1024) * (1 + 1e-5))
    assert got[-1] == 0


def test_tiny_gradients_have_dual_norms():
    tiny = 1e-30 * jnp.ones((1, 3, 5))
    norm = geometry.dual_norm("Linear", tiny, jnp.ones(1))
    np.testing.assert_allclose(norm * 1e30, np.sqrt(15), rtol=0.01)


@pytest.mark.parametrize("measured", [measure.atom_norms, measure.dual_norms, measure.atom_sizes])
def test_zeros_have_norm_zero(few, random_tree, measured):
    zeros = jax.tree.map(np.zeros_like, random_tree(few))
    assert not any(np.any(value) for value in jax.jit(lambda tree: measured(tree, few))(zeros).values())


def test_groups_are_layers_over_all_blocks(table):
    assert measure.group_name(table.by_key()["attention/query/kernel"]) == "Linear/query"
    assert measure.group_name(table.by_key()["in_proj/weight[0:0:9]"]) == "Linear/in_proj[0:0:9]"
    norms = {row.key: jnp.arange(np.size(row.target_norm)) + len(row.path) for row in table.rows}
    largest, mean = measure.summary(norms, table)["Linear/query"]
    both = np.concatenate([np.ravel(norms[f"{owner}/query/kernel"]) for owner in ("attention", "layers")])
    np.testing.assert_allclose([largest, mean], [both.max(), both.mean()], rtol=1e-6)


def test_a_convolution_is_measured_tap_by_tap():
    """Norm: taps times the largest of theirs; dual norm: the sum of theirs over the taps (arXiv 2405.14813)."""
    row = Row("c", "Conv", (0, 1, 2), (3,), (), (2, 3, 4, 5), 1.0, 1.0, 0.5)
    table = TargetNormTable("", {}, (), {}, 1.0, 1.0, (row,))
    w = np.random.default_rng(0).standard_normal(row.shape)
    singular = np.linalg.svd(w, compute_uv=False)  # (2, 3, 4)
    tree = {"c": w.astype(np.float32)}
    np.testing.assert_allclose(measure.atom_norms(tree, table)["c"], 6 * np.sqrt(4 / 5) * singular.max(), rtol=0.01)
    np.testing.assert_allclose(measure.dual_norms(tree, table)["c"], np.sqrt(5 / 4) / 6 * singular.sum(), rtol=0.01)
    unit = np.sqrt(6 * 4) * np.sqrt(5 / 4) / 6  # Frobenius norm of a unit dual
    np.testing.assert_allclose(measure.atom_sizes(tree, table)["c"], np.linalg.norm(w) / unit, rtol=1e-5)
