"""Checkpoints of Big Vision's trainer are read as its own code writes them: by JAX's serialization, a leaf a folder."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.array_serialization import serialization

from big_vision_dual.models import mlp, weights


def written(folder, tree) -> None:
    """As upstream's utils.tssave does, with names of paths joined by '~'."""
    leaves = {jax.tree_util.keystr(p, simple=True, separator="~"): x for p, x in jax.tree.leaves_with_path(tree)}
    manager = serialization.GlobalAsyncCheckpointManager()
    manager.serialize_with_paths(list(leaves.values()), [str(folder / name) for name in leaves])
    manager.wait_until_finished()


@pytest.fixture
def workdir(tmp_path):
    params = mlp.Model(3, width=4, depth=1).init(jax.random.key(1), jnp.zeros((1, 5)))["params"]
    older = jax.tree.map(jnp.zeros_like, params)
    for step, tree in ((10, older), (20, params)):
        state = {"params": {**tree, "img": tree}, "opt": [{"mu": tree}], "chrono": {"t": jnp.zeros(())}}
        written(tmp_path / f"checkpoint.bv-{step:09d}", state)
    (tmp_path / "checkpoint.bv-LAST").write_text("000000020")
    return tmp_path, params, older


@pytest.mark.parametrize(
    ("ending", "newest"), [("", True), (":img", True), ("-000000020", True), ("-000000010:img", False)]
)
def test_the_newest_or_a_given_checkpoint_or_a_submodel_of_it(workdir, ending, newest):
    folder, params, older = workdir
    loaded = weights.load(older, f"{folder}/checkpoint.bv{ending}", {}, ["img/.*"])
    jax.tree.map(np.testing.assert_array_equal, loaded, params if newest else older)


def test_a_missing_one_names_those_there(workdir):
    folder, _, older = workdir
    with pytest.raises(weights.WeightsError, match=r"checkpoint.bv-000000030 .*; there: checkpoint.bv-000000010, ch"):
        weights.load(older, f"{folder}/checkpoint.bv-000000030", {})
    with pytest.raises(weights.WeightsError, match=r"no checkpoint .*elsewhere/checkpoint.bv .*; there: none"):
        weights.load(older, f"{folder}/elsewhere/checkpoint.bv", {})
