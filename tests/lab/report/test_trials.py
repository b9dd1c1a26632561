"""Studies on the page."""

import json
import math

import pytest

from big_vision_dual.core import files
from big_vision_dual.lab.report import page, runs
from big_vision_dual.lab.report.page import trials


def sweep(folder):
    """Two settings, two widths, three learning rates, two seeds; the loss is |log2 lr + best| + seed / 10."""
    folder.mkdir()
    lines = []
    for setting, best in (("adamw", 2), ("dualize", 1)):
        for width in (16, 32):
            for lr in (0.125, 0.25, 0.5):
                for seed in (0, 1):
                    loss = abs(math.log2(lr) + best) + seed / 10
                    diverged = setting == "adamw" and lr == 0.5 and seed == 1
                    result = {
                        "train_loss": None if diverged else loss,
                        "finite": not diverged,
                        "curve": {"loss": [3, loss]},
                    }
                    point = {"setting": setting, "width": width, "lr": lr, "seed": seed}
                    lines.append(json.dumps({"digest": str(len(lines)), "point": point, "result": result}))
    path = folder / "results.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_loss_against_learning_rate(tmp_path):
    study = trials.read(str(sweep(tmp_path / "s")))
    adamw, dualize = [chart for chart in study.charts if chart.x_title == "learning rate"]
    assert [line.label for line in adamw.lines] == ["width 16", "width 32"]
    line = adamw.lines[0]
    assert list(line.x) == [0.125, 0.25, 0.5]
    assert line.mean[:2] == [pytest.approx(1.05), pytest.approx(0.05)]
    assert line.mean[2] is None  # a seed diverged
    assert (line.low[1], line.high[1], line.n) == (0.0, 0.1, 2)
    assert dualize.lines[0].mean[2] == pytest.approx(0.05)


def test_curves_are_those_of_the_best_learning_rate(tmp_path):
    study = trials.read(str(sweep(tmp_path / "s")))
    curves = [chart for chart in study.charts if chart.x_title == "share of the training"]
    assert [chart.title for chart in curves] == [f"Loss over the training, width {width}" for width in (16, 32)]
    assert [line.label for line in curves[0].lines] == ["adamw, lr 0.25", "dualize, lr 0.5"]
    assert study.table.rows[0] == ["adamw", "width 16", "0.25", "2", "6", "0.05 (0 to 0.1)"]


def test_activations_against_width(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [
        {"point": {"setting": "mup", "width": w, "seed": 0}, "result": {"activations": {"stem": {"change": [1, w]}}}}
        for w in (64, 128)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chart,) = trials.read(str(path)).charts
    assert (chart.x_title, chart.lines[0].label, list(chart.lines[0].mean)) == ("width", "stem", [64, 128])


def test_a_page_of_a_study_alone(tmp_path):
    sweep(tmp_path / "s")
    made = page.of(runs.find([tmp_path]))
    assert [section.title for section in made.sections] == ["Study s"]
    assert "dualize: loss by learning rate" in page.render(made)


@pytest.mark.parametrize("line", ["{", "[]", '{"point": 1, "result": {}}', '"x"'])
def test_a_line_that_is_no_trial_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(files.FileError, match=r"line 1 of .*results\.jsonl is no finished trial"):
        trials.read(str(path))


def race(folder):
    """Two entries, one budget, two trials of search and two fresh seeds each; entry b is better by 1."""
    folder.mkdir()
    (folder / "track.json").write_text('{"track": "digits"}')
    (folder / "seconds.jsonl").write_text('{"digest": "0", "seconds": 1}\n')
    for entry, better in (("a", 0.0), ("b", 1.0)):
        point = {"entry": entry, "budget": "short", "lr": 0.1}
        lines = [
            {"point": {**point, "stage": "tuning", "seed": 0}, "result": {"held_out_loss": loss}}
            for loss in (None, 4, 5)
        ]
        for seed in (101, 102):
            loss = 3.0 - better + (seed - 101) / 10
            curve = {"step": [10, 20], "held_out_loss": [4, loss]}
            result = {"test_loss": loss, "test_accuracy": 0.5, "train_loss": loss, "curve": curve}
            lines.append({"point": {**point, "stage": "final", "seed": seed}, "result": result})
        (folder / f"{entry}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_track_has_its_leaderboard_and_curves(tmp_path):
    race(tmp_path / "digits")
    (section,) = page.of(runs.find([tmp_path])).sections
    assert section.title == "Track digits"
    final, tuning = section.studies
    assert [line.label for line in final.lines] == ["a", "b"]
    assert (list(final.lines[1].x), final.lines[1].mean[1]) == ([10, 20], pytest.approx(2.05))
    assert tuning.lines[0].mean == [None, 4, 4]
    (table,) = section.tables
    assert table.rows[0] == ["short", "b", "2.05 ± 0.071", "0.5 ± 0", "2.05 ± 0.071", "2", "3"]
