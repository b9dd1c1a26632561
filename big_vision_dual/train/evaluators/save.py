"""Inputs and outputs of the model over a data set, written to a file: Big Vision's evaluator of the same name."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_dual.core import files, trees
from big_vision_dual.train.evaluators import batches


class Evaluator:
    """Writes an .npz with 'inputs/NAME' and 'outputs/PATH' of all examples; measures nothing.

    predict_fn: (params, batch) -> a tree of arrays with the batch as first axis; for (logits, out) the paths are
      outputs/0 and outputs/1/... data, pp_fn, batch_size: for `source_factory`.
    outfile: path, local or gs://, in which {workdir} and {step} stand for the run's, '{workdir}/saved-{step:09d}.npz'.
    The first process holds all of it in memory; on one host it is in the data set's order. Raises ValueError for an
    outfile that cannot be filled in.
    """

    def __init__(
        self,
        predict_fn: Callable[..., Any],
        *,
        source_factory: batches.SourceFactory,
        mesh: Mesh,
        data: Mapping[str, Any],
        batch_size: int,
        outfile: str,
        pp_fn: str = "",
        workdir: os.PathLike[str] | None = None,
    ) -> None:
        self._source = source_factory(data, pp_fn, batch_size)
        self._mesh, self._outfile = mesh, outfile
        self._where = {} if workdir is None else {"workdir": os.fspath(workdir)}
        self._predict = _gathered(predict_fn, mesh)
        self._path(0)

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        parts: dict[str, list[np.ndarray]] = {}
        for batch in batches.on_mesh(self._source, self._mesh):
            found = self._predict(params, batch)
            if jax.process_index():
                continue
            leaves = trees.flatten(jax.device_get(found))
            there = leaves.pop("inputs/_mask") > 0
            for path, value_BxN in leaves.items():
                parts.setdefault(path, []).append(value_BxN[there])
        if parts:
            arrays = {path: np.concatenate(values) for path, values in parts.items()}
            with files.replacing(self._path(step)) as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        return iter(())

    def _path(self, step: int) -> str:
        try:
            return self._outfile.format(step=step, **self._where)
        except (KeyError, IndexError, ValueError) as error:
            possible = "{workdir} and {step}" if self._where else "{step}; there is no workdir for {workdir}"
            raise ValueError(f"outfile={self._outfile!r}: {error!r}; possible: {possible}.") from None


@functools.cache
def _gathered(predict_fn: Callable[..., Any], mesh: Mesh) -> Callable[[Any, Mapping[str, jax.Array]], Any]:
    """Jitted (params, batch) -> {'inputs', 'outputs'}, whole on every host."""

    def both(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        given = {name: value for name, value in batch.items() if name != "_mask"}
        return {"inputs": batch, "outputs": predict_fn(params, given)}

    return jax.jit(both, out_shardings=NamedSharding(mesh, P()))
