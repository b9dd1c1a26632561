"""Claims about projection and weight constraints, against float64 norms."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import devices
import jax
import numpy as np
import optax
import oracle
import pytest

from big_vision_dual.core import dualize, trees

SPHERE = ("Linear", "MaxLinear", "Embed", "DepthwiseConv")


def norms_of(tree, table):
    """{(row.key, index): (row, norm)} in float64."""
    flat = trees.flatten(tree)
    return {
        (row.key, i): (row, oracle.weight_norm(row.atom, w))
        for row in table.rows
        for i, w in enumerate(oracle.matrices(flat[row.path], row))
    }


def test_projection(table, gradients):
    small = jax.tree.map(lambda w: 0.01 * w, gradients)
    project = jax.jit(lambda tree: dualize.project(tree, table))
    for weights in (gradients, small):
        before, after = norms_of(weights, table), norms_of(project(weights), table)
        for key, (row, norm) in after.items():
            old = before[key][1]
            wanted = old if row.target_norm == 0 or row.atom == "Rate" else 1.0 if row.atom in SPHERE else min(1.0, old)
            # 1 %: newton_schulz_6 leaves singular values in [.9956, .9993].
            np.testing.assert_allclose(norm, wanted, rtol=0.01, err_msg=str(key))
    assert not any(np.any(w) for w in jax.tree.leaves(project(jax.tree.map(np.zeros_like, gradients))))


def test_project_constraint_lands_on_the_projection(few, random_tree):
    weights, step = random_tree(few), jax.tree.map(lambda u: 0.1 * u, random_tree(few, seed=1))
    tx = dualize.constrain("project", few)
    update, project = jax.jit(tx.update), jax.jit(lambda tree: dualize.project(tree, few))
    landed = optax.apply_updates(weights, update(step, tx.init(weights), weights)[0])
    wanted = project(optax.apply_updates(weights, step))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), landed, wanted)


def test_decay_shrinks_matrices_only_and_follows_its_schedule(few, random_tree):
    weights = random_tree(few)
    tx = dualize.constrain("decay", few, rate=lambda count: 0.1 * (count + 1))
    still, state = jax.tree.map(np.zeros_like, weights), tx.init(weights)
    rows = few.by_path()
    for rate in (0.1, 0.2):
        steps: Any
        steps, state = tx.update(still, state, weights)
        for path, step in trees.flatten(steps).items():
            factor = rate if rows[path][0].atom in SPHERE else 0.0
            np.testing.assert_allclose(step, -factor * trees.flatten(weights)[path], rtol=1e-6)


def test_frank_wolfe_never_leaves_the_ball_and_reaches_its_surface(few, random_tree):
    """One gradient, 60 steps: w_k = (1-g)^k w_0 - (1 - (1-g)^k) radius * dual, g = rate * target_norm / radius."""
    radius, rate, steps, gradient = 2.0, 0.3, 60, random_tree(few)
    tx = optax.chain(
        dualize.scale_by_dualize(few, polar="svd"),
        optax.scale_by_learning_rate(rate),
        dualize.constrain("frank_wolfe", few, rate=rate, radius=radius),
    )
    weights = jax.tree.map(np.zeros_like, gradient)
    update, state = jax.jit(tx.update), tx.init(weights)
    for _ in range(steps):
        change, state = update(gradient, state, weights)
        weights = optax.apply_updates(weights, change)
    for (key, index), (row, norm) in norms_of(weights, few).items():
        remaining = (1 - rate * oracle.targets(row)[index] / radius) ** steps
        np.testing.assert_allclose(norm, radius * (1 - remaining), rtol=1e-4, err_msg=key)  # float32, 60 additions


def test_a_radius_of_its_own_for_kinds_and_paths(few, random_tree):
    """Each atom of each leaf shrinks by rate * its target norm / its radius; stacked layers by their own."""
    weights, rules = random_tree(few), [("Bias|Scale", None), ("in_proj/.*", 500.0), (".*", 25.0)]
    tx = dualize.constrain("radius", few, rate=0.5, radius=rules)
    steps, _ = tx.update(jax.tree.map(np.zeros_like, weights), tx.init(weights), weights)
    for row in few.rows:
        radius = {"in_proj/weight": 500.0, "layers/mlp/kernel": 25.0}.get(row.path, np.inf)
        step_B, weight_B = (oracle.matrices(trees.flatten(tree)[row.path], row) for tree in (steps, weights))
        for step, weight, target in zip(step_B, weight_B, oracle.targets(row), strict=True):
            np.testing.assert_allclose(step, -0.5 * target / radius * weight, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("norm", ["frobenius", "own"])
def test_a_hyperball_holds_the_norm_that_each_matrix_began_with(norm, table, gradients, random_tree):
    tx = dualize.constrain("hyperball", table, norm=norm)
    step = jax.tree.map(lambda u: 0.3 * u, random_tree(table, seed=1))
    steps, _ = jax.jit(tx.update)(step, tx.init(gradients), gradients)
    before, after = trees.flatten(gradients), trees.flatten(optax.apply_updates(gradients, steps))
    for row in table.rows:
        for old, new in zip(oracle.matrices(before[row.path], row), oracle.matrices(after[row.path], row), strict=True):
            if row.atom not in SPHERE:
                continue
            measure = np.linalg.norm if norm == "frobenius" else lambda w, row=row: oracle.weight_norm(row.atom, w)
            # own: both spectral norms are estimated, each within 1 % and never below the truth
            np.testing.assert_allclose(measure(new), measure(old), rtol=1e-5 if norm == "frobenius" else 0.01)
            assert np.linalg.norm(new - old) > 0.1 * np.linalg.norm(old), row.key
    for row in table.rows:
        if row.atom not in SPHERE:
            np.testing.assert_array_equal(trees.flatten(steps)[row.path], trees.flatten(step)[row.path])


def test_a_hyperball_of_a_given_size_and_zeros_stay_free(few, random_tree):
    weights, still = random_tree(few), jax.tree.map(np.zeros_like, random_tree(few))
    tx = dualize.constrain("hyperball", few, size=[("in_proj/.*", None), (".*", 2.0)], norm="own")
    moved = optax.apply_updates(weights, tx.update(still, tx.init(weights), weights)[0])
    for (key, _), (row, norm) in norms_of(moved, few).items():
        if row.path == "layers/mlp/kernel":
            assert norm == pytest.approx(2, rel=0.01), key
    np.testing.assert_array_equal(trees.flatten(moved)["in_proj/weight"], trees.flatten(weights)["in_proj/weight"])
    step = random_tree(few, seed=1)
    from_zero = dualize.constrain("hyperball", few)
    steps, _ = from_zero.update(step, from_zero.init(still), still)
    jax.tree.map(np.testing.assert_array_equal, steps, step)


@pytest.mark.parametrize("kind", ["decay", "radius"])
def test_cautious_decay_takes_off_only_where_the_step_itself_shrinks(kind, few, random_tree):
    weights = random_tree(few)
    step = jax.tree.map(lambda u: u * (np.abs(u) > 0.3), random_tree(few, seed=1))  # a step of 0 hinders no decay
    plain, cautious = (dualize.constrain(kind, few, rate=0.1, cautious=on) for on in (False, True))
    all_of, some_of = (trees.flatten(tx.update(step, tx.init(weights), weights)[0]) for tx in (plain, cautious))
    for path, u in trees.flatten(step).items():
        shrinks = u * trees.flatten(weights)[path] <= 0
        assert 0.2 < shrinks.mean() < 0.8
        np.testing.assert_allclose(some_of[path], np.where(shrinks, all_of[path], u), rtol=1e-6)


def test_sizes_are_frobenius_norms_over_those_of_a_unit_dual(table, gradients):
    """A dual has size 1 in every atom, and the own norm is at least the size."""
    duals = dualize.scale_by_dualize(table, momentum=0.0, polar="svd", target_norms={r.key: 1.0 for r in table.rows})
    dual, _ = duals.update(gradients, duals.init(gradients))
    for key, size in dualize.measure.atom_sizes(dual, table).items():
        np.testing.assert_allclose(size, 1, rtol=1e-4, err_msg=key)
    norms = dualize.measure.atom_norms(gradients, table)
    for key, size in dualize.measure.atom_sizes(gradients, table).items():
        assert np.all(size <= norms[key] * 1.0001), key


def test_devices_share_projection_and_own_norms():
    """`sharded_constraints.py`: the same weights on 8 devices as on one, each device with its share of the matrices."""
    script = pathlib.Path(__file__).with_name("sharded_constraints.py")
    run = subprocess.run(
        [sys.executable, script], env=devices.environment(8), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert max(found["difference"].values()) < 1e-5
    # Stacks of 6, 4 and 1 matrices on 8 devices: each has at most one of them, and the last one is on all.
    assert max(found["share_of_flops"][name] for name in ("project", "own")) < 0.5


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("radius", {"radius": 0}, r"radius is 0; possible: a number above 0, or rules such as \[\('Bias\|Scale', None"),
        ("radius", {"radius": [("Bias", -1.0), (".*", 25)]}, r"radius is -1.0; possible: a number above 0"),
        ("radius", {"radius": [("Linear", 25.0)]}, r"radius: 3 atoms match no pattern: attention/query/bias, .*Add a"),
        ("hyperball", {"size": -2.0}, r"size is -2.0; possible: a number above 0"),
        ("hyperball", {"norm": "nuclear"}, r"norm of a hyperball is 'nuclear'; possible: 'frobenius', 'own'"),
    ],
)
def test_values_that_cannot_be_are_refused(few, kind, options, message):
    with pytest.raises(ValueError, match=message):
        dualize.constrain(kind, few, **options)


def test_options_that_do_not_exist_are_named(few, random_tree):
    with pytest.raises(
        ValueError, match="weight constraint is 'clip'; possible: 'none', 'decay', 'radius', 'hyperball', 'project'"
    ):
        dualize.constrain("clip", few)
    weights = random_tree(few)
    tx = dualize.constrain("decay", few)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        tx.update(weights, tx.init(weights))


@pytest.mark.parametrize("kind", ["decay", "radius"])
def test_without_a_rate_nothing_is_taken_off(kind, few, random_tree):
    params, updates = random_tree(few), random_tree(few, seed=1)
    tx = dualize.constrain(kind, few)
    got, _ = tx.update(updates, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, got, updates)


def test_none_changes_nothing(few, random_tree):
    tx = dualize.constrain("none", few)
    step = random_tree(few)
    assert tx.update(step, tx.init(step))[0] is step


@pytest.mark.parametrize("kind", ["decay", "radius", "hyperball", "project"])
def test_rates_are_left_alone(kind, table, table_of, random_tree):
    rates = table_of(row for row in table.rows if row.atom == "Rate")
    weights, step = jax.tree.map(lambda w: 10 * w, random_tree(rates)), random_tree(rates, seed=1)
    tx = dualize.constrain(kind, rates, rate=0.1)
    steps, _ = tx.update(step, tx.init(weights), weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), steps, step)
