"""A run that is stopped and continued gives the numbers of one that was not."""

from __future__ import annotations

import signal

import pytest
from run_rows import repeatable as rows

from big_vision_dual.train import checkpoint, signals
from big_vision_dual.train.loop import fit


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what orbax leaves after an error
def test_a_damaged_checkpoint_is_skipped_and_its_steps_are_computed_again(tmp_path, tiny, caplog):
    fit(tiny(model="mlp"), tmp_path)
    whole = rows(tmp_path)
    newest = tmp_path / checkpoint.FOLDER / "12" / "state"
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    fit(tiny(model="mlp"), tmp_path)
    assert "checkpoint 12" in caplog.text
    assert rows(tmp_path) == whole
    assert sorted(path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()) == ["12", "12.damaged", "8"]


def test_config_resume_continues_another_run(tmp_path, tiny):
    fit(tiny(model="mlp"), tmp_path / "first")
    fit(tiny("--config.total_steps=14", f"--config.resume={tmp_path / 'first'}", model="mlp"), tmp_path / "second")
    assert [row["step"] for row in rows(tmp_path / "second")] == [13, 14]
    with pytest.raises(checkpoint.CheckpointError, match="has no checkpoint; give the workdir of a run"):
        fit(tiny(f"--config.resume={tmp_path / 'nothing'}", model="mlp"), tmp_path / "third")


def test_a_checkpoint_of_another_model_is_an_error_not_a_fresh_start(tmp_path, tiny):
    fit(tiny(model="mlp"), tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match=r"of another model or optimizer.*or another workdir"):
        fit(tiny("--config.model.width=40", model="mlp"), tmp_path)
