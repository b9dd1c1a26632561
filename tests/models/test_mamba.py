"""Mamba and Mamba-2 against golden outputs of mamba.py, PyTorch (goldens/mamba, see goldens/README.md)."""

import json
from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.models import mup, torch_weights
from big_vision_dual.train import optim

FILES = ("mamba1_d32_sp", "mamba1_d32_mup", "mamba2_d32_sp", "mamba2_d32_mup")
ACTS = {  # torch module -> our intermediate
    "mamba": {"in_proj": "in_proj", "conv1d": "conv", "x_proj": "x_proj", "out_proj.input": "gated"},
    "mamba2": {"in_proj": "in_proj", "conv_silu": "conv", "dt": "delta", "ssm_y": "y", "gated_norm": "gated"},
}


class Golden:
    """One file: its model, its weights in Flax's layout, its arrays by name, and one compiled function."""

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
        self.evaluate = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def group(self, prefix):
        return {key.removeprefix(prefix): v for key, v in self.arrays.items() if key.startswith(prefix)}

    def tree(self, prefix):
        return torch_weights.from_torch(self.group(prefix))

    def loss(self, params, tokens):
        logits, out = self.model.apply({"params": params}, tokens)
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1).mean(), out

    def multipliers(self):
        """(lr_mults, wd_mults) in Big Vision's sense: muP's from our table, else those that the file states."""
        if self.options["mup_base_width"]:
            table = mup.build(
                self.params, model_name=self.name, model=self.options,
                base_width=self.options["mup_base_width"], rules="reference",
            )  # fmt: skip
            return mup.lr_mults(table), mup.wd_mults(table)
        mults = {torch_weights.flax_path(key): pair for key, pair in self.group("opt/").items()}
        assert all(lr == 1 for lr, _ in mults.values())
        return None, [(path, float(wd)) for path, (_, wd) in mults.items()]


@pytest.fixture(scope="module", params=FILES)
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def acts(golden):
    return golden.evaluate(golden.params, golden.arrays["tokens"])[0][1]


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance * max(1e-30, np.abs(theirs).max()))


def test_tree_is_that_of_the_model(golden):
    shapes = jax.eval_shape(golden.model.init, jax.random.key(0), golden.arrays["tokens"])["params"]
    ours = {path: leaf.shape for path, leaf in trees.flatten(shapes).items()}
    assert ours == {path: leaf.shape for path, leaf in trees.flatten(golden.params).items()}


def test_logits(golden, acts):
    # Float32 against float64: the reference differs from itself by up to 4.2e-6 (meta_json, stats).
    np.testing.assert_allclose(acts["logits"], golden.arrays["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(acts["logits"], golden.arrays["logits_f64"], rtol=0, atol=2e-5)


def test_logits_at_an_odd_length(golden):
    logits = jax.jit(lambda p, t: golden.model.apply({"params": p}, t)[0])(golden.params, golden.arrays["tokens_odd"])
    np.testing.assert_allclose(logits, golden.arrays["logits_odd"], rtol=0, atol=2e-5)


def test_activations(golden, acts):
    theirs = golden.group("act/")
    close(acts["embedding"], theirs["embedding"], 2e-5)
    close(acts["norm_f"], theirs["norm_f"], 2e-5)
    for i in range(golden.meta["config"]["n_layers"]):
        layer, prefix = acts[f"layer{i:02d}"], f"mamba.layers.{i}"
        close(layer["norm"], theirs[f"{prefix}.norm"], 2e-5)
        close(layer["mixer"], theirs[f"{prefix}.mixer"], 2e-5)
        close(layer["out"], theirs[prefix], 2e-5)
        for name, ours in ACTS[golden.name].items():
            close(layer[ours], theirs[f"{prefix}.mixer.{name}"], 2e-5)


def test_gradients(golden):
    (loss, _), grads = golden.evaluate(golden.params, golden.arrays["train_tokens"][0])
    assert abs(loss - golden.arrays["grad_loss"]) < 1e-5
    theirs = trees.flatten(golden.tree("grad/"))
    for path, grad in trees.flatten(grads).items():
        close(grad, theirs[path], 1e-4)


def test_five_steps_of_adamw(golden):
    """Through the public chain. Ignoring lr multipliers would shift parameters by 2.2e-2, wd multipliers by 2.6e-3."""
    lr_mults, wd_mults = golden.multipliers()
    recipe = golden.meta["train"]
    config = {
        "optax_name": "scale_by_adam", "optax": {"b1": 0.9, "b2": 0.95, "eps": recipe["eps"]}, "lr": recipe["lr"],
        "wd": recipe["lr"] * recipe["weight_decay"], "lr_mults": lr_mults, "wd_mults": wd_mults,
    }  # fmt: skip
    params = golden.params
    tx, _ = optim.make(config, params, total_steps=5, batch_size=4)
    state, update = tx.init(params), jax.jit(tx.update)
    for tokens, expected in zip(golden.arrays["train_tokens"], golden.arrays["train_losses"], strict=True):
        (loss, _), grads = golden.evaluate(params, tokens)
        assert abs(loss - expected) < 1e-5
        updates, state = update(grads, state, params)
        params: Any = optax.apply_updates(params, updates)
    theirs = trees.flatten(golden.tree("train_param/"))
    errors = np.concatenate([np.abs(leaf - theirs[path]).ravel() for path, leaf in trees.flatten(params).items()])
    # Adam divides by the gradient's own size: rounding is amplified where a gradient is nearly 0 (mamba.md).
    assert errors.max() < 5e-4
    assert np.mean(errors < 5e-5) > 0.999
