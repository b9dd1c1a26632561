"""The pictures of the studies are drawn whatever the data: diverged trials, one panel or several."""

import numpy as np

from big_vision_dual.lab.report import bisect_plot, coord_plot, lr_plot


def test_lr_curves_with_a_diverged_trial(tmp_path):
    losses = np.array([[2.0, 2.1, 2.2], [1.5, 1.6, 1.4], [np.inf, 1.8, 1.9]])
    line = lr_plot.Line("width 16", np.array([-3.0, -2.0, -1.0]), losses, (-1.9, -2.0, -1.7), 1.45)
    lr_plot.draw({"adamw": [line], "dualize": [line, line]}, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").stat().st_size > 1000


def test_coordinate_check_of_two_settings(tmp_path):
    changes = {
        "stem": np.full((3, 4), 0.1),
        "logits": np.full((3, 4), 0.2),
        "block00 attention logits": np.ones((3, 4)),
    }
    coord_plot.draw({"mup": changes, "dualize": changes}, [16, 32, 64], "width", "change", tmp_path / "coord.png")
    assert (tmp_path / "coord.png").stat().st_size > 1000


def test_effects_and_growth(tmp_path):
    bisect_plot.effects({"leaving the dual end": [("residual = sum", 0.1, 0.05, 0.15)]}, tmp_path / "effects.png")
    bisect_plot.growth({"seed": (np.arange(1.0, 5.0), np.ones((2, 4)))}, tmp_path / "growth.png")
    assert {file.name for file in tmp_path.iterdir()} == {"effects.png", "growth.png"}
