"""Durations and events against Big Vision's, and their errors."""

import json

import goldens
import pytest

from big_vision_dual.train import optim


def test_durations_equal_big_visions():
    golden = json.loads(goldens.path("big_vision/bv_durations.json").read_text())
    sizes = {key: golden[key] for key in ("data_size", "batch_size")}
    for config, known, expected in golden["rows"]:
        (prefix,) = {key.rpartition("_")[0] for key in config}
        assert optim.steps(prefix, config, **sizes, **known) == expected, (config, known)


def test_events_fire_where_big_visions_do():
    golden = json.loads(goldens.path("big_vision/bv_events.json").read_text())
    for name, expected in golden.items():
        every, total = map(int, name.split("/"))
        assert [step for step in range(1, total + 1) if optim.fires(step, every, total)] == expected, name


def test_events_without_the_first_step_and_without_period():
    assert [step for step in range(1, 21) if optim.fires(step, 7, 20, first=False)] == [7, 14, 20]
    assert not any(optim.fires(step, 0, 20) for step in range(1, 21))


@pytest.mark.parametrize("every", [4, 7, 8, 10, 100])
def test_events_stop_a_quarter_period_before_the_last_step(every):
    """A multiple fires at a distance of a quarter, and not one step nearer; on each side of the quarter."""
    for distance in range(1, every + 1):
        last = 3 * every + distance
        assert optim.fires(3 * every, every, last) is (distance >= every / 4), distance
        assert optim.fires(last, every, last)
        assert not any(optim.fires(step, every, last) for step in range(3 * every + 1, last) if step % every)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"ckpt_epochs": 0.001}, 1),  # never rounds to 0
        ({"ckpt_epochs": 0.0}, 0),
        ({"ckpt_examples": 350}, 4),  # round half to even, as Python does
        ({"ckpt_percent": 0.25}, 10),
        ({"ckpt_percent": 1.0}, 40),
        ({"ckpt_steps": None, "ckpt_examples": -1}, 7),  # nothing set: the default
    ],
)
def test_conversions(config, expected):
    assert optim.steps("ckpt", config, data_size=1000, batch_size=100, total_steps=40, default=7) == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"total_steps": 5, "total_epochs": 2}, r"total is given 2 times: total_steps=5, total_epochs=2\. Keep one"),
        ({}, r"no duration 'total'; possible: one of total_steps, total_epochs"),
        ({"total_epochs": 2}, r"total_epochs=2 needs data_size and batch_size, not known here; give total_steps"),
        ({"total_percent": 20}, r"total_percent is 20; possible: a share in \[0, 1\]"),
    ],
)
def test_errors(config, message):
    with pytest.raises(ValueError, match=message):
        optim.steps("total", config)
