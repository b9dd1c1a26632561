"""Checkpoints: what is kept, damage, a full disk, other models."""

from __future__ import annotations

import logging
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual.train import checkpoint, sharding
from big_vision_dual.train.update import TrainState, initial

# Futures that orbax leaves behind after an error.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_state(step: int) -> TrainState:
    params = {"a": {"kernel": jnp.arange(12.0).reshape(3, 4) + step}, "b": jnp.full((200, 300), step, jnp.bfloat16)}
    return initial(params, optax.adam(1e-3), seed=5, ema=True).replace(step=jnp.int32(step))


def newest(checkpoints: checkpoint.Checkpoints, wanted: TrainState) -> TrainState:
    found = checkpoints.restore(wanted)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def wanted():
    shapes = jax.eval_shape(lambda: make_state(0))
    where = sharding.infer(shapes, sharding.make_mesh())
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 to 5, every third kept."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep_every=3)
    for step in range(1, 6):
        checkpoints.save(step, make_state(step), {"wandb_id": "abc", "core_seconds": 0.1 * step})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def test_the_newest_two_and_every_third_are_kept_and_come_back_whole(saved, wanted):
    assert saved.steps == [3, 4, 5]
    state, notes = saved.restore(wanted)
    jax.tree.map(np.testing.assert_array_equal, state, make_state(5))
    assert type(state.opt_state) is type(make_state(5).opt_state)
    assert (notes["wandb_id"], notes["core_seconds"]) == ("abc", 0.5)


@pytest.mark.parametrize("part", ["state/d", "state/_METADATA", "notes/metadata"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(saved, wanted, tmp_path, caplog, part):
    damage(tmp_path / "5" / part)
    with caplog.at_level(logging.WARNING):
        state, _ = saved.restore(wanted)
    assert int(state.step) == 4
    assert "checkpoint 5 in" in caplog.text
    assert saved.steps == [3, 4]
    assert (tmp_path / "5.damaged").is_dir()


def test_the_same_step_may_be_damaged_again(saved, wanted, tmp_path):
    for _ in range(2):
        damage(tmp_path / "5" / "state/d")
        assert int(newest(saved, wanted).step) == 4
        saved.save(5, make_state(5), {})
        saved.wait()
    assert {path.name for path in tmp_path.glob("*.damaged*")} == {"5.damaged", "5.damaged-2"}


def test_damaged_ones_alone_are_no_fresh_start_however_often_it_is_tried(saved, wanted, tmp_path):
    for step in saved.steps:
        damage(tmp_path / str(step) / "state/d")
    for _ in range(2):
        with pytest.raises(
            checkpoint.CheckpointError,
            match=r"can be read: 3\.damaged, 4\.damaged, 5\.damaged\. Delete that folder to start afresh",
        ):
            saved.restore(wanted)


def damage(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
        file.write_bytes(content)


def test_flipped_bits_are_found_by_the_sums(saved, wanted, monkeypatch):
    flipped = jax.jit(lambda tree: {path: value + (path == "b") for path, value in checkpoint._sums(tree).items()})
    monkeypatch.setattr(checkpoint, "_sums", lambda tree: {**flipped(tree), "params/b": jnp.uint32(1)})
    with pytest.raises(checkpoint.CheckpointError, match=r"none of the checkpoints in .* can be read"):
        saved.restore(wanted)


@pytest.mark.usefixtures("saved")
def test_half_written_ones_are_not_seen(wanted, tmp_path):
    (tmp_path / "6.orbax-checkpoint-tmp").mkdir()
    fresh = checkpoint.Checkpoints(tmp_path)
    assert int(newest(fresh, wanted).step) == 5
    assert not (tmp_path / "6.orbax-checkpoint-tmp").exists()
    fresh.close()


def test_a_full_disk_is_one_clear_error_and_the_last_good_one_stays(saved, wanted, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).normal(size=(200, 300))  # does not compress
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        saved.save(6, make_state(6).replace(params={"a": noise}), {})
        with pytest.raises(
            checkpoint.CheckpointError, match=r"File too large.*the last good one, step 5, is kept\. Free some space"
        ):
            saved.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    after = checkpoint.Checkpoints(tmp_path)
    assert int(newest(after, wanted).step) == 5
    after.close()


def test_another_models_checkpoint_is_refused_and_left_alone(saved, wanted):
    other = wanted.replace(params={"a": {"kernel": jax.ShapeDtypeStruct((3, 5), jnp.float32)}, "c": wanted.step})
    with pytest.raises(
        checkpoint.CheckpointError, match=r"1 leaves missing \['params/c'\], 1 more \['params/b'\], 1 of"
    ):
        saved.restore(other)
    assert saved.steps == [3, 4, 5]


def test_an_empty_folder_has_nothing(tmp_path, wanted):
    checkpoints = checkpoint.Checkpoints(tmp_path / "new")
    assert checkpoints.restore(wanted) is None
    assert checkpoints.latest is None
    checkpoints.close()
