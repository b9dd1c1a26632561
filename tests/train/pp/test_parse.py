"""Op strings: what they mean, and that nothing in them is ever run."""

from __future__ import annotations

import pytest

from big_vision_dual.train.pp import PreprocessError, parse


def test_calls_in_order_with_literal_arguments():
    calls = parse('decode|resize((30, 50), method="area")|value_range(-1, 1) | onehot(1_000, key="a|b", multi=False)')
    assert [(call.name, call.args, dict(call.kwargs)) for call in calls] == [
        ("decode", (), {}),
        ("resize", ((30, 50),), {"method": "area"}),
        ("value_range", (-1, 1), {}),
        ("onehot", (1000,), {"key": "a|b", "multi": False}),
    ]


def test_empty_string_has_no_ops():
    assert parse("  ") == ()


@pytest.mark.parametrize("string", ["decode||keep", "|decode", "resize(", "decode keep"])
def test_unreadable(string):
    with pytest.raises(PreprocessError, match=r"cannot read the op string .* joined by"):
        parse(string)


@pytest.mark.parametrize("string", ["'decode'", "a.b(1)", "decode & keep", "lambda: 1", "f(1)(2)"])
def test_no_chain_of_ops(string):
    with pytest.raises(PreprocessError, match="is no op; write `name`"):
        parse(string)


@pytest.mark.parametrize("argument", ["1 / 255", "__import__('os').system('true')", "size", "*(1, 2)", "f'{1}'"])
def test_arguments_are_literals(argument):
    with pytest.raises(PreprocessError, match=r"is no literal; possible: numbers, strings"):
        parse(f"resize({argument})")
