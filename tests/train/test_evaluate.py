"""`bvd eval`: what a run left scores as it did in the run; what cannot be evaluated is said."""

from __future__ import annotations

import json
import pathlib
import types

import pytest

from big_vision_dual.cli import main
from big_vision_dual.models import weights
from big_vision_dual.train import recipes, run_files, setup, start
from big_vision_dual.train.loop import fit

RECIPE = f'''
from big_vision_dual.train import recipes

def get_config():
    """The tiny MLP with averaged parameters and an evaluator of theirs."""
    config = recipes.load("{pathlib.Path(__file__).parent / "tiny_config.py"}:mlp")
    with config.unlocked():
        config.ema = {{"decay": 0.5}}
        config.model_load = {{"dont_load": ()}}
        config.evals.ema = {{**config.evals.val, "pred": "predict_ema"}}
    return config
'''


@pytest.fixture(scope="module")
def trained(environment, tmp_path_factory):
    """A finished run: the file of its recipe, and its workdir."""
    del environment
    folder = tmp_path_factory.mktemp("trained")
    recipe, workdir = folder / "recipe.py", folder / "run"
    recipe.write_text(RECIPE)
    fit(recipes.load(str(recipe)), workdir)
    return types.SimpleNamespace(recipe=str(recipe), workdir=workdir)


@pytest.fixture
def evaluated(trained, capsys):
    """(*arguments) -> what `bvd eval --json` prints for the recipe, read."""

    def run(*arguments):
        assert main(["eval", "--config", trained.recipe, "--json", *map(str, arguments)]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_relative_workdir_is_the_same_one(trained, evaluated, monkeypatch):
    monkeypatch.chdir(trained.workdir.parent)
    assert evaluated("--workdir", "run")["metrics"] == evaluated("--workdir", trained.workdir)["metrics"]


def test_a_checkpoint_scores_what_the_last_row_of_its_run_says(trained, evaluated):
    before = sorted(trained.workdir.rglob("*"))
    *_, last = run_files.rows(trained.workdir)
    scores = {name: value for name, value in last.items() if name.startswith(("val/", "ema/"))}
    assert len(scores) == 4
    assert scores["val/loss"] != scores["ema/loss"]
    result = evaluated("--workdir", trained.workdir)
    assert result == {"weights": str(trained.workdir), "step": 12, "metrics": scores}
    assert sorted(trained.workdir.rglob("*")) == before


@pytest.fixture
def weights_file(trained, tmp_path):
    """The parameters that the run left, as a file."""
    state, _ = start.left_by(setup.prepare(recipes.load(trained.recipe)), trained.workdir, "the run")
    weights.save(state.params, tmp_path / "w.npz")
    return tmp_path / "w.npz"


def test_so_do_its_parameters_in_a_weights_file(trained, evaluated, weights_file):
    of_file = evaluated(f"--config.model_init={weights_file}", "--only=val")
    of_run = evaluated("--workdir", trained.workdir, "--only", "val")
    assert of_file == {"weights": str(weights_file), "step": None, "metrics": of_run["metrics"]}
    assert set(of_run["metrics"]) == {"val/acc@1", "val/loss"}


def test_leaves_of_the_file_that_are_not_read_are_named(evaluated, weights_file, caplog):
    of_file = f"--config.model_init={weights_file}"
    whole = evaluated(of_file, "--only=val", "--config.model_load.dont_load=()")
    assert not caplog.messages
    fresh_head = evaluated(of_file, "--only=val", "--config.model_load.dont_load=('head/.*',)")
    assert fresh_head["metrics"] != whole["metrics"]
    (warning,) = caplog.messages
    assert warning.startswith(f"head/bias, head/kernel of {weights_file} are not read but drawn at random")
    assert "--config.model_load.dont_load='()' reads the whole file" in warning


def test_people_get_a_table(trained, capsys):
    assert main(["eval", "--config", trained.recipe, "--workdir", str(trained.workdir), "--only=ema"]) == 0
    shown = capsys.readouterr().out
    assert "step 12" in shown
    assert "ema/acc@1" in shown
    assert "val/" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate; give the --workdir of a run, or --config.model_init=FILE.npz"),
        (["--workdir={empty}"], "{empty} has no checkpoint; give the workdir of a run"),
        (["--workdir={run}", "--only=vall"], "config.evals has no 'vall' (did you mean 'val'?); possible: ema, val"),
        (["--workdir={run}", "--config.model.width=40"], "is of another model or optimizer"),
        (["--config.model_init={empty}/w.npz"], "no weights file {empty}/w.npz"),
    ],
)
def test_what_cannot_be_evaluated_is_said(trained, tmp_path, capsys, arguments, message):
    places = {"empty": tmp_path, "run": trained.workdir}
    assert main(["eval", "--config", trained.recipe, *(text.format(**places) for text in arguments)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message.format(**places) in error
    assert not list(tmp_path.iterdir())


def test_a_config_without_evaluators_is_said(trained, tiny):
    from big_vision_dual.train import evaluate

    config = tiny(model="mlp")
    config.evals = {}
    with pytest.raises(ValueError, match=r"config\.evals is empty; give a config that has evaluators"):
        evaluate.evaluate(config, trained.workdir)
