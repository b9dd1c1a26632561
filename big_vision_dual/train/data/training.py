"""Training batches from TFDS: streams of records, preprocessed in parallel, mixed, batched, prefetched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from big_vision_dual.train import pp, schema
from big_vision_dual.train.data import faults, streams
from big_vision_dual.train.data.augment import Augment, augment_fn
from big_vision_dual.train.data.base import Batch, DataError, derived_seed, local_size
from big_vision_dual.train.data.splits import filtered, open_split
from big_vision_dual.train.data.tfds import Split
from big_vision_dual.train.pp.quiet_tf import Dataset, tf

_SHUFFLE, _PREPROCESS, _MIX = range(3)  # purposes of derived seeds
_PART_SETTINGS = ("data", "pp", "shuffle_buffer_size", "cache_raw", "pre_filter_fn")


@dataclasses.dataclass(frozen=True)
class Part:
    """One data set of a mixture, or the only one.

    order_seed: of the shuffling, another for every host. example_seed: of the random ops, the same for all hosts.
    host: (index, count). guard: whether a bad record is marked, and no error.
    """

    split: Split
    num_classes: int | None
    preprocess: Any
    shuffle_buffer_size: int
    cache_raw: bool
    order_seed: int
    example_seed: int
    host: tuple[int, int]
    guard: bool

    def located(self, start: int) -> Dataset:
        """(position, (record, file, number)) from this host's position `start` on."""
        records = streams.records(
            self.split,
            seed=self.order_seed,
            start=start,
            shuffle_buffer_size=self.shuffle_buffer_size,
            cache_raw=self.cache_raw,
        )
        return records.enumerate(start)

    def examples(self, start: int, part: int) -> Dataset:
        """Preprocessed examples from position `start` on; with `guard` as `faults.guarded` gives them."""
        make: Any = faults.guarded(self.make, part, self.spec) if self.guard else self._make_located
        return self.located(start).map(make, num_parallel_calls=tf.data.AUTOTUNE)

    def _make_located(self, position: Any, located: tuple[Any, Any, Any]) -> dict[str, Any]:
        return self.make(position, located[0])

    @property
    def spec(self) -> dict[str, Any]:
        """{entry of an example: its shape and dtype}."""
        nothing = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), tf.constant(b"")))
        return nothing.map(self.make).element_spec

    def check(self) -> None:
        """Raises `DataError` where there is nothing to read, or no batch can be made of it."""
        check_batchable(self.spec)
        if not self.split.num_examples:
            raise DataError(
                f"this host has none of the {self.split.total_examples} examples; use fewer hosts or a larger split."
            )

    def why_bad(self, file: int, number: int) -> str:
        record = self.split.record(file, number)
        return faults.failure(self.make, tf.constant(0, tf.int64), record) or "it cannot be preprocessed"

    @tf.autograph.experimental.do_not_convert
    def make(self, position: Any, record: Any) -> dict[str, Any]:
        """The example of a record.

        Example p of host h of H is number p * H + h of all, which with the seed is all that its
        preprocessing depends on.
        """
        index, count = self.host
        seed = tf.stack([tf.constant(self.example_seed, tf.int64), position * count + index])
        return self.preprocess(self.split.parse(record), seed)


