# pyright: reportArgumentType=false
"""The study of sizes: what it runs, and that a hyperball holds what it says through a training."""

from __future__ import annotations

import numpy as np
import pytest

from big_vision_dual.lab.report import bisect_plot
from big_vision_dual.lab.studies import size, sweep
from big_vision_dual.lab.studies.results import Results
from big_vision_dual.models import norm_trees
from big_vision_dual.train import recipes

FLAGS = (
    "model.width=8",
    "model.depth=2",
    "model.num_heads=2",
    "model.scan=True",
    "total_steps=20",
    "input.batch_size=8",
)
BASE = recipes.load("study_vit", [f"--config.{flag}" for flag in FLAGS]).to_dict()


def test_the_first_attempts_mean_weighs_as_over_196_tokens():
    table = norm_trees.table_for(size.config_of(BASE, "first_attempt", "none")).by_key()
    of_s16 = norm_trees.table_for({**BASE, "input_shape": (98, 98, 1), "norms": {"conventions": "first_attempt"},
                                   "model": {**BASE["model"], "scaling": "dual"}}).by_key()  # fmt: skip
    for key, row in table.items():
        np.testing.assert_allclose(row.target_norm, of_s16[key].target_norm, rtol=1e-9, err_msg=key)


def test_a_run_that_goes_as_predicted_misses_by_1(monkeypatch):
    def run(trials, results, program):
        assert (results, program) == (None, size.Sized)
        return [{"point": t.point, "config": t.config, "result": {"curve": _curve(t.config)}} for t in trials], None

    def _curve(config):
        rows = norm_trees.table_for(config).rows
        points = len(sweep.edges(config["total_steps"])) - 1
        layers = [(row.key, i) for row in rows for i in range(len(row.target_norm) if row.batch else 1)]
        return {"loss": [1.0] * points, **{f"size/{key}/{i}": [1.0 + i] * points for key, i in layers}}

    monkeypatch.setattr(sweep, "run", run)
    held = size.run(BASE, 2, None, ["hyperball"])[("well_normed", "hyperball")][0]  # type: ignore[arg-type]
    assert held.miss(("kernel",)) == pytest.approx((1, 1, 1))
    assert held.end("head/kernel") == pytest.approx((1, 1))
    assert held.measured_SxTxE.shape == (2, 20, len(held.entries))
    least, _, largest = size.run(BASE, 2, None, ["none"])[("first_attempt", "none")][0].miss(("kernel",))  # type: ignore[arg-type]
    assert least < 0.8 < largest < 1.001  # nothing grew, and the last block was predicted to


def test_a_hyperball_holds_every_kernel_through_a_training(tmp_path):
    runs = size.run(BASE, 2, Results(tmp_path / "results.jsonl"), ["hyperball"])
    for sizes, records in runs.values():
        kernels = [i for i, (key, _) in enumerate(sizes.entries) if key.endswith("kernel")]
        np.testing.assert_allclose(sizes.measured_SxTxE[:, :, kernels], 1, rtol=2e-3)
        assert all(record["result"]["finite"] for record in records)
    bisect_plot.sizes({" ".join(name): sizes for name, (sizes, _) in runs.items()}, tmp_path / "size.png")
    assert (tmp_path / "size.png").stat().st_size > 10_000
