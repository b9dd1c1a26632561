# pyright: reportOperatorIssue=false
"""Other people's rules as tables: equal to their own code where it is at hand, and to published step sizes."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest

import big_vision_dual as bvd
from big_vision_dual import models
from big_vision_dual.core import rules, tables, trees
from big_vision_dual.core.tables import step_size
from big_vision_dual.models import norm_trees

CONFIG = {
    "model_name": "vit", "input_shape": (16, 16, 3), "num_classes": 10,
    "model": {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 40, "patch_size": (8, 8), "posemb": "learn"},
}  # fmt: skip


@pytest.fixture(scope="module")
def vit() -> tuple[Any, Any]:
    """(table, parameters) of a ViT; every dimension of its matrices differs from the next but q, k and v's."""
    model = models.get("vit").Model(10, **CONFIG["model"])
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))["params"]
    return norm_trees.table_for(CONFIG), params


def trained(tx, params) -> dict[str, np.ndarray]:
    """{path: parameter after 5 steps}. Of full rank: muon_5 blows rounding of absent directions up 500 times."""
    rng = np.random.default_rng(0)
    update, state = jax.jit(tx.update), tx.init(params)
    for scale in (1.0, 0.3, 2.0, 1.0, 0.01):
        grads = jax.tree.map(lambda p, scale=scale: np.float32(scale * rng.standard_normal(p.shape)), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return trees.flatten(params)


def dimension_numbers(table, ends_are_matrices):
    """What `optax.contrib.muon` must be told: the axes of each matrix, None for what Adam takes."""
    rows = table.by_path()

    def of(path, _):
        row = rows[path][0]
        matrix = row.atom == "Linear" and (ends_are_matrices or not path.startswith(("head", "embedding")))
        return optax.contrib.MuonDimensionNumbers(row.fan_in, row.fan_out) if matrix else None

    return lambda params: trees.map_with_path(of, params)


@pytest.mark.parametrize("ends", [None, rules.ENDS])
@pytest.mark.parametrize("consistent_rms", [None, 0.2])
def test_optax_muon_matrix_by_matrix(vit, ends, consistent_rms):
    table, params = vit
    theirs = optax.contrib.muon(
        0.02, muon_weight_dimension_numbers=dimension_numbers(table, ends is None), consistent_rms=consistent_rms,
        weight_decay=0.1 if consistent_rms else 0.0, adam_weight_decay=0.1 if consistent_rms else 0.0,
    )  # fmt: skip
    if consistent_rms is None:
        ours = rules.muon(params if ends is None else table, ends=ends).optimizer(0.02)
    else:
        ours = rules.moonlight(table, ends=ends).optimizer(0.02, adam={"nesterov": True})  # as optax has it
    expected = trained(theirs, params)
    for path, weight in trained(ours, params).items():
        np.testing.assert_allclose(weight, expected[path], atol=1e-6, rtol=1e-6, err_msg=path)  # of .02 a step
    assert max(np.abs(expected[path] - leaf).max() for path, leaf in trees.flatten(params).items()) > 0.02


STEPS = {  # RMS of one entry of one step of ViT-S/16, x 1e-4: patch, query, up, down, head (../shared/design/size.md)
    "moonlight": (1e-3, (2.0, 2.0, 2.0, 2.0, 2.0)),
    "scion": (6.43e-4, (4.1, 8.2, 8.2, 2.0, 8.4)),
    "algoperf_muon": (3.92e-3, (1.4, 2.0, 2.0, 1.0, 2.0)),
}
LEAVES = tuple(
    f"{path}/kernel"
    for path in (
        "embedding", "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query",
        "Transformer/encoderblock_0/MlpBlock_0/Dense_0", "Transformer/encoderblock_11/MlpBlock_0/Dense_1", "head",
    )
)  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_published_step_sizes_of_vit_s16(name):
    source = tables.load("vit_s16_i1k")
    rule = rules.moonlight(source, ends=None) if name == "moonlight" else rules.get(name)(source)
    lr, expected = STEPS[name]
    rows = rule.table.by_key()
    found = [lr * rows[leaf].target_norm * step_size.unit_rms(rows[leaf]) * 1e4 for leaf in LEAVES]
    np.testing.assert_allclose(found, expected, atol=0.06)


@pytest.mark.parametrize(("name", "radius"), [("moonlight", 0.2 * math.sqrt(384) / 0.1), ("algoperf_muon", 1 / 0.024)])
def test_published_radii_of_a_square_matrix(name, radius):
    rule = rules.get(name)(tables.load("vit_s16_i1k"))
    assert rule.table.by_key()[LEAVES[1]].target_norm / rule.decay == pytest.approx(radius)


def test_scion_moves_a_head_by_signs_decays_by_lr_and_leaves_gains(vit):
    table, params = vit
    lr = 0.01
    moved = trained(rules.scion(table).optimizer(lr, momentum=0.0), params)
    one = rules.scion(table).optimizer(lr, momentum=0.0)
    gradients = jax.tree.map(np.cos, params)
    updates, _ = one.update(gradients, one.init(params), params)
    step, start = trees.flatten(updates), trees.flatten(params)
    head = -lr * (500 / 16 * np.sign(np.cos(start["head/kernel"])) + start["head/kernel"])
    np.testing.assert_allclose(step["head/kernel"], head, rtol=1e-5)
    up = "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"
    drive = np.linalg.norm(step[up] + lr * start[up], 2)
    assert drive == pytest.approx(lr * 25 * math.sqrt(40 / 16), rel=0.02)
    gain = "Transformer/encoder_norm/scale"
    np.testing.assert_array_equal(moved[gain], start[gain])


def test_balanced_moves_every_entry_of_every_matrix_alike(vit):
    rule = rules.balanced(vit[0], vectors=0.05)
    for row in rule.table.rows:
        expected = 0.05 if row.atom in ("Bias", "Scale") else 0.2
        assert row.target_norm * step_size.unit_rms(row) == pytest.approx(expected), row.key


def test_rules_of_a_config_follow_its_tree_and_stack(vit):
    for rule in ("balanced", "muon", "flat", "scion"):
        single = norm_trees.table_for({**CONFIG, "norms": {"rule": rule}})
        assert single.rows == rules.get(rule)(vit[0]).table.rows
        scanned = norm_trees.table_for({**CONFIG, "model": {**CONFIG["model"], "scan": True}, "norms": {"rule": rule}})
        stacked = scanned.by_key()["Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"].target_norm
        block = "Transformer/encoderblock_{}/MlpBlock_0/Dense_0/kernel"
        assert stacked == tuple(single.by_key()[block.format(i)].target_norm for i in range(2))


@pytest.mark.parametrize(("norms", "a_head"), [
    ({}, False), ({"biases_per_head": True}, True), ({"conventions": "first_attempt"}, True),
    ({"conventions": "first_attempt", "biases_per_head": False}, False),
])  # fmt: skip
def test_biases_count_by_head_where_asked_for_or_as_the_first_attempt_had_it(norms, a_head):
    row = norm_trees.table_for({**CONFIG, "norms": norms}).by_key()[LEAVES[1].replace("kernel", "bias")]
    assert (row.batch, row.fan_out) == (((0,), (1,)) if a_head else ((), (0, 1)))


def test_the_door_and_the_rules_that_need_a_tree(vit):
    assert bvd.rules is rules
    table = norm_trees.table_for({**CONFIG, "norms": {"conventions": "first_attempt"}})
    assert rules.first_attempt(table).table == table
    assert rules.first_attempt(table).options == {"momentum": 0.95}
    assert rules.well_normed(vit[0]).table == vit[0]
    flat = rules.flat(vit[1]).table
    np.testing.assert_allclose([row.target_norm for row in flat.rows], 1 / len(flat.rows))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.muon({"a": {"bias": np.zeros(3)}}), r"rule muon: ends=.* matches none of 1 leaves, such as"),
        (lambda: rules.muon({"a": {"bias": np.zeros(3)}}, ends=None), r"rule muon: the tree has no matrix .*Bias"),
        (lambda: rules.balanced({"a": {"scale": np.zeros(3)}}), r"rule balanced: the tree has no matrix .*Scale"),
        (lambda: rules.scion({"a": {"kernel": np.zeros((3, 4))}}), r"scion: head='.*' matches none of 1 leaves"),
        (lambda: rules.get("moon"), r"no rule 'moon'; possible: muon, moonlight"),
        (lambda: rules.first_attempt(tables.load("vit_ti16_i1k")), r"no table of that convention.*first_attempt"),
        (functools.partial(norm_trees.table_for, {**CONFIG, "norms": {"rule": "moon"}}), "no rule 'moon'"),
    ],
)  # fmt: skip
def test_errors(call, message):
    with pytest.raises(tables.TableError, match=message):
        call()


def test_muon_takes_a_convolution_as_one_matrix_of_its_window():
    by_tap = bvd.norms.conv("c", (2, 3), 4, 5)
    window = bvd.norms.linear("c", (2, 3, 4), 5)
    made = [rules.muon(atom, ends=None).table.rows for atom in (by_tap, window)]
    assert made[0] == made[1]
    assert not rules.muon(by_tap, ends=None).options["fallback"]
