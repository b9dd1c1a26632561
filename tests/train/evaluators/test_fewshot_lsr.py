"""The few-shot probe against float64 NumPy: augmented least squares instead of normal equations."""

import jax
import numpy as np
import pytest

from big_vision_dual.train.evaluators import fewshot_lsr, least_squares

CLASSES, FEATURES = 4, 6


def split(name, size):
    rng = np.random.default_rng(len(name))
    labels = rng.integers(CLASSES, size=size)
    centers = np.random.default_rng(7).standard_normal((CLASSES, FEATURES))
    return (centers[labels] + rng.standard_normal((size, FEATURES))).astype(np.float32), labels


SIZES = {"train": 90, "test": 130}


def source_factory(data, pp_fn, batch_size):
    assert data["name"] == "blobs"
    assert pp_fn == {"train": "a", "test": "b"}[data["split"]]
    x, labels = split(data["split"], SIZES[data["split"]])
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        pad = batch_size - len(labels[part])
        yield {
            "x": np.pad(x[part], ((0, pad), (0, 0))),
            "label": np.pad(labels[part], (0, pad)),
            "_mask": np.pad(np.ones(batch_size - pad, np.float32), (0, pad)),
        }


def reference(train, test, l2_reg):
    """Accuracy of argmin |XW - Y|^2 + l2 |W|^2 as one least-squares problem with sqrt(l2) I below X."""
    mean, std = train[0].mean(0), train[0].std(0) + 1e-5
    x, x_test = (np.c_[(part[0] - mean) / std, np.full(len(part[0]), 100.0)] for part in (train, test))
    y = np.where(train[1][:, None] == np.arange(CLASSES), 1.0, -1.0)
    rows = np.r_[x, np.sqrt(l2_reg) * np.eye(x.shape[1])]
    weights = np.linalg.lstsq(rows, np.r_[y, np.zeros((x.shape[1], CLASSES))], rcond=None)[0]
    return weights, np.mean((x_test @ weights).argmax(1) == test[1])


@pytest.mark.parametrize("size", [5, 60])  # fewer examples than features, and more
def test_fit_equals_augmented_least_squares(size):
    x, labels = split("train", size)
    labels[:CLASSES] = np.arange(CLASSES)
    x = x.astype(np.float64)
    probe = least_squares.fit(x, labels, 0.7)
    weights, accuracy = reference((x, labels), (x, labels), 0.7)
    np.testing.assert_allclose(probe.weights_ExC, weights, atol=1e-10)  # measured: 3e-14
    assert probe.accuracy(x, labels) == accuracy


def test_accuracies_of_all_shots_seeds_and_strengths():
    evaluator = fewshot_lsr.Evaluator(
        lambda params, batch: (None, {"pre_logits": batch["x"] * params}),
        source_factory=lambda *args: list(source_factory(*args)),
        mesh=jax.make_mesh((1,), ("data",)),
        batch_size=32,
        datasets={"b": ("blobs", "train", "test")},
        shots=(1, 8),
        l2_reg=(0.5, 1024.0),
        pp_train="a",
        pp_eval="b",
        display_first=[("b", 8)],
        num_seeds=2,
    )
    got = dict(evaluator.run(np.float32(2)))
    train, test = ((2 * x.astype(np.float64), labels) for x, labels in (split(*item) for item in SIZES.items()))
    for seed in range(2):
        for shots, display in ((1, "z"), (8, "a")):
            chosen = fewshot_lsr.draw(train[1], shots, seed)
            assert np.bincount(train[1][chosen]).tolist() == [shots] * CLASSES
            for l2_reg in (0.5, 1024.0):
                few = (train[0][chosen], train[1][chosen])
                assert got.pop(f"{display}/b_{shots}shot_l2-{l2_reg:g}-seed-{seed}") == reference(few, test, l2_reg)[1]
    assert not got


def test_draws_differ_by_seed_are_nested_and_take_what_there_is():
    labels = np.array([0] * 30 + [2] * 3)
    few, more = fewshot_lsr.draw(labels, 2, 0), fewshot_lsr.draw(labels, 5, 0)
    assert set(few) < set(more)
    assert np.bincount(labels[more]).tolist() == [5, 0, 3]
    assert set(more) != set(fewshot_lsr.draw(labels, 5, 1))


def test_an_unknown_layer_lists_those_that_exist():
    evaluator = fewshot_lsr.Evaluator(
        lambda _, batch: (None, {"encoder": {"block0": batch["x"]}, "pre_logits": batch["x"]}),
        source_factory=source_factory,
        mesh=jax.make_mesh((1,), ("data",)),
        batch_size=32,
        datasets={"b": ("blobs", "train", "test")},
        pp_train="a",
        pp_eval="b",
        representation_layer="pre_logit",
    )
    with pytest.raises(ValueError, match=r"representation_layer='pre_logit'; possible: \['encoder/block0', 'pre_l"):
        next(evaluator.run(1.0))
