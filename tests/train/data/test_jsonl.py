"""Lines of JSON as a data set: files read in, order, hosts, resume, filters, errors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import photos
import pytest

from big_vision_dual.train import data
from big_vision_dual.train.data.splits import open_split

N = 13
PP = 'decode|value_range(0, 1)|keep("image", "label", "weight")'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Image i is grey of value 10 i and has label i, in lines.jsonl."""
    folder = tmp_path_factory.mktemp("jsonl")
    for i in range(N):
        (folder / f"{i}.png").write_bytes(photos.encode(np.full((2, 2, 3), 10 * i, np.uint8), "PNG"))
    rows = [{"image": f"{i}.png", "label": i, "weight": 0.5 if i else 1, "even": i % 2 == 0} for i in range(N)]
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make(folder):
    def build(of_data=(), host=(0, 1), seed=0, **settings):
        lines = {"name": "bv:jsonl", "fname": str(folder / "lines.jsonl"), "fopen_keys": {"image": str(folder)}}
        config = {"data": {**lines, **dict(of_data)}, "batch_size": 4, "shuffle_buffer_size": 1, "pp": PP}
        return data.make({**config, **settings}, seed=seed, process_index=host[0], process_count=host[1])

    return build


def labels(source, count, start=0):
    batches = itertools.islice(source.batches(start), count)
    return np.concatenate([batch["label"] for batch in batches]).tolist()


@pytest.mark.parametrize("cache_raw", [False, True])
def test_an_epoch_is_a_uniform_permutation_and_each_line_has_its_file(make, cache_raw):
    source = make(cache_raw=cache_raw)
    seen = labels(source, N)  # four epochs
    assert sorted(seen[:N]) == sorted(seen[N : 2 * N]) == list(range(N))
    assert seen[:N] != seen[N : 2 * N]
    assert max(np.abs(np.diff(seen[:N]))) > 3  # a buffer of 1 keeps the order of the lines
    batch = next(source.batches())
    np.testing.assert_allclose(batch["image"][:, 0, 0, 0], 10 * batch["label"] / 255, rtol=1e-6)
    np.testing.assert_array_equal(batch["weight"], np.where(batch["label"] == 0, 1, 0.5))
    assert labels(source, 2, start=3) == seen[12:20]


def test_hosts_share_the_lines_and_start_and_stop_cut_some_out(folder):
    lines = {"name": "bv:jsonl", "fname": str(folder / "lines.jsonl"), "start": 2, "stop": 12}
    shares = [open_split(lines, host, 3) for host in range(3)]
    found = [[split.parse(record) for record in split.records()] for split in shares]
    assert [int(each["label"]) for each in itertools.chain(*found)] == list(range(2, 12))
    assert [each["id"].numpy().decode() for each in found[0]] == ["2", "3", "4"]
    assert {split.total_examples for split in shares} == {10}
    assert found[0][0]["image"].numpy() == b"2.png"  # without fopen_keys a name is a string


def test_an_evaluation_reads_every_line_once(folder):
    lines = {"name": "bv:jsonl", "fname": str(folder / "lines.jsonl"), "fopen_keys": [], "stop": 5}
    batches = list(data.evaluation(lines, 'keep("label")', 4))
    assert [batch["label"][batch["_mask"] > 0].tolist() for batch in batches] == [[0, 1, 2, 3], [4]]


def test_a_filter_leaves_some_and_resumes_and_keep_only_cuts_entries(make):
    source = make(pre_filter_fn=lambda example: example["even"] == 1, keep_only=("label",))
    seen = labels(source, 7)
    assert sorted(seen[:7]) == sorted(seen[7:14]) == list(range(0, N, 2))
    assert labels(source, 3, start=2) == seen[8:20]
    assert set(next(source.batches())) == {"label"}
    assert source.num_examples == N  # an epoch is counted as the file has it, as in Big Vision


def test_parts_of_a_mixture_have_filters_of_their_own(folder):
    lines = {"name": "bv:jsonl", "fname": str(folder / "lines.jsonl")}
    low = {"data": lines, "pp": 'keep("label", "id")', "pre_filter_fn": lambda example: example["label"] < 3}
    high = {"data": lines, "pp": 'keep("label", "id")', "pre_filter_fn": lambda example: example["label"] > 9}
    config = {"data": {"low": 1, "high": 3}, "low": low, "high": high, "batch_size": 40, "keep_only": ["label"]}
    seen = np.array(labels(data.make(config, seed=0), 25))
    assert set(seen) == {0, 1, 2, 10, 11, 12}
    assert 200 < np.sum(seen < 3) < 300
    with pytest.raises(data.DataError, match="pre_filter_fn for all parts at once"):
        data.make({**config, "pre_filter_fn": low["pre_filter_fn"]}, seed=0)


def test_a_missing_file_is_named_or_replaced(make, folder, caplog):
    (folder / "gone.jsonl").write_text('{"image": "1.png", "label": 1}\n{"image": "none.png", "label": 2}\n')
    gone = {"fname": str(folder / "gone.jsonl")}
    settings = {"pp": 'decode|resize(2)|keep("image", "label")', "shuffle_buffer_size": 0, "batch_size": 2}
    with pytest.raises(data.DataError, match=r"gone.jsonl: record 1: .*no file, or an empty one:.*/none.png"):
        next(make(gone, **settings).batches())
    assert labels(make(gone, skip_bad_records=1, **settings), 1) == [1, 1]
    assert "none.png" in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"label": 1}\nno\n', r"bad.jsonl: line 1 is no JSON"),
        ('{"label": [1]}\n', r"line 0 has label; possible: an object of strings, numbers and booleans"),
        ("3\n", "line 0 has no object"),
        ('{"label": 1}\n{"lable": 1}\n', r"line 1 differs from those before in \['label', 'lable'\]"),
        ('{"label": 1}\n{"label": "1"}\n', "line 1: 'label' is '1', in lines before a int"),
        ("", "bad.jsonl has no line from 0 on"),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path, text, said):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(data.DataError, match=said):
        open_split({"name": "bv:jsonl", "fname": str(tmp_path / "bad.jsonl")})


def test_settings_are_checked(make, tmp_path):
    with pytest.raises(data.DataError, match="possible: name, fname, fopen_keys, start, stop, of which fname"):
        make({"fnam": "x"})
    with pytest.raises(data.DataError, match=r"cannot read .*none.jsonl"):
        make({"fname": str(tmp_path / "none.jsonl")})
    with pytest.raises(data.DataError, match="line 0 has no file name 'picture', of fopen_keys"):
        make({"fopen_keys": ["picture"]})
    with pytest.raises(data.DataError, match="no data set 'bv:coco'; of Big Vision's own, 'bv:jsonl' is here"):
        make({"name": "bv:coco"})
    with pytest.raises(data.DataError, match="pre_filter_fn and skip_bad_records"):
        make(pre_filter_fn=lambda example: example["even"] == 1, skip_bad_records=1)
    with pytest.raises(data.DataError, match=r"pre_filter_fn fails on .*lines.jsonl.*'size'"):
        make(pre_filter_fn=lambda example: example["size"] > 1)
    with pytest.raises(data.DataError, match="keep_only has no meaning for the arrays"):
        data.make({"data": {"name": "mnist5k"}, "batch_size": 4, "keep_only": ["image"]}, seed=0)
