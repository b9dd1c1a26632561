# pyright: reportArgumentType=false
"""The chain around `scale_by_dualize`: target norms, freezing, weight constraints, in float64 NumPy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual.core import tables, trees
from big_vision_dual.train import optim

SIZES = {"total_steps": 10, "batch_size": 4}
LR, SCHEDULE = 0.5, {"decay_type": "linear"}
SHAPES = {"a/kernel": (6, 4), "a/bias": (4,), "b/kernel": (4, 9), "b/bias": (9,)}


@pytest.fixture(scope="module")
def params() -> Any:
    rng = np.random.default_rng(0)
    return trees.unflatten({path: rng.standard_normal(shape).astype(np.float32) for path, shape in SHAPES.items()})


@pytest.fixture(scope="module")
def table(params):
    return tables.flat(params)


def config(**changes) -> dict[str, Any]:
    optimizer = {"optax_name": "big_vision_dual.scale_by_dualize", "optax": {"polar": "svd"}}
    return {**optimizer, "lr": LR, "schedule": SCHEDULE, **changes}


def steps(config, params, table, count=1) -> Any:
    """Parameters before and after the last of `count` steps, the update in between included."""
    tx, _ = optim.make(config, params, table=table, **SIZES)
    update, state, updates = jax.jit(tx.update), tx.init(params), params
    for step in range(count):
        params = optax.apply_updates(params, updates) if step else params
        updates, state = update(jax.tree.map(lambda p: np.cos(3 * p), params), state, params)
    return params, updates


@pytest.fixture(scope="module")
def free(params, table) -> Any:
    """The first update without any constraint."""
    return steps(config(), params, table)[1]


def linear_norm(w) -> float:
    fan_in, fan_out = w.shape
    return float(np.linalg.norm(np.asarray(w, np.float64), 2) * np.sqrt(fan_in / fan_out))


def test_an_update_has_lr_times_schedule_times_target_norm(params, table):
    _, updates = steps(config(), params, table, count=3)  # at step 2 the linear schedule is 0.8
    for layer in ("a", "b"):
        target = table.by_key()[f"{layer}/kernel"].target_norm
        assert linear_norm(updates[layer]["kernel"]) == pytest.approx(LR * 0.8 * target, rel=1e-5)


def test_the_chain_makes_no_table_of_its_own(params):
    for changes in ({}, {"optax_name": "identity", "optax": {}, "weight_constraint": "project"}):
        with pytest.raises(ValueError, match=r"needs target norms; give table=norm_trees.table_for\(config\)"):
            optim.make(config(**changes), params, **SIZES)


def test_frozen_leaves_stay_and_have_no_momentum(params, table):
    frozen = config(schedule=[("b/.*", None), (".*", SCHEDULE)], weight_constraint="project")
    tx, _ = optim.make(frozen, params, table=table, **SIZES)
    _, updates = steps(frozen, params, table)
    assert not np.any(updates["b"]["kernel"])
    assert np.any(updates["a"]["kernel"])
    assert sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim) == 6 * 4 + 4


def test_project_ends_on_unit_norm_but_for_fallback_leaves(params, table):
    projected = config(weight_constraint="project", optax={"polar": "svd", "fallback": [("b/.*", "adam")]})
    free = config(optax=projected["optax"])
    before, updates = steps(projected, params, table)
    after: Any = optax.apply_updates(before, updates)
    assert linear_norm(after["a"]["kernel"]) == pytest.approx(1, rel=0.05)  # newton_schulz_6 of weights
    np.testing.assert_array_equal(updates["b"]["kernel"], steps(free, params, table)[1]["b"]["kernel"])


def test_frank_wolfe_shrinks_by_its_own_rate(params, table, free):
    bounded = config(weight_constraint={"kind": "frank_wolfe", "radius": 2.0})
    _, updates = steps(bounded, params, table)
    rate = LR * table.by_key()["a/kernel"].target_norm / 2
    expected = free["a"]["kernel"] - rate * params["a"]["kernel"]
    np.testing.assert_allclose(updates["a"]["kernel"], expected, atol=1e-6)


def test_what_a_radius_or_a_hyperball_holds_does_not_decay_besides(params, table):
    fallback = {"optax": {"polar": "svd", "fallback": [("b/.*", "adam")]}, "wd": 0.01}
    for constraint in ({"kind": "radius", "radius": 25.0}, {"kind": "hyperball"}):
        without, with_wd = (
            steps(config(**{**fallback, "wd": wd}, weight_constraint=constraint), params, table)[1] for wd in (0, 0.01)
        )
        np.testing.assert_array_equal(with_wd["a"]["kernel"], without["a"]["kernel"])
        np.testing.assert_allclose(
            with_wd["b"]["kernel"], without["b"]["kernel"] - 0.01 * params["b"]["kernel"], atol=1e-6
        )


def test_a_hyperball_goes_with_any_optimizer_and_leaves_what_is_frozen(params, table):
    held = config(optax_name="scale_by_adam", optax={}, weight_constraint="hyperball",
                  schedule=[("b/.*", None), (".*", SCHEDULE)])  # fmt: skip
    before, updates = steps(held, params, table, count=3)
    after: Any = optax.apply_updates(before, updates)
    assert np.linalg.norm(after["a"]["kernel"]) == pytest.approx(np.linalg.norm(params["a"]["kernel"]), rel=1e-5)
    assert np.linalg.norm(updates["a"]["kernel"]) > 0.1
    np.testing.assert_array_equal(after["b"]["kernel"], params["b"]["kernel"])


def test_radii_and_target_norms_may_be_traced(params, table):
    """A sweep's program has one table; its trials bring their own target norms, to the decay too."""

    def kernel(radius, factor):
        targets = {row.key: factor * row.target_norm for row in table.rows}
        ball = {"kind": "radius", "radius": radius}
        traced = config(weight_constraint=ball, optax={"polar": "svd", "target_norms": targets})
        return steps(traced, params, table)[1]["a"]["kernel"]

    together = jax.jit(jax.vmap(kernel))(jnp.array([2.0, 8.0]), jnp.array([1.0, 3.0]))
    scaled = dataclasses.replace(
        table, rows=tuple(dataclasses.replace(row, target_norm=3 * row.target_norm) for row in table.rows)
    )
    alone = steps(config(weight_constraint={"kind": "radius", "radius": 8.0}), params, scaled)[1]["a"]["kernel"]
    np.testing.assert_allclose(together[1], alone, atol=1e-6)


