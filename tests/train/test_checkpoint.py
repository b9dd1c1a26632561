"""Checkpoints: what is kept, damage, a full disk, other models."""

from __future__ import annotations

import itertools
import logging
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_vision_dual.train import checkpoint, digests, sharding, workdir
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
def saved(tmp_path, monkeypatch):
    """Checkpoints of steps 1 to 5, every third kept."""
    monkeypatch.setattr(checkpoint, "_RETRY_SECONDS", (0.0, 0.0))
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
            match=r"can be read: 5, 4, 3\. Nothing was renamed\. Delete that folder to start afresh",
        ):
            saved.restore(wanted)
        assert saved.steps == [3, 4, 5]


def damage(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
        file.write_bytes(content)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_fault_that_passes_is_waited_for(saved, wanted, monkeypatch, attempts):
    monkeypatch.setattr(saved._reader, "restore", failing(saved._reader.restore, attempts, OSError(5, "EIO")))
    assert int(newest(saved, wanted).step) == 5
    assert saved.steps == [3, 4, 5]


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        OSError(24, "Too many open files"),
        MemoryError("host out of memory"),
        ValueError("UNAVAILABLE: Error reading from bucket: 503"),
        ValueError("RESOURCE_EXHAUSTED: Error opening zarr"),
        RuntimeError("something that nobody has seen before"),
    ],
)
def test_a_fault_of_the_reading_is_reported_and_nothing_is_renamed(saved, wanted, tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(saved._reader, "restore", failing(saved._reader.restore, 10, error))
        with pytest.raises(checkpoint.CheckpointError, match=r"which need not be its fault.*left as"):
            saved.restore(wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5"]
    assert int(newest(saved, wanted).step) == 5


def failing(read, times, error):
    """`read`, which raises `error` the first `times` times."""
    left = [error] * times

    def restore(*arguments, **options):
        if left:
            raise left.pop()
        return read(*arguments, **options)

    return restore


@pytest.mark.usefixtures("saved")
def test_one_set_aside_that_can_be_read_is_taken_again(wanted, tmp_path):
    (tmp_path / "5").rename(tmp_path / "5.damaged")
    with checkpoint.Checkpoints(tmp_path, read_only=True) as reader:
        assert int(newest(reader, wanted).step) == 5
    with checkpoint.Checkpoints(tmp_path) as again:
        assert int(newest(again, wanted).step) == 5
        assert again.steps == [3, 4, 5]


def test_an_older_one_is_asked_for_and_later_ones_are_set_aside(saved, wanted, tmp_path):
    state, _ = saved.restore(wanted, 4)
    assert int(state.step) == 4
    assert saved.steps == [3, 4]
    assert (tmp_path / "5.superseded").is_dir()
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.resume_step=5: possible in .*: 3, 4"):
        saved.restore(wanted, 5)


def test_what_changed_on_disk_is_found(saved, wanted, monkeypatch):
    honest = digests.of_tree
    monkeypatch.setattr(digests, "of_tree", lambda tree: {**honest(tree), "params/b": 1})
    with pytest.raises(checkpoint.CheckpointError, match=r"none of the checkpoints in .* can be read"):
        saved.restore(wanted)


def test_the_digest_sees_entries_that_change_places_and_signs():
    tree = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.int32(0), "c": jnp.ones((2, 2), jnp.bfloat16)}
    before = digests.of_tree(tree)
    assert digests.of_tree(tree) == before
    for changed in (tree["a"][::-1], tree["a"].at[0, 0].set(-0.0), tree["a"].T.reshape(3, 4)):
        assert digests.of_tree({**tree, "a": changed}) == {**before, "a": digests.of_tree({"a": changed})["a"]}
        assert digests.of_tree({"a": changed})["a"] != before["a"]
    assert digests.of_tree_before_0_2({"a": tree["a"][::-1]})["a"] == digests.of_tree_before_0_2(tree)["a"]


def test_notes_that_changed_on_disk_are_damage(saved, wanted, tmp_path, caplog):
    file = tmp_path / "5" / "notes" / "metadata"
    text = file.read_text()
    file.write_text(text.replace("abc", "abd"))
    assert text != file.read_text()
    assert int(newest(saved, wanted).step) == 4
    assert "its notes changed on disk" in caplog.text


@pytest.mark.usefixtures("saved")
def test_one_in_a_folder_of_another_step_gives_way(wanted, tmp_path, caplog):
    """Taken as it is named, it would stop every save from its own step on: 'is there already'."""
    (tmp_path / "4").rename(tmp_path / "99")
    with checkpoint.Checkpoints(tmp_path) as again:
        assert int(newest(again, wanted).step) == 5
        assert "checkpoint 99 in" in caplog.text
        assert "it is that of step 4, in a folder of another name" in caplog.text
        again.save(6, make_state(6), {})
        again.wait()
        assert again.latest == 6
    assert (tmp_path / "99.damaged").is_dir()


def test_checkpoints_of_before_0_2_are_read(saved, wanted, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(digests, "signed", lambda notes: {"sums": notes["digests"], "shapes": notes["shapes"]})
        patch.setattr(digests, "of_tree", digests.of_tree_before_0_2)
        saved.save(6, make_state(6), {})
        saved.wait()
    assert int(newest(saved, wanted).step) == 6


@pytest.mark.parametrize("name", ["run[1]", "a*b", "back\\slash", "what?"])
def test_a_path_that_orbax_cannot_read_back_is_refused(tmp_path, name):
    with pytest.raises(workdir.WorkdirError, match=r"could be written there but not read back\. Give a path without"):
        checkpoint.Checkpoints(tmp_path / name / "checkpoints")


def test_the_first_one_is_read_back_at_once(tmp_path, monkeypatch):
    honest, numbers = digests.of_tree, itertools.count()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(digests, "of_tree", lambda tree: {**honest(tree), "params/b": next(numbers)})
        with pytest.raises(checkpoint.CheckpointError, match=r"of step 1 was written but does not read back: Damaged"):
            checkpoints.save(1, make_state(1), {})


def test_a_step_that_is_there_already_is_not_silently_left_out(saved):
    with pytest.raises(checkpoint.CheckpointError, match="is there already"):
        saved.save(5, make_state(5), {})


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


def test_a_file_in_place_of_the_folder_is_not_taken_for_no_checkpoints(tmp_path):
    (tmp_path / "checkpoints").touch()
    for read_only in (False, True):
        with pytest.raises(NotADirectoryError, match="checkpoints"):
            checkpoint.Checkpoints(tmp_path / "checkpoints", read_only=read_only)


def test_an_empty_folder_has_nothing(tmp_path, wanted):
    checkpoints = checkpoint.Checkpoints(tmp_path / "new")
    assert checkpoints.restore(wanted) is None
    assert checkpoints.latest is None
    checkpoints.close()
