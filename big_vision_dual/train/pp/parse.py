"""Big Vision's op strings, `name(args)|name(key=value)`, read with `ast`: literals only, nothing is run."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any


class PreprocessError(ValueError):
    """An op string that cannot be read, names an unknown op, or gives an op wrong arguments."""


@dataclasses.dataclass(frozen=True)
class OpCall:
    """One op of a string: its name, its literal arguments, and the text it was written as."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    text: str


def parse(string: str) -> tuple[OpCall, ...]:
    """'resize(40)|value_range(-1, 1)' -> its calls in order; the empty string has none.

    Raises `PreprocessError` where the string is no chain of op calls or an argument is no literal.
    """
    source = string.strip()
    if not source:
        return ()
    try:
        node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise PreprocessError(
            f"cannot read the op string {string!r}: {error}. Write ops as `name` or `name(arguments)`, joined by `|`."
        ) from error
    return tuple(_call(link, source) for link in _links(node))


def _links(node: ast.expr) -> list[ast.expr]:
    """The operands of a chain a|b|c, which Python reads as (a|b)|c."""
    links = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        links.append(node.right)
        node = node.left
    return [node, *reversed(links)]


def _call(node: ast.expr, source: str) -> OpCall:
    text = ast.get_source_segment(source, node) or source
    if isinstance(node, ast.Name):
        return OpCall(node.id, (), {}, text)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise PreprocessError(f"{text!r} is no op; write `name` or `name(arguments)`, and join ops by `|`.")
    args = tuple(_literal(value, text, source) for value in node.args)
    kwargs = {keyword.arg or "**": _literal(keyword.value, text, source) for keyword in node.keywords}
    return OpCall(node.func.id, args, kwargs, text)


def _literal(node: ast.expr, text: str, source: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        argument = ast.get_source_segment(source, node)
        raise PreprocessError(
            f"argument {argument!r} of {text!r} is no literal; possible: numbers, strings, True, False, None, "
            "and tuples, lists or dicts of them. Work the value out in the config file and insert it."
        ) from error
