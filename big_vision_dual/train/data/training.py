"""Training batches from TFDS: streams of records, preprocessed in parallel, mixed, batched, prefetched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from big_vision_dual.train import pp
from big_vision_dual.train.data import streams
from big_vision_dual.train.data.base import Batch, DataError, derived_seed, local_size
from big_vision_dual.train.data.tfds import Split, open_split
from big_vision_dual.train.pp.quiet_tf import Dataset, tf

_SHUFFLE, _PREPROCESS, _MIX = range(3)  # purposes of derived seeds
_PREFETCH = 2
_PART_SETTINGS = ("data", "pp", "shuffle_buffer_size", "cache_raw")


@dataclasses.dataclass(frozen=True)
class Part:
    """One data set of a mixture, or the only one.

    order_seed: of the shuffling, another for every host. example_seed: of the random ops, the same for all hosts.
    """

    split: Split
    preprocess: Any
    shuffle_buffer_size: int
    cache_raw: bool
    order_seed: int
    example_seed: int

    def examples(self, start: int, process_index: int, process_count: int) -> Dataset:
        """Preprocessed examples from this host's position `start` on.

        Example p of host h of H is number p * H + h of all, which with the seed is all that its
        preprocessing depends on.
        """
        records = streams.records(
            self.split,
            seed=self.order_seed,
            start=start,
            shuffle_buffer_size=self.shuffle_buffer_size,
            cache_raw=self.cache_raw,
        )

        @tf.autograph.experimental.do_not_convert
        def make(position: Any, record: Any) -> dict[str, Any]:
            seed = tf.stack([tf.constant(self.example_seed, tf.int64), position * process_count + process_index])
            return self.preprocess(self.split.parse(record), seed)

        return records.enumerate(start).map(make, num_parallel_calls=tf.data.AUTOTUNE)


def _part(config: Mapping[str, Any], seed: int, index: int, host: tuple[int, int], modules: tuple[str, ...]) -> Part:
    return Part(
        split=open_split(config["data"], *host),
        preprocess=pp.get_preprocess_fn(config.get("pp") or "", modules),
        shuffle_buffer_size=config.get("shuffle_buffer_size") or 0,
        cache_raw=bool(config.get("cache_raw")),
        order_seed=derived_seed(seed, _SHUFFLE, index, host[0]),
        example_seed=derived_seed(seed, _PREPROCESS, index),
    )


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Training data from TFDS; see `data.make` for what the settings mean.

    prefetch: batches made ahead. mixture: which part each example comes from, on this host.
    """

    parts: tuple[Part, ...]
    mixture: streams.Mixture
    batch_size: int
    prefetch: int
    process_index: int
    process_count: int

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
        weights = _weights(config)
        configs = [_part_config(config, name) for name in weights] if weights else [config]
        return cls(
            parts=tuple(_part(part, seed, index, host, pp_modules) for index, part in enumerate(configs)),
            mixture=streams.Mixture(tuple(weights.values()) or (1.0,), derived_seed(seed, _MIX, process_index)),
            batch_size=config["batch_size"],
            prefetch=config.get("prefetch") or _PREFETCH,
            process_index=process_index,
            process_count=process_count,
        )

    @property
    def num_examples(self) -> int:
        """Examples of all parts and hosts together."""
        return sum(part.split.total_examples for part in self.parts)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """This host's part of the batches from `start_step` on, as NumPy arrays."""
        size = local_size(self.batch_size, self.process_count)
        dataset = self._examples(start_step * size)
        check_batchable(dataset)
        batches = dataset.batch(size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE).prefetch(self.prefetch)
        return batches.with_options(pipeline_options()).as_numpy_iterator()

    def _examples(self, start: int) -> Dataset:
        host = self.process_index, self.process_count
        if len(self.parts) == 1:
            return self.parts[0].examples(start, *host)
        given = self.mixture.given(start)
        examples = [part.examples(before, *host) for part, before in zip(self.parts, given, strict=True)]
        return tf.data.Dataset.choose_from_datasets(examples, self.mixture.choices(start))


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


def check_batchable(dataset: Dataset) -> None:
    """Raises `DataError` naming the entries that no accelerator can take: strings and ragged values."""
    refused = [
        f"{name} ({spec.dtype.name})"
        for name, spec in dataset.element_spec.items()
        if not isinstance(spec, tf.TensorSpec) or spec.dtype == tf.string
    ]
    if refused:
        raise DataError(
            f"preprocessing leaves {', '.join(refused)}, which cannot be put into a batch; "
            f'end the op string with keep("image", "labels"), or decode them. Entries: {sorted(dataset.element_spec)}.'
        )


def pipeline_options() -> Any:
    """Deterministic order, threads of its own, one thread an op: parallelism is over examples."""
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.threading.max_intra_op_parallelism = 1
    return options
