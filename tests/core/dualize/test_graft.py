"""Claims about `scale_by_dualize`, each against float64 norms that share no code with it.

Tolerances: in exact arithmetic newton_schulz_6 leaves singular values in [.9956, .9993] and polar_express in
[.9974, 1.0012] where they are above 0.003 of the Frobenius norm (evaluated on a grid), muon_5 in [.68, 1.135]; float32
adds 1e-6. bfloat16 operands were seen to err by at most 0.8 %; Gaussian matrices have no singular values that matter
below 0.003.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from big_vision_dual.core import dualize, tables, trees

EXACT = ("svd", "newton_schulz_6", "polar_express")


def assert_steepest(updates, gradients, table, low=0.99, high=1.01):
    """Norm of every atom's update, and its inner product with the gradient, over what the table says."""
    flat_updates, flat_gradients = trees.flatten(updates), trees.flatten(gradients)
    for row in table.rows:
        updates_B = oracle.matrices(flat_updates[row.path], row)
        gradients_B = oracle.matrices(flat_gradients[row.path], row)
        for u, g, target in zip(updates_B, gradients_B, oracle.targets(row), strict=True):
            norm = oracle.weight_norm(row.atom, u)
            assert low * target <= norm <= high * target, (row.key, norm, target)
            ascent = target * oracle.dual_norm(row.atom, g)
            assert low * ascent <= np.sum(u * g) <= high * ascent, (row.key, np.sum(u * g), ascent)


def updates_of(table, gradients, **options):
    tx = dualize.scale_by_dualize(table, **options)
    return jax.jit(tx.update)(gradients, tx.init(gradients))[0]


@pytest.fixture(scope="module", params=[*EXACT, "muon_5"])
def compiled(request, table):
    """(polar, gradients -> updates), compiled once per method."""
    tx = dualize.scale_by_dualize(table, polar=request.param)
    update = jax.jit(tx.update)
    return request.param, lambda tree: update(tree, tx.init(tree))[0]


@pytest.fixture(scope="module")
def small(few, random_tree):
    """(table of few rows, gradients, their updates under default options)."""
    gradients = random_tree(few)
    return few, gradients, updates_of(few, gradients)


def test_update_is_the_steepest_of_its_target_norm(compiled, table, gradients):
    polar, update = compiled
    assert_steepest(update(gradients), gradients, table, *((0.68, 1.135) if polar == "muon_5" else (0.99, 1.01)))


def test_zero_gradients_give_zero_updates(compiled, gradients):
    _, update = compiled
    assert all(not np.any(u) for u in jax.tree.leaves(update(jax.tree.map(np.zeros_like, gradients))))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_of_the_gradient_does_not_matter(compiled, gradients, scale):
    _, update = compiled
    scaled = jax.tree.map(lambda g: g * np.float32(scale), gradients)
    # 1e-5: float32 rounding of the scaled gradients, through six steps; seen: 5.4e-7.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), update(gradients), update(scaled))


@pytest.mark.parametrize("polar", ["newton_schulz_6", "polar_express"])
def test_bfloat16_operands_and_gradients(table, gradients, polar):
    low = jax.tree.map(lambda g: jnp.asarray(g, jnp.bfloat16), gradients)
    updates = updates_of(table, low, polar=polar, dtype="bfloat16")
    assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))
    assert_steepest(updates, low, table, 0.97, 1.03)


@pytest.mark.parametrize("wrong", ["transposed", "unbatched"])
def test_probe_a_wrong_axis_is_seen(small, wrong):
    """Kept to prove that `assert_steepest` bites: the graft gets a wrong table, the oracle the right one."""
    table, gradients, right = small
    assert_steepest(right, gradients, table)
    rows = table.by_key()
    row = rows["layers/mlp/kernel"]
    broken = {
        "transposed": dataclasses.replace(row, fan_in=row.fan_out, fan_out=row.fan_in),
        "unbatched": dataclasses.replace(row, batch=(), fan_in=(0, 1), target_norm=0.1, mass=1.0, sensitivity=1.0),
    }[wrong]
    broken_table = dataclasses.replace(table, rows=tuple((rows | {row.key: broken}).values()))
    with pytest.raises(AssertionError, match="layers/mlp/kernel"):
        assert_steepest(updates_of(broken_table, gradients), gradients, table)


