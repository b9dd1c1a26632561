"""How well a language model predicts the next byte of a text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from big_vision_dual.train import losses
from big_vision_dual.train.evaluators import batches


class Evaluator:
    """Yields ('loss', nats per byte) and ('bits_per_byte', the same in bits) over all windows of a text.

    predict_fn: (params, batch) -> (logits_BxLxV, ...). data, batch_size: for `source_factory`.
    """

    def __init__(
        self,
        predict_fn: Callable[..., Any],
        *,
        source_factory: batches.SourceFactory,
        mesh: Mesh,
        data: Mapping[str, Any],
        batch_size: int,
    ) -> None:
        self._source = source_factory(data, "", batch_size)
        self._mesh = mesh
        self._per_example = per_example(predict_fn)

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        loss = batches.means(self._per_example, params, self._source, self._mesh)["loss"]
        yield "loss", loss
        yield "bits_per_byte", loss / math.log(2)


@functools.cache
def per_example(predict_fn: Callable[..., Any]) -> batches.PerExample:
    """(params, batch) -> {'loss': mean over each window}; windows are equally long, so their mean is that of bytes."""

    def function(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits_BxLxV, *_ = predict_fn(params, batch)
        labels_BxLxV = losses.labels(batch, logits_BxLxV.shape[-1])
        return {"loss": jnp.mean(losses.softmax_xent(logits_BxLxV, labels_BxLxV), axis=-1)}

    return function
