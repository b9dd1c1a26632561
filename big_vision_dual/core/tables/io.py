"""Tables as JSON: a header and one leaf a line, so that a diff of two tables reads leaf by leaf."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from big_vision_dual.core import files
from big_vision_dual.core.errors import did_you_mean
from big_vision_dual.core.tables.schema import FORMAT_VERSION, Row, TableError, TargetNormTable

_MAX_BYTES = 2**28
_REMEDY = "Build it anew: bvd norms build --config X --out FILE."
_HEADER = ("model_name", "model", "input_shape", "norms", "mass", "sensitivity")


def digest(table: TargetNormTable) -> str:
    """SHA-256 over header and rows, hexadecimal."""
    return hashlib.sha256(json.dumps([_header(table), _atoms(table)], sort_keys=True).encode()).hexdigest()


def dumps(table: TargetNormTable) -> str:
    """The table as text, rows in the order of the forward pass."""
    header = {**_header(table), "digest": digest(table)}
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(row)}" for key, row in _atoms(table).items())
    return f'{{"header": {json.dumps(header, indent=1)},\n"atoms": {{\n{lines}\n}}}}\n'


def save(table: TargetNormTable, path: str | os.PathLike[str]) -> None:
    """Writes the table, whole or not at all."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write(path, dumps(table))


def load(name: str | os.PathLike[str]) -> TargetNormTable:
    """Reads a table from a JSON file, or by its name in norm_cache (e.g. "vit_s16_i1k").

    Raises `TableError` if there is none, if it is damaged, or if its digest says that it was edited.
    """
    path = find(name)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise TableError(f"{path} has {size} bytes; a table has at most {_MAX_BYTES}. Is it another file?")
    try:
        return loads(files.read(path), str(path))
    except files.FileError as error:
        raise TableError(f"{error} {_REMEDY}") from error


def find(name: str | os.PathLike[str]) -> pathlib.Path:
    """The JSON file of a table, of target norms or of muP, from its path or its name in norm_cache.

    Raises `TableError` if there is none.
    """
    path = pathlib.Path(name)
    if not path.is_file():
        path = files.shipped("norm_cache") / f"{files.FORMER_NAMES.get(str(name), name)}.json"
    if not path.is_file():
        known = sorted(file.stem for file in files.shipped("norm_cache").glob("*.json"))
        raise TableError(
            f"no table {str(name)!r}{did_you_mean(str(name), known)}; possible: a path to a JSON file, or one of "
            f"{', '.join(known)}. "
            "`bvd norms build --config X --out FILE` makes one."
        )
    return path


def loads(text: str, source: str = "table") -> TargetNormTable:
    """Parses what `dumps` wrote; `source` names it in errors."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{source} is not whole JSON ({error}); it may be truncated. {_REMEDY}") from error
    if isinstance(content, dict) and "mup" in content:
        raise TableError(f"{source} is a muP table, not one of target norms; `bvd norms show` prints it.")
    try:
        header, atoms = dict(content["header"]), content["atoms"]
        version, stated = header.pop("format_version"), str(header.pop("digest"))
        if version != FORMAT_VERSION:
            raise TableError(f"format version {version}; this code reads {FORMAT_VERSION}.")
        rows = tuple(_row(key, fields) for key, fields in atoms.items())
        table = TargetNormTable(**{**header, "input_shape": tuple(header["input_shape"])}, rows=rows)
    except TableError as error:
        raise TableError(f"{source}: {error} {_REMEDY}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TableError(f"{source}: a field is missing, unknown or of the wrong kind ({error}). {_REMEDY}") from error
    actual = digest(table)
    if actual != stated:
        raise TableError(
            f"{source}: its digest is {stated[:12]}..., its content has {actual[:12]}...: it was edited or damaged. "
            f"{_REMEDY} To keep an edit on purpose, load it with Python, and `tables.save` the changed value."
        )
    return table


def resolve(table: TargetNormTable | str | os.PathLike[str]) -> TargetNormTable:
    """A table as it is, or loaded from its path or name."""
    return table if isinstance(table, TargetNormTable) else load(table)


def _header(table: TargetNormTable) -> dict[str, Any]:
    header = {"format_version": FORMAT_VERSION, **{name: getattr(table, name) for name in _HEADER}}
    return json.loads(json.dumps(header))  # tuples become lists, so that a loaded table has the same digest


def _atoms(table: TargetNormTable) -> dict[str, dict[str, Any]]:
    rows = {row.key: dataclasses.asdict(row) for row in table.rows}
    for fields in rows.values():
        del fields["path"]
        if fields["slice"] is None:
            del fields["slice"]
    return json.loads(json.dumps(rows))


def _row(key: str, fields: dict[str, Any]) -> Row:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    part = values.get("slice")
    return Row(path=key if part is None else key.removesuffix(f"[{':'.join(map(str, part))}]"), **values)