def test_decay_takes_wd_times_schedule_off_matrices(params, table, free):
    _, updates = steps(config(weight_constraint="decay", wd=0.01), params, table)
    np.testing.assert_allclose(updates["a"]["kernel"], free["a"]["kernel"] - 0.01 * params["a"]["kernel"], atol=1e-6)
    np.testing.assert_allclose(updates["a"]["bias"], free["a"]["bias"], atol=1e-6)


def test_vmap_over_lr_and_wd(params, table):
    def kernel(lr, wd):
        return steps(config(lr=lr, wd=wd, weight_constraint="frank_wolfe"), params, table)[1]["a"]["kernel"]

    together = jax.jit(jax.vmap(kernel))(jnp.array([0.1, 0.3]), jnp.array([0.0, 0.2]))
    np.testing.assert_allclose(together[1], kernel(0.3, 0.2), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weight_constraint": "projekt"},
            r"config.weight_constraint is 'projekt'; possible: none, decay, radius, hyperball, project",
        ),
        ({"weight_constraint": {"kind": "project", "radios": 2}}, r"weight_constraint has no key 'radios'.*'radius'"),
        (
            {"weight_constraint": "frank_wolfe", "lr_mults": [(".*", 2)]},
            r"one lr for all; given: .*lr_mults=\[.*Use 'hy",
        ),
        ({"weight_constraint": "frank_wolfe", "optax_name": "identity", "optax": {}}, r"given: optax_name='identity'"),
        ({"weight_constraint": "decay"}, r"set config.wd, without wd_mults \(given: wd=None"),
        ({"optax": {"momentun": 0.9}}, r"has no key 'momentun' \(did you mean 'momentum'"),
    ],
)
def test_errors(params, table, changes, message):
    with pytest.raises(ValueError, match=message):
        optim.make(config(**changes), params, table=table, **SIZES)
