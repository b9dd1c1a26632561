"""`bvd list`: what there is to name in other commands."""

from __future__ import annotations

import argparse
import ast
import pathlib

from rich.console import Console
from rich.table import Table

from big_vision_dual.core import files, tables
from big_vision_dual.train import schema

EXAMPLES = ("", "recipes", "fields --markdown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is listed, and how."""
    parser.add_argument("what", nargs="?", choices=tuple(_LISTS), help="one of them; without, all but the fields")
    parser.add_argument("--markdown", action="store_true", help="of fields: print docs/config.md")


def run(args: argparse.Namespace) -> int:
    """Prints the lists."""
    if args.markdown:
        print(schema.markdown(), end="")
        return 0
    for name in [args.what] if args.what else ["recipes", "tables", "tracks"]:
        view = _LISTS[name]()
        Console().print(view if view.row_count else f"no {name} are shipped")
    return 0


def recipes() -> list[pathlib.Path]:
    """The config files that ship with the package."""
    return sorted(files.shipped("configs").glob("[!_]*.py"))


def _recipes() -> Table:
    view = _view("recipe", "what it is")
    for path in recipes():
        view.add_row(path.stem, _first_line(path))
    return view


def _tables() -> Table:
    view = _view("table", "what it is of")
    for path in sorted(files.shipped("norm_cache").glob("*.json")):
        try:
            table = tables.load(path)
            view.add_row(path.stem, f"{table.model_name}: {len(table.rows)} leaves, mass {table.mass:g}")
        except tables.TableError:
            view.add_row(path.stem, "muP's rules")
    return view


def _tracks() -> Table:
    view = _view("track", "file")
    for path in sorted(files.shipped("tracks").glob("[!_]*")):
        view.add_row(path.stem, str(path))
    return view


def _fields() -> Table:
    view = _view("field", "possible", "meaning")
    for section in schema.SECTIONS.values():
        for field in section:
            view.add_row(field.name, field.says(), field.meaning)
    return view


_LISTS = {"recipes": _recipes, "tables": _tables, "tracks": _tracks, "fields": _fields}


def _view(*columns: str) -> Table:
    view = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        view.add_column(column, overflow="fold", no_wrap=not index)
    return view


def _first_line(path: pathlib.Path) -> str:
    """The first line of a config file's docstring; the file is not run."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
