"""What all data sources share: the error, a host's share of a batch, independent seeds."""

from __future__ import annotations

import numpy as np

Batch = dict[str, np.ndarray]
OF_STREAMS = ("pp", "shuffle_buffer_size", "cache_raw", "prefetch", "skip_bad_records", "keep_only", "pre_filter_fn")
"""Settings of an input that have no meaning for what stays on the device."""


class DataError(ValueError):
    """A data set that is not there, or input settings that do not fit it."""


def local_size(batch_size: int, process_count: int) -> int:
    """Examples of one host in a batch of all hosts."""
    if batch_size < 1 or batch_size % process_count:
        nearest = max(round(batch_size / process_count), 1) * process_count
        raise DataError(
            f"batch_size {batch_size} does not divide evenly over {process_count} processes; "
            f"nearest possible: {nearest}."
        )
    return batch_size // process_count


def host_range(num_examples: int, process_index: int, process_count: int) -> range:
    """The examples of one host: an even share, sizes differing by at most one."""
    edge = [num_examples * index // process_count for index in (process_index, process_index + 1)]
    return range(*edge)


def derived_seed(seed: int, *purpose: int) -> int:
    """An int64 seed independent of those for any other purpose (NumPy's SeedSequence, stable over versions)."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> 1)
