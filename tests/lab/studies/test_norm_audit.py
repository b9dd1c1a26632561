"""The audit passes a well-normed table and finds what was broken on purpose. Tiny models, MNIST digits and bytes."""

import re

import ml_collections
import numpy as np
import pytest

from big_vision_dual.lab.studies import grid, norm_audit, settings
from big_vision_dual.models import weights
from big_vision_dual.train import checkpoint, recipes, run_files, start

CONFIG = settings.dualize(
    grid.replace(
        recipes.load("study_vit").to_dict(),
        {"model.width": 16, "model.depth": 2, "model.num_heads": 2, "lr": 0.1, "input.batch_size": 32},
    )
)


def test_a_well_normed_table_passes_and_progress_is_shown_in_a_file_too(capsys):
    findings = norm_audit.audit(CONFIG, steps=3)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"1/{len(findings)} measurements  ETA \S+", first)
    assert re.fullmatch(rf"{len(findings)}/{len(findings)} measurements  ETA 0:00:00", last)
    assert {finding.what for finding in findings} == set(norm_audit.KINDS)
    assert [finding for finding in findings if finding.flagged] == []


def test_changes_grow_along_training_and_a_hyperball_holds_them(monkeypatch):
    """Depth 2, width 16: the change of all atoms together is within the bound at the start and beyond it later."""
    monkeypatch.setattr(norm_audit.amplification, "measure", lambda *_: [])  # not asked here, and slow to compile
    monkeypatch.setattr(norm_audit, "_growth", lambda *_: [])

    def together(config, at):
        findings = norm_audit.audit(config, steps=1, at=at)
        return next(finding.measured for finding in findings if finding.name == norm_audit.TOGETHER)

    fast = {**CONFIG, "lr": 0.5}
    held = {**fast, "weight_constraint": {"kind": "hyperball", "norm": "own"}}
    start, free, constrained = together(fast, 0), together(fast, 60), together(held, 60)
    assert start < 1
    assert free > 2 * start
    assert constrained < free


def test_an_atom_that_moves_a_hundred_times_too_far_is_found():
    broken = {**CONFIG, "target_norm_scale": [["Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel", 100.0]]}
    flagged = [finding for finding in norm_audit.audit(broken, steps=3) if finding.flagged]
    assert {finding.name for finding in flagged} == {"Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel"}
    assert {finding.what for finding in flagged} >= {"change"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The workdir of a run with stacked layers whose two Dense_1 kernels have grown to 5 and 20 times unit norm."""
    monkeypatch.setattr(norm_audit.amplification, "measure", lambda *_: [])
    folder, config = tmp_path / "run", ml_collections.ConfigDict(grid.replace(CONFIG, {"model.scan": True}))
    folder.mkdir()
    (folder / run_files.CONFIG).write_text(config.to_json())
    (folder / run_files.CHECKPOINTS).mkdir()
    state = start.run_of(folder).fns.init()
    kernel = state.params["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_1"]
    kernel["kernel"] = kernel["kernel"] * np.array([5.0, 20.0], np.float32)[:, None, None]
    with checkpoint.Checkpoints(folder / run_files.CHECKPOINTS) as checkpoints:
        checkpoints.save(7, state, {})
    weights.save(state.params, tmp_path / "weights.npz")
    return folder


@pytest.mark.parametrize("place", ["run", "run/checkpoints/7", "weights.npz"])
def test_a_checkpoint_is_audited_where_it_is(run, place):
    findings = norm_audit.audit(CONFIG, at=str(run.parent / place))
    grown = {f.name.removeprefix("Transformer/"): f.measured for f in findings if f.what == "growth" and f.measured > 3}
    assert grown == pytest.approx(
        {"encoderblock_0/MlpBlock_0/Dense_1/kernel": 5, "encoderblock_1/MlpBlock_0/Dense_1/kernel": 20}, rel=1e-2
    )
    assert {f.name.split("/")[1] for f in findings if f.flagged and f.what == "growth"} == {"encoderblock_1"}
    fresh = {f.name: f.measured for f in norm_audit.audit(CONFIG, steps=1) if f.what == "change"}
    first = "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"
    assert {f.name: f.measured for f in findings if f.what == "change"}[first] > 2 * fresh[first]


def test_what_is_no_checkpoint_says_so(run):
    with pytest.raises(checkpoint.CheckpointError, match="has no checkpoint of a run; give the --workdir"):
        norm_audit.audit(CONFIG, at=str(run / "nothing"))
    with pytest.raises(checkpoint.CheckpointError, match=r"possible in .*: 7"):
        norm_audit.audit(CONFIG, at=str(run / "checkpoints" / "8"))
    with pytest.raises(weights.WeightsError, match="encoderblock_2"):
        norm_audit.audit(grid.replace(CONFIG, {"model.depth": 3}), at=str(run))


def test_audit_wants_a_table():
    with pytest.raises(ValueError, match="audit wants a dualized config, not optax_name 'scale_by_adam'"):
        norm_audit.audit(settings.adamw(CONFIG))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes())
    return path


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_state_space_models_are_audited_too(name, text):
    length = ("--config.input_shape=(8,)", "--config.input.data.length=8", "--config.evals.val.data.length=8")
    small = ("--config.model.d_model=16", "--config.model.d_state=4", "--config.input.batch_size=4")
    config = recipes.load(f"{name}_bytes_dual:{text}", [*length, *small]).to_dict()
    findings = norm_audit.audit(config, steps=2)
    assert [finding for finding in findings if finding.flagged] == []
    measured = {finding.name for finding in findings}
    assert {"stem to logits", "block 0", "layers_1/mixer/A_log", "head/kernel"} <= measured
    assert "layers_1/mixer/A_log" not in {finding.name for finding in findings if finding.what == "growth"}


def test_vision_mamba_is_audited_too():
    size = {"width": 16, "depth": 2, "patch_size": 14, "d_state": 4}
    config = {**CONFIG, "model_name": "vision_mamba", "model": {**size, "scaling": "dual"}}
    findings = norm_audit.audit(config, steps=2)
    assert [finding for finding in findings if finding.flagged] == []
    assert {"stem to logits", "block 0", "layers_1/backward/A_log"} <= {finding.name for finding in findings}


def test_a_model_that_names_no_blocks_has_no_sensitivities():
    mlp = {**CONFIG, "model_name": "mlp", "model": {"width": 8, "depth": 2, "scaling": "dual"}}
    findings = norm_audit.audit(mlp, steps=2)
    assert {finding.what for finding in findings} == {"change", "growth"}
    assert norm_audit.TOGETHER in {finding.name for finding in findings}
