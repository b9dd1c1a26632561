"""What the table of `fields` is for: configs are checked, texts of the command line read, docs/config.md written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.train.fields import FIELDS, SCHEDULING, SECTIONS, UNITS, Field

_DOT = "\N{MIDDLE DOT}"  # stands for a dot inside a key, such as a regex


class ConfigError(ValueError):
    """A config with fields that do not exist, are missing, or have values that are not possible."""


def check(config: Any, *, whole: bool = False) -> None:
    """Raises `ConfigError` that lists all wrong fields of a config, a mapping.

    whole: whether needed fields must be there.
    """
    wrong = list(_wrong(config, "", config))
    if whole:
        wrong += [
            f"config.{name} is missing; possible: {field.says()}: {field.meaning}"
            for name, field in FIELDS.items()
            if field.needed and "." not in name and name not in config
        ]
    if wrong:
        some = "a wrong field" if len(wrong) == 1 else f"{len(wrong)} wrong fields"
        raise ConfigError("\n  ".join([f"the config has {some}:", *wrong]))


def field_of(name: str) -> Field | None:
    """The field with a dotted name, or with a pattern that stands for it: evals.val.type is of evals.*.type."""
    fitting = (field for pattern, field in FIELDS.items() if _stands_for(pattern, name))
    return min(fitting, key=lambda field: field.name.count("*"), default=None)


def value(config: Any, name: str) -> Any:
    """What a config, a mapping, says of a field with a dotted name; its default where that is nothing or None."""
    *groups, last = name.split(".")
    for group in groups:
        config = config.get(group) or {}
    given = config.get(last)
    return FIELDS[name].default if given is None else given


def is_foreign(name: str, config: Any) -> bool:
    """Whether a field belongs to a model or an evaluator of one's own, named by its module, which checks it itself."""
    group, _, rest = name.partition(".")
    if group == "model":
        return bool(rest) and not str(config.get("model_name")).isidentifier()
    own, _, last = rest.partition(".")
    if group != "evals" or not last or own not in (config.get("evals") or {}):
        return False
    return "." in str(config["evals"][own].get("type", own)) and last not in SCHEDULING


def below(prefix: str) -> list[str]:
    """Last parts of the fields directly below a dotted name, '' for the top."""
    names = (name.rpartition(".") for name in FIELDS)
    return [last for group, _, last in names if last != "*" and _stands_for(group, prefix)]


def read(text: str, field: Field | None, now: Any) -> Any:
    """A value of the command line as its field's kind, or without a field as what it is in Python, else as text.

    now: the value that it takes the place of; a field that the table lacks keeps that one's kind.
    """
    kinds = field.kinds if field else ((type(now),) if now is not None else ())
    if text in ("None", "none") and (field is None or field.optional):
        return None
    if kinds == (str,):
        return text
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return float(text) if float in kinds and text.lower() in ("inf", "-inf", "nan") else text
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(value, list) and tuple in kinds else value


def unknown(name: str, config: Any) -> str:
    """That there is no such field, and which ones are near."""
    prefix, _, last = name.rpartition(".")
    there = config
    for part in prefix.split(".") if prefix else ():
        there = there.get(part) or {}
    start = f"config.{prefix}." if prefix else "config."
    possible = sorted({*below(prefix), *map(str, there)} - {last})
    near = did_you_mean(f"config.{name}", [start + other for other in possible])
    listed = ", ".join(other for other in possible if not other.endswith(UNITS[1:]))
    return f"config.{name.replace(_DOT, '.')} is not a field{near or f'; possible: {start}{{{listed}}}'}"


def _wrong(config: Any, prefix: str, root: Any) -> Iterator[str]:
    """A line for each wrong field of a dict, whose fields are named prefix + key."""
    group = field_of(prefix.removesuffix(".")) if prefix else None
    for key, value in config.items():
        name = f"{prefix}{str(key).replace('.', _DOT)}"
        if is_foreign(name, root):
            continue
        field = _meant(name, value)
        if field is None:
            if group is None or not group.open:
                yield unknown(name, root)
        elif field.allows(value):
            yield from _inside(name, value, field, root)
        else:
            yield f"config.{name.replace(_DOT, '.')}={value!r}; possible: {field.says()} ({field.meaning})"


def _meant(name: str, value: Any) -> Field | None:
    """The field of a name; where only a '*' stands for it, and others could have been meant, the value must fit too."""
    field = field_of(name)
    if field is None or field.allows(value) or not field.name.endswith("*"):
        return field
    return None if below(name.rpartition(".")[0]) else field


def _inside(name: str, value: Any, field: Field, root: Any) -> Iterator[str]:
    """What is wrong in a dict, or in the dicts of a list of rules."""
    if dict not in field.kinds or value is None or isinstance(value, str | bool):
        return
    for each in [value] if hasattr(value, "items") else [rule for _, rule in value]:
        if hasattr(each, "items"):
            yield from _wrong(each, f"{name}.", root)


def _stands_for(pattern: str, name: str) -> bool:
    mine, parts = pattern.split("."), name.split(".")
    return len(mine) == len(parts) and all(own in ("*", part) for own, part in zip(mine, parts, strict=True))


def markdown() -> str:
    """docs/config.md."""
    lines = [
        "# The fields of a config", "",
        "Written by `bvd list fields --markdown > docs/config.md` from `big_vision_dual/train/fields.py`.", "",
        "Each can be set by `--config.FIELD=VALUE`, also where the recipe does not name it; those that may be None are",
        "unset by `--config.FIELD=None`. A part `*` is a name of your own. A field that is needed has no default.", "",
    ]  # fmt: skip
    for heading, section in SECTIONS.items():
        lines += [f"## {heading}", "", "| field | possible | default | meaning |", "|---|---|---|---|"]
        lines += [_line(field) for field in section if not field.name.endswith(UNITS[1:])] + [""]
    return "\n".join(lines)


def _line(field: Field) -> str:
    """A field's row of the table; the four of a duration share one."""
    name, possible = field.name, field.says()
    default = "needed" if field.needed else f"`{field.default!r}`"
    if name.endswith(f"_{UNITS[0]}"):
        name, possible, default = f"{name.removesuffix(UNITS[0])}{{{','.join(UNITS)}}}", "at most one of them", ""
    return f"| `{name}` | {possible} | {default} | {field.meaning} |"
