"""Losses on logits, the one that is trained on, what of a batch goes into them, label smoothing and mixup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_dual.train import schema

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def softmax_xent(logits_BxC: jax.Array, labels_BxC: jax.Array) -> jax.Array:
    """Cross-entropy of each example with a distribution over classes, (B,), nats."""
    return -jnp.sum(labels_BxC * jax.nn.log_softmax(logits_BxC.astype(jnp.float32)), axis=-1)


def sigmoid_xent(logits_BxC: jax.Array, labels_BxC: jax.Array) -> jax.Array:
    """Binary cross-entropies of each example, summed over classes, (B,), nats."""
    logits_BxC = logits_BxC.astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits_BxC), jax.nn.log_sigmoid(-logits_BxC)
    return -jnp.sum(labels_BxC * yes + (1.0 - labels_BxC) * no, axis=-1)


_LOSSES: dict[str, Loss] = {"softmax_xent": softmax_xent, "sigmoid_xent": sigmoid_xent}


def get(name: str) -> Loss:
    """The loss that `config.loss` names."""
    if name not in _LOSSES:
        raise ValueError(f"config.loss={name!r}; possible: {', '.join(_LOSSES)}.")
    return _LOSSES[name]


def training(config: Any, model: Any) -> Callable[[Any, Mapping[str, jax.Array], jax.Array], jax.Array]:
    """(params, batch, dropout key) -> mean loss of the batch, nats. config: reads loss and label_smoothing."""
    loss_fn, smoothing = get(schema.value(config, "loss")), schema.value(config, "label_smoothing")

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        logits_BxC, _ = model.apply({"params": params}, inputs(batch), train=True, rngs={"dropout": key})
        labels_BxC = labels(batch, logits_BxC.shape[-1])
        return jnp.mean(loss_fn(logits_BxC, smooth(labels_BxC, smoothing)))

    return loss


def inputs(batch: Mapping[str, jax.Array]) -> jax.Array:
    """What the model sees of a batch: 'image', or all 'tokens' (B, L + 1) but the last."""
    return batch["tokens"][:, :-1] if "tokens" in batch else batch["image"]


def labels(batch: Mapping[str, jax.Array], num_classes: int) -> jax.Array:
    """What it predicts: 'labels' (B, C), or each next token, one-hot (B, L, C)."""
    return jax.nn.one_hot(batch["tokens"][:, 1:], num_classes) if "tokens" in batch else batch["labels"]


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
