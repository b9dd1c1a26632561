"""The two small models: trees, values and causality."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params

from big_vision_dual import models
from big_vision_dual.core import trees

TOKENS = np.random.default_rng(0).integers(0, 11, size=(2, 7))


def make_gpt(**options):
    sizes = {"width": 24, "depth": 2, "mlp_dim": 40, "num_heads": 3}
    return models.get("gpt").Model(11, **sizes, head_zeroinit=False, **options)


def test_mlp_tree_and_values():
    model = models.get("mlp").Model(5, width=9, depth=2, scaling="dual")
    image = np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32)
    params = random_params.draw(model, image)
    assert {path: leaf.shape for path, leaf in trees.flatten(params).items()} == {
        "Dense_0/kernel": (16, 9), "Dense_0/bias": (9,), "Dense_1/kernel": (9, 9), "Dense_1/bias": (9,),
        "head/kernel": (9, 5), "head/bias": (5,),
    }  # fmt: skip
    x = image.reshape(3, 16)
    for name in ("Dense_0", "Dense_1"):
        x = jax.nn.gelu(x @ params[name]["kernel"] + params[name]["bias"]) / 1.1289
    logits, out = model.apply({"params": params}, image)
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)  # measured: 3e-7
    assert list(out) == ["dense00", "dense01", "pre_logits", "logits"]


def test_gpt_tree():
    params = jax.eval_shape(make_gpt().init, jax.random.key(0), TOKENS)["params"]
    shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items() if "encoderblock" not in path}
    assert shapes == {
        "embedding/embedding": (11, 24), "pos_embedding": (1, 7, 24), "head/kernel": (24, 11), "head/bias": (11,),
        "Transformer/encoder_norm/scale": (24,), "Transformer/encoder_norm/bias": (24,),
    }  # fmt: skip
    assert len(trees.flatten(params)) == len(shapes) + 2 * 16


@pytest.mark.parametrize("scan", [False, True])
def test_gpt_is_causal(scan):
    """d logits[t] / d x[s] is 0 exactly for s > t, and is not for s <= t."""
    model = make_gpt(scan=scan)
    params = random_params.draw(model, TOKENS)
    directions = np.random.default_rng(1).normal(size=11)

    def logits_of_positions(positions):
        return model.apply({"params": {**params, "pos_embedding": positions}}, TOKENS[:1])[0][0] @ directions

    jacobian_TxSxD = jax.jacrev(logits_of_positions)(params["pos_embedding"])[:, 0]
    reaches_TxS = np.any(np.asarray(jacobian_TxSxD) != 0, axis=-1)
    np.testing.assert_array_equal(reaches_TxS, np.tril(np.ones((7, 7), bool)))


def test_gpt_dual_embeddings_have_rows_of_rms_1():
    params = make_gpt(scaling="dual").init(jax.random.key(0), TOKENS)["params"]
    for rows in (params["embedding"]["embedding"], params["pos_embedding"]):
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(rows**2, axis=-1)), 1, atol=1e-6)
