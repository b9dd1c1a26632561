"""Steps side by side in common units, and where they settle, as `bvd norms` prints them."""

from __future__ import annotations

import json

import pytest

from big_vision_dual.cli.main import main
from big_vision_dual.core import tables
from big_vision_dual.core.tables import Row, TargetNormTable, step_size

S16 = "vit_s16_i1k_first_attempt"
QUERY = "Transformer/encoderblock_11/MultiHeadDotProductAttention_0/query/kernel"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")


def test_rules_and_tables_are_compared_atom_by_atom_in_every_unit(tmp_path, capsys):
    out, picture = tmp_path / "steps.json", tmp_path / "steps.png"
    command = ["norms", "compare", S16, "moonlight", "scion", "--lr", "0.05,0.001,0.000643"]
    assert main([*command, "--json", str(out), "--plot", str(picture)]) == 0
    found = json.loads(out.read_text())["atoms"][QUERY]
    target = tables.load(S16).by_key()[QUERY].target_norm
    assert isinstance(target, float)
    assert found[S16]["own"] == pytest.approx(0.05 * target)
    assert found[S16]["rms"] == pytest.approx(145e-4, rel=0.01)  # ../shared/design/size.md
    assert found["moonlight"]["rms"] == pytest.approx(2e-4, rel=0.01)
    assert found["scion"]["spectral"] == pytest.approx(0.000643 * 25, rel=1e-6)
    head = json.loads(out.read_text())["atoms"]["head/kernel"]
    assert (head["moonlight"]["own"], head["scion"]["spectral"]) == (None, head["scion"]["own"])  # Adam, and signs
    shown = capsys.readouterr().out
    assert "Linear/query" in shown
    assert "5.21e-05 .. 0.0145" in shown
    assert picture.stat().st_size > 10_000


def test_a_run_of_any_optimizer_is_a_column(tmp_path, capsys):
    row = Row("head/kernel", "Linear", (0,), (1,), (), (8, 32), 1.0, 1.0, 0.5)
    blocks = Row("up/kernel", "Linear", (1,), (2,), (0,), (2, 8, 32), (1.0, 1.0), (1.0, 1.0), (0.5, 0.5))
    table = TargetNormTable("test", {}, (), {}, 2.0, 1.0, (row, blocks))
    run = tmp_path / "run"
    run.mkdir()
    tables.save(table, run / "norm_table.json")
    steps = [{"step": i, "update_norm": [0.2 * i, [0.1, 0.3]], "weight_norm": [2.0, [1.0, 1.0]],
              "update_size": [0.1 * i, [0.05, 0.15]]} for i in (1, 2, 3)]  # fmt: skip
    (run / "atom_norms.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    out = tmp_path / "steps.json"
    assert main(["norms", "compare", str(run / "norm_table.json"), str(run), "--json", str(out)]) == 0
    atoms = json.loads(out.read_text())["atoms"]
    measured = atoms["head/kernel"][str(run)]
    assert (measured["own"], measured["relative"]) == pytest.approx((0.4, 0.2))
    assert measured["rms"] == pytest.approx(0.2 * step_size.unit_rms(row))
    assert atoms["up/kernel[layer 1]"][str(run)]["own"] == pytest.approx(0.3)
    assert "Linear/head" in capsys.readouterr().out


def test_show_says_where_weights_settle(capsys):
    assert main(["norms", "show", S16, "--lr", "0.05", "--wd", "1e-4"]) == 0
    decayed = capsys.readouterr().out
    assert "0.0775" in decayed.split("Linear/embedding")[1].splitlines()[0]
    assert "0.45 .. 126" in decayed.split("Linear/query")[1].splitlines()[0]
    assert main(["norms", "show", S16, "--lr", "0.05", "--radius", "25", "--momentum", "0.9", "--leaves"]) == 0
    line = capsys.readouterr().out.split(QUERY)[1].splitlines()[0]
    target = tables.load(S16).by_key()[QUERY].target_norm
    assert isinstance(target, float)
    step = 0.05 * target
    assert f"{step_size.settled(step, step / 25, step_size.Momentum(0.9)):.3g}" in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compare", "vit_ti16_i1k", "{other}"], "share no atom, so there is nothing to compare: vit_ti16_i1k has emb"),
        (["compare", "moonlight"], "rule 'moonlight' needs a table to be applied to"),
        (["compare", S16, "scion", "--lr", "1,2,3"], "--lr has 3 numbers for 2 sources; give one, or one each"),
        (["show", S16, "--radius", "25"], "--wd and --radius say where steps settle: give --lr too"),
        (["show", S16, "--lr", "1", "--radius", "25", "--wd", "0.1"], "--wd=0.1 and --radius=25: give one of them"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path, capsys, command, message):
    row = Row("elsewhere/kernel", "Linear", (0,), (1,), (), (8, 32), 1.0, 1.0, 0.5)
    tables.save(TargetNormTable("test", {}, (), {}, 1.0, 1.0, (row,)), tmp_path / "other.json")
    assert main(["norms", *(word.format(other=tmp_path / "other.json") for word in command)]) == 2
    assert message in capsys.readouterr().err


def test_a_radius_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["norms", "show", S16, "--lr", "1", "--radius", "0"])
    assert "possible: a number in (0, inf)" in capsys.readouterr().err
