# pyright: reportArgumentType=false
"""Each constraint at its own best rate, the grid of rates and radii, and the promise along training: what they run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from big_vision_dual.lab.studies import constraint, grid, promise, sweep
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.train import recipes

FLAGS = ("model.width=8", "model.depth=1", "model.num_heads=2", "model.scan=True", "total_steps=20",
         "input.batch_size=8")  # fmt: skip
BASE = recipes.load("study_vit", [f"--config.{flag}" for flag in FLAGS]).to_dict()


@pytest.fixture
def runs(monkeypatch) -> list[grid.Trial]:
    """What a study asks for. Losses: a bowl around 2^-3, but those of hyperballs fall on until 2^0 diverges."""
    asked: list[grid.Trial] = []

    def run(trials, results, program=None):
        del results, program
        asked.extend(trials)
        return [{"point": t.point, "config": t.config, "result": _result(t)} for t in trials], None

    monkeypatch.setattr(sweep, "run", run)
    return asked


def _result(trial: grid.Trial) -> dict[str, Any]:
    log2_lr = np.log2(trial.config["lr"])
    held = (trial.config.get("weight_constraint") or {}).get("kind") == "hyperball"
    loss = -log2_lr if held else 1 + (log2_lr + 3) ** 2 + trial.config["seed"] / 10
    radius = (trial.config.get("weight_constraint") or {}).get("radius")
    if trial.config["total_steps"] == 80:  # four times the steps
        loss += abs((radius or 0) - 90) / 100
    start = {"l2_params": 2.0}
    return {
        "start": start,
        "l2_params": 3.0,
        "train_loss": loss,
        "val_loss": loss,
        "val_accuracy": 1 / (2 + loss),
        "finite": bool(log2_lr < 0),
    }


def test_rates_are_tuned_on_held_out_images_of_one_seed_and_judged_on_others(runs):
    found = constraint.at_their_best(BASE, 3, None, ["none", "radius 25"])
    assert [best.log2_lr for best in found.values()] == [-3, -3]
    tuning = [t for t in runs if t.config["input"]["data"]["split"] == "train[:90%]"]
    assert {t.config["evals"]["val"]["data"]["split"] for t in tuning} == {"train[90%:]"}
    assert {t.config["seed"] for t in tuning} == {0}
    judged = [t for t in runs if t not in tuning]
    assert {(t.config["evals"]["val"]["data"]["split"], t.config["lr"]) for t in judged} == {("test", 2**-3)}
    assert [t.config["seed"] for t in judged] == [1, 2, 3, 1, 2, 3]
    np.testing.assert_allclose(found["radius 25"].loss_S, [1.1, 1.2, 1.3])
    np.testing.assert_allclose(found["none"].growth_S, 1.5)
    loss, _ = constraint.difference(found["radius 25"], found["none"])
    assert loss.value == pytest.approx(0)


def test_a_rate_at_the_edge_extends_the_grid_and_one_that_diverges_is_not_best(runs):
    found = constraint.at_their_best(BASE, 2, None, ["hyperball"])["hyperball"]
    assert (found.log2_lr, found.at_edge) == (-1, False)
    assert sorted(found.tuned) == [-6, -5, -4, -3, -2, -1, 0]
    assert found.tuned[0] == np.inf
    assert runs


def test_a_grid_grows_downwards_too():
    assert constraint._beyond({-6: 0.1, -5: 0.2, -4: 0.3, -3: 0.4, -2: 0.5}) == [-7]
    assert constraint._beyond({x: float(-x) for x in range(-6, 1)}) == []


def test_a_split_that_is_a_part_cannot_be_held_out_of():
    with pytest.raises(ValueError, match="possible: a whole split, to be held out of"):
        constraint.at_their_best(grid.replace(BASE, {"input.data.split": "train[:50%]"}), 2, None)


def test_the_grid_at_the_base_and_its_best_with_neighbours_at_larger_sizes(runs):
    found = constraint.transfer(BASE, 2, None)
    assert found.best == (2**-3, 10)
    at_base = [t for t in runs if t.point["size"] == "base"]
    assert len(at_base) == len(constraint.LRS) * len(constraint.RADII) * 2
    shapes = {
        t.point["size"]: (t.config["model"]["width"], t.config["model"]["depth"], t.config["total_steps"]) for t in runs
    }
    assert shapes == {"base": (8, 1, 20), "width x 8": (64, 1, 20), "depth x 8": (8, 8, 20), "steps x 4": (8, 1, 80)}
    asked = {(t.config["lr"], t.config["weight_constraint"]["radius"]) for t in runs if t.point["size"] == "depth x 8"}
    assert asked == {(2**-3, 10), (2**-4, 10), (2**-2, 10), (2**-3, 10 * (1 / 3)), (2**-3, 30)}
    np.testing.assert_allclose(found.regret("depth x 8"), 0)
    np.testing.assert_allclose(found.regret("steps x 4"), 0.2)  # where 3 R is better


def test_an_own_norm_hyperball_keeps_the_promise_better_than_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(promise, "LR", 0.5)
    found = promise.run(BASE, 2, Results(tmp_path / "results.jsonl"), ["none", "own-norm hyperball"])
    free, held = (np.array([r["result"]["curve"]["together"][-1] for r in records]) for records in found.values())
    start = found["none"][0]["result"]["start"]["together"]
    assert start < 1.5
    assert (held < free).all()
    assert found["none"][0]["result"]["start"] == found["own-norm hyperball"][0]["result"]["start"]
