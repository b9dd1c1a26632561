"""Lines of JSON as a data set, by Big Vision's name: `dict(name='bv:jsonl', fname=FILE, fopen_keys={'image': FOLDER})`.

Each line is one example, of strings, numbers and booleans. The entries `fopen_keys` hold names of files, local or
gs://, whose contents stand in the example in their place: a list of entries, or {entry: folder of its files}. `start`
and `stop` cut lines out, counted from 0. An entry `id` numbers the lines, as strings.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from big_vision_dual.train.data.base import DataError, host_range
from big_vision_dual.train.data.tfds import Split
from big_vision_dual.train.pp.quiet_tf import Dataset, said, tf

NAME = "bv:jsonl"
_KEYS = ("name", "fname", "fopen_keys", "start", "stop")
_DTYPES = {str: tf.string, int: tf.int64, float: tf.float32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Split):
    """One host's share of the lines. `files` has an entry for each of them, so that an epoch is in uniform order.

    lines_N: each as a serialized tf.train.Example. opened: entries that name files; a record holds their contents too.
    """

    lines_N: Any = dataclasses.field(compare=False)
    opened: tuple[str, ...]

    def parse(self, record: Any) -> dict[str, Any]:
        line, *contents = tf.unstack(tf.io.parse_tensor(record, tf.string), num=1 + len(self.opened))
        example = tf.io.parse_single_example(line, self.features)
        for name, content in zip(self.opened, contents, strict=True):
            missing = tf.strings.join(["no file, or an empty one: ", example[name]])
            with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(content) > 0, [missing])]):
                example[name] = tf.identity(content)
        return example

    def record(self, file: int, number: int) -> Any:
        del number  # a line is a file of its own
        return self._record(self.lines_N[file])

    def _all(self, file_order: Any = None) -> Dataset:
        order = tf.range(len(self.files), dtype=tf.int64) if file_order is None else file_order
        first = self.files[0][1] if self.files else 0

        def located(index: Any) -> tuple[Any, Any, Any]:
            return self._record(tf.gather(self.lines_N, index)), index, index + first

        return tf.data.Dataset.from_tensor_slices(order).map(
            located, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def _record(self, line: Any) -> Any:
        """A line and its files' contents as one string; the content of a file that cannot be read is empty."""
        example = tf.io.parse_single_example(line, self.features)
        return tf.io.serialize_tensor(tf.stack([line, *(_content(example[name]) for name in self.opened)]))


def _content(path: Any) -> Any:
    read = tf.data.Dataset.from_tensors(path).map(tf.io.read_file).ignore_errors()
    return read.concatenate(tf.data.Dataset.from_tensors(tf.constant(b""))).take(1).get_single_element()


def open_lines(data: Mapping[str, Any], process_index: int, process_count: int) -> Lines:
    """The share of a host in the lines of a file, see the module. Raises `DataError` for what is no such file."""
    unknown = sorted(set(data) - set(_KEYS))
    if unknown or not data.get("fname"):
        raise DataError(
            f"{NAME} has settings {sorted(data)}; possible: {', '.join(_KEYS)}, of which fname, a file with one JSON "
            "object a line, is needed."
        )
    name, start, stop = data["fname"], data.get("start") or 0, data.get("stop") or math.inf
    folders = _folders(data.get("fopen_keys") or ())
    examples = [_with_folders(each, folders, name, start + i) for i, each in enumerate(_read(name, start, stop))]
    if not examples:
        raise DataError(f"{name} has no line from {start} on" + (f" and below {stop}." if stop < math.inf else "."))
    kinds = _kinds(examples, name, start)
    share = host_range(len(examples), process_index, process_count)
    lines = [_serialized(i + start, examples[i], kinds) for i in share]
    features = {entry: tf.io.FixedLenFeature([], _DTYPES[kind]) for entry, kind in {"id": str, **kinds}.items()}
    return Lines(
        num_examples=len(share),
        total_examples=len(examples),
        files=tuple((name, i + start, 1) for i in share),
        features=features,
        lines_N=tf.constant(lines, tf.string),
        opened=tuple(folders),
    )


def _folders(given: Any) -> dict[str, str]:
    """{entry: what stands before its files' names}."""
    return dict(given.items()) if hasattr(given, "items") else dict.fromkeys(given, "")


def _read(name: str, start: int, stop: float) -> Iterator[dict[str, Any]]:
    try:
        with tf.io.gfile.GFile(name) as file:
            for number, line in enumerate(file):
                if start <= number < stop:
                    yield _object(line, name, number)
    except tf.errors.OpError as error:
        raise DataError(f"cannot read {name}: {said(error)}; set config.input.data.fname.") from error


def _object(line: str, name: str, number: int) -> dict[str, Any]:
    try:
        example = json.loads(line)
    except ValueError as error:
        raise DataError(f"{name}: line {number} is no JSON: {error}.") from error
    entries = example if isinstance(example, dict) else {"no object": None}
    wrong = [key for key, value in entries.items() if type(value) not in (*_DTYPES, bool)]
    if wrong:
        raise DataError(
            f"{name}: line {number} has {', '.join(wrong)}; possible: an object of strings, numbers and "
            "booleans. For lists and nested values prepare a TFDS data set."
        )
    return example


def _with_folders(example: dict[str, Any], folders: Mapping[str, str], name: str, number: int) -> dict[str, Any]:
    for key in folders:
        if not isinstance(example.get(key), str):
            raise DataError(f"{name}: line {number} has no file name {key!r}, of fopen_keys; it has {sorted(example)}.")
    return {key: os.path.join(folders[key], value) if key in folders else value for key, value in example.items()}


def _kinds(examples: list[dict[str, Any]], name: str, start: int) -> dict[str, type]:
    """{entry: str, int or float} of all lines; numbers of which one has a fraction are float."""
    found: dict[str, type] = {}
    for number, example in enumerate(examples, start):
        if number > start and example.keys() != found.keys():
            differing = sorted(example.keys() ^ found.keys())
            raise DataError(f"{name}: line {number} differs from those before in {differing}; all lines need the same.")
        for key, value in example.items():
            kind = int if isinstance(value, bool) else type(value)
            before = found.setdefault(key, kind)
            if (kind is str) != (before is str):
                raise DataError(f"{name}: line {number}: {key!r} is {value!r}, in lines before a {before.__name__}.")
            found[key] = float if float in (kind, before) else kind
    return found


def _serialized(number: int, example: Mapping[str, Any], kinds: Mapping[str, type]) -> bytes:
    def feature(kind: type, value: Any) -> Any:
        if kind is str:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        if kind is int:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    features = {key: feature(kind, example[key]) for key, kind in kinds.items()}
    features = {"id": feature(str, str(number)), **features}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
