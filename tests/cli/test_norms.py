"""`bvd norms` as a user calls it."""

import json

import pytest

from big_vision_dual.cli import main
from big_vision_dual.core import tables
from big_vision_dual.train import recipes


def test_build_writes_what_show_and_check_read(tmp_path, capsys):
    out = tmp_path / "t.json"
    flags = ["--config.norms.blocks_mass=5", "--config.model.variant=mu/16"]
    assert main(["norms", "build", "--config", "vit_s16_i1k_dual", "--out", str(out), *flags]) == 0
    outside = recipes.MASSES["head/kernel"] + recipes.MASSES["embedding/kernel"] + 4 * recipes.MASSES["Bias"]
    assert tables.load(out).mass == pytest.approx(5 + outside)
    picture = tmp_path / "t.png"
    assert main(["norms", "show", str(out), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "encoderblock_0" in shown
    assert f"mass {5 + outside:g}" in shown
    assert main(["norms", "check", str(out), "--config", "vit_s16_i1k_dual", "--config.model.variant=mu/16"]) == 0
    assert main(["norms", "check", str(out), "--config", "vit_s16_i1k_dual"]) == 2
    assert "does not fit these parameters" in capsys.readouterr().err


def test_build_without_out_shows_the_table_or_its_json(capsys):
    assert main(["norms", "build", "--config", "configs/vit_ti16_i1k_dual.py"]) == 0
    assert "target_norm of 198 leaves" in capsys.readouterr().out
    assert main(["norms", "build", "--config", "configs/vit_ti16_i1k_dual.py", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["atoms"]) == 198


def test_show_unfolds_stacked_layers(tmp_path, capsys):
    out = tmp_path / "scan.json"
    main(["norms", "build", "--config", "vit_s16_i1k_dual", "--out", str(out), "--config.model.scan=True"])
    main(["norms", "show", str(out)])
    assert "encoderblock_11" in capsys.readouterr().out
    main(["norms", "show", str(out), "--leaves"])
    assert "12x384x6x64" in capsys.readouterr().out


def test_diff_sorts_by_ratio_and_tells_sameness_by_status(capsys):
    assert main(["norms", "diff", "vit_s16_i1k", "vit_s16_i1k"]) == 0
    assert main(["norms", "diff", "vit_s16_i1k_0.1", "vit_s16_i1k_seed", "--most", "3"]) == 1
    shown = capsys.readouterr().out
    assert "196 of 198 shared leaves differ" in shown
    assert "/182" in shown.split("encoderblock_0")[1].splitlines()[0]
    main(["norms", "diff", "vit_s16_i1k_seed", "vit_s16_i1k_0.1", "--most", "3"])
    assert "x182" in capsys.readouterr().out


def test_diff_of_tables_of_different_sizes_says_so(capsys):
    assert main(["norms", "diff", "vit_s16_i1k", "vit_ti16_i1k"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("0 of 198 shared leaves differ in their target norm. The tables are of models of different")
    assert "other shapes: embedding/kernel is (16, 16, 3, 384) in vit_s16_i1k and (16, 16, 3, 192) in" in shown


@pytest.mark.parametrize(
    "verb", [["show", "vit_s16_i1k_seed"], ["show", "vit_s16_i1k", "--leaves"], ["show", "mamba_mup_strict"],
             ["diff", "vit_s16_i1k", "vit_s16_i1k_seed"]],
)  # fmt: skip
@pytest.mark.parametrize("columns", [40, 80])
def test_tables_fit_the_terminal_with_no_number_cut(capsys, monkeypatch, columns, verb):
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["norms", *verb])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= columns
    if verb == ["show", "vit_s16_i1k_seed"]:
        assert "0.003511" in shown
        assert columns == 80 or "layer" in shown.split("encoder_norm")[1], "over several tables"


def test_mup_rules_are_built_shown_and_fold_layers(tmp_path, capsys):
    out = str(tmp_path / "mup.json")
    flags = ["--config.model.d_model=256", "--config.mup.rules=reference"]
    assert main(["norms", "build", "--config", "mamba_bytes_mup", "--mup", "--out", out, *flags]) == 0
    capsys.readouterr()
    assert main(["norms", "show", out]) == 0
    shown = capsys.readouterr().out
    assert "mamba, muP reference: base width 64, Adam's epsilon 1e-08" in shown
    in_proj = next(line for line in shown.splitlines() if "layers_*/mixer/in_proj/kernel" in line)
    assert [cell.strip() for cell in in_proj.split("│")[2:-1]] == ["hidden", "0.01", "0.25", "4", "1"]
    assert main(["norms", "show", out, "--leaves"]) == 0
    assert "layers_1/mixer/in_proj/kernel" in capsys.readouterr().out


def test_build_prints_a_mup_table_as_json(capsys):
    assert main(["norms", "build", "--config", "mamba2_bytes_mup", "--mup", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 18


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["norms", "show", "nothing"], "no table 'nothing'; possible:"),
        (["norms", "build", "--config", "nothing"], "no config 'nothing'; possible:"),
        (["norms", "show", "mamba_mup_strict", "--plot", "x.png"], "--plot and --lr are of target norms"),
        (["norms", "diff", "mamba_mup_strict", "mamba_mup_reference"], "is a muP table, not one of target norms"),
        (["norms", "build", "--config", "mamba_bytes", "--mup"], "--mup needs config.mup = dict(base_width=...)"),
        (
            ["norms", "build", "--config", "vit_s16_i1k_dual", "--config.norms.blockmass=1"],
            "did you mean 'config.norms.b",
        ),
        (
            ["norms", "build", "--config", "vit_s16_i1k_dual", "--config.norms.conventions=sead"],
            "possible: str 'well_normed'",
        ),
    ],
)
def test_mistakes_get_one_readable_line_and_status_2(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["norms", "show", "vit_s16_i1k", "--confg.lr=1"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --confg.lr=1" in capsys.readouterr().err
