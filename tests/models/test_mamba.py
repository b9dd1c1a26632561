"""Mamba and Mamba-2 against golden outputs of mamba.py, PyTorch (shared/golden/mamba, see its README)."""

import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual import models, trees
from big_vision_dual.models import torch_weights

FILES = ("mamba1_d32_sp", "mamba1_d32_mup", "mamba2_d32_sp", "mamba2_d32_mup")
ACTS = {  # torch module -> our intermediate, one file a model
    "mamba": {"in_proj": "in_proj", "conv1d": "conv", "x_proj": "x_proj", "out_proj.input": "gated"},
    "mamba2": {"in_proj": "in_proj", "conv_silu": "conv", "dt": "delta", "ssm_y": "y", "gated_norm": "gated"},
}


class Golden:
    """One file: its model, its weights in Flax's layout, and its arrays by name."""

    def __init__(self, name):
        self.arrays = dict(np.load(goldens.path(f"mamba/{name}.npz")))
        self.meta = json.loads(str(self.arrays.pop("meta_json")))
        config = self.meta["config"]
        self.name = {"mamba1": "mamba", "mamba2": "mamba2"}[self.meta["arch"]]
        keys = ("d_model", "n_layers", "d_state", "d_conv", *(("dt_rank",) if self.name == "mamba" else ("d_head",)))
        self.options = {key: config[key] for key in keys} | {"expand": config["expand_factor"]}
        self.options["mup_base_width"] = config["mup_base_width"] if config["mup"] else None
        self.model = models.get(self.name).Model(self.meta["vocab"], **self.options, chunk=8)
        self.params = self.tree("param/")

    def tree(self, prefix):
        return torch_weights.from_torch(
            {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}
        )

    def loss(self, params, tokens):
        logits = self.model.apply({"params": params}, tokens)[0][:, :-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
        return -picked.mean()


@pytest.fixture(scope="module", params=FILES)
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def forward(golden):
    return jax.jit(lambda tokens: golden.model.apply({"params": golden.params}, tokens))(golden.arrays["tokens"])


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance * max(1e-30, np.abs(theirs).max()))


def test_tree_is_that_of_the_model(golden):
    shapes = jax.eval_shape(golden.model.init, jax.random.key(0), golden.arrays["tokens"])["params"]
    ours = {path: leaf.shape for path, leaf in trees.flatten(shapes).items()}
    assert ours == {path: leaf.shape for path, leaf in trees.flatten(golden.params).items()}


def test_logits(golden, forward):
    # Float32 against the reference's float64: it differs from itself by up to 4.2e-6 (meta_json, stats).
    np.testing.assert_allclose(forward[0], golden.arrays["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(forward[0], golden.arrays["logits_f64"], rtol=0, atol=2e-5)


def test_logits_at_an_odd_length(golden):
    logits = jax.jit(lambda tokens: golden.model.apply({"params": golden.params}, tokens)[0])(
        golden.arrays["tokens_odd"]
    )
    np.testing.assert_allclose(logits, golden.arrays["logits_odd"], rtol=0, atol=2e-5)


def test_activations(golden, forward):
    out, acts = forward[1], golden.arrays
    close(out["embedding"], acts["act/embedding"], 2e-5)
    close(out["norm_f"], acts["act/norm_f"], 2e-5)
    for i in range(golden.meta["config"]["n_layers"]):
        layer, prefix = out[f"layer{i:02d}"], f"act/mamba.layers.{i}"
        close(layer["norm"], acts[f"{prefix}.norm"], 2e-5)
        close(layer["mixer"], acts[f"{prefix}.mixer"], 2e-5)
        close(layer["out"], acts[prefix], 2e-5)
        for theirs, ours in ACTS[golden.name].items():
            close(layer[ours], acts[f"{prefix}.mixer.{theirs}"], 2e-5)


def test_gradients(golden):
    loss, grads = jax.jit(jax.value_and_grad(golden.loss))(golden.params, golden.arrays["train_tokens"][0])
    assert abs(loss - golden.arrays["grad_loss"]) < 1e-5
    theirs = trees.flatten(golden.tree("grad/"))
    for path, grad in trees.flatten(grads).items():
        close(grad, theirs[path], 1e-4)
