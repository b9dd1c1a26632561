"""Training batches from TFDS: epochs, seeds, exact resume, hosts, mixtures, errors."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tfds

from big_vision_dual.train import data
from big_vision_dual.train.data.streams import Mixture

LABELS = 'keep("label")'
RANDOM = 'decode_jpeg_and_inception_crop(8, area_min=20)|flip_lr|value_range|keep("image", "label")'
N = tiny_tfds.NUM_TRAIN


@pytest.fixture(scope="module")
def make(tiny):
    def build(seed=0, process_index=0, process_count=1, **settings):
        config = {"data": {"name": "tiny", "data_dir": tiny}, "batch_size": 4, "shuffle_buffer_size": 6, "pp": LABELS}
        return data.make(config | settings, seed=seed, process_index=process_index, process_count=process_count)

    return build


def take(source, count, start=0):
    return list(itertools.islice(source.batches(start), count))


def stream(source, count):
    """The first `count` labels."""
    size = len(next(source.batches())["label"])
    return np.concatenate([batch["label"] for batch in take(source, -(-count // size))])[:count].tolist()


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            np.testing.assert_array_equal(value, other[name])


def test_the_input_shape_is_read_off_the_ops_or_asked_for(make):
    assert data.input_shape(make(pp=RANDOM)) == data.input_shape(make(pp=RANDOM, skip_bad_records=2)) == (8, 8, 3)
    with pytest.raises(data.DataError, match=r"leave it open: .*None.*--config.input_shape="):
        data.input_shape(make(pp='decode|value_range|keep("image", "label")'))


@pytest.mark.parametrize("cache_raw", [False, True])
def test_every_epoch_is_a_permutation_of_its_own(make, cache_raw):
    source = make(cache_raw=cache_raw)
    assert source.num_examples == N
    epochs = np.reshape(stream(source, 3 * N), (3, N))
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


@pytest.mark.parametrize("cache_raw", [False, True])
def test_order_depends_on_the_seed_alone(make, cache_raw):
    first, again = (stream(make(seed=3, cache_raw=cache_raw), N) for _ in range(2))
    assert first == again
    assert first != stream(make(seed=4, cache_raw=cache_raw), N)


def test_one_file_is_shuffled_by_seed_too(make, tiny):
    """With a single file only the buffer shuffles: it must follow the seed as well."""
    one_file = {"data": {"name": "tiny", "split": "test", "data_dir": tiny}}
    assert stream(make(seed=3, **one_file), 10) != stream(make(seed=4, **one_file), 10)


@pytest.mark.parametrize("cache_raw", [False, True])
def test_without_shuffling_epochs_are_alike(make, cache_raw):
    labels = stream(make(cache_raw=cache_raw, shuffle_buffer_size=0), 2 * N)
    assert labels[:N] == labels[N:]


@pytest.mark.parametrize("cache_raw", [False, True])
def test_resuming_anywhere_gives_the_rest_of_an_uninterrupted_run(make, cache_raw):
    settings = {"pp": RANDOM, "cache_raw": cache_raw}
    full = take(make(**settings), 15)
    for start in (1, 12):  # within the first epoch of 5.25 batches and within the third
        assert_equal(full[start:], take(make(**settings), 15 - start, start))


def test_a_far_start_skips_epochs_by_arithmetic(make):
    far = 4_000_000 * N  # 4 epochs take 21 batches; reading so many would take hours
    labels = [label for batch in take(make(), N, far) for label in batch["label"].tolist()]
    assert sorted(labels) == sorted(4 * list(range(N)))


def test_randomness_depends_on_position_not_on_batching(make):
    small, large = take(make(pp=RANDOM), 4), take(make(pp=RANDOM, batch_size=8), 2)
    for name in ("image", "label"):
        ours, theirs = (np.concatenate([batch[name] for batch in batches]) for batches in (small, large))
        np.testing.assert_array_equal(ours, theirs)


def test_repeated_examples_are_augmented_anew(make):
    batches = take(make(pp=RANDOM, batch_size=N), 2)
    by_label = [dict(zip(batch["label"].tolist(), batch["image"], strict=True)) for batch in batches]
    same = [np.array_equal(by_label[0][label], by_label[1][label]) for label in range(N)]
    assert sum(same) < 3  # two draws of 8 x 8 crops may meet by chance in flat images


def test_what_the_devices_shall_do_comes_with_the_source(make):
    raw = RANDOM.replace("|value_range", "")
    source = make(pp=raw, augment="flip_lr|randaug(2,10)", seed=7)
    batch = next(source.batches())
    assert batch["image"].dtype == np.uint8
    augmented = source.augment(jax.random.key(0), jnp.asarray(batch["image"]))
    assert augmented.shape == batch["image"].shape
    assert np.any(augmented != batch["image"])
    assert (source.seed, make(pp=raw).augment) == (7, None)
    with pytest.raises(data.DataError, match="unknown augmentation 'resize"):
        make(pp=raw, augment="resize(8)")


def test_hosts_read_disjoint_halves(make):
    hosts = [make(process_index=host, process_count=2) for host in range(2)]
    halves = [stream(hosts[0], 10), stream(hosts[1], 11)]
    assert sorted(halves[0] + halves[1]) == list(range(N))
    assert len(take(hosts[0], 1)[0]["label"]) == 2
    assert {host.num_examples for host in hosts} == {N}


@pytest.fixture(scope="module")
def mixed(tiny):
    def build(**settings):
        part = {"data": {"name": "tiny", "data_dir": tiny}, "pp": LABELS, "shuffle_buffer_size": 5}
        other = {**part, "data": {**part["data"], "split": "test"}}
        config = {"data": {"a": 3, "b": 1}, "a": part, "b": other, "batch_size": 4}
        return data.make({**config, **settings}, seed=0)

    return build


def test_mixture_resumes_exactly_and_holds_each_part_in_order(mixed):
    full = take(mixed(), 40)
    for start in (3, 29):
        assert_equal(full[start:], take(mixed(), 40 - start, start))
    labels = np.concatenate([batch["label"] for batch in full])
    assert sorted(labels[labels >= 50][:10]) == list(range(50, 60))  # an epoch of the smaller part
    assert sorted(labels[labels < 50][:N]) == list(range(N))
    assert mixed().num_examples == N + tiny_tfds.NUM_TEST


def test_mixture_meets_its_weights_exactly_in_every_period():
    mixture = Mixture((3.0, 1.0, 2.0), seed=1)
    np.testing.assert_array_equal(mixture.counts, [5000, 1667, 3333])
    np.testing.assert_array_equal(np.bincount(mixture.period(0)), mixture.counts)
    assert (mixture.period(0).numpy() != mixture.period(1).numpy()).any()
    assert mixture.given(20_000) == [10_000, 3334, 6666]
    chosen = list(itertools.islice(mixture.choices(9_990).as_numpy_iterator(), 20))
    before, after = mixture.given(9_990), mixture.given(10_010)
    assert np.bincount(chosen, minlength=3).tolist() == [b - a for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pp": LABELS}, r"sets pp for all parts at once; set config.input.a = dict\(data=..., pp="),
        ({"data": {"a": 1, "c": 1}}, r"unknown settings \['b'\]"),
        ({"data": {"a": 1, "b": 1, "c": 1}}, r"has no settings 'c'; set config.input.c"),
        ({"data": {"a": 0, "b": 0}}, r"weights are \[0.0, 0.0\]; possible: numbers >= 0, not all 0"),
    ],
)
def test_mixture_errors(mixed, settings, message):
    with pytest.raises(data.DataError, match=message):
        mixed(**settings)


def test_classes_are_those_on_disk_unless_they_are_mapped(make, mixed):
    assert make().num_classes == mixed().num_classes == tiny_tfds.NUM_CLASSES
    assert make(pp=f"lookup([0, 1, 2])|{LABELS}").num_classes is None


def test_strings_cannot_be_batched(make):
    with pytest.raises(data.DataError, match=r"leaves file_name \(string\), image \(string\).*keep\("):
        make(pp="").batches()


def test_wrong_batch_size(make):
    with pytest.raises(
        data.DataError, match="batch_size 4 does not divide evenly over 3 processes; nearest possible: 3"
    ):
        make(process_count=3)


def test_too_many_hosts(make):
    with pytest.raises(data.DataError, match="none of the 21 examples; use fewer hosts"):
        make(process_index=0, process_count=32, batch_size=32).batches()
