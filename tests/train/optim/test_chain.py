# pyright: reportArgumentType=false
"""The optimizer chain: Big Vision's numbers, freezing, decoupled decay, traced hyperparameters, errors."""

import json
import zlib
from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual.core import trees
from big_vision_dual.train import optim

SIZES = {"total_steps": 10, "batch_size": 4, "data_size": 100}
SGD = {"optax_name": "identity", "lr": 0.5}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(goldens.path("big_vision/bv_optim.npz")))


def golden_params(golden, prefix):
    return trees.unflatten({key.removeprefix(prefix): v for key, v in golden.items() if key.startswith(prefix)})


def golden_grads(step, params):
    def grad(path, leaf):
        rng = np.random.default_rng(zlib.crc32(f"g{step}/{path}".encode()))
        return (rng.standard_normal(leaf.shape) * 0.02).astype(np.float32)

    return trees.map_with_path(grad, params)


# Largest difference measured on CPU: adam (bf16 first moment) 4.5e-5, mults 3.0e-8, momentum (bf16) 3.1e-5.
# The tolerances are those of goldens/README.md.
@pytest.mark.parametrize(("name", "tolerance"), [("adam", 1e-4), ("mults", 1e-6), ("momentum", 1e-4)])
def test_ten_updates_equal_big_visions(golden, name, tolerance):
    config = json.loads(str(golden["meta_json"]))["configs"][name]
    params: Any = golden_params(golden, "params/")
    tx, schedules = optim.make(config, params, **SIZES)
    for i, schedule in enumerate(schedules.values()):
        np.testing.assert_allclose([schedule(step) for step in range(10)], golden[f"sched/{name}/{i}"], atol=1e-6)
    update = jax.jit(tx.update)
    state = tx.init(params)
    for step in range(10):
        updates, state = update(golden_grads(step, params), state, params)
        params = optax.apply_updates(params, updates)
    expected = trees.flatten(golden_params(golden, f"after/{name}/"))
    for path, leaf in trees.flatten(params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=0, atol=tolerance, err_msg=path)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {"body/kernel": (3, 5), "body/bias": (5,), "head/kernel": (5, 2), "head/bias": (2,)}
    return trees.unflatten({path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()})


def one_update(config, params, grads) -> Any:
    tx, _ = optim.make(config, params, **SIZES)
    return tx.update(grads, tx.init(params), params)[0]


def test_weight_decay_does_not_depend_on_lr_and_spares_biases(params):
    zeros = jax.tree.map(np.zeros_like, params)
    for lr in (0.5, 3.0):
        updates = one_update({**SGD, "lr": lr, "wd": 0.01}, params, zeros)
        np.testing.assert_allclose(updates["body"]["kernel"], -0.01 * params["body"]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(updates["body"]["bias"], 0)


def test_multipliers_take_the_first_match(params):
    config = {**SGD, "lr_mults": [("head/.*", 0.1), (".*/kernel", 2.0)]}
    updates = one_update(config, params, jax.tree.map(np.ones_like, params))
    factors = {path: -float(u.mean()) for path, u in trees.flatten(updates).items()}
    expected = {"body/kernel": 1.0, "body/bias": 0.5, "head/kernel": 0.05, "head/bias": 0.05}
    assert factors == pytest.approx(expected, rel=1e-6)


def test_frozen_parameters_get_no_update_no_state_and_no_say_in_clipping(params):
    config = {"optax_name": "trace", "optax": {"decay": 0.9}, "lr": 1.0, "wd": 0.1, "grad_clip_norm": 1.0}
    config["schedule"] = [("body/.*", None), (".*", {})]
    tx, schedules = optim.make(config, params, **SIZES)
    state = tx.init(params)
    grads = {
        "body": jax.tree.map(lambda p: p + 100, params["body"]),
        "head": jax.tree.map(jnp.ones_like, params["head"]),
    }
    updates: Any
    updates, state = tx.update(grads, state, params)
    np.testing.assert_array_equal(updates["body"]["kernel"], 0)  # neither gradient nor decay
    np.testing.assert_allclose(updates["head"]["bias"], -1 / np.sqrt(12), rtol=1e-5)  # 12 ones, clipped to norm 1
    assert sorted(leaf.size for leaf in jax.tree.leaves(state)) == [1, 2, 10]  # step count, head bias, head kernel
    assert list(schedules) == ["global_schedule"]


def test_each_rule_has_its_own_schedule(params):
    config = {**SGD, "schedule": [("head/.*", {"decay_type": "linear"}), (".*", {"warmup_steps": 4})]}
    _, schedules = optim.make(config, params, **SIZES)
    assert {name: float(schedule(2)) for name, schedule in schedules.items()} == pytest.approx(
        {"global_schedule": 0.8, "global_schedule1": 0.5}
    )


def test_vmap_over_lr_wd_and_momentum_equals_separate_runs(params):
    grads = jax.tree.map(lambda p: np.sin(7 * p), params)

    def two_steps(lr, wd, momentum):
        config = {
            "optax_name": "big_vision.momentum_hp",
            "optax": {"momentum": momentum, "dtype": "float32"},
            "lr": lr,
            "wd": wd,
        }
        config |= {
            "grad_clip_norm": 1.0,
            "schedule": {"decay_type": "cosine"},
            "lr_mults": [("head/.*", lr), (".*", 1.0)],
        }
        tx, _ = optim.make(config, params, **SIZES)
        state, moved = tx.init(params), params
        for _ in range(2):
            updates, state = tx.update(grads, state, moved)
            moved = optax.apply_updates(moved, updates)
        return moved

    settings = np.array([[0.1, 0.01, 0.9], [0.3, 0.0, 0.5]], np.float32).T
    together = jax.jit(jax.vmap(two_steps))(*settings)
    for i, setting in enumerate(settings.T):
        alone = two_steps(*map(float, setting))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), together, alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optax_name": "scale_by_adm"}, r"unknown optax_name 'scale_by_adm' \(did you mean 'scale_by_adam'"),
        ({"optax_name": "big_vision_dual.scale_by_dualise"}, r"did you mean 'big_vision_dual.scale_by_dualize'"),
        ({"optax_name": "scale_by_adam", "optax": {"beta2": 0.9}}, r"scale_by_adam\) has no key 'beta2'.*'b2'"),
        ({"optax_name": "trace"}, r"config.optax \(trace\) lacks \['decay'\]; given: \[\]. Add 'decay'"),
        ({"lr_mults": [(".*", 0)]}, r"config.lr_mults has .* factors above 0. Freeze with a schedule of None"),
        ({"schedule": [("head/.*", {})]}, r"config.schedule: 2 parameters match no pattern"),
        ({"schedule": {"decay_type": "step"}}, r"unknown decay_type 'step'"),
        ({"mup": {"base_width": 8}}, r"config.mup sets .* for optax_name='scale_by_adam'; given: '"),
    ],
)
def test_errors(params, changes, message):
    with pytest.raises(ValueError, match=message):
        optim.make({**SGD, **changes}, params, **SIZES)
