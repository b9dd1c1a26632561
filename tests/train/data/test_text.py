"""Bytes: windows by seed and step, exact resume, a held-out end that is covered once, errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tiny_tfds

from big_vision_dual.train import data, recipes
from big_vision_dual.train.data import text


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(200)))
    return str(path)


def source(file, seed=0, **where):
    given = {"name": "bytes", "path": file, "length": 4}
    return data.make({"data": given, "batch_size": 6}, seed=seed, **where)


def take(source, count, start=0):
    return [batch["tokens"] for batch in itertools.islice(source.batches(start), count)]


def test_windows_are_consecutive_bytes_of_the_training_part(file):
    tokens = np.concatenate(take(source(file), 200))
    assert (np.diff(tokens, axis=1) == 1).all()
    assert set(tokens.ravel().tolist()) == set(range(180))
    assert source(file).num_examples == 44


def test_any_start_gives_the_rest_and_another_seed_other_windows(file):
    full = take(source(file), 9)
    np.testing.assert_array_equal(full[4:], take(source(file), 5, 4))
    assert np.any(np.asarray(full) != np.asarray(take(source(file, seed=1), 9)))


def test_hosts_together_hold_the_batch_of_one(file):
    hosts = [take(source(file, process_index=host, process_count=2), 3) for host in range(2)]
    np.testing.assert_array_equal(np.concatenate(hosts, axis=1), take(source(file), 3))


@pytest.mark.parametrize("hosts", [1, 2])
def test_every_held_out_byte_is_predicted_once(file, hosts):
    given = {"name": "bytes", "path": file, "length": 4, "split": "validation"}
    predicted = []
    for host in range(hosts):
        for batch in data.evaluation(given, "", 2, process_index=host, process_count=hosts):
            predicted += batch["tokens"][batch["_mask"] > 0][:, 1:].ravel().tolist()
    assert sorted(predicted) == list(range(181, 197))  # 16 of 19: three more do not fill a window


@pytest.fixture
def documents(tiny):
    """A TFDS text set: the file names of the data set `tiny`."""
    return {"name": "bytes", "path": "tfds:tiny", "feature": "file_name", "data_dir": tiny, "length": 8}


def test_the_documents_of_a_tfds_split_are_the_text(documents):
    parts = [text.load({**documents, "split": split, "validation": 0.2}) for split in ("train", "validation")]
    names = np.concatenate(parts).tobytes().decode().split("\n")
    assert sorted(names) == sorted(f"{i}.jpg" for i in range(tiny_tfds.NUM_TRAIN))
    assert len(parts[1]) == round(0.2 * len("\n".join(names)))
    whole = text.load({**documents, "tfds_split": "test", "validation": 0.0}).tobytes().decode()
    assert sorted(whole.split("\n")) == sorted(f"{50 + i}.jpg" for i in range(tiny_tfds.NUM_TEST))


def test_a_recipe_reads_a_tfds_text_set(tiny):
    folder = [f"--config.{part}.data.data_dir={tiny}" for part in ("input", "evals.val")]
    recipe: Any = recipes.load("mamba2_bytes:tfds:tiny", folder)
    assert recipe.evals.val.data.data_dir == tiny
    with pytest.raises(data.DataError, match="tiny has no text feature 'text'; possible: file_name"):
        data.make(recipe.input, seed=0)


@pytest.mark.parametrize(
    ("content", "given", "message"),
    [
        (b"", {"length": 4}, "is empty; give a file with text"),
        (b"abc", {"length": 4}, r"its train split has 3 bytes, a window 5"),
        (b"abcdefgh", {}, r"keys \['name', 'path'\]; possible: name, path, length"),
        (b"abcdefgh", {"length": 2, "split": "test"}, "split 'test'.*train or validation"),
        (None, {"length": 4}, "no file .*; set config.input.data.path"),
        (b"abcdefgh", {"length": 4, "feature": "text"}, "keys .*'feature'.*; possible: name, path, length, split, v"),
    ],
)
def test_errors(tmp_path, content, given, message):
    path = tmp_path / "x"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        text.load({"name": "bytes", "path": str(path), **given})


def test_what_has_no_meaning_for_bytes_is_refused(file):
    given = {"data": {"name": "bytes", "path": file, "length": 4}, "batch_size": 2, "augment": "flip_lr"}
    with pytest.raises(data.DataError, match="augment has no meaning for bytes"):
        data.make(given, seed=0)
