"""Evaluation batches from TFDS: exact coverage, caches, hosts without examples."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_tfds

from big_vision_dual.train import data

OPS = 'decode|resize_small(10)|central_crop(8)|value_range|keep("image", "label")'


@pytest.fixture(scope="module")
def evaluation(tiny):
    def build(ops=OPS, batch_size=6, **settings):
        return data.evaluation({"name": "tiny", "split": "test", "data_dir": tiny}, ops, batch_size, **settings)

    return build


def valid(batches, name):
    return np.concatenate([batch[name][batch["_mask"] > 0] for batch in batches])


@pytest.mark.parametrize("hosts", [1, 3, 12])
def test_every_example_once_over_hosts(evaluation, hosts):
    given = [list(evaluation(batch_size=12, process_index=host, process_count=hosts)) for host in range(hosts)]
    assert len({len(batches) for batches in given}) == 1
    labels = np.concatenate([valid(batches, "label") for batches in given])
    assert sorted(labels) == list(range(50, 50 + tiny_tfds.NUM_TEST))
    assert {batch["image"].shape for batches in given for batch in batches} == {(12 // hosts, 8, 8, 3)}


@pytest.mark.parametrize("cache", ["raw", "final"])
def test_caches_change_nothing(evaluation, cache):
    plain, cached = evaluation(), evaluation(cache=cache)
    for _ in range(2):
        np.testing.assert_array_equal(valid(plain, "image"), valid(cached, "image"))


def test_random_ops_give_the_same_every_time(evaluation):
    source = evaluation(ops='decode|inception_crop(8)|keep("image", "label")')
    np.testing.assert_array_equal(valid(source, "image"), valid(source, "image"))


def test_unknown_cache(evaluation):
    with pytest.raises(data.DataError, match="cache is 'pipeline'; possible: 'none', 'raw', 'final'"):
        evaluation(cache="pipeline")


def test_no_examples_and_no_fixed_shape(evaluation):
    source = evaluation(ops='decode|keep("image")', batch_size=12, process_index=0, process_count=12)
    with pytest.raises(data.DataError, match=r"leaves 'image' without a fixed shape"):
        list(source)
