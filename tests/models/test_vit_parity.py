"""The ViT against Big Vision: golden forward passes and gradients, parameter counts, variants."""

from __future__ import annotations

import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.models import vit

GOLDENS = ("gap_sincos", "map_learn", "tok_rep")


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request):
    """A golden file, and on its parameters: our model, its intermediates and the gradient of its loss."""
    with np.load(goldens.path(f"big_vision/bv_vit_{request.param}.npz")) as file:
        values = dict(file)
    meta = json.loads(str(values["meta_json"]))
    model = models.get("vit").Model(meta["num_classes"], **meta["config"])
    params = trees.unflatten({k.removeprefix("params/"): v for k, v in values.items() if k.startswith("params/")})

    def loss(params):
        logits, out = model.apply({"params": params}, values["image"])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(2), jnp.array([3, 7])]), out

    gradients, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    return values, model, params, out, trees.flatten(gradients)


def test_parameter_tree_is_big_visions(golden):
    values, model, params, _, _ = golden
    ours = trees.flatten(jax.eval_shape(model.init, jax.random.key(0), values["image"])["params"])
    assert {path: leaf.shape for path, leaf in ours.items()} == {
        path: leaf.shape for path, leaf in trees.flatten(params).items()
    }


@pytest.mark.parametrize("name", ["encoded", "pre_logits", "logits"])
def test_forward_is_big_visions(golden, name):
    values, _, _, out, _ = golden
    np.testing.assert_allclose(out[name], values[name], rtol=0, atol=1e-5)  # measured: at most 1.0e-6


def test_gradients_are_big_visions(golden):
    values, _, _, _, gradients = golden
    for path, gradient in gradients.items():
        expected = values[f"grad/{path}"]
        # Measured: 2e-6 of the largest entry; a key bias has no gradient but rounding, both times below 4e-8.
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-7, err_msg=path)


@pytest.mark.parametrize(("rep_size", "count"), [(False, 21_974_632), (True, 22_122_472)])
@pytest.mark.parametrize("scan", [False, True])
def test_vit_s16_parameter_count(rep_size, count, scan):
    model = vit.Model(1000, variant="S/16", posemb="sincos2d", rep_size=rep_size, scan=scan)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_pixels_beyond_the_last_patch_are_ignored():
    model = vit.Model(5, variant="mu/14", head_zeroinit=False, posemb="sincos2d")
    image = jax.random.normal(jax.random.key(1), (2, 30, 45, 3))
    variables = model.init(jax.random.key(0), image)
    np.testing.assert_array_equal(model.apply(variables, image)[0], model.apply(variables, image[:, :28, :42])[0])
