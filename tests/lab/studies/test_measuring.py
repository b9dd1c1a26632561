# pyright: reportOperatorIssue=false
"""Measured tables of configs, and the shares of real optimizer steps. Tiny models, MNIST digits."""

import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.cli.main import main
from big_vision_dual.core import measured, tables, trees
from big_vision_dual.lab.studies import grid, measuring, settings
from big_vision_dual.models import init as models_init
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

MODEL = {"model.width": 16, "model.depth": 2, "model.num_heads": 2, "input.batch_size": 16}
ADAM = grid.replace(recipes.load("study_vit").to_dict(), MODEL)
DUAL = grid.replace(settings.dualize(ADAM), {"lr": 0.1})
OVERRIDES = [f"--config.{name}={value}" for name, value in MODEL.items()]


def test_the_measured_table_of_a_config_fits_its_model_and_keeps_its_masses():
    declared, table = norm_trees.build(DUAL), measuring.measured_table(DUAL, examples=4, directions=1)
    assert [(row.key, row.shape, row.mass) for row in table.rows] == [
        (row.key, row.shape, row.mass) for row in declared.rows
    ]
    assert (table.model_name, table.norms["output"], table.norms["at"]) == ("vit", "logits", 0)
    head = table.by_key()["head/bias"]
    assert head.sensitivity == pytest.approx(1, rel=1e-3)  # a unit bias moves each logit row by RMS 1
    small = table.by_key()["Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"]
    assert small.sensitivity < declared.by_key()[small.key].sensitivity  # the bound is one


def test_features_know_nothing_of_the_head():
    table = measuring.measured_table(DUAL, examples=2, directions=1, output="features", batches=2)
    assert {"head/kernel", "head/bias"} <= set(table.norms["floored"])
    assert (table.norms["output"], table.norms["batches"]) == ("features", 2)


def test_a_table_is_measured_at_a_checkpoint(tmp_path):
    params = models_init.params(DUAL, models.of(DUAL), 0)
    params["head"]["kernel"] = 3 * params["head"]["kernel"]
    np.savez(tmp_path / "w.npz", **{f"params/{path}": leaf for path, leaf in trees.flatten(params).items()})
    at_rest = measuring.measured_table(DUAL, examples=2, directions=1)
    table = measuring.measured_table(DUAL, examples=2, directions=1, at=str(tmp_path / "w.npz"))
    key = "Transformer/encoder_norm/bias"  # straight into the head
    assert table.by_key()[key].sensitivity == pytest.approx(3 * at_rest.by_key()[key].sensitivity, rel=1e-3)
    assert table.norms["at"].endswith("w.npz")


def test_an_atom_that_moves_too_far_is_flagged():
    key = "Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel"
    broken = {**DUAL, "target_norm_scale": [[key, 300.0]]}
    found = {share.name: share for share in measuring.step_shares(broken, at=0, factor=8, examples=4)}
    assert found[key].flagged
    assert found[key].ratio == max(share.ratio for share in found.values())
    assert sum(share.share for share in found.values()) == pytest.approx(1)
    assert sum(share.allowed for share in found.values()) == pytest.approx(1)


def test_no_movement_is_an_error_that_says_why():
    with pytest.raises(measured.MeasureError, match="head that starts at zero"):
        measuring.step_shares(grid.replace(ADAM, {"lr": 0.0}), at=0, factor=8, examples=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"output": "labels"}, "logits, features"), ({"examples": 0}, "at least 1"), ({"at": -1}, "1 and 0")],
)
def test_wrong_options_are_named_before_work_starts(options, message):
    with pytest.raises(measured.MeasureError, match=message):
        measuring.measured_table(DUAL, **options)


def test_build_measured_and_measure_on_the_command_line(tmp_path, capsys):
    out, recipe = tmp_path / "measured.json", ["--config", "study_vit", "--config.model.scaling=dual", *OVERRIDES]
    assert main(["norms", "build", *recipe, "--measured", "--examples", "2", "--out", str(out)]) == 0
    table = tables.load(out)
    assert table.norms["conventions"] == "measured"
    assert np.isfinite([row.target_norm for row in table.rows]).all()
    assert main(["norms", "check", str(out), *recipe]) == 0
    assert main(["norms", "diff", str(out), str(out)]) == 0
    assert main(["norms", "measure", *recipe, "--examples", "2", "--factor", "1e9"]) == 0
    assert "change of the output by update 1" in capsys.readouterr().out
