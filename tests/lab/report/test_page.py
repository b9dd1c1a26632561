"""The page: what is on it, that it stands alone, and that no text of a run becomes markup."""

import json
import re
import shutil
import subprocess

import pytest
import workdirs

from big_vision_dual.cli import main
from big_vision_dual.lab.report import atom_heat, page, runs
from big_vision_dual.lab.report.page import html, tables

EVIL = "a<img src=x onerror=document.title='broken'>%{x}<b>"


def of(*folders):
    return page.of(runs.find(folders))


def table(made, title):
    return next(t for section in made.sections for t in section.tables if t.title == title)


def test_sections_and_what_each_shows(tmp_path):
    made = of(workdirs.workdir(tmp_path / "a"))
    assert [section.name for section in made.sections] == [
        "overview", "result", "optimization", "norms", "speed", "system", "config",
    ]  # fmt: skip
    shown = {section.name: [metric.name for metric in section.metrics] for section in made.sections}
    assert shown["result"] == ["training_loss", "val/acc@1", "val/loss"]  # train/loss is the same and progress no curve
    assert shown["optimization"] == ["l2_params", "global_schedule"]
    assert (shown["norms"], shown["speed"], shown["system"]) == ([], ["img/sec"], ["core_hours"])


def test_header_and_best_values(tmp_path):
    versions = {"jax": "1.2.3", "command": "bvd train --config x", "commit": "abc", "parameters": 1234567}
    folders = [workdirs.workdir(tmp_path / "a", versions=versions), workdirs.workdir(tmp_path / "b", loss=1.0)]
    made = of(*folders)
    facts = {row[0]: row[1:] for row in table(made, "").rows}
    assert facts["command"] == ["bvd train --config x", ""]
    assert facts["parameters"][0] == "1,234,567"
    assert facts["duration"] == ["2 h", "1 h"]  # core hours over the devices: unknown counts as one
    assert facts["status"] == ["finished", "finished"]
    best = table(made, "Best and last values")
    assert best.head[2:] == ["Training loss, best", "last", "val: accuracy@1, best", "last", "val: loss, best", "last"]
    assert best.rows[1] == ["b", "4", "0.25 at 4", "0.25", "0.4 at 4", "0.4", "0.25 at 4", "0.25"]


def test_seeds_of_one_config_are_a_group(tmp_path):
    made = of(*(workdirs.workdir(tmp_path / "dual" / f"seed{seed}", seed=seed) for seed in range(3)))
    assert [run.group for run in made.runs] == [0, 0, 0]
    assert made.groups == ["dual"]
    assert of(workdirs.workdir(tmp_path / "x" / "lr"), workdirs.workdir(tmp_path / "x" / "lr2", lr=1.0)).groups == [
        "lr", "lr2",
    ]  # fmt: skip


def test_step_and_size_of_every_layer(tmp_path):
    step, size = of(workdirs.workdir(tmp_path / "a")).runs[0].heats
    assert step.steps == (1, 2, 4)
    kinds = {panel.title: panel for panel in step.panels}
    assert kinds["query/W"].rows == ("encoderblock_0", "encoderblock_1")
    assert kinds["query/W"].log2_RxT == ((1.0, 1.0, 1.0),) * 2  # twice its target
    assert "head W" in kinds[atom_heat.ALONE].rows
    assert "between x2 and x2" in step.note
    assert {value for panel in size.panels for row in panel.log2_RxT for value in row} == {-2.0}  # norm 1/4


def test_sizes_against_the_prediction_that_the_run_logged(tmp_path):
    folder = workdirs.workdir(tmp_path / "a")
    file = folder / "atom_norms.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row |= {"size": [0.25] * len(row["weight_norm"]), "predicted_size": [0.125] * len(row["weight_norm"])}
    rows[-1]["predicted_size"][0] = None  # an atom without a formula
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = of(folder).runs[0].heats[1]
    assert size.title == "Size against its prediction"
    query = next(panel for panel in size.panels if panel.title == "query/W")
    assert query.log2_RxT == ((1.0, 1.0, 1.0),) * 2  # twice the prediction
    assert sum(value is None for panel in size.panels for row in panel.log2_RxT for value in row) == 1


