"""The W&B report: what is in it by the objects' own serialization, and the script that makes it. Nothing is sent."""

import json
import runpy
import warnings

import pytest
import workdirs

from big_vision_dual.cli import main
from big_vision_dual.lab.report import runs, wandb_report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb_workspaces' own models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    reports = pytest.importorskip("wandb_workspaces.reports.v2.interface")
    workspaces = pytest.importorskip("wandb_workspaces.workspaces.interface")


@pytest.fixture
def logged(tmp_path):
    """A run that was logged in wandb, with a quote in its command."""
    folder = workdirs.workdir(tmp_path / "a", versions={"command": "bvd train '''|x"})
    (folder / "wandb_id.txt").write_text("abc123")
    return folder


@pytest.fixture
def sent(monkeypatch):
    """Saving serializes and keeps in place of sending: {'report': ..., 'workspace': ...}."""
    kept = {}
    monkeypatch.setattr(reports, "_get_api", lambda: None)
    monkeypatch.setattr(reports, "execute_graphql", lambda *_: {"project": {"internalId": "1"}})

    def saving(name):
        def save(self, **_):
            kept[name] = json.loads(self._to_model().model_dump_json(by_alias=True, exclude_none=True))
            return self

        return save

    monkeypatch.setattr(reports.Report, "save", saving("report"))
    monkeypatch.setattr(workspaces.Workspace, "save", saving("workspace"))
    monkeypatch.setattr(reports.Report, "url", property(lambda _: "REPORT-URL"))
    monkeypatch.setattr(workspaces.Workspace, "url", property(lambda _: "WORKSPACE-URL"))
    return kept


def test_sections_are_those_of_the_page_under_the_names_of_wandb(logged):
    spec = wandb_report.spec([runs.read(logged)], "team/project")
    assert list(spec.sections) == ["Result", "Optimization", "Size and step of every atom", "Speed", "System"]
    assert [key for _, key, _ in spec.sections["Result"]] == ["train/loss", "val/acc@1", "val/loss"]
    assert {key for _, key, _ in spec.sections["Size and step of every atom"]} == {
        "norms/Linear/weight_norm", "norms/Linear/update_norm",
    }  # fmt: skip
    assert spec.runs == ["abc123"]
    assert "| command | bvd train '''\\|x |" in spec.text


def test_without_a_login_a_script_is_written_and_makes_both(logged, sent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wandb.login", lambda **_: False)
    out = tmp_path / "r.html"
    assert main(["report", str(logged), "--out", str(out), "--wandb", "team/project"]) == 0
    assert "no wandb login is stored" in capsys.readouterr().out
    assert not sent
    runpy.run_path(str(tmp_path / "r.wandb.py"))
    assert "REPORT-URL\nW&B workspace WORKSPACE-URL" in capsys.readouterr().out
    report, workspace = json.dumps(sent["report"]), json.dumps(sent["workspace"])
    for text in ("abc123", "train/loss", "speed/img_per_sec", "Training loss", "Size and step of every atom"):
        assert text in report
        assert text in workspace
    assert "Run Comparer" in report


def test_with_a_login_it_is_sent(logged, sent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wandb.login", lambda **_: True)
    assert main(["report", str(logged), "--out", str(tmp_path / "r.html"), "--wandb", "team/project"]) == 0
    assert set(sent) == {"report", "workspace"}
    assert not (tmp_path / "r.wandb.py").exists()
    assert "W&B report REPORT-URL" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["project", "a/b/c", "a b/c", "/p"])
def test_where_is_an_entity_and_a_project(logged, where):
    with pytest.raises(ValueError, match="is no ENTITY/PROJECT"):
        wandb_report.spec([runs.read(logged)], where)


def test_runs_that_wandb_does_not_know(tmp_path):
    with pytest.raises(ValueError, match=r"none of these runs has a wandb_id\.txt"):
        wandb_report.spec([runs.read(workdirs.workdir(tmp_path / "a"))], "team/project")
