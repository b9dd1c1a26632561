# pyright: reportAttributeAccessIssue=false
"""What wandb gets, and that nothing it does ends a training."""

from __future__ import annotations

import types

import pytest
import wandb

from big_vision_dual.core import tables
from big_vision_dual.train import sinks, table_picture


def test_rows_get_sections_and_norms_become_histograms():
    row = {
        "step": 7, "training_loss": 2.0, "train/loss": 2.0, "l2_params": 3.0, "img/sec": 9.0, "img/sec/core": 4.5,
        "val/acc@1": 0.5, "weight_norm/Linear/head": 1.0, "weight_norm/Linear/query": 2.0, "update_norm/Bias/head": 4.0,
    }  # fmt: skip
    assert sinks.sectioned(row) == {
        "train/loss": 2.0, "train/l2_params": 3.0, "speed/img_per_sec": 9.0, "speed/img_per_sec_per_core": 4.5,
        "val/acc@1": 0.5, "norms/Linear/weight_norm": [1.0, 2.0], "norms/Bias/update_norm": [4.0],
    }  # fmt: skip


@pytest.mark.parametrize("trouble", ["login", "init"])
def test_without_an_answer_the_run_is_kept_offline(monkeypatch, caplog, trouble):
    modes = []

    def init(*, mode, **_):
        modes.append(mode)
        if mode == "online":
            raise ConnectionError("no such host")
        return "a run"

    def login(**_):
        if trouble == "login":
            raise wandb.errors.AuthenticationError("Failed to authenticate")
        return True

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", login)
    monkeypatch.setattr(wandb, "init", init)
    assert sinks._started({"dir": None, "id": "x"}) == "a run"
    assert modes == (["offline"] if trouble == "login" else ["online", "offline"])
    assert "the run is kept offline" in caplog.text


def test_what_fails_later_is_said_once_and_left_out(caplog):
    sink = sinks.WandbSink.__new__(sinks.WandbSink)
    sink.failed, sink.id, sink._last_norms = False, "x", {}
    calls = []

    def log(*arguments, **_):
        calls.append(arguments)
        raise RuntimeError("the service died")

    sink._wandb = types.SimpleNamespace(log=log)
    for step in (1, 2):
        sink.log({"step": step, "training_loss": 1.0})
    sink.alert("a", "b")
    sink.close()
    assert len(calls) == 1
    assert caplog.text.count("wandb failed (RuntimeError: the service died)") == 1


def test_a_table_has_a_picture():
    picture = table_picture.png(tables.load("vit_s16_i1k"))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
