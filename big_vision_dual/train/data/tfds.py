"""TFDS splits on disk: finding them, reading this host's share of the encoded examples, parsing one.

Only files are read: the code that generated a data set is not imported, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """

    num_examples: int
    total_examples: int
    files: tuple[tuple[str, int, int], ...]
    features: Any

    def records(self, file_order: Any = None) -> Dataset:
        """Serialized examples, once each, from several files at a time; `file_order`: indices of the files."""
        names, skips, takes = zip(*self.files, strict=True) if self.files else ((), (), ())
        columns = tf.constant(names, tf.string), tf.constant(skips, tf.int64), tf.constant(takes, tf.int64)
        if file_order is not None:
            columns = tuple(tf.gather(column, file_order) for column in columns)
        return tf.data.Dataset.from_tensor_slices(columns).interleave(
            _read_file, cycle_length=_INTERLEAVED_FILES, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def parse(self, record: Any) -> dict[str, Any]:
        """Serialized example -> {feature: tensor}; images stay encoded, for the ops to decode."""
        images = [name for name, feature in self.features.items() if isinstance(feature, tfds.features.Image)]
        return self.features.deserialize_example(record, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()))


def _read_file(name: Any, skip: Any, take: Any) -> Dataset:
    return tf.data.TFRecordDataset(name, buffer_size=_READ_BUFFER_BYTES).skip(skip).take(take)


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
