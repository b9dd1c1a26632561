"""The documents: links lead somewhere, lines are short, the notebooks run, the API pages read our docstrings."""

from __future__ import annotations

import pathlib
import re
import runpy
import shlex
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import workdirs

from big_vision_dual.cli.main import COMMANDS, parsers
from big_vision_dual.train import recipes

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_fit_a_screen(path):
    text = _FENCE.sub("", path.read_text())
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{path.name}: {len(long)} lines of more than 120 characters, the first: {long[0]}"


_CODE = re.compile(r"`([^`]+)`")
_PLACES = (".", "big_vision_dual", "docs")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_this_repository_that_are_named_are_there(path):
    named = re.findall(r"(?:^|[`\s(])((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|c))\b", _FENCE.sub("", path.read_text()), re.M)
    upstreams = ("pp/ops_text.py", "pp/archive/", "big_vision/")  # Big Vision's own
    wanted = [name for name in named if not name.startswith(upstreams)]
    gone = [name for name in wanted if not any((ROOT / place / name).exists() for place in _PLACES)]
    assert not gone, f"{path.name} names {gone}"


def test_every_figure_is_in_the_gallery():
    shown = (ROOT / "docs" / "gallery.md").read_text()
    assert [file.name for file in (ROOT / "docs" / "figures").iterdir() if f"figures/{file.name}" not in shown] == []


STANDS_FOR = {
    "S": "--seeds 6", "FLAGS": "--config.input_shape=(8,)", "C": "study_vit", "M_bytes:FILE": "mamba_bytes:README.md",
    "STEPS": "2", "RECIPE": "study_vit", "LR": ".1", "F": ".5", "ENTITY/PROJECT": "e/p", "WD|--radius": "1e-4", "R": "",
    "$short": "", "dual|standard|factorial": "dual", "study_vit:array:cifar10.npz": "study_vit",
}  # fmt: skip
"""What documents write for what a reader has to fill in, and a value of it."""


def commands(text: str) -> list[list[str]]:
    """The words of every `bvd COMMAND ...` with an argument, in code on a line, in fences and in indented blocks."""
    lines = [line for fence in _FENCE.findall(text) for line in fence.replace("\\\n", " ").splitlines()]
    prose = _FENCE.sub("", text)
    lines += [line for line in prose.splitlines() if line.startswith("    ")] + _CODE.findall(prose)
    found = (shlex.split(line, comments=True) for line in lines if line.strip().startswith("bvd "))
    return [words[1:] for words in found if len(words) > 2 and words[1] in COMMANDS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_is_understood(path):
    for given in commands(path.read_text()):
        if path.name == "CHANGELOG.md" or (given[0] == "norms" and len(given) == 2):
            continue  # names alone
        words = [part for word in given for part in (STANDS_FOR[word].split() if word in STANDS_FOR else [word])]
        words = words[: words.index(">")] if ">" in words else words
        parser, filled = parsers(words[:1])
        args = parser.parse(words, filled[words[0]])
        own = getattr(args, "model", None)
        if getattr(args, "overrides", None):
            recipes.load(f"own_model:{own},mnist5k" if own else args.config, args.overrides)


def code_after(marker: str) -> str:
    """The Python of the README's block after <!-- marker -->."""
    text = (ROOT / "README.md").read_text()
    return text[text.index(f"<!-- {marker} -->") :].split("```python\n")[1].split("```")[0]


def test_the_tree_of_the_readme_is_that_of_a_model_and_trains_it():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x_BxD):
            return nn.Dense(64, name="down")(nn.relu(nn.Dense(256, name="up")(nn.LayerNorm(name="norm")(x_BxD))))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x_BxF):
            x_BxD = nn.Dense(64, name="embed")(x_BxF)
            for layer in range(6):
                x_BxD = 5 / 6 * x_BxD + Block(name=f"block_{layer}")(x_BxD) / 6
            return nn.Dense(10, name="head")(x_BxD)

    params = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 784)))["params"]
    names: dict[str, Any] = {"params": params}
    exec(code_after("tree"), names)
    assert names["table"].sensitivity == pytest.approx(1.0)
    assert len(names["table"].rows) == len(jax.tree.leaves(params))
    assert jax.eval_shape(names["tx"].init, params)


def test_the_notebook_that_dualizes_a_model(capsys):
    runpy.run_path(str(ROOT / "docs" / "notebooks" / "dualize_your_own_model.py"))
    printed = capsys.readouterr().out
    assert "sensitivity 1, 16 atoms" in printed
    assert "does not fit these parameters" in printed
    losses = {float(text) for text in re.findall(r"lr [\d.]+: ([\d.]+)", printed)}
    assert min(losses) < 1.0 < max(losses)  # it trains, and the learning rate matters
    assert "best learning rate by width" in printed


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
    assert restructured("any `Leaf`s of a`b`") == ["any ``Leaf``\\ s of a\\ ``b``", ""]
    assert restructured(">>> f(1)\n2") == ["::", "", "   >>> f(1)", "   2", ""]
