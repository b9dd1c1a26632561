# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# (optax types the trees of its updates too narrowly to be indexed)
"""One walker for every pytree: names, structures kept, what is masked, what cannot be named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import big_vision_dual as bvd
from big_vision_dual.core import tables, trees

W = jnp.arange(12.0).reshape(4, 3)


def linen_boxed():
    kernel_init = nn.with_partitioning(nn.initializers.ones, (None, "data"))
    return nn.Dense(3, kernel_init=kernel_init).init(jax.random.key(0), jnp.ones((2, 4)))["params"]


def nnx_state():
    return nnx.state(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param)


TREES = {
    "list of layers": (lambda: {"layers": [{"kernel": W}, {"kernel": W}]}, {"layers/0/kernel", "layers/1/kernel"}),
    "tuple": (lambda: {"a": ({"kernel": W}, W)}, {"a/0/kernel", "a/1"}),
    "boxed": (linen_boxed, {"bias", "kernel"}),
    "nnx state": (nnx_state, {"bias", "kernel"}),
    "nnx pure": (lambda: nnx.as_pure(nnx_state()), {"bias", "kernel"}),
    "slashes": (lambda: {"mlp/~/linear": {"w": W}}, {"mlp/~/linear/w"}),
    "slashes that meet": (
        lambda: {"a/b": {"kernel": W}, "a": {"b": {"kernel": W}}}, {"a/b/kernel", "a%2Fb/kernel"},
    ),
    "one array": (lambda: W, {""}),
    "numbers as keys": (lambda: {0: W, 1: {"kernel": W}}, {"0", "1/kernel"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TREES)
def test_names_and_structure(kind):
    make, expected = TREES[kind]
    tree = make()
    flat = trees.flatten(tree)
    assert set(flat) == expected
    assert all(isinstance(leaf, jax.Array) for leaf in flat.values())
    same = trees.map_with_path(lambda _, leaf: leaf, tree)
    assert jax.tree.structure(same) == jax.tree.structure(tree)
    named = dict(zip(jax.tree.leaves(trees.names(tree)), jax.tree.leaves(tree), strict=True))
    assert all(named[name] is flat[name] for name in flat)


@pytest.mark.parametrize("kind", TREES)
def test_every_kind_of_tree_is_dualized_leaf_by_leaf(kind):
    tree = TREES[kind][0]()
    table = bvd.flat_table(tree)
    bvd.check_table(table, tree)
    tx = bvd.scale_by_dualize(table)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    flat = trees.flatten(tree)
    plain = bvd.scale_by_dualize(table)  # the same names as the keys of one dict
    expected, _ = plain.update(flat, plain.init(flat))
    for name, update in trees.flatten(updates).items():
        np.testing.assert_allclose(update, expected[name], atol=1e-6)
        assert np.any(update) == np.any(flat[name])


def test_a_mask_that_is_a_prefix_of_the_tree_covers_what_lies_below():
    tree = {"encoder": {"a": {"kernel": W}, "b": {"kernel": W}}, "head": {"kernel": W}}
    table = bvd.flat_table(tree)
    tx = optax.masked(bvd.scale_by_dualize(table), {"encoder": False, "head": True})
    updates, _ = tx.update(tree, tx.init(tree), tree)
    np.testing.assert_array_equal(updates["encoder"]["a"]["kernel"], W)
    assert not np.allclose(updates["head"]["kernel"], W)
    with pytest.raises(tables.TableError, match=r"2 rows without a parameter: encoder/a/kernel, encoder/b/kernel"):
        bvd.check_table(table, {"head": {"kernel": W}})


def test_masked_names_stop_at_slashes():
    walk = trees.walk({"enc": optax.MaskedNode(), "encoder": {"kernel": W}})
    assert all(walk.covers(name) for name in ("enc/kernel", "encoder/kernel"))
    assert not walk.covers("encoder/bias")


def test_two_leaves_of_one_name_are_an_error():
    with pytest.raises(ValueError, match=r"two leaves that would both be called 'a%2Fb'"):
        trees.flatten({"a/b": W, "a%2Fb": W, "a": {"b": W}})


def test_a_parameter_with_several_arrays_is_an_error():
    with pytest.raises(ValueError, match=r"p is one parameter with 2 arrays inside"):
        trees.flatten({"p": nnx.Param({"a": W, "b": W})})


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0, 2), (1,), (1, 1)])
def test_leaves_of_any_shape(shape):
    tree = {"odd": {"kernel": jnp.ones(shape)}, "dense": {"kernel": W + 1}}
    table = bvd.flat_table(tree)
    tx = bvd.dualized(table, 0.1, weight_decay=0.01)
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree), tree)
    assert updates["odd"]["kernel"].shape == shape
    assert np.all(np.asarray(updates["odd"]["kernel"]) < 0)
    assert np.any(updates["dense"]["kernel"])
    projected = bvd.project(tree, table)
    assert projected["odd"]["kernel"].shape == shape


def test_a_number_is_a_parameter():
    tree = {"temperature": 2.0, "scale": jnp.asarray(3.0)}
    table = bvd.flat_table(tree)
    assert {row.path: row.atom for row in table.rows} == {"temperature": "Bias", "scale": "Scale"}
    tx = bvd.scale_by_dualize(table)
    updates, _ = tx.update(tree, tx.init(tree))
    assert float(updates["temperature"]) == pytest.approx(0.5)


def test_leaves_that_are_no_real_numbers_are_refused_at_init_by_name():
    tree = {"step": jnp.zeros((), jnp.int32), "spectrum": jnp.zeros((2, 2), jnp.complex64), "kernel": W}
    with pytest.raises(tables.TableError, match=r"2 parameters .*: spectrum \(complex64\), step \(int32\).*masked"):
        bvd.scale_by_dualize(bvd.flat_table(tree)).init(tree)
    with pytest.raises(tables.TableError, match=r"name is a str; possible: arrays"):
        bvd.flat_table({"name": "vit"})


def test_the_first_rule_that_matches_a_whole_path_wins():
    rules = [("a", 1), ("a/.*", 2), (".*/kernel", 3)]
    assert trees.first_match(rules, ["b/kernel", "a/kernel", "a"], "lrs") == {"b/kernel": 3, "a/kernel": 2, "a": 1}


@pytest.mark.parametrize(("count", "shown"), [(5, "p0, p1, p2, p3, p4. "), (6, "p0, p1, p2, p3, p4, .... ")])
def test_paths_without_a_rule_are_counted_and_five_of_them_named(count, shown):
    with pytest.raises(ValueError, match=f"^lrs: {count} parameters match no pattern: {shown.replace('.', '[.]')}"):
        trees.first_match([("a", 1)], ["a", *(f"p{number}" for number in range(count))], "lrs")
