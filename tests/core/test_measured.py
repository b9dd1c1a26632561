# pyright: reportOperatorIssue=false
"""Measured tables: the changes are those of finite differences, the promise holds, and odd models are named."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual.core import measured, tables

KEY = jax.random.key(3)
X = np.random.default_rng(0).standard_normal((6, 5, 8)).astype(np.float32)  # batch, tokens, features


def mlp(params, x):
    return jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"]) @ params["down"]["kernel"]


def layered(params, x):
    """The same block twice, its leaves stacked over axis 0."""
    for layer in range(2):
        x = x + jnp.tanh(x @ params["blocks"]["kernel"][layer] + params["blocks"]["bias"][layer])
    return x


def square_loss(params, x):
    return jnp.mean(mlp(params, x) ** 2)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(1).standard_normal
    return {
        "up": {"kernel": jnp.float32(draw((8, 12)) / 3), "bias": jnp.float32(draw(12))},
        "down": {"kernel": jnp.float32(draw((12, 4)) / 3)},
    }


def test_changes_are_those_of_finite_differences(params):
    table = tables.flat(params)
    steps = measured.unit_steps(table, jax.grad(square_loss)(params, X))
    found = measured.output_changes(mlp, params, X, steps, table)
    before = np.float64(mlp(params, X))
    for layer, name in (("up", "kernel"), ("up", "bias"), ("down", "kernel")):
        moved = jax.tree.map(jnp.copy, params)
        moved[layer][name] += 1e-3 * steps[layer][name]
        rms = np.sqrt(np.mean((np.float64(mlp(moved, X)) - before) ** 2, axis=-1)) / 1e-3
        change = found[f"{layer}/{name}"]
        assert change.largest == pytest.approx(rms.max(), rel=2e-3)
        assert change.mean == pytest.approx(rms.mean(), rel=2e-3)


def test_a_linear_layer_moves_its_output_by_what_the_algebra_says():
    """x W with |x|_RMS = 1 and a unit step: never above 1, and 1 where the step is orthogonal and square."""
    x = X / np.sqrt(np.mean(X**2, axis=-1, keepdims=True))
    params = {"kernel": jnp.eye(8)}
    made = measured.measure(lambda p, x: x @ p["kernel"], params, x, key=KEY, directions=3)
    np.testing.assert_allclose(made.amplification("random")["kernel"], 1, rtol=2e-2)
    assert made.spread() == pytest.approx(1, abs=2e-2)


def test_each_atom_of_a_measured_table_moves_the_output_by_its_share(params):
    masses = [(".*bias", 0.5)]
    table = measured.measured_table(mlp, params, X, loss=square_loss, along="gradient", masses=masses)
    steps = measured.unit_steps(table, jax.grad(square_loss)(params, X))
    unit = measured.output_changes(mlp, params, X, steps, table)
    for row in table.rows:
        mass = 0.5 if row.path.endswith("bias") else 1.0
        assert row.target_norm * unit[row.key].largest == pytest.approx(mass / 2.5, rel=1e-4)
    assert {key: table.norms[key] for key in ("conventions", "along", "over", "key", "batches", "floored")} == {
        "conventions": "measured", "along": "gradient", "over": "max", "key": [0, 0], "batches": 1, "floored": [],
    }  # fmt: skip
    assert table.norms["spread"] > 1
    assert (table.norms["directions"], table.norms["floor"]) == (2, 0.1)  # the defaults
    other = measured.measured_table(mlp, params, 2 * X, loss=square_loss, along="gradient", masses=masses)
    assert other.norms["batch"] != table.norms["batch"]
    assert tables.loads(tables.dumps(table)) == table


def test_stacked_layers_are_atoms_of_their_own():
    draw = np.random.default_rng(2).standard_normal
    blocks = {"kernel": jnp.float32(draw((2, 8, 8)) / 3), "bias": jnp.float32(draw((2, 8)) / 3)}
    rows = [
        tables.Row("blocks/kernel", "Linear", (1,), (2,), (0,), (2, 8, 8), (1.0, 1.0), (1.0, 1.0), (0.25, 0.25)),
        tables.Row("blocks/bias", "Bias", (), (1,), (0,), (2, 8), (1.0, 1.0), (1.0, 1.0), (0.25, 0.25)),
    ]
    atoms = tables.TargetNormTable("mine", {}, (), {}, 4.0, 1.0, tuple(rows))
    stacked = measured.measure(layered, {"blocks": blocks}, X, key=KEY, atoms=atoms, directions=1)

    def unrolled(params, x):
        leaves = {name: jnp.stack([params[f"{name}{layer}"] for layer in range(2)]) for name in blocks}
        return layered({"blocks": leaves}, x)

    apart = {f"{name}{layer}": leaf[layer] for name, leaf in blocks.items() for layer in range(2)}
    gradients = jax.grad(lambda p: jnp.sum(unrolled(p, X) ** 2))(apart)
    table = tables.flat(apart)
    unit = measured.unit_steps(table, gradients)
    together = {"blocks": {name: jnp.stack([unit[f"{name}{layer}"] for layer in range(2)]) for name in blocks}}
    of_stack = measured.output_changes(layered, {"blocks": blocks}, X, together, atoms)
    of_parts = measured.output_changes(unrolled, apart, X, unit, table)
    for name in blocks:
        expected = [of_parts[f"{name}{layer}"].largest for layer in range(2)]
        np.testing.assert_allclose(of_stack[f"blocks/{name}"].largest, expected, rtol=1e-5)
        assert stacked.amplification()[f"blocks/{name}"].shape == (2,)


def test_a_dead_branch_gets_no_endless_step(params):
    dead = {**params, "unused": {"kernel": jnp.ones((3, 3))}}
    table = measured.measured_table(mlp, dead, X, floor=0.1)
    row = table.by_key()["unused/kernel"]
    alive = [other.sensitivity for other in table.rows if other is not row]
    assert row.sensitivity == pytest.approx(0.1 * np.median([*alive, 0]), rel=1e-5)
    assert table.norms["floored"] == ["unused/kernel"]


def test_changes_are_averaged_over_batches(params):
    def changes(batch, *more):
        made = measured.measure(mlp, params, batch, key=KEY, directions=1, more_batches=more)
        return {key: (change.largest, change.mean) for key, change in made.random[0].items()}

    first, second, both = changes(X), changes(3 * X), changes(X, 3 * X)
    for key, found in both.items():
        np.testing.assert_allclose(found, np.mean([first[key], second[key]], axis=0), rtol=1e-5)
    opposite = measured.measure(
        mlp, params, X, key=KEY, loss=lambda p, x: jnp.sum(x) * square_loss(p, X), more_batches=[-X]
    )
    assert opposite.gradient
    assert all(change.largest == 0 for change in opposite.gradient.values())  # gradients that cancel have no step


def test_dropout_is_measured_switched_off_or_with_its_key(params):
    def dropped(params, x, key):
        return mlp(params, x) * jax.random.bernoulli(key, 0.5, x.shape[:-1])[..., None]

    found = measured.measure(lambda p, x: dropped(p, x, KEY), params, X, key=KEY).amplification()
    assert all(np.isfinite(value) for value in found.values())
    calls = iter(range(10))
    with pytest.raises(measured.MeasureError, match="another output at each call"):
        measured.measure(lambda p, x: dropped(p, x, jax.random.key(next(calls))), params, X, key=KEY)


def test_an_integer_input_is_measured():
    params = {"embedding": jnp.float32(np.random.default_rng(4).standard_normal((10, 6)))}
    tokens = np.array([[1, 2, 3], [3, 2, 9]])
    made = measured.measure(lambda p, t: p["embedding"][t], params, tokens, key=KEY)
    np.testing.assert_allclose(made.amplification()["embedding"], 1, rtol=1e-4)  # a row moves by RMS 1


@pytest.mark.parametrize(
    ("apply", "batch", "message"),
    [
        (lambda p, x: {"logits": mlp(p, x)}, X, r"model\(params, batch\)\['logits'\]"),
        (lambda p, x: mlp(p, x) * jnp.nan, X, "NaN or infinity on this batch"),
        (lambda p, x: jnp.argmax(mlp(p, x), -1), X, "int32"),
        (lambda p, x: jnp.sqrt(jnp.abs(0 * mlp(p, x))), X, "not finite where"),
        (lambda _, x: x, X, "Does it depend on the parameters given"),
    ],
)
def test_what_cannot_be_measured_is_named(params, apply, batch, message):
    with pytest.raises(measured.MeasureError, match=message):
        measured.measured_table(apply, params, batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"along": "sideways"}, "gradient, random, largest"),
        ({"over": "median"}, "max, mean"),
        ({"along": "gradient"}, "needs a loss"),
        ({"directions": 0}, "nothing to measure along"),
        ({"floor": 0.0}, "floor is 0"),
        ({"masses": [("nowhere", 1.0)]}, "no row matches"),
    ],
)
def test_wrong_options_are_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        measured.measured_table(mlp, params, X, **options)


def test_refreshed_target_norms_follow_the_parameters(params):
    atoms = tables.flat(params)
    tx = measured.scale_by_measured(mlp, atoms, every=2, momentum=0.0, polar="polar_express")
    grads = jax.grad(square_loss)(params, X)
    update = jax.jit(tx.update)
    updates, state = update(grads, tx.init(params), params, batch=X)
    changes = measured.output_changes(mlp, params, X, updates, atoms)
    for change in changes.values():
        assert change.largest == pytest.approx(1 / 3, rel=1e-3)
    larger = jax.tree.map(lambda p: 3 * p, params)
    _, kept = update(grads, state, larger, batch=X)
    jax.tree.map(np.testing.assert_array_equal, kept.target_norms, state.target_norms)
    _, anew = update(grads, kept, larger, batch=X)
    assert not np.allclose(anew.target_norms["up/kernel"], state.target_norms["up/kernel"], rtol=0.1)


def test_every_step_may_be_measured(params):
    state: Any = measured.scale_by_measured(mlp, tables.flat(params), every=1).init(params)
    assert int(state.count) == 0
    with pytest.raises(measured.MeasureError, match="every"):
        measured.scale_by_measured(mlp, tables.flat(params), every=0)


def test_refreshing_is_a_citizen_of_optax(params):
    tx = optax.chain(measured.scale_by_measured(mlp, tables.flat(params), every=5), optax.scale_by_learning_rate(0.03))
    state, losses = tx.init(params), []
    step = jax.jit(
        lambda p, s: (jax.value_and_grad(square_loss)(p, X), tx.update(jax.grad(square_loss)(p, X), s, p, batch=X))
    )
    for _ in range(12):
        (loss, _), (updates, state) = step(params, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
