"""Few-shot linear probe of a representation, by regularized least squares (Dosovitskiy et al., arXiv 2010.11929)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core import trees
from big_vision_dual.train.evaluators import batches, least_squares


class Evaluator:
    """Yields ('a/{name}_{shots}shot-seed-{seed}', top-1 accuracy on the test split); 'z/...' if not in display_first.

    predict_fn: (params, batch) -> (logits, out); `representation_layer` is a '/'-joined path in out, None for
      the logits. datasets: {name: (dataset, train split, test split)}; pp_train, pp_eval, batch_size and
      data_dir go with them to `source_factory`.
    shots: examples per class. l2_reg: a number, or several, then named in the metric (..._l2-{l2}).
    label_key: of integer labels_B, or one-hot labels_BxC.
    Which examples are drawn depends on the seed and on the order of the source over all hosts.
    """

    def __init__(
        self,
        predict_fn: Callable[..., Any],
        *,
        source_factory: batches.SourceFactory,
        mesh: Mesh,
        batch_size: int,
        datasets: Mapping[str, tuple[str, str, str]],
        shots: Sequence[int] = (1, 5, 10, 25),
        l2_reg: float | Sequence[float] = 2.0**10,
        pp_train: str = "",
        pp_eval: str = "",
        data_dir: str | None = None,
        display_first: Sequence[tuple[str, int]] = (),
        representation_layer: str | None = "pre_logits",
        num_seeds: int = 3,
        label_key: str = "label",
    ) -> None:
        def source(dataset: str, split: str, pp_fn: str) -> batches.Source:
            where = {} if data_dir is None else {"data_dir": data_dir}
            return source_factory({"name": dataset, "split": split, **where}, pp_fn, batch_size)

        self._sources = {
            name: (source(dataset, train, pp_train), source(dataset, test, pp_eval))
            for name, (dataset, train, test) in datasets.items()
        }
        self._mesh = mesh
        self._features = _features(predict_fn, representation_layer, label_key, mesh)
        self._shots, self._num_seeds = shots, num_seeds
        self._l2_regs = {"": l2_reg} if isinstance(l2_reg, (int, float)) else {f"_l2-{l2:g}": l2 for l2 in l2_reg}
        self._display_first = {tuple(pair) for pair in display_first}

    def run(self, params: Any) -> Iterator[tuple[str, float]]:
        for name, (train, test) in self._sources.items():
            train_set, test_set = self._represent(params, train), self._represent(params, test)
            for seed, shots in itertools.product(range(self._num_seeds), self._shots):
                prefix = "a/" if (name, shots) in self._display_first else "z/"
                chosen = draw(train_set[1], shots, seed)
                for suffix, l2_reg in self._l2_regs.items():
                    probe = least_squares.fit(train_set[0][chosen], train_set[1][chosen], l2_reg)
                    yield f"{prefix}{name}_{shots}shot{suffix}-seed-{seed}", probe.accuracy(*test_set)

    def _represent(self, params: Any, source: batches.Source) -> tuple[np.ndarray, np.ndarray]:
        """(features_NxD float64, labels_N) of all hosts' examples, on every host."""
        parts = []
        for batch in batches.on_mesh(source, self._mesh):
            features, labels, mask = jax.device_get(self._features(params, batch))
            parts.append((features[mask > 0], labels[mask > 0]))
        features, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return features.astype(np.float64), labels if labels.ndim == 1 else labels.argmax(axis=1)


def draw(labels_N: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` random examples of each class (all, where it has fewer), nested over shots of one seed."""
    rng = np.random.default_rng(seed)
    classes = range(labels_N.max() + 1)
    return np.concatenate([rng.permutation(np.flatnonzero(labels_N == label))[:shots] for label in classes])


@functools.cache
def _features(
    predict_fn: Callable[..., Any], layer: str | None, label_key: str, mesh: Mesh
) -> Callable[[Any, Mapping[str, jax.Array]], Any]:
    """Jitted (params, batch) -> (features_BxD, labels_B, mask_B), gathered on every host."""

    def features(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits_BxC, out = predict_fn(params, {k: v for k, v in batch.items() if k not in (label_key, "_mask")})
        known = trees.flatten(out)
        if layer is not None and layer not in known:
            raise ValueError(f"representation_layer={layer!r}; possible: {sorted(known)}, or None for the logits.")
        return logits_BxC if layer is None else known[layer], batch[label_key], batch["_mask"]

    return jax.jit(features, out_shardings=NamedSharding(mesh, P()))