def test_atom_groups_at_the_end(tmp_path):
    groups = table(of(workdirs.workdir(tmp_path / "a")), "Atom groups, at the end")
    assert groups.rows == [["a", "Linear/head", "0.25", "", "", "0.1", "0.8"]]


def test_steps_without_a_target_are_set_against_their_median(tmp_path):
    step = of(workdirs.workdir(tmp_path / "a", optax_name="scale_by_adam")).runs[0].heats[0]
    assert step.title == "Step against the median step"
    values = sorted(value for panel in step.panels for row in panel.log2_RxT for value in row if value is not None)
    assert values[len(values) // 2] == pytest.approx(0, abs=0.1)


def test_a_run_without_a_table_has_no_heat_map(tmp_path):
    made = of(workdirs.workdir(tmp_path / "a", table=False, optax_name="scale_by_adam"))
    assert made.runs[0].heats == []
    assert 'class="heat"' not in page.render(made)


def test_target_norms_of_two_tables_are_compared(tmp_path):
    model = {**workdirs.CONFIG["model"], "mlp_dim": 64}
    folders = [workdirs.workdir(tmp_path / "a"), workdirs.workdir(tmp_path / "b", norms=dict(masses=dict(Bias=0.1)))]
    compared = table(of(*folders), "Target norms compared")
    assert compared.head == ["atom", "a", "b", "ratio"]
    assert compared.rows[0][3].startswith("/")  # biases lose most
    assert "shared atoms differ" in compared.note
    one = of(folders[0], workdirs.workdir(tmp_path / "c", seed=1, model=model))
    assert [t.title for section in one.sections for t in section.tables if t.title.startswith("Target norms")]


def test_one_file_offline_with_charts_tables_and_configs(tmp_path):
    folders = [workdirs.workdir(tmp_path / "dual"), workdirs.workdir(tmp_path / "plain", table=False, lr=0.1)]
    out = tmp_path / "page" / "report.html"
    assert main(["report", *map(str, folders), "--out", str(out)]) == 0
    text = out.read_text()
    ours = text.split("<script>/**")[0]
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", ours)
    assert '<tr><th scope="row">lr</th><td data-run="0">0.5</td><td data-run="1">0.1</td></tr>' in ours
    assert '<th scope="row">jax' not in ours
    assert "Whole config of plain" in ours
    assert "http-equiv" not in ours  # nothing runs any more: nothing to refresh


def test_a_page_of_a_running_run_loads_itself_again(tmp_path):
    made = of(workdirs.workdir(tmp_path / "a"))
    assert '<meta http-equiv="refresh" content="7">' in page.render(made, refresh=7)


def test_watching_ends_with_the_run(tmp_path, monkeypatch, capsys):
    folder, out = workdirs.workdir(tmp_path / "a", total_steps=8), tmp_path / "r.html"
    waits = []

    def finish(seconds):
        waits.append((seconds, "http-equiv" in out.read_text()))
        (folder / "config.json").write_text(json.dumps({**workdirs.CONFIG, "total_steps": 4}))

    monkeypatch.setattr("time.sleep", finish)
    assert main(["report", str(folder), "--out", str(out), "--watch", "5"]) == 0
    assert waits == [(5, True)]
    assert "http-equiv" not in out.read_text()
    assert "the page is complete" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "x"])
def test_watch_takes_seconds(tmp_path, seconds, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), f"--watch={seconds}"])
    assert "is no number of seconds" in capsys.readouterr().err


def test_folder_that_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "has no big_vision_metrics.txt: it is no workdir of a run" in capsys.readouterr().err


def test_picture_beside_the_page(tmp_path):
    folders = [workdirs.workdir(tmp_path / name) for name in "ab"]
    picture = tmp_path / "curves.svg"
    flags = ["--out", str(tmp_path / "r.html"), "--picture", str(picture)]
    assert main(["report", *map(str, folders), *flags]) == 0
    drawn = picture.read_text()
    assert drawn.count("<!-- test accuracy -->") == 1
    assert drawn.count("<!-- b -->") == 2  # in the legend of either panel


