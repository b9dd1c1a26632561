"""What training does to a batch before the loss: label smoothing and mixup."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def smooth(labels_BxC: jax.Array, amount: float) -> jax.Array:
    """(1 - amount) * labels + amount / C: Szegedy et al. 2016, arXiv 1512.00567, section 7."""
    return (1.0 - amount) * labels_BxC + amount / labels_BxC.shape[-1]


def mixup(rng: jax.Array, batch: dict[str, jax.Array], p: float) -> dict[str, jax.Array]:
    """Mixes every example with its left neighbour: a * x[i] + (1 - a) * x[i - 1], on all arrays of the batch.

    One a for the batch, the larger side of Beta(p, p): Zhang et al. 2018, arXiv 1710.09412, equation 1.
    """
    a = jax.random.beta(rng, p, p)
    a = jnp.maximum(a, 1.0 - a)
    return {key: a * value + (1.0 - a) * jnp.roll(value, 1, axis=0) for key, value in batch.items()}
