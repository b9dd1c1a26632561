# pyright: reportOperatorIssue=false
"""Tuning looks beyond the edge of its grid, and growth is measured from the start; trainings are made up."""

import re

import numpy as np
import pytest

from big_vision_dual.lab.studies import bisect, growth, sweep
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

BASE = recipes.load("study_vit").to_dict()


def target_norms(config):
    return {row.key: row.target_norm for row in norm_trees.table_for(config).rows}


def pretend(bottom: float):
    """A sweep whose losses are a parabola over log2 lr, the seed shifting it."""

    def run(trials, results, quiet=False):
        del results, quiet
        records = []
        for trial in trials:
            loss = 1 + 0.1 * (np.log2(trial.config["lr"]) - bottom) ** 2 + 0.01 * trial.config["seed"]
            result = {"train_loss": loss, "val_accuracy": 1 / loss, "finite": True}
            records.append({"point": trial.point, "result": result})
        return records, None

    return run


@pytest.mark.parametrize("bottom", [-2.3, -6.6, 3.2])
def test_the_grid_follows_an_optimum_beyond_its_edge(monkeypatch, bottom):
    monkeypatch.setattr(sweep, "run", pretend(bottom))
    tuned = bisect.tune(BASE, bisect.DUAL, 3, results=None)  # type: ignore[arg-type]
    assert not tuned.optimum.at_edge
    assert tuned.optimum.log2_lr == pytest.approx(bottom)
    off = round(bottom) - bottom  # the loss is one that was measured, an octave's grid point away from the vertex
    np.testing.assert_allclose(tuned.loss_S, np.array([1.0, 1.01, 1.02]) + 0.1 * off**2)
    assert tuned.accuracy_S.shape == (3,)


def test_an_effect_is_paired_over_seeds(monkeypatch):
    monkeypatch.setattr(sweep, "run", pretend(-2.0))
    reference = bisect.tune(BASE, bisect.DUAL, 3, results=None)  # type: ignore[arg-type]
    monkeypatch.setattr(sweep, "run", pretend(-3.0))
    variant = bisect.tune(BASE, {**bisect.DUAL, "residual": "sum"}, 3, results=None)  # type: ignore[arg-type]
    effect = bisect.effect("residual", "sum", variant, reference)
    assert (effect.value, effect.switch) == ("sum", "residual")
    assert (effect.loss.low, effect.loss.high) == pytest.approx((0, 0), abs=1e-9)


def test_a_study_of_some_switches_departs_through_these_alone_and_unknown_ones_are_refused():
    assert [(name, value) for name, value, _ in bisect.one_at_a_time("dual", ["vectors", "table"])] == [
        ("vectors", "adam"), ("table", "flat"), ("table", "first_attempt"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown switches \['gelo'\]; possible: gelu"):
        bisect.one_at_a_time("dual", ["gelo"])


def test_the_muon_end_is_moonlights_rule_and_departs_to_our_table():
    config = bisect.config_of(BASE, bisect.MUON)
    assert config["norms"]["rule"] == "moonlight"
    to_adam = [pattern for pattern, kind in config["optax"]["fallback"] if kind == "adam"]
    assert any(re.fullmatch(pattern, "head/kernel") for pattern in to_adam)
    assert not any(re.fullmatch(pattern, "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel") for pattern in to_adam)
    assert config["optax"]["nesterov"]
    listed = [(name, value) for name, value, _ in bisect.one_at_a_time("muon")]
    departures = set(listed)
    assert len(departures) == len(listed)  # each once: Nesterov is off at both of the other ends
    assert {("table", "well_normed"), ("nesterov", False), ("momentum", 0.9), ("residual", "sum")} <= departures


def test_the_share_of_some_atoms_shrinks_and_that_of_others_stays():
    whole = target_norms(bisect.config_of(BASE, bisect.DUAL))
    ((pattern, factor, scaled),) = bisect.shares(BASE, [".*/bias"], [0.25])
    assert (pattern, factor) == (".*/bias", 0.25)
    for path, norm in target_norms(bisect.config_of(scaled, bisect.DUAL)).items():
        np.testing.assert_allclose(norm, whole[path] * (0.25 if path.endswith("/bias") else 1))


def test_vectors_of_a_tenth_of_the_mass_take_a_tenth_of_the_step_of_their_kernel():
    norms = target_norms(bisect.config_of(BASE, {**bisect.DUAL, "vector_mass": 0.1}))
    assert norms["head/bias"] == pytest.approx(0.1 * norms["head/kernel"])
    assert norms["Transformer/encoder_norm/scale"] == pytest.approx(0.1 * norms["head/kernel"])


def test_growth_is_relative_to_the_start_and_runs_share_no_seed_twice(monkeypatch):
    def run(trials, results):
        del results
        result = {"start": {"l2_params": 2.0}, "curve": {"l2_params": [2.0, 4.0, 6.0]}, "train_loss": 1.0,
                  "val_accuracy": 0.5}  # fmt: skip
        return [{"point": t.point, "config": t.config, "result": result} for t in trials], None

    monkeypatch.setattr(sweep, "run", run)
    runs = growth.run({**BASE, "total_steps": 30}, seeds=2, results=None)  # type: ignore[arg-type]
    assert set(runs) == set(growth.RUNS)
    for each in runs.values():
        np.testing.assert_array_equal(each.steps_T, [10, 20, 30])
        np.testing.assert_array_equal(each.ratio_SxT, [[1, 2, 3], [1, 2, 3]])
