"""A run that is stopped and continued gives the numbers of one that was not."""

from __future__ import annotations

import json
import os
import signal
import tarfile

import goldens
import numpy as np
import pytest
from etils import epath
from run_rows import repeatable as rows

from big_vision_dual.train import changes, checkpoint, lock, recipes, run_files, signals, workdir
from big_vision_dual.train.loop import fit
from big_vision_dual.train.progress import Progress


def test_sigterm_then_the_same_command_equals_the_uninterrupted_run(tmp_path, tiny, train_process):
    fit(tiny(), tmp_path / "whole")
    process = train_process(tmp_path / "stopped")
    for line in process.stdout:
        if line.startswith("step 6/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait(60) == signals.EXIT_CODE, rest
    assert "saved, the same command continues" in rest
    stopped_at = rows(tmp_path / "stopped")[-1]["step"]
    assert 6 <= stopped_at < 12

    fit(tiny(), tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == list(range(1, 13))
    assert "val/acc@1" in rows(tmp_path / "whole")[-1]


LOSSES_0_1 = {4: 2.3197434, 5: 2.3897698, 6: 2.2682877}
"""Of version 0.1's steps after the checkpoint of run_0_1.tar.gz; float32 sums in another order differ by 1e-6."""


@pytest.mark.filterwarnings("ignore:.* is now .*:DeprecationWarning")
def test_a_run_of_version_0_1_continues_as_it_would_have(tmp_path, capsys):
    with tarfile.open(goldens.path("run_0_1.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    kept = json.loads((tmp_path / "run" / run_files.CONFIG).read_text())
    flags = {"total_steps": 6, "ckpt_steps": 3, "keep_ckpt_steps": 3, "log_training_steps": 1, "input.batch_size": 20}
    size = {name: kept["model"][name] for name in ("depth", "width", "mlp_dim", "num_heads")}
    flags |= {f"model.{name}": value for name, value in size.items()}
    config = recipes.load(
        str(goldens.path("configs_0_1/mnist5k_vit_dual.py")), [f"--config.{k}={v}" for k, v in flags.items()]
    )
    fit(config, tmp_path / "run")
    assert "continues at step 3 of this workdir" in capsys.readouterr().out
    losses = {row["step"]: row["training_loss"] for row in rows(tmp_path / "run") if row["step"] > 3}
    assert losses == pytest.approx(LOSSES_0_1, abs=1e-5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what orbax leaves after an error
def test_a_damaged_checkpoint_is_skipped_and_its_steps_are_computed_again(tmp_path, tiny, caplog):
    fit(tiny(model="mlp"), tmp_path)
    whole = rows(tmp_path)
    newest = tmp_path / run_files.CHECKPOINTS / "12" / "state"
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    fit(tiny(model="mlp"), tmp_path)
    assert "checkpoint 12" in caplog.text
    assert rows(tmp_path) == whole
    assert sorted(path.name for path in (tmp_path / run_files.CHECKPOINTS).iterdir()) == ["12", "12.damaged", "8"]


def test_config_resume_continues_another_run(tmp_path, tiny):
    fit(tiny(model="mlp"), tmp_path / "first")
    fit(tiny("--config.total_steps=14", f"--config.resume={tmp_path / 'first'}", model="mlp"), tmp_path / "second")
    assert [row["step"] for row in rows(tmp_path / "second")] == [13, 14]
    with pytest.raises(checkpoint.CheckpointError, match="has no checkpoint; give the workdir of a run"):
        fit(tiny(f"--config.resume={tmp_path / 'nothing'}", model="mlp"), tmp_path / "third")


def test_a_checkpoint_of_another_model_is_an_error_not_a_fresh_start(tmp_path, tiny):
    fit(tiny(model="mlp"), tmp_path)
    with pytest.raises(changes.ConfigChanged, match=r"another config:\n  config.model.width: 32 -> 40\n"):
        fit(tiny("--config.model.width=40", model="mlp"), tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"of another model or optimizer.*or another workdir"):
        fit(tiny("--config.model.width=40", "--config.resume_changed=True", model="mlp"), tmp_path)


def test_a_changed_config_is_listed_and_kept_and_counters_go_on(tmp_path, tiny, caplog):
    """../shared/cases/21: half the batch size from step 4 on."""
    fit(tiny("--config.total_steps=4", "--config.schedule.decay_type=stair", model="mlp"), tmp_path)
    before = json.loads((tmp_path / run_files.CONFIG).read_text())
    smaller = ("--config.total_steps=6", "--config.schedule.decay_type=stair", "--config.input.batch_size=16")
    with pytest.raises(changes.ConfigChanged) as refused:
        fit(tiny(*smaller, model="mlp"), tmp_path)
    assert "config.input.batch_size: 32 -> 16\n" in str(refused.value)
    assert "total_steps" not in str(refused.value)  # a constant schedule goes on as if it had been longer
    assert json.loads((tmp_path / run_files.CONFIG).read_text()) == before
    fit(tiny(*smaller, "--config.resume_changed=True", model="mlp"), tmp_path)
    assert "goes on with another config than before: config.input.batch_size: 32 -> 16" in caplog.text
    assert [row["examples_seen"] for row in run_files.rows(tmp_path)] == [32, 64, 96, 128, 144, 160]
    assert [row["epoch"] for row in run_files.rows(tmp_path)][-1] == 1.6
    assert json.loads((tmp_path / "config.until-step-4.json").read_text()) == before
    assert json.loads((tmp_path / run_files.CONFIG).read_text())["input"]["batch_size"] == 16


def test_resume_step_goes_back_once_and_then_on(tmp_path, tiny, monkeypatch):
    fit(tiny(model="mlp"), tmp_path)
    whole = rows(tmp_path)
    back = tiny("--config.resume_step=8", model="mlp")
    for config, begins in ((back, 8), (back, 12), (tiny("--config.resume_step=8", "--config.log_atom_norms=False",
                           "--config.keep_ckpt_steps=6", model="mlp"), 8)):  # fmt: skip
        told = []
        monkeypatch.setattr(Progress, "say", lambda _, text, told=told: told.append(text))
        fit(config, tmp_path)
        assert told[1] == f"continues at step {begins} of this workdir"
        assert rows(tmp_path) == whole
    names = sorted(path.name for path in (tmp_path / run_files.CHECKPOINTS).iterdir())
    assert names == ["12", "12.superseded", "12.superseded-2", "8"]


def test_a_run_without_a_checkpoint_leaves_its_rows_to_no_other_config(tmp_path, tiny):
    short = ("--config.total_steps=3", "--config.ckpt_steps=0")
    fit(tiny(*short, model="mlp"), tmp_path)
    first = rows(tmp_path)
    fit(tiny(*short, model="mlp"), tmp_path)
    assert rows(tmp_path) == first
    assert not list(tmp_path.glob("*.superseded.txt"))
    lines = (tmp_path / run_files.METRICS).read_text()
    fit(tiny(*short, "--config.lr=0.2", model="mlp"), tmp_path)
    assert rows(tmp_path) != first
    assert (tmp_path / "big_vision_metrics.superseded.txt").read_text() == lines
    assert json.loads((tmp_path / "config.until-step-0.json").read_text())["lr"] == 0.3


def test_rows_are_kept_where_the_checkpoints_have_gone(tmp_path, tiny):
    fit(tiny("--config.total_steps=5", model="mlp"), tmp_path)
    lines = (tmp_path / run_files.METRICS).read_text()
    (tmp_path / run_files.CHECKPOINTS).rename(tmp_path / "elsewhere")
    fit(tiny("--config.total_steps=5", model="mlp"), tmp_path)
    assert (tmp_path / "big_vision_metrics.superseded.txt").read_text() == lines


def test_what_is_continued_knows_its_rows_and_refuses_other_data_under_the_same_name(
    tmp_path, tiny, monkeypatch, caplog
):
    folder, data = tmp_path / "run", tmp_path / "data.npz"
    arrays = dict(np.load(os.environ["DATA"]))
    np.savez(data, **arrays)
    monkeypatch.setenv("DATA", str(data))
    fit(tiny("--config.total_steps=4", model="mlp"), folder)
    fit(tiny("--config.total_steps=4", model="mlp"), folder)
    assert "on disk" not in caplog.text
    metrics = folder / run_files.METRICS
    metrics.write_text(metrics.read_text().replace('"examples_seen": 64.0', '"examples_seen": 65.0'))
    fit(tiny("--config.total_steps=4", model="mlp"), folder)
    assert f"{metrics}: of its 4 rows until step 4 some changed on disk" in caplog.text
    arrays["train_image"], arrays["train_label"] = arrays["train_image"][:90], arrays["train_label"][:90]
    np.savez(data, **arrays)
    with pytest.raises(changes.ConfigChanged, match="the training data has 90 examples, and had 100 until"):
        fit(tiny("--config.total_steps=4", model="mlp"), folder)


def test_one_training_a_workdir(tmp_path, tiny):
    with lock.held(epath.Path(tmp_path)):
        with pytest.raises(workdir.WorkdirError, match=rf"another training has .*: process {os.getpid()} of "):
            fit(tiny(model="mlp"), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [run_files.OWNER]
    assert fit(tiny("--config.total_steps=1", model="mlp"), tmp_path)["step"] == 1
