"""Round trips, and each way in which a table file or a table can be wrong."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from big_vision_dual.core import tables, trees
from big_vision_dual.models import norm_trees

CONFIG: dict[str, Any] = dict(
    model_name="vit", num_classes=7, input_shape=(16, 16, 3),
    model=dict(width=8, depth=2, num_heads=2, patch_size=(8, 8), scaling="dual"),
)  # fmt: skip


@pytest.fixture(scope="module")
def table() -> tables.TargetNormTable:
    return norm_trees.table_for(CONFIG)


def params_of(table: tables.TargetNormTable) -> dict:
    return trees.unflatten({row.path: np.zeros(row.shape, np.float32) for row in table.rows})


@pytest.mark.parametrize("scan", [False, True])
def test_round_trip_keeps_every_value(tmp_path, scan):
    table = norm_trees.table_for(dict(CONFIG, model=dict(CONFIG["model"], scan=scan)))
    tables.save(table, tmp_path / "t.json")
    loaded = tables.load(tmp_path / "t.json")
    assert loaded.rows == table.rows
    assert tables.digest(loaded) == tables.digest(table)
    assert tables.dumps(loaded) == (tmp_path / "t.json").read_text()


def test_one_leaf_a_line(table):
    atoms = tables.dumps(table).split('"atoms": {\n')[1].splitlines()
    assert len(atoms) == len(table.rows) + 1
    assert all(json.loads("{" + line.rstrip(",") + "}") for line in atoms[:-1])


def test_sliced_leaf_round_trips_and_is_checked_as_a_whole(table):
    part = dataclasses.replace(
        table.rows[0], path="in/kernel", shape=(3, 4), fan_in=(0,), fan_out=(1,), slice=(1, 0, 4)
    )
    rest = dataclasses.replace(part, shape=(3, 2), slice=(1, 4, 6))
    sliced = dataclasses.replace(table, rows=(part, rest))
    assert tables.loads(tables.dumps(sliced)).rows == (part, rest)
    tables.check(sliced, {"in": {"kernel": np.zeros((3, 6))}})
    with pytest.raises(tables.TableError, match=r"in/kernel is \(3, 6\) in the table, \(3, 7\) here"):
        tables.check(sliced, {"in": {"kernel": np.zeros((3, 7))}})
    with pytest.raises(tables.TableError, match="leave a gap"):
        tables.check(dataclasses.replace(table, rows=(rest,)), {"in": {"kernel": np.zeros((3, 6))}})


def test_check_lists_both_directions_and_shapes(table):
    params = params_of(table)
    tables.check(table, params)
    params["head"]["kernel"] = np.zeros((8, 9))
    params["extra"] = {"kernel": np.zeros((2, 2))}
    del params["embedding"]["bias"]
    with pytest.raises(tables.TableError) as error:
        tables.check(table, params)
    for part in (
        "1 parameters without a row: extra/kernel",
        "1 rows without a parameter: embedding/bias",
        "1 other shapes: head/kernel is (8, 7) in the table, (8, 9) here",
        "bvd norms build --config X",
    ):
        assert part in str(error.value)


def test_truncated_file_is_named(tmp_path, table):
    text = tables.dumps(table)
    (tmp_path / "t.json").write_text(text[: len(text) // 2])
    with pytest.raises(tables.TableError, match=r"t.json is not whole JSON .* truncated.*bvd norms build"):
        tables.load(tmp_path / "t.json")


def test_edited_file_fails_its_digest(tmp_path, table):
    (tmp_path / "t.json").write_text(tables.dumps(table).replace('"mass": 0.', '"mass": 1.', 1))
    with pytest.raises(tables.TableError, match=r"its digest is .* edited or damaged"):
        tables.load(tmp_path / "t.json")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        tables.TableError,
        match=r"no table 'vit_s17' \(did you mean 'vit_s16_i1k'.*possible: .*vit_s16_i1k, .*vit_s16_i1k_fir",
    ):
        tables.load("vit_s17")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["header"].update(format_version=99), "format version 99; this code reads 1"),
        (lambda c: c["header"].pop("mass"), "a field is missing"),
        (lambda c: c["atoms"]["head/kernel"].update(atom="Conf"), "unknown atom 'Conf'; possible: Linear"),
        (lambda c: c["atoms"]["head/kernel"].update(axis=[1]), "a field is missing, unknown"),
        (lambda c: c["atoms"]["head/kernel"].update(fan_in=[]), "must name each axis"),
        (lambda c: c.pop("atoms"), "a field is missing"),
    ],
)
def test_malformed_content_is_explained(table, change, message):
    content = json.loads(tables.dumps(table))
    change(content)
    with pytest.raises(tables.TableError, match=message):
        tables.loads(json.dumps(content), "t.json")


def test_rows_given_twice(table):
    with pytest.raises(tables.TableError, match="rows given twice"):
        dataclasses.replace(table, rows=(table.rows[0], table.rows[0]))
