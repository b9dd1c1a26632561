"""The step: its loss, gradient, randomness, averages and refusals."""

from __future__ import annotations

import functools
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from big_vision_dual import models
from big_vision_dual.core import dualize, tables, trees
from big_vision_dual.models import init
from big_vision_dual.train import losses as losses_lib
from big_vision_dual.train import setup, sharding, step


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(32, 8, 8, 3)).astype(np.float32),
        "labels": np.eye(5, dtype=np.float32)[rng.integers(0, 5, 32)],
    }


def run(config, batch, steps=1, measured=False):
    """State after `steps` steps on the same batch, and the last outputs."""
    fns = setup.prepare(config).fns
    state = fns.init()
    for _ in range(steps):
        state, outputs = fns.train(state, batch, measured)
    return jax.device_get((state, outputs))


@pytest.fixture
def plain(tiny):
    """The tiny config as gradient descent: no mixup, decay or warm-up; constant rate."""

    def make(*overrides):
        config = tiny("--config.wd=0.", "--config.mixup.p=0.", *overrides, model="mlp")
        with config.unlocked():
            config.schedule = {}
        return config

    return make


@pytest.fixture
def reference(plain):
    """(loss, gradient) of the plain config's first step, written out."""
    config = plain()
    model = models.get("mlp").Model(5, **config.model)
    params = init.params(config, model)

    def gradient(batch, smoothing=0.0):
        def loss(params):
            logits = model.apply({"params": params}, batch["image"])[0]
            labels = batch["labels"] * (1 - smoothing) + smoothing / 5
            return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))

        return params, *jax.jit(jax.value_and_grad(loss))(params)

    return gradient


def test_a_step_is_gradient_descent_on_the_smoothed_loss(plain, reference, batch):
    params, loss, grads = reference(batch, smoothing=0.1)
    state, outputs = run(plain("--config.label_smoothing=0.1"), batch, measured=True)
    np.testing.assert_allclose(outputs["loss"], loss, rtol=2e-6)  # measured 1e-7
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), state.params, expected)  # measured 2e-7
    norms = outputs["measured"]
    np.testing.assert_allclose(norms["l2_grads"], optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(norms["l2_updates"], 0.3 * optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(norms["l2_params"], optax.tree.norm(expected), rtol=1e-5)
    assert state.step == 1


def test_micro_batches_give_the_gradient_of_the_whole_batch(plain, batch):
    whole, outputs = run(plain(), batch)
    parts, outputs_of_parts = run(plain("--config.input.accum_freq=4"), batch)
    np.testing.assert_allclose(outputs_of_parts["loss"], outputs["loss"], rtol=2e-6)  # measured 1e-7
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6), parts.params, whole.params)


def test_averaged_parameters_follow_the_formula(tiny, batch):
    config = tiny(model="mlp")
    with config.unlocked():
        config.ema = {"decay": 0.9}
    fns = setup.prepare(config).fns
    state = fns.init()
    expected = jax.device_get(state.params)
    for _ in range(3):
        state, _ = fns.train(state, batch, False)
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, expected, jax.device_get(state.params))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.ema_params, expected)


def test_randomness_depends_on_seed_and_step_alone(tiny, batch):
    fns = setup.prepare(tiny("--config.model.dropout=0.5", "--config.lr=0.", "--config.wd=0.")).fns
    state = fns.init()  # with lr 0 only the step's randomness changes the loss
    losses = []
    for _ in range(3):
        state, outputs = fns.train(state, batch, False)
        losses.append(float(outputs["loss"]))
    assert len(set(losses)) == 3
    again = fns.init().replace(step=jnp.int32(2))
    assert float(fns.train(again, batch, False)[1]["loss"]) == losses[2]


def test_norms_are_zeros_where_not_asked_for(plain, batch):
    _, outputs = run(plain(), batch, measured=False)
    assert [float(value) for value in outputs["measured"].values()] == [0.0, 0.0, 0.0]
    assert outputs["finite_grads"].all()


def test_mixup_against_numpy():
    key, rng = jax.random.key(7), np.random.default_rng(0)
    batch = {"image": rng.normal(size=(6, 2, 3, 1)), "labels": np.eye(6)}
    mixed = losses_lib.mixup(key, {name: jnp.asarray(value) for name, value in batch.items()}, p=0.4)
    a = float(mixed["labels"][0, 0])
    assert 0.5 <= a <= 1.0
    np.testing.assert_allclose(a, max(b := float(jax.random.beta(key, 0.4, 0.4)), 1 - b), rtol=1e-6)
    for name, value in batch.items():
        expected = np.stack([a * value[i] + (1 - a) * value[i - 1] for i in range(6)])
        np.testing.assert_allclose(mixed[name], expected, atol=1e-6)


def test_it_lowers_from_shapes_alone(tiny):
    fns = setup.prepare(tiny(model="mlp")).fns
    lowered = fns.train.lower(fns.state, fns.batch, fns.measured)
    assert "main" in lowered.as_text()
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(fns.state))


@pytest.mark.parametrize(
    ("kind", "given", "effort"),
    [("TPU v3", None, -1.0), ("TPU v4", None, None), ("cpu", None, None), ("TPU v3", 0.0, 0.0), ("TPU v4", 0.5, 0.5)],
)
def test_the_step_of_a_tpu_v3_is_compiled_without_a_long_search(tiny, kind, given, effort):
    config = tiny() if given is None else tiny(f"--config.compile_effort={given}")
    mesh: Any = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(device_kind=kind)]))
    assert step._compiler_options(config, mesh).get("exec_time_optimization_effort") == effort


