"""The page shows what the run files hold, and says what is missing."""

import json
from typing import Any

import pytest

from big_vision_dual.cli import main
from big_vision_dual.core import tables
from big_vision_dual.lab.report import run_files, run_page
from big_vision_dual.models import norm_trees

CONFIG: dict[str, Any] = dict(
    model_name="vit", num_classes=7, input_shape=(16, 16, 3),
    model=dict(width=8, depth=2, num_heads=2, patch_size=(8, 8), scaling="dual"),
)  # fmt: skip


def workdir(folder, lr: float, table: bool):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(CONFIG, lr=lr)))
    rows = [
        {"step": step, "training_loss": 2 / step, "update_norm/Linear/head": lr, "val/acc@1": 0.1 * step}
        for step in (1, 2)
    ]
    (folder / "big_vision_metrics.txt").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 3, "trai')
    if table:
        tables.save(norm_trees.table_for(CONFIG), folder / "norm_table.json")
    return folder


def test_page_of_two_runs(tmp_path):
    folders = [workdir(tmp_path / "a<b", 0.1, table=True), workdir(tmp_path / "plain", 0.3, table=False)]
    out = tmp_path / "page" / "report.html"
    assert main(["report", *map(str, folders), "--out", str(out)]) == 0
    page = out.read_text()
    assert "<td>lr</td><td>0.1</td><td>0.3</td>" in page
    assert "a&lt;b" in page
    assert "a<b</" not in page
    for name in ("training_loss", "val/acc@1", "update norm by atom group", "target norms"):
        assert name in page
    assert page.count("<td>lr</td>") == 1
    assert "<td>num_classes</td>" not in page  # the same in both
    assert "https://cdn" not in page.split("plotly.js v")[0]


def test_picture_beside_the_page(tmp_path):
    folders = [workdir(tmp_path / name, 0.1, table=False) for name in "ab"]
    picture = tmp_path / "curves.svg"
    flags = ["--out", str(tmp_path / "r.html"), "--picture", str(picture)]
    assert main(["report", *map(str, folders), *flags]) == 0
    drawn = picture.read_text()
    assert "<svg" in drawn
    assert drawn.count("<!-- test accuracy -->") == 1
    assert drawn.count("<!-- b -->") == 2  # in the legend of either panel


def test_half_written_last_row_is_passed_over(tmp_path):
    run = run_files.read(workdir(tmp_path / "a", 0.1, table=True))
    assert run.curve("training_loss") == ([1, 2], [2.0, 1.0])
    assert run.table is not None


def test_losses_come_first(tmp_path):
    run = run_files.read(workdir(tmp_path / "a", 0.1, table=False))
    run_page.write([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.index('"text":"training_loss"') < page.index('"text":"val\\u002facc@1"')


def test_folder_that_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "has no big_vision_metrics.txt: it is no workdir of a run" in capsys.readouterr().err


def test_unreadable_run_in_python(tmp_path):
    with pytest.raises(FileNotFoundError, match="Give the --workdir"):
        run_files.read(tmp_path / "nothing")
