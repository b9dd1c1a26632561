"""Claims about projection and weight constraints, against float64 norms."""

from __future__ import annotations

from typing import Any

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


def test_options_that_do_not_exist_are_named(few, random_tree):
    with pytest.raises(ValueError, match="weight constraint is 'clip'; possible: 'none', 'decay', 'project', 'frank_"):
        dualize.constrain("clip", few)
    weights = random_tree(few)
    tx = dualize.constrain("decay", few)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        tx.update(weights, tx.init(weights))


def test_none_changes_nothing(few, random_tree):
    tx = dualize.constrain("none", few)
    step = random_tree(few)
    assert tx.update(step, tx.init(step))[0] is step


@pytest.mark.parametrize("kind", ["decay", "frank_wolfe", "project"])
def test_rates_are_left_alone(kind, table, table_of, random_tree):
    rates = table_of(row for row in table.rows if row.atom == "Rate")
    weights, step = jax.tree.map(lambda w: 10 * w, random_tree(rates)), random_tree(rates, seed=1)
    tx = dualize.constrain(kind, rates, rate=0.1)
    steps, _ = tx.update(step, tx.init(weights), weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), steps, step)