@pytest.mark.parametrize(
    ("polar", "name", "scan"),
    [
        *((polar, "vit_s16_i1k", False) for polar in EXACT),
        ("newton_schulz_6", "vit_s16_i1k", True),
        # Ti/16 has the same leaves at half the width: the SVD of S/16 once a run of the suite is enough.
        *((polar, "vit_ti16_i1k", True) for polar in ("svd", "polar_express")),
    ],
)
def test_every_leaf_of_a_vit(polar, name, scan, random_tree, stacked):
    table = tables.load(name)
    table = stacked(table) if scan else table
    gradients = random_tree(table)
    updates = updates_of(table, gradients, polar=polar)
    assert jax.tree.structure(updates) == jax.tree.structure(gradients)
    assert_steepest(updates, gradients, table)


@pytest.mark.parametrize(("nesterov", "weights"), [(False, (0.9, 1.0)), (True, (0.81, 1.9))])
def test_momentum(small, random_tree, nesterov, weights):
    """The second update is the dual of a weighted mean of both gradients, for either kind of momentum."""
    table, first, _ = small
    second = random_tree(table, seed=1)
    expected = updates_of(table, jax.tree.map(lambda a, b: weights[0] * a + weights[1] * b, first, second))
    for kind in ("ema", "trace"):
        tx = dualize.scale_by_dualize(table, momentum=0.9, momentum_kind=kind, nesterov=nesterov)
        update = jax.jit(tx.update)
        got, _ = update(second, update(first, tx.init(first))[1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), expected, got
        )  # float32 sums in another order


def test_by_default_momentum_is_a_mean_over_twenty_steps_without_nesterov(small, random_tree):
    table, first, _ = small
    second = random_tree(table, seed=1)
    expected = updates_of(table, jax.tree.map(lambda a, b: 0.95 * a + b, first, second))
    tx = dualize.scale_by_dualize(table)
    update = jax.jit(tx.update)
    got, _ = update(second, update(first, tx.init(first))[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), expected, got)


def test_vectors_begin_at_zero_gains_at_one_and_rates_as_they_are(table, table_of, gradients):
    chosen = ("attention/query/bias", "norm/scale", "layers/norm/scale", "mixer/A_log", "embed/embedding")
    part = table_of(row for row in table.rows if row.path in chosen)
    given = trees.unflatten({path: leaf for path, leaf in trees.flatten(gradients).items() if path in chosen})
    begun = trees.flatten(dualize.initialize(given, part, jax.random.key(0)))
    for path in chosen:
        expected = {"bias": 0.0, "scale": 1.0, "A_log": trees.flatten(given)[path]}.get(path.rpartition("/")[2])
        if expected is not None:
            np.testing.assert_array_equal(begun[path], np.broadcast_to(expected, begun[path].shape), path)
    np.testing.assert_allclose(np.sqrt(np.mean(begun["embed/embedding"] ** 2, -1)), 1, rtol=1e-5)


def test_debiased_momentum_corrects_both_terms_of_nesterovs_direction(small, random_tree):
    """As in NAdam: beta m / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t), here with t = 2."""
    table, first, _ = small
    second = random_tree(table, seed=1)
    old, new = 0.9 * 0.09 / (1 - 0.9**3), 0.9 * 0.1 / (1 - 0.9**3) + 0.1 / (1 - 0.9**2)
    expected = updates_of(table, jax.tree.map(lambda a, b: old * a + new * b, first, second))
    tx = dualize.scale_by_dualize(table, momentum=0.9, momentum_kind="debiased", nesterov=True)
    update = jax.jit(tx.update)
    got, _ = update(second, update(first, tx.init(first))[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), expected, got)


def test_missing_leaves_are_left_alone(small):
    table, gradients, expected = small
    frozen = ("norm/", "in_proj/", "layers/mlp/bias")
    mask = trees.map_with_path(lambda path, _: not path.startswith(frozen), gradients)
    tx = optax.masked(dualize.scale_by_dualize(table), mask)
    updates, state = jax.jit(tx.update)(gradients, tx.init(gradients))
    for path, update in trees.flatten(updates).items():
        wanted = trees.flatten(gradients if path.startswith(frozen) else expected)[path]
        np.testing.assert_allclose(update, wanted, atol=1e-6)  # another stack size, another order of summation
    dualized = sum(np.size(leaf) for path, leaf in trees.flatten(gradients).items() if not path.startswith(frozen))
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(state)) == dualized


def test_abstract_shapes(table, gradients):
    tx = dualize.scale_by_dualize(table)
    shapes = jax.eval_shape(lambda: gradients)
    state = jax.eval_shape(tx.init, shapes)
    updates, new_state = jax.eval_shape(tx.update, shapes, state)
    assert updates == shapes
    assert new_state == state


def test_unrolled_steps_are_the_same_steps(small):
    table, gradients, expected = small
    got = updates_of(table, gradients, unroll=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), expected, got)


