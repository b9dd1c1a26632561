"""Reading what runs left, and finding it."""

import dataclasses
import json
import os
import platform
import subprocess

import pytest
import workdirs

from big_vision_dual.core import files
from big_vision_dual.lab.report import runs
from big_vision_dual.train import lock, run_files


def test_a_run_as_the_trainer_left_it(tmp_path):
    run = runs.read(workdirs.workdir(tmp_path / "a"))
    assert run.curve("training_loss") == ([1, 2, 4], [2.0, 1.0, 0.5])  # without the half-written row
    assert run.hours == ([1, 2, 4], [0.25, 0.5, 1.0])  # core hours over two devices
    assert run.table is not None
    assert len(run.atoms) == 3
    assert (run.status, run.total_steps) == ("finished", 4)


def test_status_of_a_run_that_has_not_finished(tmp_path):
    folder = workdirs.workdir(tmp_path / "a", total_steps=100)
    assert runs.read(folder).status == "running"
    os.utime(folder / "big_vision_metrics.txt", (0, 0))
    assert runs.read(folder).status == "stopped at step 4"


@pytest.mark.parametrize("host", [platform.node(), "elsewhere"])
def test_a_run_whose_process_ended_is_stopped_at_once(tmp_path, host):
    folder = workdirs.workdir(tmp_path / "a", total_steps=100)
    gone = subprocess.Popen(["true"])
    gone.wait()
    living = lock.Owner("token", host, os.getpid(), "someone", "2026-01-01 00:00:00 UTC", "bvd train")
    for owner, here in ((living, "running"), (dataclasses.replace(living, pid=gone.pid), "stopped at step 4")):
        (folder / run_files.OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
        assert runs.read(folder).status == (here if host == platform.node() else "running")


def test_folders_of_runs_and_studies(tmp_path):
    for name in ("x/dual/0", "x/dual/1", "y/adam/0"):
        workdirs.workdir(tmp_path / name)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "results.jsonl").write_text("")
    found = runs.find([tmp_path, tmp_path / "x"])
    assert [run.label for run in found.runs] == ["dual/0", "dual/1", "adam/0"]  # each once
    assert list(found.studies) == ["sweep"]


def test_seeds_are_one_experiment_and_a_learning_rate_is_another(tmp_path):
    folders = [workdirs.workdir(tmp_path / "a"), workdirs.workdir(tmp_path / "b", seed=1)]
    same = [runs.read(folder).experiment for folder in folders]
    assert same[0] == same[1]
    assert runs.read(workdirs.workdir(tmp_path / "c", lr=0.1)).experiment != same[0]


def test_differing_fields(tmp_path):
    pair = [runs.read(workdirs.workdir(tmp_path / "a")), runs.read(workdirs.workdir(tmp_path / "b", lr=0.1, wd=1.0))]
    assert runs.differing_fields(pair) == [("lr", [0.5, 0.1]), ("wd", [None, 1.0])]


def test_damaged_lines_are_passed_over_and_damaged_files_named(tmp_path, caplog):
    folder = workdirs.workdir(tmp_path / "a")
    metrics = folder / "big_vision_metrics.txt"
    metrics.write_bytes(b"\xff\xfe\n" + metrics.read_bytes())
    assert len(runs.read(folder).rows) == 3
    assert "line 1 cannot be read" in caplog.text
    (folder / "versions.json").write_text("[1")
    with pytest.raises(files.FileError, match=r"versions\.json is damaged"):
        runs.read(folder)


def test_a_folder_with_nothing_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nor has it runs, studies"):
        runs.find([tmp_path])
    with pytest.raises(FileNotFoundError, match="Give the --workdir"):
        runs.read(tmp_path)


def test_one_file_of_results_by_its_own_name(tmp_path):
    path = tmp_path / "sweep" / "other.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"point": {}, "result": {}}) + "\n")
    assert runs.find([path]).studies == {"sweep": str(path)}
