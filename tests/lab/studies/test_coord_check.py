"""Verdicts from made-up records, activations of looped and scanned models, and that a check repeats exactly."""

import jax
import numpy as np
import pytest

from big_vision_dual import models
from big_vision_dual.lab.studies import coord_check
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.models import vit
from big_vision_dual.train import recipes


def records(exponent: float, steps: int = 4):
    rng = np.random.default_rng(0)
    return [
        {
            "point": {"width": width, "seed": seed},
            "result": {
                "activations": {
                    name: {"change": [0.0] + [width**exponent * rng.uniform(0.99, 1.01)] * steps}
                    for name in ("block00 out", "block00 attention logits", "logits")
                }
            },
        }
        for width in (64, 128, 256)
        for seed in range(2)
    ]


@pytest.mark.parametrize(
    ("exponent", "verdicts"),
    [(0.0, [True] * 3), (0.3, [False, True, True]), (-0.3, [False, True, True]), (0.5, [False] * 3)],
)
def test_thresholds_are_stricter_for_hidden_activations_than_for_logits(exponent, verdicts):
    slopes = coord_check.slopes(records(exponent), "width")
    assert [slope.module for slope in slopes] == ["block00 out", "block00 attention logits", "logits"]
    assert [slope.flat for slope in slopes] == verdicts
    assert slopes[0].worst.value == pytest.approx(exponent, abs=0.02)
    assert list(slopes[0].steps) == [3, 4]


def test_a_size_counts_from_initialization_on():
    grown = records(0.0)
    for record in grown:
        for found in record["result"]["activations"].values():
            found["rms"] = [record["point"]["width"], *found["change"][1:]]
    slopes = coord_check.slopes(grown, "width", "rms")
    assert list(slopes[0].steps) == [0, 1, 2, 3, 4]
    assert slopes[0].worst.value == pytest.approx(1.0)
    assert slopes[0].steps[1].value == pytest.approx(0.0, abs=0.02)


def test_a_diverged_run_is_not_flat():
    diverged = records(0.0)
    diverged[0]["result"]["activations"]["logits"]["change"][3] = None
    assert [slope.flat for slope in coord_check.slopes(diverged, "width")] == [True, True, False]


def test_looped_and_scanned_models_have_the_same_activations():
    options = {"width": 8, "depth": 2, "num_heads": 2, "patch_size": 4, "posemb": "sincos2d"}
    images = jax.random.normal(jax.random.key(0), (3, 8, 4, 1))
    names = {}
    for scan in (False, True):
        model = models.get("vit").Model(5, scan=scan, **options)
        params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        shapes = jax.eval_shape(lambda p, m=model: coord_check.activations(vit.FAMILY, m, p, images), params)
        names[scan] = {name: leaf.shape for name, leaf in shapes.items()}
    assert names[True] == names[False]
    assert names[True]["block01 attention logits"] == (3, 2, 2, 2)
    assert names[True]["block01 out"] == (3, 2, 8)


def test_a_repeated_check_writes_the_same_bytes(tmp_path):
    base = recipes.load("study_vit", ["--config.model.depth=1", "--config.input.batch_size=4"]).to_dict()
    trials = [
        t for s in ("mup", "dualize") for t in coord_check.trials(base, s, "width", [8, 16], 0.1, seeds=2, steps=3)
    ]
    for name in "ab":
        coord_check.run(trials, Results(tmp_path / name))
    written = (tmp_path / "a").read_bytes()
    assert written.count(b"\n") == len(trials) == 8
    assert (tmp_path / "b").read_bytes() == written
