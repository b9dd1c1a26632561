"""The search: finds a bowl's bottom off its grid, grows, keeps to its trials, and says what it did not close in."""

import math

import pytest

from big_vision_dual.lab.track import space

TWO = {"lr": space.octaves(-5), "optax.b1": space.among(0.9, 0.8, 0.9, 0.95, also={"optax.b2": 1, "wd": 0.5})}


def bowl(bottom, seen=None):
    def loss(position):
        if seen is not None:
            seen.append(position)
        return sum((x - at) ** 2 for x, at in zip(position, bottom, strict=True))

    return loss


def test_positions_are_fields():
    assert space.fields(TWO, (2.0, -1.0)) == {"lr": 0.125, "optax.b1": 0.8, "optax.b2": 0.8, "wd": 0.4}


def test_it_walks_to_a_bottom_that_its_first_grid_did_not_hold():
    found = space.search(TWO, bowl((5.2, 1.0)), trials=20)
    assert found.best[1] == 1
    assert abs(found.best[0] - 5.2) <= 0.25
    assert found.open == ()


@pytest.mark.parametrize("trials", [1, 4, 9])
def test_it_never_uses_more_than_its_trials_nor_one_twice(trials):
    seen = []
    space.search(TWO, bowl((40.0, 0.0), seen), trials)
    assert len(seen) == trials == len(set(seen))


def test_a_best_point_at_the_edge_names_its_axis():
    assert space.search(TWO, bowl((40.0, 0.0)), trials=5).open == ("lr", "optax.b1")
    assert space.search(TWO, bowl((0.0, 0.0)), trials=5).open == ()


def test_what_diverges_is_worse_than_anything_else():
    found = space.search(TWO, lambda p: math.nan if p[0] > 0 else -p[0], trials=6)
    assert found.best[0] == 0
    assert not found.diverged
    assert space.search(TWO, lambda _: math.nan, trials=6).diverged


def test_a_later_search_starts_from_the_earlier_one_with_half_steps():
    seen = []
    space.search(TWO, bowl((2.0, 1.0), seen), 3, start=(2.0, 1.0))
    assert seen == [(2.0, 1.0), (2.5, 1.0), (1.5, 1.0)]


def test_axes_without_values_are_refused():
    with pytest.raises(ValueError, match="none of its choices"):
        space.among(3, 1, 2)
    with pytest.raises(ValueError, match="start > 0 and a factor > 1"):
        space.Axis(0.0)
