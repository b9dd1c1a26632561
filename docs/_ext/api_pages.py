"""Writes a page for each public door from its docstrings, and turns our docstrings into what Sphinx reads."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterable
from typing import Any

DOORS = {
    "big_vision_dual": "The library: `import big_vision_dual as bvd`",
    "big_vision_dual.core.norms": "Norm trees: `bvd.norms`",
    "big_vision_dual.core.tables": "Tables of target norms",
    "big_vision_dual.core.dualize": "Dualization of gradients",
    "big_vision_dual.models.norm_trees": "Norm trees of the models that ship",
    "big_vision_dual.train.recipes": "Recipes",
    "big_vision_dual.lab.report.runs": "Runs, read from their workdirs",
}
"""Modules whose public names are documented, with the titles of their pages."""

_FIELD = re.compile(r"^([a-z_*][\w*]*(?:, [a-z_*][\w*]*)*): (.*)$")
_CODE = re.compile(r"(`[^`]+`)")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    app.connect("autodoc-process-docstring", _processed)
    return {"parallel_read_safe": True}


def _write(app: Any) -> None:
    """docs/api/MODULE.md for every door; a page that says the same already is left alone."""
    folder = pathlib.Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    seen: set[int] = set()
    pages = {f"{name.replace('.', '_')}.md": _page(name, title, seen) for name, title in DOORS.items()}
    listed = "\n".join(name.removesuffix(".md") for name in pages)
    intro = "# API\n\nThe public doors, from their docstrings. Names that are not here may change in any release.\n"
    pages["index.md"] = f"{intro}\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _page(module_name: str, title: str, seen: set[int]) -> str:
    """seen: what other pages have already, and what the index leads to there."""
    module = importlib.import_module(module_name)
    parts = [f"# {title}\n", f"Module `{module_name}`: {_first_line(module)}\n"]
    for name, kind in _public(module):
        options = "   :members:\n" if kind == "class" else ""
        options += "   :no-index:\n" if id(getattr(module, name)) in seen else ""
        seen.add(id(getattr(module, name)))
        parts.append(f"```{{eval-rst}}\n.. auto{kind}:: {module_name}.{name}\n{options}```\n")
    return "\n".join(parts)


def _first_line(module: Any) -> str:
    return (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")


def _public(module: Any) -> Iterable[tuple[str, str]]:
    """(name, 'function' or 'class') of what a door offers: `__all__`, else what is made in it and has no underscore."""
    ours = [name for name in vars(module) if not name.startswith("_")]
    for name in getattr(module, "__all__", ours):
        found = getattr(module, name)
        if not str(getattr(found, "__module__", "")).startswith(module.__name__):
            continue
        if inspect.isclass(found):
            yield name, "class"
        elif inspect.isfunction(found):
            yield name, "function"


def _processed(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are prose, with fields as 'name: text' whose lines go on indented."""
    del app, what, name, thing, options
    lines[:] = _restructured("\n".join(lines))


def _restructured(text: str) -> list[str]:
    made: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        block = paragraph.split("\n")
        if block[0].lstrip().startswith(">>>") or _is_table(block):
            made += ["::", "", *("   " + line for line in block), ""]
        else:
            made += [*_prose(block), ""]
    return made


def _is_table(block: list[str]) -> bool:
    """Whether lines are laid out with spaces, and must stay as they are."""
    return sum("   " in line.strip() for line in block) >= 2


def _prose(block: list[str]) -> list[str]:
    """Joined lines; each field becomes an item of a list."""
    items: list[str] = []
    for line in block:
        field = _FIELD.match(line.strip())
        if field and not line.startswith("    "):
            items.append(f"- **{_escaped(field[1])}**: {_escaped(field[2])}")
        elif items:
            items[-1] += " " + _escaped(line.strip())
        else:
            items.append(_escaped(line.strip()))
    spaced: list[str] = []
    for item in items:
        if spaced and item.startswith("- ") != spaced[-1].startswith("- "):
            spaced.append("")
        spaced.append(item)
    return spaced


def _escaped(text: str) -> str:
    """Text in which only `code` is markup."""
    parts = _CODE.split(text)
    prose = [re.sub(r"([*|\\_`])", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part[1:-1]}``" for part in parts[1::2]]
    made = prose[0]
    for literal, after in zip(code, prose[1:], strict=True):
        before = "\\ " if made[-1:].isalnum() else ""  # a space that is not shown ends or begins a literal at a letter
        made += before + literal + ("\\ " if after[:1].isalnum() else "") + after
    return made
