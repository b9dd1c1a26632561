# pyright: reportAttributeAccessIssue=false
"""Tables refuse values that cannot be, at construction and at load, in time linear in their rows."""

import dataclasses
import json
import math
import time

import pytest

from big_vision_dual.core import tables
from big_vision_dual.core.tables import schema, step_size
from big_vision_dual.core.tables.schema import Row, TargetNormTable

ROW = Row("w", "Linear", (0,), (1,), (), (3, 4), 1.0, 1.0, 0.5)


def table_of(*rows):
    return TargetNormTable("mine", {}, (2,), {}, 1.0, 1.0, rows)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("target_norm", math.nan, "w: target_norm is nan; possible: a finite number >= 0"),
        ("target_norm", math.inf, "w: target_norm is inf"),
        ("mass", -1.0, "w: mass is -1.0"),
        ("sensitivity", "1", "w: sensitivity is '1'"),
        ("mass", True, "w: mass is True"),
        ("mass", None, "w: mass is None"),
        ("target_norm", [0.5], r"w: target_norm is \[0.5\]"),
        ("shape", (3.0, 4), "w: shape is .* whole numbers"),
        ("shape", [3, 4], "w: shape is .* a tuple of whole numbers"),
        ("shape", (-3, 4), "w: shape is .* whole numbers"),
        ("fan_in", (0, 1), "must name each axis"),
        ("fan_in", "0", "w: fan_in is '0'"),
        ("batch", (True,), "w: batch is"),
        ("slice", (1, 0, 3), r"slice \(1, 0, 3\) has 3 entries"),
        ("slice", (2, 0, 4), "slice is .* possible"),
        ("slice", (1, 4), "slice is .* possible"),
        ("path", 7, "a row has path 7"),
        ("atom", [], "unknown atom"),
    ],
)
def test_a_row_of_impossible_values_is_refused(field, value, message):
    with pytest.raises(tables.TableError, match=message):
        dataclasses.replace(ROW, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("mass", math.nan), ("sensitivity", -1), ("model_name", 1), ("model", []), ("norms", 3), ("input_shape", (1.5,))],
)
def test_a_header_of_impossible_values_is_refused(field, value):
    with pytest.raises(tables.TableError, match=field):
        dataclasses.replace(table_of(ROW), **{field: value})


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "7", '"t"', "{", '{"header": 1}', '{"header": {}, "atoms": []}', "[" * 100_000,
        '{"header": {"format_version": 1, "digest": 7}, "atoms": {"w": 3}}', "1" * 5000,
    ],
)  # fmt: skip
def test_a_text_that_is_no_table_is_one_error(text):
    with pytest.raises(tables.TableError, match=r"^t.json"):
        tables.loads(text, "t.json")


def test_damaged_numbers_in_a_file_name_file_and_row():
    content = json.loads(tables.dumps(table_of(ROW)))
    content["atoms"]["w"]["target_norm"] = math.nan
    with pytest.raises(tables.TableError, match=r"t.json: w: target_norm is nan.*Build it anew"):
        tables.loads(json.dumps(content), "t.json")


def test_a_file_that_is_no_text_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(tables.TableError, match="is damaged, or no text: byte 0 is not UTF-8"):
        tables.load(tmp_path / "t.json")
    monkeypatch.setattr(tables.io, "_MAX_BYTES", 3)
    with pytest.raises(tables.TableError, match="has 4 bytes; a table has at most 3"):
        tables.load(tmp_path / "t.json")


def test_many_rows_take_linear_time_and_too_many_are_refused():
    rows = tuple(dataclasses.replace(ROW, path=f"layer_{i}/w") for i in range(16_000))
    start = time.process_time()
    text = tables.dumps(table_of(*rows))
    assert tables.loads(text).rows == rows
    assert time.process_time() - start < 6  # 1.4 s seen; it was 12.6 s when the check for doubles was quadratic
    with pytest.raises(tables.TableError, match=rf"{schema.MAX_ROWS + 1} rows; at most {schema.MAX_ROWS}"):
        table_of(*[ROW] * (schema.MAX_ROWS + 1))


def test_step_sizes_of_a_convolution_are_those_of_its_taps():
    row = dataclasses.replace(ROW, atom="Conv", shape=(2, 3, 4, 5), fan_in=(0, 1, 2), fan_out=(3,))
    assert step_size.fans(row) == (4, 5)
    assert step_size.gain(row) == pytest.approx(math.sqrt(5 / 4) / 6, rel=1e-12)
    assert step_size.unit_rms(row) == pytest.approx(step_size.gain(row) / math.sqrt(5), rel=1e-12)
