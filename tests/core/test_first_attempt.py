# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (optax types the trees of its updates too narrowly to be indexed)
"""The first public dualized ViT's rules, written down once more in float64 NumPy, against its recipe here.

Its own code was run elsewhere: 6 steps of its chain and ours agree to 1.1e-5 (docs/first_attempt.md). This oracle is
that chain from its description, so the tolerance is the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.models import norm_trees
from big_vision_dual.train import optim, recipes

STEPS = 6
NEWTON_SCHULZ = (
    (3955, -8306, 5008), (3735, -6681, 3463), (3799, -6499, 3211), (4019, -6385, 2906), (2677, -3029, 1162),
    (2172, -1833, 682),
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """The recipe at width 16 and depth 2: (config, model, parameters)."""
    config = recipes.load("vit_s16_i1k_first_attempt").to_dict()
    sizes = {"variant": None, "width": 16, "depth": 2, "mlp_dim": 48, "num_heads": 2, "patch_size": (8, 8)}
    config |= {"model": {**config["model"], **sizes}, "input_shape": (16, 16, 3), "num_classes": 5}
    model = models.get("vit").Model(5, **config["model"])
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
    return config, model, jax.tree.map(np.asarray, params)


def polar(matrix: np.ndarray) -> np.ndarray:
    if matrix.shape[0] > matrix.shape[1]:
        return polar(matrix.T).T
    x = matrix / np.linalg.norm(matrix)
    for a, b, c in np.array(NEWTON_SCHULZ) / 1024:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def dual(path: str, g: np.ndarray) -> np.ndarray:
    """No floor; query, key and value biases head by head."""
    if path.endswith("scale"):
        return np.sign(g)
    if path.endswith("bias"):
        axis = -1 if g.ndim == 2 else None
        return g / np.sqrt(np.mean(g**2, axis=axis, keepdims=True))
    fan_in = g.shape[0] if g.ndim == 3 and path.split("/")[-2] in ("query", "key", "value") else np.prod(g.shape[:-1])
    matrix = g.reshape(fan_in, -1)
    return (np.sqrt(matrix.shape[1] / matrix.shape[0]) * polar(matrix)).reshape(g.shape)


def test_six_steps_of_its_chain(small):
    config, _, params = small
    table = norm_trees.table_for(config)
    targets = {row.path: row.target_norm for row in table.rows}
    rng = np.random.default_rng(0)
    gradients = [jax.tree.map(lambda p: rng.standard_normal(p.shape).astype(np.float32), params) for _ in range(STEPS)]
    tx, _ = optim.make(config, params, total_steps=20, batch_size=8, table=table)
    update, state, ours = jax.jit(tx.update), tx.init(params), params
    theirs = {path: np.float64(leaf) for path, leaf in trees.flatten(params).items()}
    momentum = {path: np.zeros_like(leaf) for path, leaf in theirs.items()}
    for step, gradient in enumerate(gradients):
        updates, state = update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
        schedule = 0.5 * (1 + np.cos(np.pi * step / 20))
        for path, g in trees.flatten(gradient).items():
            momentum[path] = 0.95 * momentum[path] + 0.05 * np.float64(g)
            direction = momentum[path] / (1 - 0.95 ** (step + 1))
            decay = 0.005 * theirs[path] if path.endswith("kernel") else 0.0
            theirs[path] = theirs[path] - schedule * (0.05 * targets[path] * dual(path, direction) + decay)
    moved: Any = trees.flatten(ours)
    for path, leaf in theirs.items():
        np.testing.assert_allclose(moved[path], leaf, atol=1.1e-5, err_msg=path)
    assert max(np.abs(moved[path] - leaf).max() for path, leaf in trees.flatten(params).items()) > 0.02


def test_its_third_divides_the_bias_of_out_too_and_its_head_is_zero(small):
    config, model, params = small
    assert not np.any(params["head"]["kernel"])
    assert np.any(trees.flatten(params)["Transformer/encoderblock_0/MlpBlock_0/Dense_1/kernel"])
    flat = trees.flatten(params)
    rng = np.random.default_rng(1)  # LayerNorm would not see a bias that is the same in all features
    biases = {p: np.float32(rng.standard_normal(b.shape)) for p, b in flat.items() if p.endswith("out/bias")}
    assert len(biases) == 2
    head = {"head/kernel": rng.standard_normal(flat["head/kernel"].shape).astype(np.float32)}
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3)) * 2 - 1

    def logits(at: str, factor: float) -> jax.Array:
        """With the biases of `out` times `factor`."""
        scaling = {**config["model"]["scaling"], "attention_out_at": at}
        other = models.get("vit").Model(5, **{**config["model"], "scaling": scaling})
        given = trees.unflatten({**flat, **head, **{path: factor * bias for path, bias in biases.items()}})
        return jax.jit(other.apply)({"params": given}, image)[0]

    after = logits("output", 1.0)
    np.testing.assert_allclose(after, logits("values", 1 / 3), atol=1e-6)  # the one place where the two differ
    assert jnp.max(jnp.abs(after - logits("values", 1.0))) > 0.01
    assert model.scaling.attention_out_at == "output"


def test_its_input_and_evaluation_are_its_own():
    config: Any = recipes.load("vit_s16_i1k_first_attempt")
    assert (config.lr, config.wd, config.optax.momentum, config.mixup.p) == (0.05, 0.005, 0.95, 0.2)
    assert (config.input.accum_freq, config.input.shuffle_buffer_size, config.input.data.split) == (8, 150_000, "train")
    assert "area_min=20, antialias=True, precise=True" in config.input.pp
    assert list(config.evals) == ["val"]
    assert config.evals.val.log_steps == 2500
    assert recipes.load("vit_s16_i1k_seed") == config  # the former name
