"""Which changes of a config a run may go on with."""

from __future__ import annotations

import json

import pytest
from ml_collections import ConfigDict

from big_vision_dual.train import changes, run_files

BEFORE = {
    "total_steps": 10, "lr": 0.1, "schedule": {"decay_type": "cosine"}, "wandb": False, "log_training_steps": 50,
    "optax_name": "big_vision_dual.scale_by_dualize", "optax": {"momentum": 0.9}, "input": {"batch_size": 8},
    "sharding_strategy": [[".*", "replicate"]], "mixup": None,
}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    """(changed fields) -> the fields that differ; raises where the run may not go on with them."""
    (tmp_path / run_files.CONFIG).write_text(json.dumps(BEFORE))
    return lambda **fields: [str(one) for one in changes.check(tmp_path, ConfigDict({**BEFORE, **fields}))]


def test_what_computes_nothing_else_is_listed(check):
    assert check() == []
    assert check(wandb={"project": "x"}, log_training_steps=10, sharding_strategy=((".*", "fsdp(axis='data')"),)) == [
        "config.log_training_steps: 50 -> 10",
        'config.sharding_strategy: [[".*", "replicate"]] -> [[".*", "fsdp(axis=\'data\')"]]',
        "config.wandb: false -> absent",
        'config.wandb.project: "big_vision_dual" -> "x"',
    ]


def test_defaults_that_are_named_are_no_change(check):
    assert check(resume_changed=False, seed=0, mixup={}, log_atom_norms=True) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.2}, "config.lr: 0.1 -> 0.2"),
        ({"input": {"batch_size": 4}}, "config.input.batch_size: 8 -> 4"),
        ({"seed": 1}, "config.seed: 0 -> 1"),
        ({"total_steps": 20}, "config.total_steps: 10 -> 20"),
        ({"optax": {"momentum": 0.9, "table": "t.json"}}, 'config.optax.table: absent -> "t.json"'),
    ],
)
def test_what_computes_something_else_is_refused_unless_asked_for(check, fields, message):
    with pytest.raises(changes.ConfigChanged) as refused:
        check(**fields)
    assert message in str(refused.value)
    assert "--config.resume_changed=True to go on all the same" in str(refused.value)
    assert message in check(**fields, resume_changed=True)


def test_a_constant_schedule_may_be_longer(tmp_path):
    before = {**BEFORE, "schedule": {"decay_type": "stair", "warmup_steps": 3}}
    (tmp_path / run_files.CONFIG).write_text(json.dumps(before))
    assert len(changes.check(tmp_path, ConfigDict({**before, "total_steps": 20}))) == 1


def test_a_damaged_config_is_said_and_taken_to_be_the_same(tmp_path, caplog):
    (tmp_path / run_files.CONFIG).write_bytes(b'{"lr": \xff}')
    assert changes.check(tmp_path, ConfigDict(BEFORE)) == ()
    assert "config.json is damaged, or no text: byte 7 is not UTF-8. The config is taken to be" in caplog.text