def test_no_text_becomes_markup(tmp_path):
    made = page.of(
        runs.Found((runs.read(workdirs.workdir(tmp_path / "a", wd=EVIL), EVIL),), {}), title=f"</title>{EVIL}"
    )
    ours = page.render(made).split("<script>/**")[0]
    assert "<img" not in ours
    assert "</title>a" not in ours
    assert html.plain("<b>%{x}") == "&lt;b&gt;%\u200b{x}"
    assert json.loads(html.embedded({"a": "</script>\u2028"})) == {"a": "</script>\u2028"}
    assert "<" not in html.embedded("</script>")


@pytest.mark.parametrize("theme", [":root", ':root[data-theme="dark"]'])
def test_contrasts_are_accessible(theme):
    """WCAG 2.2: text 4.5 to 1, lines of charts 3 to 1."""
    css = html._asset("page.css")
    block = css[css.index(theme + " {") :].split("}")[0]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))
    for ground in (colours["ground"], colours["panel"]):
        assert all(contrast(colours[name], ground) >= 4.5 for name in ("text", "soft", "link"))
    lines = [name for name in colours if name.startswith("run")]
    assert len(lines) == 8
    assert all(contrast(colours[name], colours["ground"]) >= 3 for name in lines)


def contrast(a, b):
    """Of two colours '#rrggbb', as WCAG defines it."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("hours", "text"), [(0.01, "36 s"), (0.5, "30 min"), (3.0, "3 h"), (72, "3 days")])
def test_durations(hours, text):
    assert tables.duration(hours) == text


def browser(tmp_path, *flags):
    """What chromium prints."""
    given = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=10000", *flags,
    ]  # fmt: skip
    return subprocess.run(["chromium", *given], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to draw the page")
def test_a_browser_draws_every_chart(tmp_path):
    folders = [workdirs.workdir(tmp_path / EVIL.replace("/", "")), workdirs.workdir(tmp_path / "b", seed=1)]
    out = tmp_path / "r.html"
    out.write_text(page.render(of(*folders)))
    dom = browser(tmp_path, "--dump-dom", out.as_uri())
    body = dom[: dom.index('<script type="application/json"')]
    charts, heats = body.count('<figure class="chart"'), len(re.findall(r'class="heat"[^>]*hidden', body))
    assert charts == 7
    assert body.count("main-svg") >= 2 * charts
    assert heats == 2  # of the second seed
    assert "<img" not in body
    assert "(2 seeds)" in body


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium to draw the page")
def test_a_logarithmic_axis_has_no_0_and_a_heat_map_reaches_as_far_as_its_values(tmp_path):
    folder = workdirs.workdir(tmp_path / "a")
    losses = zip(workdirs.SCHEDULE, (0.0, 4.0, 0.1), strict=True)
    rows = [{**workdirs.row(step, 1), "val/loss": 1, "training_loss": loss} for step, loss in losses]
    (folder / "big_vision_metrics.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    atoms = [json.loads(line) for line in (folder / "atom_norms.jsonl").read_text().splitlines()]
    far = [{**row, "update_norm": [4096 * norm for norm in row["update_norm"]]} for row in atoms]
    (folder / "atom_norms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in far))
    probe = (
        "<script>addEventListener('load', () => setTimeout(() => {"
        "const plot = document.querySelector('[data-metric=training_loss] .plot');"
        "document.title = JSON.stringify([plot.data[0].y, plot.layout.yaxis.ticktext,"
        "[...document.querySelectorAll('.heat .plot')].map((heat) => heat.layout.coloraxis.cmax)]); }, 500))</script>"
    )
    (tmp_path / "r.html").write_text(page.render(of(folder)).replace("</body>", probe + "</body>"))
    title = re.search(r"<title>(.*?)</title>", browser(tmp_path, "--dump-dom", (tmp_path / "r.html").as_uri()))
    assert title
    assert json.loads(title[1]) == [[None, 4.0, 0.1], ["0.1", "0.2", "0.5", "1", "2", "5"], [15, 3]]
