import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees

OPTIONS = {"width": 24, "depth": 1, "patch_size": (2, 3), "d_state": 5, "chunk": 4}


@pytest.fixture(scope="module")
def drawn():
    """(model, params, image): weights of the scale that keeps activations near 1, drawn by NumPy."""
    rng, model = np.random.default_rng(0), models.get("vision_mamba").Model(7, **OPTIONS)
    image = jnp.asarray(rng.standard_normal((2, 4, 9, 3), np.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(values / np.sqrt(np.prod(leaf.shape[:-1])) if path.endswith("kernel") else values)

    return model, trees.map_with_path(draw, shapes), image


def test_every_patch_reaches_every_other(drawn):
    """Unlike a causal stack: by the gradient of the first and the last encoded patch with respect to the image."""
    model, params, image = drawn

    def encoded(image, patch):
        return jnp.sin(model.apply({"params": params}, image, train=True)[1]["encoded"][:, patch]).sum()

    gradient = jax.jit(jax.grad(encoded))
    for patch in (0, 5):  # of 2 x 3
        reach = jnp.abs(gradient(image, patch)).reshape(2, 2, 2, 3, 3, 3).max(axis=(0, 2, 4, 5))
        assert (reach > 1e-6).all()


def test_call_convention_is_that_of_the_vit(drawn):
    model, params, image = drawn
    logits, out = jax.eval_shape(lambda p: model.apply({"params": p}, image, train=False), params)
    assert logits.shape == (2, 7)
    assert out["pre_logits"].shape == (2, 24)
    assert params["embedding"]["kernel"].shape == (2, 3, 3, 24)


def test_sizes_come_from_a_variant_or_one_by_one():
    model = models.get("vision_mamba").Model(7, variant="mu/4", depth=2, d_state=5)
    assert (model.sizes.spec.d_model, model.sizes.spec.n_layers, model.sizes.patch_size) == (32, 2, (4, 4))
    with pytest.raises(ValueError, match=r"Vision Mamba needs \['depth', 'patch_size'\]; or variant='NAME/PATCH'"):
        models.get("vision_mamba").Model(7, width=32)
    with pytest.raises(ValueError, match="Vision Mamba has no muP rules; leave mup_base_width out"):
        models.get("vision_mamba").Model(7, **OPTIONS, mup_base_width=8)
    with pytest.raises(ValueError, match=r"image of shape \(1, 9, 3\) holds no patch of \(2, 3\); resize it"):
        jax.eval_shape(models.get("vision_mamba").Model(7, **OPTIONS).init, jax.random.key(0), jnp.zeros((1, 1, 9, 3)))
