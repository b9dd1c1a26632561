"""What a flat table guesses from names, siblings and shapes; what it asks; rules."""

import jax.numpy as jnp
import numpy as np
import pytest

import big_vision_dual as bvd
from big_vision_dual.core import tables, trees


def tree(leaves):
    return trees.unflatten({path: np.zeros(shape) for path, shape in leaves.items()})


def kinds(leaves, rules=(), **options):
    """{key: "ATOM axes"} of the rows."""
    table = bvd.flat_table(tree(leaves), rules, **options)
    bvd.check_table(table, tree(leaves))
    found = {}
    for row in table.rows:
        letters = {axis: kind for kind, axes in zip("bio", (row.batch, row.fan_in, row.fan_out), strict=True)
                   for axis in axes}  # fmt: skip
        found[row.key] = f"{row.atom} {''.join(letters[axis] for axis in range(len(row.shape)))}"
    return found


GUESSED = {
    "a scanned module with biases": (
        {"blocks/kernel": (12, 8, 8), "blocks/bias": (12, 8)},
        {"blocks/kernel": "Linear bio", "blocks/bias": "Bias bo"},
    ),
    "a scanned block whose gain alone shows it": (
        {"layers/q/kernel": (5, 8, 2, 4), "layers/query/kernel": (5, 8, 2, 4), "layers/norm/scale": (5, 8)},
        {"layers/norm/scale": "Scale bo", "layers/q/kernel": "Linear bioo", "layers/query/kernel": "Linear bioo"},
    ),
    "equal sizes are no stack": (
        {"a/kernel": (8, 8), "a/bias": (8,), "b/kernel": (8, 4), "b/bias": (4,)},
        {"a/kernel": "Linear io", "a/bias": "Bias o", "b/kernel": "Linear io", "b/bias": "Bias o"},
    ),
    "heads": (
        {"query/kernel": (8, 2, 4), "query/bias": (2, 4), "out/kernel": (2, 4, 8), "out/bias": (8,)},
        {"query/kernel": "Linear ioo", "query/bias": "Bias oo", "out/kernel": "Linear iio", "out/bias": "Bias o"},
    ),
    "a depthwise convolution by name": ({"dw/kernel": (3, 3, 1, 8)}, {"dw/kernel": "DepthwiseConv iiio"}),
    "depthwise convolutions in several layers": (
        {"a/conv/kernel": (4, 1, 8), "b/conv/kernel": (4, 1, 8)},
        {"a/conv/kernel": "DepthwiseConv iio", "b/conv/kernel": "DepthwiseConv iio"},
    ),
    "a depthwise convolution in a stack": (
        {"layers/conv/kernel": (5, 4, 1, 8), "layers/conv/bias": (5, 8)},
        {"layers/conv/kernel": "DepthwiseConv biio", "layers/conv/bias": "Bias bo"},
    ),
    "a patch embedding of one channel": ({"patch_embed/kernel": (4, 4, 1, 8)}, {"patch_embed/kernel": "Linear iiio"}),
    "embeddings": (
        {"wte": (50, 8), "pos_embed": (1, 9, 8), "tokens/embedding": (50, 8), "embed/weight": (50, 8)},
        {"wte": "Embed io", "pos_embed": "Embed iio", "tokens/embedding": "Embed io", "embed/weight": "Embed io"},
    ),
    "outputs first, as the bias says": (
        {"layers/0/weight": (16, 8), "layers/0/bias": (16,), "norm/weight": (8,)},
        {"layers/0/weight": "Linear oi", "layers/0/bias": "Bias o", "norm/weight": "Scale o"},
    ),
    "outputs last, as the bias says": (
        {"fc/weight": (16, 8), "fc/bias": (8,)},
        {"fc/weight": "Linear io", "fc/bias": "Bias o"},
    ),
    "fused query, key and value": (
        {"attn/qkv/kernel": (8, 24), "attn/qkv/bias": (24,)},
        {
            **{f"attn/qkv/kernel[1:{start}:{start + 8}]": "Linear io" for start in (0, 8, 16)},
            **{f"attn/qkv/bias[0:{start}:{start + 8}]": "Bias o" for start in (0, 8, 16)},
        },
    ),
    "fused with an axis of three": ({"qkv/kernel": (8, 3, 2, 4)}, {"qkv/kernel": "Linear iboo"}),
    "a window": ({"c/kernel": (3, 3, 4, 8), "c/bias": (8,)}, {"c/kernel": "Linear iiio", "c/bias": "Bias o"}),
    "a decay rate": ({"A_log": (4, 3)}, {"A_log": "Rate oo"}),
    "numbers": ({"temperature": (), "scale": ()}, {"temperature": "Bias ", "scale": "Scale "}),
}  # fmt: skip