def _part(
    config: Mapping[str, Any],
    seed: int,
    index: int,
    *,
    host: tuple[int, int],
    modules: tuple[str, ...],
    guard: bool,
    keep_only: Sequence[str],
) -> Part:
    split, ops = open_split(config["data"], *host), config.get("pp") or ""
    if config.get("pre_filter_fn"):
        if guard:
            raise DataError("config.input has pre_filter_fn and skip_bad_records; possible: one of them.")
        split = filtered(split, config["pre_filter_fn"])
    if keep_only:
        ops = "|".join(filter(None, [ops, f"keep({', '.join(map(repr, keep_only))})"]))
    return Part(
        split=split,
        num_classes=None if modules or "lookup" in (call.name for call in pp.parse(ops)) else split.num_classes,
        preprocess=pp.get_preprocess_fn(ops, modules),
        shuffle_buffer_size=config.get("shuffle_buffer_size") or 0,
        cache_raw=bool(config.get("cache_raw")),
        order_seed=derived_seed(seed, _SHUFFLE, index, host[0]),
        example_seed=derived_seed(seed, _PREPROCESS, index),
        host=host,
        guard=guard,
    )


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Training data from TFDS; see `data.make` for what the settings mean.

    prefetch: batches made ahead. mixture: which part each example comes from, on this host. faults: its bad records.
    augment: what the devices do to the images, with `seed`; None for nothing.
    """

    parts: tuple[Part, ...]
    mixture: streams.Mixture
    batch_size: int
    prefetch: int
    process_count: int
    faults: faults.Faults
    augment: Augment | None = None
    seed: int = 0

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        seed: int,
        process_index: int,
        process_count: int,
        pp_modules: tuple[str, ...] = (),
    ) -> TfdsSource:
        host = process_index, process_count
        weights, limit = _weights(config), config.get("skip_bad_records") or 0
        if not isinstance(limit, int) or limit < 0:
            raise DataError(f"config.input.skip_bad_records is {limit!r}; possible: a number of records, 0 for none.")
        configs = [_part_config(config, name) for name in weights] if weights else [config]
        shared = {"host": host, "modules": pp_modules, "guard": limit > 0, "keep_only": config.get("keep_only") or ()}
        return cls(
            parts=tuple(_part(part, seed, index, **shared) for index, part in enumerate(configs)),
            mixture=streams.Mixture(tuple(weights.values()) or (1.0,), derived_seed(seed, _MIX, process_index)),
            batch_size=config["batch_size"],
            prefetch=schema.value({"input": config}, "input.prefetch"),
            process_count=process_count,
            faults=faults.Faults(limit),
            augment=augment_fn(config["augment"]) if config.get("augment") else None,
            seed=seed,
        )

    @property
    def num_examples(self) -> int:
        """Examples of all parts and hosts together."""
        return sum(part.split.total_examples for part in self.parts)

    @property
    def num_classes(self) -> int | None:
        """Of the labels on disk: the most that a part has, None where none says or the op `lookup` maps them."""
        return max((part.num_classes or 0 for part in self.parts), default=0) or None

    @property
    def counts(self) -> dict[str, int]:
        """{'bad_records': how many this process has replaced}, where they may be."""
        return {"bad_records": len(self.faults.seen)} if self.faults.limit else {}

    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """{name: shape} of one example of a batch, None where preprocessing leaves a size open."""
        spec = self._chosen(self.parts, 0, Part.examples).element_spec
        return {name: (None,) if each.shape.rank is None else tuple(each.shape) for name, each in spec.items()}

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This host's part of the batches from `start_step` on, as NumPy arrays.

        Raises `DataError`, when it comes to it, for a record that cannot be used; see `faults`.
        """
        for part in self.parts:
            part.check()
        return self._repaired(start_step)

    def _repaired(self, step: int) -> Iterator[Batch]:
        parts = self.parts
        while True:
            try:
                for batch in self._pipeline(parts, step):
                    yield self._filled(batch, parts) if self.faults.limit else batch
                    step += 1
            except tf.errors.OpError as error:
                parts = self._mended(parts, step, error)

    def _pipeline(self, parts: Sequence[Part], step: int) -> Iterator[Batch]:
        examples = self._chosen(parts, step, Part.examples)
        size = local_size(self.batch_size, self.process_count)
        batches = examples.batch(size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
        batches = batches.prefetch(self.prefetch) if self.prefetch else batches
        return batches.with_options(pipeline_options()).as_numpy_iterator()

    def _chosen(self, parts: Sequence[Part], step: int, stream: Callable[[Part, int, int], Dataset]) -> Dataset:
        """The streams (part, start, its index) -> dataset of all parts, mixed, from batch `step` on."""
        start = step * local_size(self.batch_size, self.process_count)
        if len(parts) == 1:
            return stream(parts[0], start, 0)
        given = self.mixture.given(start)
        streams = [stream(part, before, i) for i, (part, before) in enumerate(zip(parts, given, strict=True))]
        return tf.data.Dataset.choose_from_datasets(streams, self.mixture.choices(start))

    def _filled(self, batch: Batch, parts: Sequence[Part]) -> Batch:
        batch, bad = faults.filled(batch)
        for index, file, number in bad.tolist():
            part = parts[index]
            self.faults.add(part.split.files[file][0], number, lambda p=part, f=file, n=number: p.why_bad(f, n))
        return batch

    def _mended(self, parts: Sequence[Part], step: int, error: Any) -> tuple[Part, ...]:
        """`parts` to go on with from batch `step`, which could not be made, on; see `faults.mended`."""

        def located(part: Part, start: int, index: int) -> Dataset:
            return part.located(start).map(lambda position, found: (index, position, *found))

        def batch() -> Dataset:
            size = local_size(self.batch_size, self.process_count)
            return self._chosen(parts, step, located).take(size)

        splits = [part.split for part in parts]
        mended = faults.mended(error, splits, [part.make for part in parts], batch, self.faults)
        return tuple(dataclasses.replace(part, split=split) for part, split in zip(parts, mended, strict=True))


def _weights(config: Mapping[str, Any]) -> dict[str, float]:
    """{part: weight} of a mixture; empty for a single data set."""
    return {} if "name" in config["data"] else {name: float(weight) for name, weight in config["data"].items()}


def _part_config(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    misplaced = [setting for setting in _PART_SETTINGS[1:] if setting in config]
    if name not in config or misplaced:
        what = f"sets {', '.join(misplaced)} for all parts at once" if misplaced else f"has no settings {name!r}"
        raise DataError(
            f"config.input.data mixes {list(config['data'])}, but config.input {what}; "
            f"set config.input.{name} = dict({', '.join(f'{setting}=...' for setting in _PART_SETTINGS)})."
        )
    part = config[name]
    unknown = sorted(set(part) - set(_PART_SETTINGS))
    if unknown:
        raise DataError(f"config.input.{name} has unknown settings {unknown}; possible: {', '.join(_PART_SETTINGS)}.")
    return part


def check_batchable(spec: Mapping[str, Any]) -> None:
    """Raises `DataError` naming the entries of examples that no accelerator can take: strings and ragged values."""
    refused = [
        f"{name} ({entry.dtype.name})"
        for name, entry in spec.items()
        if not isinstance(entry, tf.TensorSpec) or entry.dtype == tf.string
    ]
    if refused:
        raise DataError(
            f"preprocessing leaves {', '.join(refused)}, which cannot be put into a batch; "
            f'end the op string with keep("image", "labels"), or decode them. Entries: {sorted(spec)}.'
        )


def pipeline_options() -> Any:
    """Deterministic order, threads of its own, one thread an op: parallelism is over examples."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.threading.max_intra_op_parallelism = 1
    return options
