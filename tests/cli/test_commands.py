"""Each command is run once to its end, at the smallest size that goes through all of its parts."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from typing import Any

import pytest

from big_vision_dual.cli import main
from big_vision_dual.cli.main import COMMANDS
from big_vision_dual.lab.studies import bisect, growth, norm_audit
from big_vision_dual.train import run_files

TRACK = pathlib.Path(__file__).parent.parent / "lab" / "track" / "tiny.py"
VIT = [f"--config.{field}" for field in (
    "total_steps=4", "input.batch_size=4", "model.width=8", "model.depth=1", "model.num_heads=2", "model.mlp_dim=8",
)]  # fmt: skip
STUDY = ["--config", "study_vit", *VIT]
BYTES = [f"--config.{field}" for field in (
    "model.d_model=8", "model.n_layers=1", "model.d_state=4", "model.d_head=8", "input_shape=(16,)",
    "input.data.length=16", "evals.val.data.length=16", "input.batch_size=8", "evals.val.batch_size=8",
    "total_steps=2", "wandb=False",
)]  # fmt: skip


RECIPE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(
        seed=0, total_steps=3, num_classes=10, input_shape=(28, 28, 1), model_name="mlp",
        input=dict(data=dict(name="mnist5k", split="train"), batch_size=8),
        model=dict(width=8, depth=1, scaling="dual"),
        optax_name="big_vision_dual.scale_by_dualize", optax=dict(), lr=0.1, schedule=dict(decay_type="cosine")))
"""


@pytest.fixture
def recipe(tmp_path):
    """The path of a dualized recipe that compiles fast."""
    (tmp_path / "small.py").write_text(RECIPE)
    return str(tmp_path / "small.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(recipe with its overrides, workdir) of a byte-level language model that `bvd train` trained for two steps."""
    folder = tmp_path_factory.mktemp("commands")
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat; " * 60)
    recipe, workdir = ["--config", f"mamba2_bytes:{text}", *BYTES], folder / "run"
    assert main(["train", *recipe, "--workdir", str(workdir)]) == 0
    assert rows(workdir)[-1]["step"] == 2
    return recipe, str(workdir)


def rows(workdir) -> list[dict[str, float]]:
    return list(run_files.rows(pathlib.Path(workdir)))


def test_train_eval_report_and_sample(trained, tmp_path, capsys):
    recipe, workdir = trained
    assert main(["eval", *recipe, "--workdir", workdir, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    last = {key: value for row in rows(workdir) for key, value in row.items()}
    assert last["val/loss"] == pytest.approx(evaluated["metrics"]["val/loss"], rel=1e-6)
    page = tmp_path / "report.html"
    assert main(["report", workdir, "--out", str(page), "--picture", str(tmp_path / "picture.png")]) == 0
    assert "training_loss" in page.read_text()
    assert (tmp_path / "picture.png").stat().st_size
    capsys.readouterr()
    assert main(["sample", workdir, "--prompt", "the ", "--length", "3"]) == 0
    assert capsys.readouterr().out.startswith("the ")


def test_demo(tmp_path, capsys):
    assert main(["demo", "--workdir", str(tmp_path), *VIT, "--config.total_steps=32"]) == 0
    shown = capsys.readouterr().out
    assert all(label in shown for label in ("AdamW", "dualized", "32 steps"))
    assert {path.name for path in tmp_path.iterdir()} == {"AdamW", "dualized", "norm_table.json", "demo.png"}
    assert [rows(tmp_path / run)[-1]["step"] for run in ("AdamW", "dualized")] == [32, 32]


def test_coord_check_and_what_its_status_says(tmp_path, capsys):
    command = ["coord-check", *STUDY, "--settings", "dualize", "--sizes", "8,16", "--seeds", "2", "--steps", "3"]
    command += ["--out", str(tmp_path)]
    assert main([*command, "--hidden", "100", "--logits", "100"]) == 0
    measured = (tmp_path / "results.jsonl").read_bytes()
    assert "logits" in capsys.readouterr().out
    assert main([*command, "--hidden", "1e-9"]) == 1  # of the same records
    assert "not flat" in capsys.readouterr().out
    assert (tmp_path / "results.jsonl").read_bytes() == measured
    assert (tmp_path / "coord_change.png").stat().st_size


def test_lr_sweep(tmp_path, capsys):
    command = ["lr-sweep", *STUDY, "--settings", "adamw", "--sizes", "8,16", "--seeds", "2", "--log2-lrs=-10:-8"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "octaves a doubling" in capsys.readouterr().out
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2 * 2 * 3
    assert (tmp_path / "lr_width.png").stat().st_size


@pytest.mark.parametrize(
    ("study", "flags", "shown"),
    [
        ("dual", ["--switches", "warmup"], "leaving the dual end"),
        ("factorial", ["--switches", "warmup"], "full factorial"),
        ("shares", ["--factors", "0.5"], "target norms of some atoms"),
        ("growth", [], "l2_params"),
    ],
)
def test_bisect(study, flags, shown, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bisect, "LOG2_LRS", {"adam": (-8, -7), "dualize": (-3, -2)})
    monkeypatch.setattr(bisect, "_EXTENSIONS", 0)
    monkeypatch.setattr(growth, "RUNS", {"well-normed": growth.RUNS["well-normed"]})
    command = ["bisect", *STUDY, "--study", study, *flags, "--seeds", "2", "--out", str(tmp_path)]
    assert main(command) == 0
    assert shown in " ".join(capsys.readouterr().out.split())
    assert [path.stat().st_size > 0 for path in tmp_path.glob("*.png")] == [True]


def test_track(tmp_path):
    assert main(["track", str(TRACK), "--entry", f"{TRACK}:adam", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "leaderboard.md").read_text()


def test_preflight(recipe, capsys):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, the TPU compiler")
    assert main(["preflight", "--config", recipe, "--topology", "v5e-4", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["step"]["flops"] > 0


def test_norms_audit(capsys, monkeypatch):
    monkeypatch.setattr(norm_audit.amplification, "measure", lambda *_: [])  # asked in test_norm_audit: slow to compile
    monkeypatch.setattr(norm_audit, "_growth", lambda *_: [])
    given = ["--config", "mnist5k_vit_dual", *VIT, "--config.total_steps=32", "--steps", "1", "--factor", "1.001"]
    assert main(["norms", "audit", *given]) == 1
    assert "off by more than a factor of 1.001" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["launch", "--tpu", "v5e-4", "--zone", "z", "--name", "n", "--config", "mnist5k_vit", "--workdir", "gs://b/w"],
         "tpu-vm"),
        (["list"], "mnist5k_vit_dual"),
        (["completion", "zsh"], "coord-check"),
        (["norms", "show", "mnist5k_vit"], "target_norm of 70 leaves"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)  # fmt: skip
def test_commands_that_print(arguments, shown, capsys):
    assert main(arguments) == 0
    assert shown in " ".join(capsys.readouterr().out.split())


def test_no_command_is_missing_here():
    source: Any = pathlib.Path(__file__).read_text()
    assert [name for name in COMMANDS if f'["{name}"' not in source] == []
