"""Top-1 accuracy and loss over a labelled data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from big_vision_dual.train import losses
from big_vision_dual.train.evaluators import batches

METRICS = ("acc@1", "prec@1")


class Evaluator:
    """Yields (metric, share of examples whose highest logit is at a label) and ('loss', mean loss).

    predict_fn: (params, batch) -> (logits_BxC, ...). data, pp_fn, batch_size: for `source_factory`.
    loss_name: see `losses.get`. label_key: of labels_BxC; rows of zeros are left out, and with several ones
      a row, as in ImageNet-ReaL, any of them is right. metric: how the share is called, 'acc@1' | 'prec@1'.
    """

    def __init__(
        self,
        predict_fn: Callable[..., Any],
        *,
        source_factory: batches.SourceFactory,
        mesh: Mesh,
        data: Mapping[str, Any],
        batch_size: int,
        pp_fn: str = "",
        loss_name: str = "softmax_xent",
        label_key: str = "labels",
        metric: str = "acc@1",
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric={metric!r}; possible: {', '.join(METRICS)}.")
        self._source = source_factory(data, pp_fn, batch_size)
        self._mesh = mesh
        self._per_example = per_example(predict_fn, loss_name, label_key, metric)

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        yield from batches.means(self._per_example, params, self._source, self._mesh).items()


@functools.cache
def per_example(predict_fn: Callable[..., Any], loss_name: str, label_key: str, metric: str) -> batches.PerExample:
    """(params, batch) -> {metric, 'loss', '_weight'}; one function, hence one compilation, per set of arguments."""
    loss = losses.get(loss_name)

    def function(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits_BxC, *_ = predict_fn(params, {k: v for k, v in batch.items() if k not in (label_key, "_mask")})
        labels_BxC = batch[label_key].astype(jnp.float32)
        best_Bx1 = jnp.argmax(logits_BxC, axis=1, keepdims=True)
        return {
            metric: jnp.take_along_axis(labels_BxC, best_Bx1, axis=1)[:, 0],
            "loss": loss(logits_BxC, labels_BxC),
            "_weight": labels_BxC.max(axis=1),
        }

    return function
