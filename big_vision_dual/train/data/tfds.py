"""TFDS splits on disk: finding them, reading this host's share of the encoded examples, parsing one.

Only files are read: the code that generated a data set is not imported, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder, registered
from tensorflow_datasets.core.utils import file_utils

from big_vision_dual.train.data.base import DataError, host_range
from big_vision_dual.train.pp.quiet_tf import Dataset, tf

_INTERLEAVED_FILES = 16  # read side by side, so that neighbours in a batch come from different files
_READ_BUFFER_BYTES = 8 << 20  # as TFDS itself: object stores are slow to first byte


@dataclasses.dataclass(frozen=True)
class Split:
    """One host's share of a split, still encoded.

    num_examples: of this host. total_examples: of all hosts.
    files: for each file this host reads: (path, examples to skip, examples to take).
    features: parses one serialized example.
    spans: {index in `files`: (offset, length) in bytes of its records} of files that are read by position, because
      they are damaged (see `faults`); a record of length 0 cannot be read, and is given as an empty string.
    keep: says of a parsed example whether it belongs; num_examples then counts those that do.
    """

    num_examples: int
    total_examples: int
    files: tuple[tuple[str, int, int], ...]
    features: Any
    spans: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)
    keep: Callable[[dict[str, Any]], Any] | None = None

    @property
    def num_classes(self) -> int | None:
        """Of the feature `label`, where that is a class."""
        label = dict(self.features.items()).get("label")
        return label.num_classes if isinstance(label, tfds.features.ClassLabel) else None

    def records(self) -> Dataset:
        """Serialized examples, once each, from several files at a time."""
        return self.located().map(lambda record, *_: record)

    def located(self, file_order: Any = None) -> Dataset:
        """(serialized example, index of its file, its number in the file); `file_order`: indices of the files."""
        keep, found = self.keep, self._all(file_order)
        return found if keep is None else found.filter(lambda record, *_: keep(self.parse(record)))

    def _all(self, file_order: Any = None) -> Dataset:
        names, skips, takes = zip(*self.files, strict=True) if self.files else ((), (), ())
        indices = tf.range(len(self.files), dtype=tf.int64)
        columns = indices, tf.constant(names, tf.string), tf.constant(skips, tf.int64), tf.constant(takes, tf.int64)
        if file_order is not None:
            columns = tuple(tf.gather(column, file_order) for column in columns)
        return tf.data.Dataset.from_tensor_slices(columns).interleave(
            self._read_file, cycle_length=_INTERLEAVED_FILES, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def record(self, file: int, number: int) -> Any:
        """The serialized example `number` of a file."""
        path = self.files[file][0]
        index, skip, take = (tf.constant(value, tf.int64) for value in (file, number, 1))
        return next(iter(self._read_file(index, tf.constant(path), skip, take)))[0]

    def _read_file(self, index: Any, name: Any, skip: Any, take: Any) -> Dataset:
        by_position = tf.constant(list(self.spans), tf.int64)
        whole = tf.boolean_mask(name[None], tf.reduce_all(index != by_position)[None])
        records = tf.data.TFRecordDataset(whole, buffer_size=_READ_BUFFER_BYTES)
        for other, spans in self.spans.items():
            mine = tf.boolean_mask(name[None], index == [other])
            records = records.concatenate(tf.data.Dataset.from_tensor_slices(mine).flat_map(_by_position(spans)))
        complete = records.skip(skip).take(take).apply(tf.data.experimental.assert_cardinality(take))
        return complete.enumerate(skip).map(lambda number, record: (record, index, number))

    def parse(self, record: Any) -> dict[str, Any]:
        """Serialized example -> {feature: tensor}; images stay encoded, for the ops to decode."""
        images = [name for name, feature in self.features.items() if isinstance(feature, tfds.features.Image)]
        return self.features.deserialize_example(record, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()))


def _by_position(spans_Nx2: np.ndarray) -> Any:
    """name -> the records of that file, which is held in memory as a whole while it is read."""

    def read(name: Any) -> Dataset:
        content = tf.io.read_file(name)
        spans = tf.data.Dataset.from_tensor_slices(spans_Nx2)
        return spans.map(lambda span: tf.strings.substr(content, span[0], span[1]))

    return read


def open_split(data: Mapping[str, Any], process_index: int = 0, process_count: int = 1) -> Split:
    """The share of host `process_index` in dict(name=, split=, data_dir=).

    name: as in TFDS, 'name[/config][:version]'. split: 'train', 'train[:99%]', ... (default 'train').
    data_dir: where the data sets lie; default TFDS's own. The hosts' shares are contiguous, even to
    one example, and disjoint. Raises `DataError` for what is not there, naming what is.
    """
    unknown = sorted(set(data) - {"name", "split", "data_dir"})
    if unknown:
        raise DataError(f"data has unknown settings {unknown}; possible: name, split, data_dir.")
    builder = _find(data["name"], data.get("data_dir"))
    split, splits = data.get("split", "train"), builder.info.splits
    try:
        total = splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise DataError(
            f"{data['name']} in {builder.data_dir} has no split {split!r}; possible: {', '.join(splits)}, "
            "and slices such as 'train[:99%]'."
        ) from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files; possible: tfrecord. "
            "Prepare it again with `tfds build --file_format tfrecord`."
        )
    share = host_range(total, process_index, process_count)
    files = [(str(part.filename), part.skip, part.take) for part in splits[split].file_instructions]
    return Split(len(share), total, _cut(files, share), builder.info.features)


def _cut(files: list[tuple[str, int, int]], share: range) -> tuple[tuple[str, int, int], ...]:
    """The part of `files` (path, skip, take) which holds the examples `share` of their concatenation."""
    cut, first = [], 0
    for path, skip, take in files:
        start, stop = max(share.start - first, 0), min(share.stop - first, take)
        if start < stop:
            cut.append((path, skip + start, stop - start))
        first += take
    return tuple(cut)


def _find(name: str, data_dir: str | None) -> Any:
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError as error:
        searched = [str(data_dir)] if data_dir else [str(path) for path in file_utils.list_data_dirs()]
        bare = name.replace(":", "/").split("/")[0]
        raise DataError(
            f"no data set {name!r} under {', '.join(searched)} (looked for {bare}/.../dataset_info.json). "
            f"Prepare it once with `tfds build {bare} --data_dir {searched[0]}` (for imagenet2012 put the two "
            "downloaded tar files into downloads/manual there first), or set config.input.data.data_dir "
            "(or the environment variable TFDS_DATA_DIR) to where it is."
        ) from error
