"""The documents: links lead somewhere, lines are short, the notebooks run, the API pages read our docstrings."""

from __future__ import annotations

import pathlib
import re
import runpy
import sys

import pytest
import workdirs

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WRAPPED = {"index.md", "gallery.md", "papers.md", "read_a_run.md", "train.md"}
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path):
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        file, _, heading = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists() or file.startswith("api/"), f"{path.name} links to {target}"
        assert not heading or heading in headings(found), f"{path.name}: {found.name} has no heading #{heading}"


def headings(path: pathlib.Path) -> set[str]:
    """Anchors as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name in WRAPPED], ids=lambda path: path.name)
def test_lines_fit_a_screen(path):
    text = _FENCE.sub("", path.read_text())
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{path.name}: {len(long)} lines of more than 120 characters, the first: {long[0]}"


def test_the_notebook_that_reads_a_run(tmp_path, monkeypatch, capsys):
    folder = workdirs.workdir(tmp_path / "mnist")
    monkeypatch.setattr(sys, "argv", ["read_a_run.py", str(folder)])
    runpy.run_path(str(ROOT / "docs" / "notebooks" / "read_a_run.py"))
    printed = capsys.readouterr().out
    assert "mnist: finished, 4 of 4 steps" in printed
    assert "training loss 2.000 at step 1, 0.500 at step 4" in printed
    assert "query/W: 2 layers, at most 2^1.00 away" in printed


@pytest.fixture
def restructured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import api_pages  # pyright: ignore[reportMissingImports]

    return api_pages._restructured


def test_docstrings_become_lists_of_fields(restructured):
    text = "Does it: x_BxL `a*b`.\n\nlr: the rate,\n  in octaves. decay, wd: *not* used.\nRaises ValueError."
    assert restructured(text) == [
        r"Does it: x\_BxL ``a*b``.", "",
        r"- **lr**: the rate, in octaves. decay, wd: \*not\* used. Raises ValueError.", "",
    ]  # fmt: skip
    assert restructured(">>> f(1)\n2") == ["::", "", "   >>> f(1)", "   2", ""]
