"""Classification and mean evaluators: exact counts, masks, errors, on one device, eight, and two processes."""

import json
import pathlib
import socket
import subprocess
import sys

import devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.train import evaluators
from big_vision_dual.train.data import PaddedBatches
from big_vision_dual.train.data.base import host_range
from big_vision_dual.train.evaluators import batches

NUM, CLASSES, FEATURES = 107, 5, 3  # an uneven last batch on one host as on two


def examples():
    """float64 inputs, labels (some with two classes, some with none) and weights of a linear classifier."""
    rng = np.random.default_rng(0)
    labels = np.eye(CLASSES)[rng.integers(CLASSES, size=NUM)]
    labels[:4] = 0
    labels[4:8, 0] = 1
    return rng.standard_normal((NUM, FEATURES)), labels, rng.standard_normal((FEATURES, CLASSES))


def source_factory(data, pp_fn, batch_size, process_index=None, process_count=None):
    """The examples as `data.evaluation` would give them; padding is NaN to show that it does not leak."""
    assert (data, pp_fn) == ({"name": "examples"}, "")
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    x, labels, _ = examples()
    size, mine = batch_size // count, host_range(NUM, index, count)

    def read():
        for start in range(0, len(mine), size):
            rows = slice(mine[start], mine[start : start + size][-1] + 1)
            yield {"x": x[rows].astype(np.float32), "labels": labels[rows].astype(np.float32)}

    def poisoned(batch):
        return {**batch, "x": np.where(batch["_mask"][:, None] > 0, batch["x"], np.nan).astype(np.float32)}

    return [poisoned(batch) for batch in PaddedBatches(NUM, size, index, count, read, lambda: {})]


def predict(params, batch):
    assert set(batch) == {"x"}
    logits = batch["x"] @ params
    return logits, {"pre_logits": batch["x"]}


def per_example(params, batch):
    return {"sum": jnp.sum(batch["x"] @ params, axis=1), "one": jnp.ones(len(batch["x"]))}


SPECS = {
    "val": {"type": "classification", "data": {"name": "examples"}, "batch_size": 48, "log_steps": 5},
    "sigmoid": {
        "type": "classification",
        "data": {"name": "examples"},
        "loss_name": "sigmoid_xent",
        "metric": "prec@1",
        "prefix": "s_",
        "log_epochs": 2,
        "skip_first": True,
    },
    "mean": {"data": {"name": "examples"}, "pred": "per_example", "log_percent": 0.1},
}


def make(specs):
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    predict_fns = {"predict": predict, "per_example": per_example}
    return evaluators.make(specs, predict_fns, source_factory, mesh, batch_size=16, total_steps=200, data_size=160)


def test_what_stays_in_memory_is_handed_to_the_source():
    asked = {}

    def factory(data, pp_fn, batch_size, cache="none"):
        asked[data["split"]] = cache
        return source_factory({"name": "examples"}, pp_fn, batch_size)

    common = {"type": "classification", "log_steps": 5}
    specs = {name: {**common, "data": {"name": "examples", "split": name}} for name in ("plain", "kept")}
    specs["kept"] |= {"cache": "raw", "at_start": True}
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    made = evaluators.make(specs, {"predict": predict}, factory, mesh, batch_size=16)
    assert asked == {"plain": "none", "kept": "raw"}
    assert [each.at_start for each in made] == [False, True]


def run_all():
    weights = examples()[2].astype(np.float32)
    return {name: value for one in make(SPECS) for name, value in one.run(weights, 1)}


def expected():
    """The same in float64 NumPy."""
    x, labels, weights = examples()
    logits, seen = x @ weights, labels.max(axis=1) > 0
    right = labels[np.arange(NUM), logits.argmax(axis=1)][seen].sum()
    softmax = -(labels * (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))).sum(axis=1)
    sigmoid = (labels * np.logaddexp(0, -logits) + (1 - labels) * np.logaddexp(0, logits)).sum(axis=1)
    return {
        "val/acc@1": right / seen.sum(),
        "val/loss": softmax[seen].mean(),
        "s_prec@1": right / seen.sum(),
        "s_loss": sigmoid[seen].mean(),
        "mean/sum": logits.sum(axis=1).mean(),
        "mean/one": 1.0,
    }


def assert_expected(got):
    want = expected()
    assert got.keys() == want.keys()
    for name, value in want.items():
        if name.endswith(("@1", "one")):  # counts
            assert got[name] == value, name
        else:  # largest relative difference measured: 4e-8
            assert got[name] == pytest.approx(value, rel=1e-6), name


def test_one_device():
    assert_expected(run_all())


@pytest.mark.parametrize(("processes", "count"), [(1, 8), (2, 4)])
def test_several_devices_and_processes(processes, count):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = str(pathlib.Path(__file__).parents[2])
    env = devices.environment(count) | {"PYTHONPATH": root}
    command = [sys.executable, __file__, str(port), str(processes)]
    running = [
        subprocess.Popen([*command, str(index)], env=env, stdout=subprocess.PIPE, text=True)
        for index in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes
    for output in outputs:
        assert_expected(json.loads(output.splitlines()[-1]))


def test_schedule_of_an_evaluator():
    val, sigmoid, mean = make(SPECS)
    assert (val.every, sigmoid.every, mean.every) == (5, 20, 20)
    assert val.due(1, 200)
    assert not sigmoid.due(1, 200)
    assert sigmoid.due(20, 200)
    assert sigmoid.due(200, 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "clasification"}, r"config.evals.val.type='clasification' \(did you mean 'classification'\?\)"),
        ({"pred": "predct"}, r"config.evals.val.pred='predct'; possible: per_example, predict"),
        ({"metrics": "acc@1"}, r"config.evals.val \(classification\) has no key 'metrics' \(did you mean 'metric'"),
        ({"metric": "acc@5"}, r"metric='acc@5'; possible: acc@1, prec@1"),
        ({"loss_name": "mse"}, r"config.loss='mse'; possible: softmax_xent, sigmoid_xent"),
        ({"log_steps": -1}, r"no duration 'log'; possible: one of log_steps"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make({"val": {**SPECS["val"], **changes}})


def test_an_evaluation_that_sees_nothing_says_so():
    mesh = jax.make_mesh((1,), ("data",))
    batch = {"x": np.zeros((4, 3), np.float32), "_mask": np.zeros(4, np.float32)}
    with pytest.raises(ValueError, match="saw no labelled example: check the split"):
        batches.means(per_example, examples()[2].astype(np.float32), [batch], mesh)


def test_values_that_are_not_per_example_are_refused():
    mesh = jax.make_mesh((1,), ("data",))
    batch = {"x": np.zeros((4, 3), np.float32), "_mask": np.ones(4, np.float32)}
    with pytest.raises(ValueError, match=r"must have the shape \(4,\) of the batch; given: \{'x': \(4, 3\)\}"):
        batches.means(lambda _, batch: {"x": batch["x"]}, None, [batch], mesh)


if __name__ == "__main__":
    port, count, index = map(int, sys.argv[1:])
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, index)
    print(json.dumps(run_all()))
