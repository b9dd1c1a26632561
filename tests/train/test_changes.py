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
    return lambda **fields: [str(one) for one in changes.check(tmp_path, ConfigDict({**BEFORE, **fields}), 3)]


def test_what_computes_nothing_else_is_listed(check):
    assert check() == []
    assert check(wandb={"project": "x"}, log_training_steps=10, sharding_strategy=((".*", "fsdp(axis='data')"),)) == [
        "config.log_training_steps: 50 -> 10",
        'config.sharding_strategy: [[".*", "replicate"]] -> [[".*", "fsdp(axis=\'data\')"]]',
        "config.wandb: false -> absent",
        'config.wandb.project: "big_vision_dual" -> "x"',
    ]


def test_how_a_step_is_compiled_may_change(check):
    assert check(compile_effort=-1.0, compile_cache="off") == [
        'config.compile_cache: absent -> "off"', "config.compile_effort: absent -> -1.0",
    ]  # fmt: skip


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
    assert len(changes.check(tmp_path, ConfigDict({**before, "total_steps": 20}), 3)) == 1


def test_a_damaged_config_is_said_and_taken_to_be_the_same(tmp_path, caplog):
    (tmp_path / run_files.CONFIG).write_bytes(b'{"lr": \xff}')
    assert changes.check(tmp_path, ConfigDict(BEFORE), 3) == ()
    assert "config.json is damaged, or no text: byte 7 is not UTF-8. The config is taken to be" in caplog.text


def test_a_config_that_is_missing_beside_a_checkpoint_is_said(tmp_path, caplog):
    assert changes.check(tmp_path, ConfigDict(BEFORE), None) == ()
    assert not caplog.text
    assert changes.check(tmp_path, ConfigDict(BEFORE), 3) == ()
    assert f"{tmp_path} has no config.json: the config is taken to be the same" in caplog.text


def test_without_a_checkpoint_any_config_may_begin(tmp_path):
    (tmp_path / run_files.CONFIG).write_text(json.dumps(BEFORE))
    other = ConfigDict({**BEFORE, "lr": 0.2, "log_training_steps": 1})
    assert [str(one) for one in changes.check(tmp_path, other, None)] == ["config.lr: 0.1 -> 0.2"]


def test_configs_of_one_step_are_all_kept(tmp_path):
    """The first of these trained until there; the second may have failed at once."""
    for content in ("1", "2", "2", "1", "3"):
        (tmp_path / run_files.CONFIG).write_text(content)
        changes.keep(tmp_path, 4)
    kept = {path.name: path.read_text() for path in tmp_path.glob("config.until-*")}
    assert kept == {
        "config.until-step-4.json": "1",
        "config.until-step-4-2.json": "2",
        "config.until-step-4-3.json": "3",
    }


def test_other_data_is_refused_unless_asked_for():
    changes.check_data({}, 5, ConfigDict())
    changes.check_data({7: 1, 5: 2}, 5, ConfigDict())
    changes.check_data({7: 1}, 5, ConfigDict({"resume_changed": True}))
    with pytest.raises(changes.ConfigChanged, match=r"has 5 examples, and had 1,007 and 6 until the checkpoint.*=True"):
        changes.check_data({1007: 1, 6: 1}, 5, ConfigDict())
