"""Weights in and out: round trips, layouts, resampling, submodels, and errors that help."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params
import scipy.ndimage

from big_vision_dual.core import trees
from big_vision_dual.models import vit, weights

CONFIG = {"width": 24, "depth": 2, "mlp_dim": 40, "num_heads": 3, "patch_size": (4, 4)}


def init(size=16, seed=0, num_classes=5, **options):
    model = vit.Model(num_classes, **{**CONFIG, "head_zeroinit": False, **options})
    return random_params.draw(model, np.zeros((1, size, size, 3)), seed)


@pytest.fixture(scope="module")
def loop():
    return init()


@pytest.fixture(scope="module")
def scan():
    return init(seed=1, scan=True)


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_round_trip(loop, scan, tmp_path):
    for params, config in ((loop, CONFIG), (scan, {**CONFIG, "scan": True})):
        weights.save(params, tmp_path / "w.npz")
        zeros = jax.tree.map(np.zeros_like, params)
        assert equal(weights.load(zeros, str(tmp_path / "w.npz"), config), params)
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_files_of_either_layout_load_into_either(loop, scan, tmp_path):
    weights.save(loop, tmp_path / "loop.npz")
    stacked = weights.load(scan, str(tmp_path / "loop.npz"), {"scan": True})
    query = stacked["Transformer"]["encoderblock"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]
    blocks = [loop["Transformer"][f"encoderblock_{i}"] for i in range(2)]
    np.testing.assert_array_equal(
        query, np.stack([b["MultiHeadDotProductAttention_0"]["query"]["kernel"] for b in blocks])
    )
    weights.save(stacked, tmp_path / "scan.npz")
    assert equal(weights.load(init(seed=2), str(tmp_path / "scan.npz"), {}), loop)


def test_twelve_layers_stack_in_numeric_order():
    leaves = {f"T/encoderblock_{i}/b": np.full(2, i) for i in range(12)}
    stacked = weights.loop_to_scan(leaves)
    np.testing.assert_array_equal(stacked["T/encoderblock/b"][:, 0], np.arange(12))
    assert weights.scan_to_loop(stacked).keys() == leaves.keys()


@pytest.mark.parametrize("root", ["params/", "opt/target/", "params/img/", "img/"])
def test_roots_and_submodels(loop, root, tmp_path):
    file = tmp_path / "w.npz"
    leaves = {root + path: leaf for path, leaf in trees.flatten(loop).items()}
    weights.save(leaves | {"opt/step" if root.startswith(("params", "opt")) else "txt/x": np.zeros(3)}, file)
    spec = f"{file}:img" if "img" in root else str(file)
    assert equal(weights.load(init(seed=2), spec, {}), loop)


def test_bfloat16_files_are_read(loop, tmp_path):
    weights.save(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), loop), tmp_path / "w.npz")
    loaded = weights.load(loop, str(tmp_path / "w.npz"), {})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), loaded, loop)


def test_positions_are_resampled(loop, tmp_path):
    weights.save(loop, tmp_path / "w.npz")
    loaded = weights.load(init(size=28, seed=2), str(tmp_path / "w.npz"), {}, grid=(7, 7))
    grid = loop["pos_embedding"].reshape(4, 4, 24)
    expected = np.asarray(scipy.ndimage.zoom(grid, (7 / 4, 7 / 4, 1), order=1))  # what Big Vision calls
    np.testing.assert_allclose(loaded["pos_embedding"], expected.reshape(1, 49, 24), atol=1e-6)  # measured: 0
    np.testing.assert_array_equal(loaded["embedding"]["kernel"], loop["embedding"]["kernel"])


@pytest.mark.parametrize(("old", "new"), [((3, 3), (2, 8)), ((2, 8), (4, 4)), ((2, 8), (3, 5)), ((8, 2), (1, 3))])
def test_positions_are_resampled_to_the_models_own_grid(old, new):
    grid = np.random.default_rng(0).standard_normal((*old, 6)).astype(np.float32)
    stored_grid = None if old == (3, 3) else old
    given = grid.reshape(1, -1, 6)
    resampled = weights.resample_positions(given, math.prod(new), grid=new, stored_grid=stored_grid)
    at = np.meshgrid(*(np.linspace(0, a - 1, b) for a, b in zip(old, new, strict=True)), indexing="ij")
    for d in range(6):
        expected = scipy.ndimage.map_coordinates(grid[..., d], at, order=1)
        np.testing.assert_allclose(resampled[0, :, d].reshape(new), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({}, r"9 positions in the file on a grid \(3, 3\), 16 in the model on a grid unknown"),
        ({"grid": (3, 5)}, r"16 in the model on a grid \(3, 5\).*stored_grid"),
        ({"grid": (2, 8), "stored_grid": (2, 4)}, r"9 positions in the file on a grid \(2, 4\)"),
    ],
)
def test_positions_on_an_unknown_grid_are_refused(grids, message):
    with pytest.raises(weights.WeightsError, match=message):
        weights.resample_positions(np.zeros((1, 9, 8)), 16, **grids)


def test_a_file_whose_grid_is_not_square_has_to_be_told():
    with pytest.raises(weights.WeightsError, match=r"12 positions .*that is not square.*dont_load="):
        weights.resample_positions(np.zeros((1, 12, 8)), 16, grid=(4, 4))


def test_dont_load_keeps_the_initial_leaves(loop, tmp_path):
    weights.save(loop, tmp_path / "w.npz")
    fresh = init(seed=2, num_classes=9)
    loaded = weights.load(fresh, str(tmp_path / "w.npz"), {}, dont_load=["head/.*", "pos_.*"])
    for name in ("head", "pos_embedding"):
        assert equal(loaded[name], fresh[name])
    assert equal(loaded["Transformer"], loop["Transformer"])


def test_dont_load_excuses_leaves_that_one_side_lacks(loop, tmp_path):
    weights.save({k: v for k, v in loop.items() if k != "head"} | {"old": np.zeros(2)}, tmp_path / "w.npz")
    loaded = weights.load(loop, str(tmp_path / "w.npz"), {}, dont_load=["head/.*", "old"])
    assert equal(loaded, loop)


def test_a_file_that_does_not_fit_is_told_all_at_once(loop, tmp_path):
    stored = {**loop, "extra": np.zeros(2), "head": init(num_classes=9)["head"]}
    del stored["pos_embedding"]
    weights.save(stored, tmp_path / "w.npz")
    with pytest.raises(weights.WeightsError) as error:
        weights.load(loop, str(tmp_path / "w.npz"), {})
    for part in (
        "1 leaves missing from the file: pos_embedding.",
        "1 leaves not in the model: extra.",
        "2 leaves of another shape: head/bias (9,) in the file, (5,) in the model; head/kernel (24, 9) in",
        "dont_load=['head/.*']",
    ):
        assert part in str(error.value)


def test_unreadable_files(loop, tmp_path):
    weights.save(loop, tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    for spec, message in (
        ("good.npy", "are not an .npz file; give 'PATH.npz', 'PATH.npz:SUBMODEL', or a checkpoint"),
        ("gone.npz", r"no weights file .*gone.npz; .npz files there: .*good.npz"),
        ("half.npz", r"half.npz is no .npz archive, or a damaged one .*again"),
        ("good.npz:img", r"no submodel 'img' in the file; possible: Transformer, embedding, head, pos_embedding"),
    ):
        with pytest.raises(weights.WeightsError, match=message):
            weights.load(loop, f"{tmp_path}/{spec}", {})
