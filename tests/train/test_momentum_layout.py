# pyright: reportGeneralTypeIssues=false
"""Momentum has one layout in a checkpoint, wherever it lived; that of before 0.2 is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import DualizeState, graft
from big_vision_dual.train import checkpoint

PARAMS = {f"layer_{i}": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)} for i in range(6)}


def momenta(tree):
    """All DualizeState of a tree."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, DualizeState))
    return [node for node in nodes if isinstance(node, DualizeState)]


def state_of(**options):
    return graft.scale_by_dualize(tables.flat(PARAMS), **options).init(PARAMS)


def test_the_layout_does_not_depend_on_the_mesh():
    here = state_of()
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    there = state_of(shard_axis="data", mesh=mesh)
    assert jax.tree.structure(here) == jax.tree.structure(there)
    assert [x.shape for x in jax.tree.leaves(here)] == [x.shape for x in jax.tree.leaves(there)]
    assert sorted(len(node.momentum) for node in momenta(here)) == [1, 6]  # one of matrices, six of vectors


def test_biases_and_scales_keep_their_own_shape_and_stacks_of_them_are_read(tmp_path):
    params = {"query": {"kernel": jnp.ones((6, 2, 3)), "bias": jnp.ones((2, 3))}, "norm": {"scale": jnp.ones(6)}}
    rng = np.random.default_rng(1)
    for options in ({}, {"momentum_kind": "debiased", "nesterov": True}):
        fresh = graft.scale_by_dualize(tables.flat(params), **options).init(params)
        state = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), fresh)
        shapes = sorted(x.shape for x in jax.tree.leaves(state) if x.ndim)
        assert shapes == [(1, 6, 6), (2, 3), (6,)]
        as_stacks = jax.tree.map(lambda x: x.reshape(1, 1, -1) if 0 < x.ndim < 3 else x, state)
        with checkpoint.Checkpoints(tmp_path / str(len(options))) as checkpoints:
            checkpoints.save(3, {"opt": as_stacks}, {})
            checkpoints.wait()
            found = checkpoints.restore({"opt": fresh})
        assert found is not None
        jax.tree.map(np.testing.assert_array_equal, found[0], {"opt": state})


@pytest.mark.parametrize("old", [True, False])
def test_a_checkpoint_in_parts_is_read_as_one_stack(tmp_path, old):
    rng = np.random.default_rng(0)
    state = {"opt": jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), state_of())}

    def in_parts(node):
        if not isinstance(node, DualizeState) or len(node.momentum) > 1:
            return node
        return DualizeState((node.momentum[0][:4], node.momentum[0][4:]))  # as _MATRICES = 4 cut it

    is_state = lambda node: isinstance(node, DualizeState)  # noqa: E731
    saved = jax.tree.map(in_parts, state, is_leaf=is_state) if old else state
    with checkpoint.Checkpoints(tmp_path / "ckpt") as checkpoints:
        checkpoints.save(3, saved, {})
        checkpoints.wait()
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found[0], state)
