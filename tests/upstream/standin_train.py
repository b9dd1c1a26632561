"""Stand-in for upstream's big_vision/train.py: the same look-ups, guards and calls, on random images.

Our own words; what it does was read off google-research/big_vision, train.py and optax.py.
"""

import importlib
import json
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import config_flags

config_flags.DEFINE_config_file("config", None, lock_config=True)
jax.config.update("jax_transfer_guard", "disallow")
jax.config.update("jax_threefry_partitionable", True)


def make_optimizer(config, params):
    """Everything below head/ is frozen where config.freeze says so; the rest of the chain is shortened."""
    trained = jax.tree_util.tree_map_with_path(
        lambda path, _: not (config.get("freeze") and path[0].key == config.freeze), params
    )
    transformation = operator.attrgetter(config.optax_name)(optax)(**config.get("optax", {}))
    return optax.chain(
        optax.masked(transformation, trained),
        optax.scale(config.lr),
        optax.masked(optax.scale_by_schedule(optax.constant_schedule(1.0)), trained),
        optax.masked(optax.set_to_zero(), jax.tree.map(operator.not_, trained)),
        optax.scale(-1.0),
    )


def checkpoint_names(tree, prefix=""):
    """Names of leaves as Big Vision's traversal of mappings and tuples finds them."""
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, (list, tuple)):
        children = enumerate(tree)
    else:
        return [prefix]
    return [name for key, child in children for name in checkpoint_names(child, f"{prefix}/{key}")]


def main(_):
    untouched = not jax._src.xla_bridge.backends_are_initialized()  # pyright: ignore[reportAttributeAccessIssue]
    assert untouched, "the config file initialized JAX before jax.distributed.initialize could"
    config = flags.FLAGS.config
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, P())
    model_module = importlib.import_module(f"big_vision.models.{config.model_name}")
    model = model_module.Model(num_classes=config.num_classes, **config.get("model", {}))

    def init(rng):
        return model.init(rng, jnp.zeros((2, 32, 32, 3)))["params"]

    with jax.transfer_guard("allow"):
        rng = jax.device_put(jax.random.PRNGKey(0), everywhere)
        images = jax.device_put(np.random.default_rng(0).standard_normal((8, 32, 32, 3), np.float32), everywhere)
        labels = jax.device_put(np.eye(config.num_classes, dtype=np.float32)[np.arange(8) % 4], everywhere)
    shapes = jax.eval_shape(init, rng)
    tx = make_optimizer(config, nn.unbox(shapes))
    jax.eval_shape(tx.init, shapes)
    params = jax.jit(init, out_shardings=everywhere)(rng)
    state = {"params": params, "opt": jax.jit(tx.init, out_shardings=everywhere)(params)}
    names = checkpoint_names(state)
    assert len(set(names)) == len(names) == len(jax.tree.leaves(state))
    assert not any("~" in name for name in names)

    def update(state, images, labels):
        def loss_fn(params):
            logits, _ = model.apply({"params": params}, images, train=True, rngs={"dropout": rng})
            return jnp.mean(optax.softmax_cross_entropy(logits, labels))

        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        updates, opt = tx.update(grads, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, loss

    step = jax.jit(update, donate_argnums=0, out_shardings=(everywhere, everywhere))
    losses = []
    for _ in range(config.total_steps):
        state, loss = step(state, images, labels)
        losses.append(float(jax.device_get(loss)))
    counts = [
        leaf.count
        for leaf in jax.tree.leaves(state["opt"], is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))
        if isinstance(leaf, optax.ScaleByScheduleState)
    ]
    loaded = None
    if config.get("model_init"):
        loaded = model_module.load(state["params"], config.model_init, config.get("model"), dont_load=["head/.*"])
        loaded = float(np.abs(loaded["embedding"]["kernel"]).max())
    print(json.dumps({"losses": losses, "counts": len(counts), "loaded": loaded}))


if __name__ == "__main__":
    app.run(main)