def test_the_compiler_takes_the_effort(tiny, batch):
    _, outputs = run(tiny("--config.compile_effort=-1.0", model="mlp"), batch)
    assert np.isfinite(outputs["loss"])


def test_a_batch_of_text_has_one_token_more_than_the_model_reads():
    fields = dict(input_shape=(6,), num_classes=11, input={"batch_size": 4}, loss="softmax_xent")
    model = models.get("gpt").Model(11, width=8, depth=1, mlp_dim=8, num_heads=2, scaling="standard")
    fns = step.make(ConfigDict(fields), model, optax.sgd(0.1), sharding.make_mesh())
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in fns.batch.items()} == {"tokens": ((4, 7), jnp.int32)}
    fns.train.lower(fns.state, fns.batch, fns.measured)


def test_momentum_lives_where_the_optimizer_shards_it(tiny):
    config = tiny(model="mlp")
    with config.unlocked():
        config.optax_name, config.optax = "big_vision_dual.scale_by_dualize", {"shard_axis": "data"}
    momenta = [leaf for leaf in jax.tree.leaves(setup.prepare(config).fns.state.opt_state) if leaf.ndim]
    specs = {leaf.ndim: leaf.sharding.spec for leaf in momenta}
    assert specs == {3: jax.sharding.PartitionSpec(None, "data"), 1: jax.sharding.PartitionSpec()}  # 1: vectors


def test_head_bias_is_set_where_asked(tiny):
    state = setup.prepare(tiny("--config.init_head_bias=-3.", model="mlp")).fns.init()
    np.testing.assert_array_equal(state.params["head"]["bias"], np.full(5, -3.0, np.float32))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.input.accum_freq=5", "batch_size=32 does not divide among 1 devices.*give a multiple of 5"),
        ("--config.loss=hinge", "config.loss='hinge'; possible: str 'softmax_xent', 'sigmoid_xent'"),
    ],
)
def test_bad_configs_are_named(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        setup.prepare(tiny(override, model="mlp"))


@pytest.mark.parametrize(("devices", "accum", "divisor"), [(4, 2, 8), (3, 1, 3), (1, 3, 3)])
def test_a_batch_divides_among_devices_and_micro_batches(devices, accum, divisor):
    config = ConfigDict({"input": {"batch_size": 20, "accum_freq": accum}})
    mesh: Any = jax.sharding.AbstractMesh((devices,), ("data",))
    with pytest.raises(ValueError, match=rf"among {devices} devices and .*accum_freq={accum}; .* of {divisor}\."):
        step.make(config, None, optax.sgd(0.1), mesh)


def test_a_missing_data_set_is_the_datas_own_error(tiny):
    from big_vision_dual.train.data import DataError

    with pytest.raises(DataError, match="no file"):
        setup.prepare(tiny("--config.input.data.name=array:nowhere.npz"))


def test_fsdp_shards_the_largest_axis_that_divides():
    mesh = jax.sharding.AbstractMesh((2, 4), ("replica", "data"))
    tree = {
        "params": {"wide": jax.ShapeDtypeStruct((6, 1024, 512), jnp.float32)},
        "ema_params": {
            "small": jax.ShapeDtypeStruct((8, 8), jnp.float32),
            "odd": jax.ShapeDtypeStruct((7,), "float32"),
        },
        "opt_state": {"momentum": jax.ShapeDtypeStruct((6, 5, 8), jnp.float32)},
    }
    strategy = [
        (".*/momentum", "stack(axis='data')"),
        ("params/.*", "fsdp(axis='data', min_size_to_shard_mb=1)"),
        (".*/odd", "fsdp(axis='data', min_size_to_shard_mb=0)"),
    ]
    specs = jax.tree.map(lambda s: tuple(s.spec), sharding.infer(tree, mesh, strategy))
    assert specs["params"]["wide"] == (None, "data")
    assert specs["ema_params"] == {"small": (), "odd": ()}
    assert specs["opt_state"]["momentum"] == (None, None, "data")


def test_momentum_of_s16_on_8_devices_is_under_a_seventh():
    mesh = jax.sharding.AbstractMesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    table = tables.load("vit_s16_i1k")
    params = trees.unflatten({row.path: jax.ShapeDtypeStruct(row.shape, jnp.float32) for row in table.rows})
    with jax.sharding.use_abstract_mesh(mesh):
        momentum = jax.eval_shape(dualize.scale_by_dualize(table, shard_axis="data").init, params)
    placed = sharding.infer(momentum, mesh, [(".*/momentum/.*", "stack(axis='data')")])
    on_one = jax.tree.map(lambda leaf, where: math.prod(where.shard_shape(leaf.shape)), momentum, placed)
    whole = sum(leaf.size for leaf in jax.tree.leaves(momentum))
    assert whole == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(jax.tree.leaves(on_one)) < whole / 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: sharding.make_mesh([("data", 3), ("model", -1)]), "needs 0 devices, but there are 1"),
        (lambda mesh: sharding.infer({}, mesh, [(".*", "fsdp(")]), "possible: 'replicate'"),
        (lambda mesh: sharding.infer({}, mesh, [(".*", "tensor_parallel")]), "possible: 'replicate'"),
        (
            lambda mesh: sharding.infer({"a": jnp.ones((4, 4, 4))}, mesh, [(".*", "stack(axis='x')")]),
            r"\['x'\]; possib",
        ),
        (lambda mesh: sharding.batch_sharding(mesh, [("act_len", "data")]), "possible: 'act_batch'"),
    ],
)
def test_sharding_errors_say_what_is_possible(call, message):
    mesh = jax.sharding.AbstractMesh((1,), ("data",))
    with pytest.raises(sharding.ShardingError, match=message):
        call(mesh)