@pytest.mark.parametrize("case", GUESSED)
def test_guesses(case):
    leaves, expected = GUESSED[case]
    assert kinds(leaves) == expected


DOUBTFUL = {
    "a stack or a convolution": ({"blocks/kernel": (12, 8, 8)}, "blocks/kernel", "Linear bio"),
    "depthwise or one channel": ({"conv/kernel": (3, 3, 1, 8)}, "conv/kernel", "DepthwiseConv iiio"),
    "which axis is the output": ({"fc/weight": (16, 8)}, "fc/weight", "Linear oi"),
    "fused of unequal widths": ({"qkv/kernel": (8, 16)}, "qkv/kernel", "Linear io/3"),
    "heads or a stack": ({"proj/kernel": (4, 4, 8), "proj/bias": (4, 8)}, "proj/kernel", "Linear bio"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_may_be_two_things_is_asked_with_the_rule_to_add(case):
    leaves, path, first = DOUBTFUL[case]
    with pytest.raises(tables.TableError, match=r"may be two things each") as caught:
        bvd.flat_table(tree(leaves))
    message = str(caught.value)
    assert f"  {path} {leaves[path]}: " in message
    assert f"possible: {first}, " in message
    assert message.endswith("].")
    assert "Say which, e.g. rules=[(" in message


def test_the_rule_that_an_error_suggests_works():
    leaves = {"blocks/kernel": (12, 8, 8)}
    with pytest.raises(tables.TableError) as caught:
        bvd.flat_table(tree(leaves))
    rules = eval(str(caught.value).rpartition("rules=")[2].rstrip("."))
    assert kinds(leaves, rules) == {"blocks/kernel": "Linear bio"}


def test_ordered_rules_override_guesses():
    leaves = {"stem/kernel": (3, 3, 4, 8), "stem/bias": (8,), "body/kernel": (3, 3, 8, 8), "body/bias": (8,)}
    rules = [("body/.*bias", "Bias o"), ("body/.*", "Conv iiio"), ("body/kernel", "Linear iiio")]
    assert kinds(leaves, rules) == {
        "stem/kernel": "Linear iiio", "stem/bias": "Bias o", "body/kernel": "Conv iiio", "body/bias": "Bias o",
    }  # fmt: skip


def test_masses_count_every_atom():
    table = bvd.flat_table(tree({"blocks/kernel": (12, 8, 8), "blocks/bias": (12, 8), "qkv/kernel": (8, 24)}))
    assert table.mass == 12 + 12 + 3
    rows = table.by_key()
    assert rows["blocks/kernel"].target_norm == (1 / 27,) * 12
    assert rows["qkv/kernel[1:8:16]"].target_norm == 1 / 27


def test_a_bias_on_the_last_axis_leaves_nothing_to_guess():
    params = {"layer": {"w": np.ones((3, 4)), "bias": np.ones(4)}, "alone": {"w": np.ones((3, 4))}}
    assert set(tables.flat(params).norms["guessed"]) == {"alone/w"}


def test_what_was_guessed_is_shown_and_saved(tmp_path):
    table = bvd.flat_table(tree({"blocks/kernel": (12, 8, 8), "blocks/bias": (12, 8), "head/kernel": (8, 3)}))
    assert set(table.norms["guessed"]) == {"blocks/kernel", "blocks/bias"}
    assert "guessed: blocks/kernel is Linear bio: 12 stacked copies of blocks, which share axis 0" in str(table)
    bvd.save_table(table, tmp_path / "t.json")
    assert bvd.load_table(tmp_path / "t.json") == table


@pytest.mark.parametrize("rule", ["Linear", "Linear bbb", "Lineal io", "Linear io/5", "Linear io/0", "io", 7])
def test_a_rule_that_does_not_fit_is_named(rule):
    with pytest.raises(tables.TableError, match=r"w of shape \(4, 6\) cannot be .*"):
        bvd.flat_table({"w": jnp.zeros((4, 6))}, [("w", rule)])
