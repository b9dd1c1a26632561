"""TFDS splits on disk: the hosts' shares, parsing, and what the errors say."""

from __future__ import annotations

import itertools

import pytest
import tiny_tfds

from big_vision_dual.train.data import DataError
from big_vision_dual.train.data.tfds import open_split


def labels(split):
    return [int(split.parse(record)["label"]) for record in split.records()]


def test_hosts_share_the_files_evenly(tiny):
    for hosts in (1, 2, 25):
        shares = [open_split({"name": "tiny", "data_dir": tiny}, host, hosts) for host in range(hosts)]
        sizes = [share.num_examples for share in shares]
        read = [labels(share) for share in shares]
        assert [len(part) for part in read] == sizes
        assert max(sizes) - min(sizes) <= 1
        assert sorted(itertools.chain(*read)) == list(range(tiny_tfds.NUM_TRAIN))
        assert {share.total_examples for share in shares} == {tiny_tfds.NUM_TRAIN}


def test_slices_of_splits(tiny):
    share = open_split({"name": "tiny:1.0.0", "split": "train[5:14]", "data_dir": tiny}, 1, 2)
    assert sorted(labels(share)) == list(range(9, 14))


def test_images_stay_encoded(tiny):
    split = open_split({"name": "tiny", "split": "test", "data_dir": tiny})
    example = split.parse(next(iter(split.records())))
    assert sorted(example) == ["file_name", "image", "label"]
    assert example["image"].numpy().startswith(b"\xff\xd8")  # JPEG


def test_missing_data_set_says_where_it_was_searched(tiny):
    with pytest.raises(DataError, match=r"no data set 'tinier/small:2\.0\.0'") as error:
        open_split({"name": "tinier/small:2.0.0", "data_dir": tiny})
    text = str(error.value)
    assert f"under {tiny}" in text
    assert f"tfds build tinier --data_dir {tiny}" in text
    assert "config.input.data.data_dir" in text


def test_missing_split_lists_the_others(tiny):
    with pytest.raises(DataError, match=r"has no split 'validation'; possible: .*train.*and slices"):
        open_split({"name": "tiny", "split": "validation", "data_dir": tiny})


def test_unknown_setting(tiny):
    with pytest.raises(DataError, match=r"unknown settings \['dir'\]; possible: name, split, data_dir"):
        open_split({"name": "tiny", "dir": tiny})
