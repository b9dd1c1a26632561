"""Means of whatever a predict function says about each example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from big_vision_dual.train.evaluators import batches


class Evaluator:
    """Yields (name, mean over the data set) for each value of `predict_fn(params, batch) -> {name: (B,) values}`.

    data, pp_fn, batch_size: for `source_factory`.
    """

    def __init__(
        self,
        predict_fn: batches.PerExample,
        *,
        source_factory: batches.SourceFactory,
        mesh: Mesh,
        data: Mapping[str, Any],
        batch_size: int,
        pp_fn: str = "",
    ) -> None:
        self._source = source_factory(data, pp_fn, batch_size)
        self._mesh = mesh
        self._predict_fn = predict_fn

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        yield from batches.means(self._predict_fn, params, self._source, self._mesh).items()
