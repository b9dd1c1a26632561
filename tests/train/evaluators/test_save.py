"""The evaluator that saves: every example's inputs and outputs, where the outfile says, by the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from big_vision_dual.train import evaluators
from big_vision_dual.train.data import PaddedBatches

N = 7
X = np.arange(2.0 * N, dtype=np.float32).reshape(N, 2)


def source_factory(data, pp_fn, batch_size):
    assert (data, pp_fn) == ({"name": "some"}, "")
    parts = [{"x": X[i : i + batch_size]} for i in range(0, N, batch_size)]
    return PaddedBatches(N, batch_size, 0, 1, lambda: parts, lambda: {"x": X[:0]})


def predict(params, batch):
    assert set(batch) == {"x"}
    logits = batch["x"] * params
    return logits, {"block": {"mean": jnp.mean(logits, axis=1)}}


def saver(outfile, workdir=None):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = {"type": "save", "data": {"name": "some"}, "outfile": outfile, "log_steps": 10, "batch_size": 4}
    return evaluators.make({"kept": spec}, {"predict": predict}, source_factory, mesh, batch_size=8, workdir=workdir)[0]


def test_all_examples_are_saved_without_padding(tmp_path):
    scheduled = saver("{workdir}/out-{step:09d}.npz", tmp_path)
    assert scheduled.due(1, 100)
    assert not list(scheduled.run(np.float32(3), 10))
    assert not list(scheduled.run(np.float32(4), 20))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out-000000010.npz", "out-000000020.npz"]
    with np.load(tmp_path / "out-000000020.npz") as saved:
        assert set(saved) == {"inputs/x", "outputs/0", "outputs/1/block/mean"}
        np.testing.assert_array_equal(saved["inputs/x"], X)
        np.testing.assert_allclose(saved["outputs/0"], 4 * X)
        np.testing.assert_allclose(saved["outputs/1/block/mean"], (4 * X).mean(1))


@pytest.mark.parametrize(
    ("outfile", "said"),
    [
        ("{workdir}/x.npz", r"KeyError\('workdir'\); possible: \{step\}; there is no workdir"),
        ("x-{stop}.npz", "KeyError.'stop'"),
        ("x-{step:q}.npz", "Unknown format code 'q'"),
    ],
)
def test_an_outfile_that_cannot_be_filled_in_is_refused_before_the_training(outfile, said):
    with pytest.raises(ValueError, match=said):
        saver(outfile)
