"""Records that cannot be used: named by file and number, and up to a limit replaced by others.

A record is bad where its checksum is wrong, its file ends before it, or preprocessing fails on it. In a batch its
place is taken by the next good example, so that batch `step` stays a function of (config, seed, step).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from big_vision_dual.train.data.base import Batch, DataError
from big_vision_dual.train.data.tfds import Split
from big_vision_dual.train.pp.quiet_tf import said, tf

KEY = "_fault"
"""Entry of a guarded example: int64 (bad, part, file, number)."""
_HEADER, _FOOTER = 12, 4  # bytes around a record: its length and the checksum of that; its own checksum
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Faults:
    """The bad records that a source has met.

    limit: how many may be replaced. advice: what to do about more. seen: {(file, number): why} of this process.
    """

    limit: int
    advice: str = (
        "Prepare the data set again, or let config.input.skip_bad_records=N replace up to N bad records by others."
    )
    seen: dict[tuple[str, int], str] = dataclasses.field(default_factory=dict)

    def add(self, file: str, number: int, why: Callable[[], str]) -> None:
        """Notes a bad record. Raises `DataError`, naming all of them, where they are more than the limit."""
        if (file, number) in self.seen:
            return
        self.seen[file, number] = reason = why()
        if len(self.seen) <= self.limit:
            _log.warning("%s: record %d is replaced (%d of %d): %s", file, number, len(self.seen), self.limit, reason)
            return
        records = "\n".join(f"{file}: record {number}: {why}" for (file, number), why in self.seen.items())
        raise DataError(
            f"records that cannot be used, of which {self.limit} may be replaced:\n{records}\n{self.advice}"
        )


def failure(make: Callable[..., Any], *inputs: Any) -> str | None:
    """Why `make(*inputs)` fails, run by itself; None where it does not."""
    try:
        make(*inputs)
    except (tf.errors.OpError, ValueError) as error:
        return said(error)
    return None


def guarded(make: Callable[[Any, Any], dict[str, Any]], part: int, spec: dict[str, Any]) -> Callable:
    """`make(position, record)` as a function of (position, (record, file, number)) that never fails, and adds `KEY`.

    spec: {entry: shape and dtype} of what it makes. Costs about .3 ms an example.
    """
    loose = [name for name, entry in spec.items() if not entry.shape.is_fully_defined()]
    if loose:
        raise DataError(
            f"config.input.skip_bad_records needs examples of one shape, and preprocessing leaves {', '.join(loose)} "
            "without; end the op string with a crop or a resize to a fixed size."
        )

    def apply(position: Any, located: tuple[Any, Any, Any]) -> dict[str, Any]:
        record, file, number = located
        where = tf.stack([tf.constant(part, tf.int64), file, number])

        def marked(example: dict[str, Any], bad: int) -> dict[str, Any]:
            return {**example, KEY: tf.concat([tf.constant([bad], tf.int64), where], 0)}

        one = tf.data.Dataset.from_tensors((position, record)).map(make).ignore_errors()
        zeros = {name: tf.zeros(entry.shape, entry.dtype) for name, entry in spec.items()}
        either = one.map(lambda example: marked(example, 0)).concatenate(tf.data.Dataset.from_tensors(marked(zeros, 1)))
        return either.take(1).get_single_element()

    return apply


def filled(batch: Batch) -> tuple[Batch, np.ndarray]:
    """A batch of guarded examples without `KEY`, bad ones replaced by the next good one, and the bad ones'
    (part, file, number), int64 (bad, 3). Raises `DataError` where none is good."""
    batch = dict(batch)
    fault_Bx4 = batch.pop(KEY)
    bad_B = fault_Bx4[:, 0] > 0
    if bad_B.all():
        raise DataError(f"all {len(bad_B)} records of a batch are bad: look at config.input.pp, or at the data set.")
    good = np.flatnonzero(~bad_B)
    source_B = np.arange(len(bad_B))
    source_B[bad_B] = good[np.searchsorted(good, source_B[bad_B]) % len(good)]
    if bad_B.any():
        batch = {name: value[source_B] for name, value in batch.items()}
    return batch, fault_Bx4[bad_B, 1:]


def mended(
    error: Any,
    splits: Sequence[Split],
    makes: Sequence[Callable[..., Any]],
    located: Callable[[], Iterable[tuple[Any, ...]]],
    faults: Faults,
) -> list[Split]:
    """What to go on with after TensorFlow raised `error`: the splits, with damaged files read by position.

    makes: (position, record) -> example, of each split. located: gives (index of the split, position, record, file,
    number) in the order in which they were to be made.
    Raises `DataError` with the records at fault, where they are more than `faults` allows or cannot be found.
    """
    if isinstance(error, tf.errors.DataLossError | tf.errors.FailedPreconditionError):
        scans = [scanned(split, faults.limit) for split in splits]
        for file, number in itertools.chain.from_iterable(lost for _, lost in scans):
            faults.add(file, number, lambda: "the file is damaged or ends here")
        if any(lost for _, lost in scans):
            return [split for split, _ in scans]
    else:
        for index, position, record, file, number in located():
            why = failure(makes[int(index)], position, record)
            if why is not None:
                faults.add(splits[int(index)].files[int(file)][0], int(number), functools.partial(str, why))
    raise DataError(f"the data set cannot be read: {said(error)}") from error


def scanned(split: Split, limit: int) -> tuple[Split, list[tuple[str, int]]]:
    """`split` with every damaged file read by position, and (file, number) of the records lost to this.

    Reads all of the host's files; stops after `limit` + 1 lost records.
    """
    spans, lost = dict(split.spans), []
    for index, (path, skip, take) in enumerate(split.files):
        found = spans.get(index)
        if found is None:
            found = _spans(path, skip + take, limit + 1 - len(lost))
        gone = np.flatnonzero(found[:, 1] == 0)
        if len(gone):
            spans[index] = found
            lost += [(path, int(number)) for number in gone if number >= skip]
        if len(lost) > limit:
            break
    return dataclasses.replace(split, spans=spans), lost


def _spans(path: str, count: int, limit: int) -> np.ndarray:
    """(offset, length) of the content of the first `count` records, int64 (count, 2); length 0 where it is lost.

    After `limit` lost ones the rest counts as lost. A record with a wrong checksum is stepped over; where a length
    itself is damaged, nothing behind it can be found.
    """
    spans = np.zeros((count, 2), np.int64)
    offset = number = bad = 0
    while number < count and bad < limit:
        with contextlib.suppress(tf.errors.DataLossError):
            for record in itertools.islice(_records_from(path, offset), count - number):
                spans[number] = offset + _HEADER, len(record)
                number, offset = number + 1, offset + _HEADER + len(record) + _FOOTER
        length = _length(path, offset) if number < count else None
        if length is None:
            break
        number, bad, offset = number + 1, bad + 1, offset + _HEADER + length + _FOOTER
    return spans


def _records_from(path: str, offset: int) -> Iterator[bytes]:
    """The records of a file behind `offset`. TensorFlow reads from the start only, so the rest is copied for it."""
    if not offset:
        yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
    if not 0 < offset <= tf.io.gfile.stat(path).length:
        return
    with tempfile.NamedTemporaryFile() as rest, tf.io.gfile.GFile(path, "rb") as file:
        file.seek(offset)
        while block := file.read(1 << 24):
            rest.write(block)
        rest.flush()
        yield from tf.data.TFRecordDataset(rest.name).as_numpy_iterator()


def _length(path: str, offset: int) -> int | None:
    """Length of the record at `offset`; None where the file ends or its own checksum says that it is damaged."""
    if offset > tf.io.gfile.stat(path).length:
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(offset)
        header = file.read(_HEADER)
    if len(header) < _HEADER or _masked_crc32c(header[:8]) != int.from_bytes(header[8:], "little"):
        return None
    return int.from_bytes(header[:8], "little")


def _masked_crc32c(data: bytes) -> int:
    """Castagnoli's checksum as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
