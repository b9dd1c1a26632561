"""The command line as a whole: versions, help, completion, lists, and wrong input that ends before any work."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from big_vision_dual.cli import main
from big_vision_dual.cli.main import COMMANDS, module, parsers
from big_vision_dual.cli.sample import printable
from big_vision_dual.core import files
from big_vision_dual.train import command


def ended(arguments: list[str], capsys) -> tuple[int, str, str]:
    """(status, output, errors) of a call that may leave through argparse."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


def test_version_and_help_of_the_module():
    for flags, text in ((["--version"], "big_vision_dual "), (["--help"], "coord-check")):
        done = subprocess.run([sys.executable, "-m", "big_vision_dual", *flags], capture_output=True, text=True)
        assert done.returncode == 0
        assert text in done.stdout
        assert done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_page_has_its_summary_as_written_and_examples_that_parse(name, capsys):
    status, page, _ = ended([name, "--help"], capsys)
    assert status == 0
    assert COMMANDS[name][1:30] in " ".join(page.split()), "not lower-cased"
    assert "examples:\n" in page
    for example in module(name).EXAMPLES:
        parser, commands = parsers([name])
        parser.parse([name, *shlex.split(example.replace("~/", "/tmp/").partition(" >>")[0])], commands[name])


def test_help_shows_defaults(capsys):
    page = " ".join(ended(["lr-sweep", "--help"], capsys)[1].split())
    assert "some of adamw" in page
    assert "default adamw, mup where the model has its rules" in page
    assert "octaves around the lowest loss to fit (default 2.0)" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], "no command 'tarin' (did you mean 'train'?)"),
        (["coord-check", "--stpes", "3"], "unrecognized arguments: --stpes 3 (did you mean '--steps'"),
        (["coord-check", "--steps", "2"], "a change counts from step 3 on"),
        (["coord-check", "--sizes", "32,64", "--seeds", "1"], "a slope with an interval takes 3 trainings"),
        (["coord-check", "--settings", "adamw,bogus"], "no setting 'bogus'; possible: adamw,"),
        (["coord-check", "--sizes", "64,32"], "possible: two sizes or more, ascending"),
        (["lr-sweep", "--sizes", "30,60"], "width 30 does not divide into 4 heads"),
        (["lr-sweep", "--log2-lrs=-1:-5"], "LOW below HIGH"),
        (["bisect", "--switches", "gelu,bogus"], "no switch 'bogus'; possible: gelu"),
        (["bisect", "--study", "shares", "--factors", "1,x"], "'x'; possible: a number in [0, inf)"),
        (["bisect", "--study", "shares", "--atoms", "(a"], "is no regular expression"),
        (["norms", "audit", "--config", "mnist5k_vit_dual", "--steps", "0"], "possible: a whole number from 1 on"),
        (["norms", "audit", "--config", "mnist5k_vit_dual", "--setting", "dualise"], "invalid choice: 'dualise'"),
        (["preflight", "--config", "vit_s16_i1k", "--vs", "nothing", "--topology", "v3-8"], "no config 'nothing'"),
        (["preflight", "--config", "vit_s16_i1k", "--topology", "v3-7"], "no v3 slice of size 7"),
        (["sample", "w", "--temperature", "-1"], "possible: a number in [0, inf)"),
        (
            ["train", "--config", "mnist5k_vit", "--workdir", "w", "--config.lr", "-1"],
            "config.lr=-1.0; possible: float",
        ),
        (["train", "--workdir", "w"], "the following arguments are required: --config"),
    ],
)
def test_wrong_input_ends_before_any_work(capsys, arguments, message):
    status, _, errors = ended(arguments, capsys)
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("call", [lambda words: main(["train", *words]), command.main], ids=["bvd train", "-m train"])
@pytest.mark.parametrize("space", ["=", " "], ids=["equals", "space"])
def test_both_ways_to_train_have_one_parser(call, space, capsys, tmp_path):
    flag = f"--config.total_steps{space}-1".split(" ")
    assert call(["--config", "mnist5k_vit", "--workdir", str(tmp_path / "w"), *flag]) == 2
    assert "no duration 'total'; possible: one of total_steps" in capsys.readouterr().err


def test_lists_name_everything_that_ships(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for path in [*files.shipped("configs").glob("[!_]*.py"), *files.shipped("norm_cache").glob("*.json")]:
        assert path.stem in shown
    assert main(["list", "fields"]) == 0
    assert "input.accum_freq" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bvd", "tra"], ["track", "train"]),
        (["bvd", "norms", "sh"], ["show"]),
        (["bvd", "train", "--wor"], ["--workdir"]),
        (["bvd", "train", "--config", "mnist5k_vit_"], ["mnist5k_vit_dual"]),
        (["bvd", "bisect", "--study", "gr"], ["growth"]),
    ],
)
def test_completion(words, expected, capsys, tmp_path):
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    asked = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _bvd; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f". {tmp_path / 'script'}; {asked}"], capture_output=True, text=True)
    assert done.stdout.split() == expected
    assert done.stderr == ""


def test_a_sample_cannot_command_the_terminal():
    assert printable("a\x1b[31mb\tc\nd\x07é\x9b") == "a\\x1b[31mb\tc\nd\\x07é\\x9b"
