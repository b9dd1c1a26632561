"""The pictures of the studies show the numbers they were given: what is drawn is read back from the axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from big_vision_dual.core.dualize.measure import group_name
from big_vision_dual.core.tables import flat
from big_vision_dual.lab.report import bisect_plot, coord_plot, demo_picture, lr_plot, run_picture

ANYWHERE = "unused.png"


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the last figure that was saved, once one was; nothing is rendered."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    return lambda: figures[-1].axes


def line(axes, label=None):
    """(x, y) of a line, by its label or the only one."""
    (found,) = [each for each in axes.lines if label is None or each.get_label() == label]
    return [np.asarray(values, float).tolist() for values in found.get_data()]


def band(collection):
    """(x, low, high) of a `fill_between`."""
    vertices = collection.get_paths()[0].vertices
    xs = np.unique(vertices[:, 0])
    at = [vertices[vertices[:, 0] == x, 1] for x in xs]
    return xs.tolist(), [y.min() for y in at], [y.max() for y in at]


def bars(container):
    """[(x of the point, left end, right end)] of an `errorbar` in x."""
    (segments,) = [lines.get_segments() for lines in container[2]]
    points = container[0].get_xdata()
    return [(float(x), float(s[0, 0]), float(s[1, 0])) for x, s in zip(points, segments, strict=True)]


def test_lr_curves_are_means_with_the_range_of_the_seeds(drawn, tmp_path):
    losses = np.array([[2.0, 2.1, 2.5], [1.5, 1.6, 1.4], [np.inf, 1.8, 1.9]])
    one = lr_plot.Line("width 16", np.array([-3.0, -2.0, -1.0]), losses, (-1.9, -2.0, -1.7), 1.45)
    two = lr_plot.Line("width 32", np.array([-2.0, -1.0]), np.array([[1.0, 3.0], [4.0, 5.0]]), (-2.0, -2.0, -2.0), 2.0)
    lr_plot.draw({"adamw": [one], "dualize": [one, two]}, tmp_path / ANYWHERE)
    single, both = drawn()
    assert (single.get_title(), both.get_title()) == ("adamw", "dualize")
    for axes in (single, both):
        x, y = line(axes, "width 16")
        assert x == [-3, -2, -1]
        np.testing.assert_allclose(y, [2.2, 1.5, np.nan])  # a diverged seed leaves a gap
    assert line(both, "width 32") == [[-2, -1], [2, 4.5]]
    fills = [each for each in both.collections if each.get_alpha() == 0.15]
    assert band(fills[1]) == ([-2, -1], [1, 4], [3, 5])
    ((best, low, high),) = bars(both.containers[0])
    assert (best, low, high) == pytest.approx((-1.9, -2.0, -1.7))
    assert both.containers[0][0].get_ydata() == [1.45]


def test_a_coordinate_check_has_a_panel_a_step_and_a_line_a_module(drawn, tmp_path):
    sizes = [16, 32, 64]
    values = {
        name: start + np.arange(12.0).reshape(3, 4)
        for name, start in (("stem", 1), ("layer00 delta", 20), ("layer01 delta", 40), ("logits", 60))
    }
    coord_plot.draw({"mup": values, "dualize": {k: 2 * v for k, v in values.items()}}, sizes, "width", "change",
                    tmp_path / ANYWHERE)  # fmt: skip
    panels = np.reshape(drawn(), (2, 3))
    for row, factor in zip(panels, (1, 2), strict=True):
        for step, panel in enumerate(row, 1):
            assert len(panel.lines) == 4
            for each, value in zip(panel.lines, values.values(), strict=True):
                np.testing.assert_array_equal(each.get_xdata(), sizes)
                np.testing.assert_array_equal(each.get_ydata(), factor * value[:, step])
            colours = [each.get_color() for each in panel.lines]
            assert colours[1] == colours[2]  # of all layers
            assert len(set(colours)) == 3
    assert panels[1, 2].get_title() == "dualize, step 3"
    assert {(panel.get_xscale(), panel.get_yscale()) for panel in panels.flat} == {("log", "log")}


def test_effects_are_bars_from_low_to_high_and_right_is_worse(drawn, tmp_path):
    given = [("residual = sum", 0.1, 0.05, 0.17), ("init = standard", -0.2, -0.5, 0.01)]
    bisect_plot.effects({"leaving the dual end": given, "other": given[:1]}, tmp_path / ANYWHERE)
    axes, other = drawn()
    np.testing.assert_allclose(bars(axes.containers[0]), [bar[1:] for bar in given])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [bar[0] for bar in given]
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()
    assert "(right: worse)" in axes.get_xlabel()
    np.testing.assert_allclose(bars(other.containers[0]), [given[0][1:]])
    assert list(axes.lines[-1].get_xdata()) == [0, 0]  # no effect


def test_growth_is_the_mean_over_seeds_in_their_range(drawn, tmp_path):
    norms = np.array([[1.0, 2.0, 8.0], [1.0, 4.0, 16.0]])
    bisect_plot.growth({"seed": (np.array([1.0, 5.0, 9.0]), norms)}, tmp_path / ANYWHERE)
    (axes,) = drawn()
    assert line(axes, "seed") == [[1, 5, 9], [1, 3, 12]]
    assert band(axes.collections[0]) == ([1, 5, 9], [1, 2, 8], [1, 4, 16])
    assert axes.get_yscale() == "log"


ROWS = [
    {"step": 1, "training_loss": 2.5, "update_norm/Linear/k": 9.0, "global_schedule": 1.0},
    {"step": 10, "training_loss": 1.5, "val/acc@1": 0.5, "update_norm/Linear/k": 0.3, "global_schedule": 0.5},
    {"step": 20, "val/acc@1": 0.75},
]


def test_runs_are_drawn_at_their_own_steps(drawn, tmp_path):
    run_picture.draw({"a": ROWS, "b": ROWS[:1]}, tmp_path / ANYWHERE)
    loss, accuracy = drawn()
    assert line(loss, "a") == [[1, 10], [2.5, 1.5]]
    assert line(loss, "b") == [[1], [2.5]]
    assert line(accuracy, "a") == [[10, 20], [0.5, 0.75]]
    assert line(accuracy, "b") == [[], []]
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")


def test_the_demo_divides_updates_by_the_rate_in_force(drawn, tmp_path):
    table = flat({"k": {"kernel": np.zeros((2, 3), np.float32)}})
    (atom,) = table.rows
    group, target = group_name(atom), float(np.mean(atom.target_norm))
    rows = [{name.replace("Linear/k", group): value for name, value in row.items()} for row in ROWS]
    demo_picture.draw({"adamw": ROWS, "dualized": rows}, 0.2, table, tmp_path / ANYWHERE)
    norms = drawn()[2]
    assert [tick.get_text() for tick in norms.get_xticklabels()] == [group]
    assert [bar.get_height() for bar in norms.patches] == [target]
    assert line(norms, "update / learning rate, step 10") == [[0], [pytest.approx(0.3 / (0.2 * 0.5))]]
