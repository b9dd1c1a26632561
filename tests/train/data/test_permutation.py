"""The Feistel permutation: a permutation for every size, and uniform over keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.train.data.permutation import permuted


@pytest.mark.parametrize("num", [1, 2, 7, 64, 65, 4000])
def test_every_entry_once(num):
    entries = jax.vmap(permuted, (0, None, None))(jnp.arange(num), jax.random.key(3), num)
    assert sorted(entries.tolist()) == list(range(num))


def test_pairs_of_entries_are_uniform_over_keys():
    """Entries 0 and 1 of a permutation of 40: each of the 40 * 39 ordered pairs is as likely."""
    num, keys, classes = 40, 78_000, 40 * 39
    draw = jax.jit(jax.vmap(lambda key: jax.vmap(permuted, (0, None, None))(jnp.arange(2), key, num)))
    first, second = np.asarray(draw(jax.random.split(jax.random.key(0), keys))).T
    counts = np.zeros((num, num))
    np.add.at(counts, (first, second), 1)
    seen = counts[~np.eye(num, dtype=bool)]
    chi_square = ((seen - keys / classes) ** 2 / (keys / classes)).sum()
    # Chi-square with 1559 degrees of freedom: mean 1559, standard deviation 56; measured 1554.
    assert abs(chi_square - (classes - 1)) < 4 * np.sqrt(2 * (classes - 1))
