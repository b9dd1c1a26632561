"""What a run leaves in its workdir."""

from __future__ import annotations

import json
import re
import resource

import numpy as np
import pytest

from big_vision_dual.core import tables
from big_vision_dual.core.dualize import measure
from big_vision_dual.models import weights
from big_vision_dual.train import atom_norms, health, run_files, setup, workdir
from big_vision_dual.train.loop import fit


def test_a_run_describes_itself(tmp_path, tiny):
    config = tiny("--config.total_steps=3", "--config.log_atom_norms=True", "--config.wandb=True", model="mlp")
    with config.unlocked():
        config.optax_name = "scale_by_adam"
        config.profile = {"start": 2, "steps": 1}
        config.evals.ema = {**config.evals.val, "pred": "predict_ema"}
        config.evals.start = {**config.evals.val, "at_start": True, "cache": "final"}
        config.ema = {"decay": 0.5}
    last = fit(config, tmp_path)
    rows = list(run_files.rows(tmp_path))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert {"start/loss", "start/acc@1"} <= set(rows[0])
    assert not {"val/loss", "training_loss"} & set(rows[0]), "only what wants to run before step 1"
    assert last["step"] == 3
    assert {"training_loss", "l2_params", "val/acc@1", "val/loss", "ema/loss", "weight_norm/Linear/head"} <= set(last)
    assert {"size/Linear/head", "predicted_size/Linear/head"} <= set(last)
    assert last["val/loss"] != last["ema/loss"]
    assert (last["examples_seen"], last["epoch"], last["progress"]) == (96, 0.96, 1.0)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3
    assert tables.load(tmp_path / "norm_table.json").model_name == "mlp"
    assert "jax" in json.loads((tmp_path / "versions.json").read_text())
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    run_id = (tmp_path / "wandb_id.txt").read_text()
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))

    assert fit(config, tmp_path)["step"] == 3  # done already: nothing to do, the same wandb run
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))) >= 1
    assert len(list(run_files.rows(tmp_path))) == 4
    _check_norms_of_atoms(tmp_path)


def _check_norms_of_atoms(folder):
    """Rows at the logged steps, in the order of the table; the mean over a group is the metric of that name."""
    rows, table = list(run_files.rows(folder, run_files.ATOM_NORMS)), tables.load(folder / "norm_table.json")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(len(row["weight_norm"]) == len(table.rows) for row in rows)
    last, means = rows[-1], list(run_files.rows(folder))[-1]
    of_heads = [last["update_norm"][i] for i, row in enumerate(table.rows) if measure.group_name(row) == "Linear/head"]
    assert np.mean(of_heads) == pytest.approx(means["update_norm/Linear/head"], rel=1e-4)


def test_rows_of_atoms_are_thinned_to_what_a_picture_shows():
    assert atom_norms.period(50, 10_000) == 50
    period = atom_norms.period(50, 111_477)
    assert period % 50 == 0
    assert 200 < 111_477 / period <= 400


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, tiny):
    fit(tiny("--config.total_steps=4", model="mlp"), tmp_path)
    longer = ("--config.total_steps=12", "--config.log_training_steps=5", "--config.resume_changed=True")
    with pytest.raises(health.NonFiniteError, match=r"at step [67]: .*step 4 is kept; the same command"):
        fit(tiny("--config.lr=1e30", *longer, model="mlp"), tmp_path)
    assert sorted(path.name for path in (tmp_path / run_files.CHECKPOINTS).iterdir()) == ["4"]


@pytest.mark.parametrize(
    ("largest_file", "message", "left"),
    [
        (500, r"cannot use the workdir .*/run: .*File too large.*Free some space", []),
        (8000, r"could not write a checkpoint to .*: .*File too large.*there is none yet\. Free some space", [4]),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, train_process, largest_file, message, left):
    process = train_process(tmp_path / "run", model="mlp")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert re.search(message, output), output
    assert "Traceback" not in output
    unfinished = [path.name for path in (tmp_path / "run" / run_files.CHECKPOINTS).iterdir()]
    assert unfinished == [f"{step}.orbax-checkpoint-tmp" for step in left]
    again, _ = train_process(tmp_path / "run", model="mlp").communicate(timeout=120)
    assert "starts afresh" in again
    assert [row["step"] for row in run_files.rows(tmp_path / "run")] == list(range(1, 13))


def test_a_workdir_that_cannot_be_made(tiny):
    with pytest.raises(workdir.WorkdirError, match=r"cannot use the workdir /proc/w: .*"):
        fit(tiny(model="mlp"), "/proc/w")


def test_model_init_starts_from_a_weights_file(tmp_path, tiny):
    state = setup.prepare(tiny("--config.seed=8", model="mlp")).fns.init()
    weights.save(state.params, tmp_path / "w.npz")
    one_step = ("--config.total_steps=1", "--config.lr=1e-30", "--config.wd=0.")
    fit(tiny(*one_step, f"--config.model_init={tmp_path / 'w.npz'}", model="mlp"), tmp_path / "run")
    (row,) = run_files.rows(tmp_path / "run")
    fit(tiny(*one_step, "--config.seed=8", model="mlp"), tmp_path / "fresh")
    (fresh,) = run_files.rows(tmp_path / "fresh")
    assert row["l2_params"] == fresh["l2_params"]


def test_without_a_workdir_nothing_is_kept(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit(tiny("--config.total_steps=3", model="mlp"))["step"] == 3
    assert not list(tmp_path.iterdir())
