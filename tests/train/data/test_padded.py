"""Padding of evaluation batches, on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from big_vision_dual.train.data.base import host_range
from big_vision_dual.train.data.padded import PaddedBatches


def batches(num_examples, size, host, hosts):
    mine = np.array(host_range(num_examples, host, hosts))
    parts = [{"x": mine[start : start + size]} for start in range(0, len(mine), size)]
    return PaddedBatches(num_examples, size, host, hosts, lambda: parts, lambda: {"x": np.zeros(0, np.int64)})


@pytest.mark.parametrize("num_examples", [1, 5, 8, 9, 24])
@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_every_example_once_and_equal_numbers_of_batches(num_examples, hosts):
    seen, lengths = [], set()
    for host in range(hosts):
        source = batches(num_examples, 4, host, hosts)
        given = list(source)
        lengths.add(len(given))
        assert len(given) == source.num_batches
        for batch in given:
            assert batch["x"].shape == batch["_mask"].shape == (4,)
            assert batch["_mask"].dtype == np.float32
            seen += batch["x"][batch["_mask"] > 0].tolist()
            assert not batch["x"][batch["_mask"] == 0].any()
    assert sorted(seen) == list(range(num_examples))
    assert len(lengths) == 1


def test_may_be_iterated_again():
    source = batches(9, 4, 0, 1)
    assert [batch["x"].tolist() for batch in source] == [batch["x"].tolist() for batch in source]
