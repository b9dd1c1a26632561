# pyright: reportAttributeAccessIssue=false
"""Records that cannot be used: named, and up to a limit replaced, without moving any other example."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import photos
import pytest
import tiny_tfds

from big_vision_dual.train import data

OPS = 'decode|resize(8)|keep("image", "label")'
BAD = 8  # its label: record 1 of the second file, which has 5
TRUNCATED = photos.synthetic()[:300]


@pytest.fixture
def truncated_jpeg(tmp_path):
    return tiny_tfds.write(tmp_path, {BAD: TRUNCATED})


def second_file(data_dir):
    (path,) = pathlib.Path(data_dir).glob("tiny/1.0.0/tiny-train.tfrecord-00001*")
    return path


def offsets(content):
    """Where each record of a TFRecord file begins."""
    at = 0
    while at < len(content):
        yield at
        at += 16 + int.from_bytes(content[at : at + 8], "little")


def damaged(tmp_path, kind):
    """data_dir of a data set whose second file is damaged, and how many of its records are lost."""
    data_dir = tiny_tfds.write(tmp_path)
    path = second_file(data_dir)
    content = bytearray(path.read_bytes())
    start = list(offsets(content))[1]
    lost = {"content": 1, "length": 4, "cut between records": 4, "cut in a record": 4}[kind]
    if kind.startswith("cut"):
        content = content[: start + (20 if kind == "cut in a record" else 0)]
    else:
        content[start + (40 if kind == "content" else 2)] ^= 1
    path.write_bytes(content)
    return data_dir, lost


def make(data_dir, **settings):
    config = {"data": {"name": "tiny", "data_dir": data_dir}, "batch_size": 6, "shuffle_buffer_size": 9, "pp": OPS}
    return data.make(config | settings, seed=1)


def take(source, count, start=0):
    return list(itertools.islice(source.batches(start), count))


def labels(batches):
    return np.concatenate([batch["label"] for batch in batches])


@pytest.mark.parametrize("cache_raw", [False, True])
def test_a_bad_image_names_its_file_and_record(truncated_jpeg, cache_raw):
    with pytest.raises(data.DataError, match=r"tiny-train.tfrecord-00001-of-00003: record 1: 'decode' failed: .*JPEG"):
        take(make(truncated_jpeg, cache_raw=cache_raw), 4)


def test_a_bad_image_is_replaced_in_its_place_and_counted_once(truncated_jpeg, tiny, caplog):
    source = make(truncated_jpeg, skip_bad_records=1)
    got, whole = take(source, 8), take(make(tiny), 8)
    bad = labels(whole) == BAD
    assert bad.sum() == 2  # epochs
    np.testing.assert_array_equal(labels(got)[~bad], labels(whole)[~bad])
    assert BAD not in labels(got)
    for batch, other in zip(got, whole, strict=True):
        assert batch.keys() == other.keys() == {"image", "label"}
        image_of = dict(zip(other["label"].tolist(), other["image"], strict=True))
        for label, image in zip(batch["label"].tolist(), batch["image"], strict=True):
            np.testing.assert_array_equal(image, image_of[label])
    assert source.counts == {"bad_records": 1}
    assert make(tiny).counts == {}
    assert list(source.faults.seen) == [(str(second_file(truncated_jpeg)), 1)]
    assert "record 1 is replaced (1 of 1): 'decode' failed" in caplog.text


def test_a_resumed_run_replaces_it_by_the_same(truncated_jpeg):
    full = take(make(truncated_jpeg, skip_bad_records=1), 8)
    for batch, other in zip(full[3:], take(make(truncated_jpeg, skip_bad_records=1), 5, 3), strict=True):
        np.testing.assert_array_equal(batch["label"], other["label"])
        np.testing.assert_array_equal(batch["image"], other["image"])


def test_more_than_the_limit_are_all_named(tmp_path):
    source = make(tiny_tfds.write(tmp_path, {3: TRUNCATED, BAD: b"no image"}), skip_bad_records=1)
    with pytest.raises(data.DataError, match=r"of which 1 may be replaced:\n.*record \d.*\n.*record \d.*\nPrepare"):
        take(source, 4)


@pytest.mark.parametrize("kind", ["content", "length", "cut between records", "cut in a record"])
def test_a_damaged_file_is_named_with_the_first_lost_record(tmp_path, kind):
    data_dir, _ = damaged(tmp_path, kind)
    with pytest.raises(data.DataError, match=r"tiny-train.tfrecord-00001-of-00003: record 1: the file is damaged"):
        take(make(data_dir), 4)


@pytest.mark.parametrize("cache_raw", [False, True])
@pytest.mark.parametrize("kind", ["content", "length", "cut in a record"])
def test_what_a_damaged_file_still_holds_keeps_its_place(tmp_path, tiny, kind, cache_raw):
    data_dir, lost = damaged(tmp_path, kind)
    source = make(data_dir, cache_raw=cache_raw, skip_bad_records=lost)
    got, whole = labels(take(source, 7)), labels(take(make(tiny, cache_raw=cache_raw), 7))
    gone = (whole >= BAD) & (whole < BAD + lost)
    np.testing.assert_array_equal(got[~gone], whole[~gone])
    assert not np.isin(got, range(BAD, BAD + lost)).any()
    assert len(source.faults.seen) == lost


def test_an_evaluation_names_the_record_and_needs_it(truncated_jpeg, tmp_path_factory):
    damaged_dir, _ = damaged(tmp_path_factory.mktemp("damaged"), "content")
    for data_dir, why in ((truncated_jpeg, "'decode' failed"), (damaged_dir, "the file is damaged")):
        source = data.evaluation({"name": "tiny", "split": "train", "data_dir": data_dir}, OPS, 7)
        with pytest.raises(
            data.DataError, match=rf"00001-of-00003: record 1: {why}[^\0]*An evaluation needs every rec"
        ):
            list(source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_bad_records": -1}, "skip_bad_records is -1; possible: a number of records"),
        ({"skip_bad_records": 1, "pp": 'decode|keep("image")'}, "of one shape, and preprocessing leaves image without"),
    ],
)
def test_settings_that_cannot_be(tiny, settings, message):
    with pytest.raises(data.DataError, match=message):
        take(make(tiny, **settings), 1)


def test_a_label_outside_its_classes_is_no_zero_row(tiny):
    source = make(tiny, pp=f'{OPS}|onehot(20, key="label", key_result="labels")')
    with pytest.raises(data.DataError, match=r"record 8: 'onehot.*failed: 'label' has a label outside \[0, 20\)"):
        take(source, 4)
