"""A run says what its weights were predicted to do, continues to, and warns when they leave it."""

from __future__ import annotations

import numpy as np
import pytest

from big_vision_dual.core.tables import Row, TargetNormTable
from big_vision_dual.train import sizes
from big_vision_dual.train.optim import course

ROW = Row("head/kernel", "Linear", (0,), (1,), (), (8, 8), 1.0, 1.0, 1.0)
TABLE = TargetNormTable("test", {}, (), {}, 1.0, 1.0, (ROW,))
CONFIG = {
    "optax_name": "big_vision_dual.scale_by_dualize", "optax": {"momentum": 0.9}, "lr": 0.01, "wd": 0.1, "schedule": {},
}  # fmt: skip


@pytest.fixture
def predicted():
    return course.make(CONFIG, TABLE, total_steps=100, batch_size=4)


def test_the_prediction_starts_at_the_first_measurement_and_survives_a_checkpoint(predicted):
    watch = sizes.Watch(predicted, TABLE)
    assert watch.notes is None
    first, _ = watch.measure(1, {ROW.key: np.float32(2)})
    assert first == {"size/Linear/head": 2.0, "predicted_size/Linear/head": 2.0}
    watch.measure(10, {ROW.key: np.float32(1.7)})
    continued = sizes.Watch(predicted, TABLE, watch.notes)
    for each in (watch, continued):
        values, warnings = each.measure(30, {ROW.key: np.float32(0.1)})
        assert values["predicted_size/Linear/head"] == pytest.approx(
            predicted.advance(np.array([2.0]), 1, 30)[0], rel=1e-12
        )
        assert warnings == []


def test_weights_that_leave_three_times_the_prediction_are_named_once(predicted):
    watch = sizes.Watch(predicted, TABLE)
    watch.measure(1, {ROW.key: np.float32(1)})
    predicted_size = predicted.advance(np.array([1.0]), 1, 50)[0]
    assert watch.measure(50, {ROW.key: np.float32(2.9 * predicted_size)})[1] == []
    watch = sizes.Watch(predicted, TABLE)
    watch.measure(1, {ROW.key: np.float32(1)})
    (warning,) = watch.measure(50, {ROW.key: np.float32(3.1 * predicted_size)})[1]
    assert warning.startswith("weights leave the prediction: Linear/head has size ")
    assert "3.1 times" in warning
    assert "kind='radius'" in warning
    assert watch.measure(60, {ROW.key: np.float32(9)})[1] == []


def test_without_a_formula_nothing_is_said():
    watch = sizes.Watch(None, TABLE)
    assert watch.measure(1, {ROW.key: np.float32(2)}) == ({}, [])
    assert watch.notes is None


def test_predictions_of_single_atoms_by_layer():
    stacked = Row("blocks/kernel", "Linear", (1,), (2,), (0,), (2, 8, 8), 1.0, 1.0, (1.0, 1.0))
    table = TargetNormTable("test", {}, (), {}, 1.0, 1.0, (ROW, stacked))
    watch = sizes.Watch(course.make(CONFIG, table, total_steps=100, batch_size=4), table)
    assert watch.predicted == {}
    watch.measure(1, {ROW.key: np.float32(2), stacked.key: np.array([1.0, 3.0], np.float32)})
    assert watch.predicted == {ROW.key: 2.0, stacked.key: [1.0, 3.0]}