def test_per_head_updates_have_the_target_norm_per_head(table, table_of, gradients):
    row = table.by_key()["layers/query/kernel"]
    kernel = {"layers": {"query": {"kernel": gradients["layers"]["query"]["kernel"]}}}
    update = updates_of(table_of([row]), kernel, per_head=True)["layers"]["query"]["kernel"]
    per_head = dataclasses.replace(row, batch=(0, 2), fan_out=(3,))
    norms = [oracle.weight_norm("Linear", u) for u in oracle.matrices(update, per_head)]
    np.testing.assert_allclose(norms, oracle.targets(per_head), rtol=0.01)
    whole = [oracle.weight_norm("Linear", u) for u in oracle.matrices(update, row)]
    assert np.all(whole <= oracle.targets(row) * 1.001)  # RMS over heads of what each head adds


def test_scale_floor_lifts_narrowing_linears_only(small):
    table, gradients, expected = small
    plain, floored = trees.flatten(expected), trees.flatten(updates_of(table, gradients, scale_floor=True))
    narrowing = next(row for row in table.rows if row.path == "layers/mlp/kernel")
    table = dataclasses.replace(table, rows=(dataclasses.replace(narrowing, fan_in=(2,), fan_out=(1,)),))  # 20 -> 7
    kernel = {"layers": {"mlp": {"kernel": gradients["layers"]["mlp"]["kernel"]}}}
    lifted, unlifted = (trees.flatten(updates_of(table, kernel, scale_floor=on)) for on in (True, False))
    np.testing.assert_allclose(floored["layers/mlp/kernel"], plain["layers/mlp/kernel"])
    np.testing.assert_allclose(floored["norm/scale"], plain["norm/scale"])
    np.testing.assert_allclose(
        *(tree["layers/mlp/kernel"] / np.sqrt(scale) for tree, scale in ((lifted, 20), (unlifted, 7))), rtol=1e-5
    )


def test_fallback_to_adam(small):
    table, gradients, expected = small
    fallback = [("attention/query/bias", "dualize"), (".*/bias", "adam"), ("in_proj/.*", "adam")]
    options, tx = {"b1": 0.8, "nesterov": True}, optax.scale_by_adam(b1=0.8, nesterov=True)
    adam: Any
    adam, _ = tx.update(gradients, tx.init(gradients))
    got = trees.flatten(updates_of(table, gradients, fallback=fallback, fallback_scale=0.5, adam=options))
    adam, dual = trees.flatten(adam), trees.flatten(expected)
    for path, update in got.items():
        falls_back = path in ("layers/mlp/bias", "in_proj/weight")
        np.testing.assert_allclose(update, 0.5 * adam[path] if falls_back else dual[path], atol=1e-6)


def test_fallback_in_float16_bears_a_zero_gradient(few, random_tree):
    """Adam's epsilon of 1e-8 is 0 in float16."""
    halves = jax.tree.map(lambda g: jnp.asarray(g * (np.abs(g) > 0.5), jnp.float16), random_tree(few))
    updates = trees.flatten(updates_of(few, halves, fallback=[(".*", "adam")]))
    for path, gradient in trees.flatten(halves).items():
        assert updates[path].dtype == jnp.float16
        np.testing.assert_allclose(updates[path], np.sign(gradient), atol=1e-3)  # Adam's first step
        assert np.any(np.asarray(gradient) == 0)


def test_target_norms_may_be_traced(small):
    table, gradients, expected = small
    own = {row.key: jnp.asarray(row.target_norm) for row in table.rows}
    doubled = jax.tree.map(lambda t: jnp.stack([t, 2 * t]), own)
    both = jax.jit(jax.vmap(lambda targets: updates_of(table, gradients, target_norms=targets)))(doubled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, np.stack([a, 2 * a]), atol=2e-6), expected, both)


def test_options_that_do_not_exist_are_named(table):
    with pytest.raises(ValueError, match=r"unknown polar 'newton'; possible: newton_schulz_6, .*polar_express:STEPS"):
        dualize.scale_by_dualize(table, polar="newton")
    with pytest.raises(ValueError, match="momentum_kind is 'sum'; possible: 'ema', 'trace', 'debiased'"):
        dualize.scale_by_dualize(table, momentum_kind="sum")
    with pytest.raises(ValueError, match=r"fallback kinds \['lion'\]; possible: adam, dualize"):
        dualize.scale_by_dualize(table, fallback=[(".*", "lion")])


def test_wrong_table(gradients):
    tx = dualize.scale_by_dualize("vit_s16_i1k")
    with pytest.raises(tables.TableError, match=r"parameters without a row: .*attention/out/kernel"):
        tx.init(gradients)
