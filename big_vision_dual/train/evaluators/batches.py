"""From a host's padded batches to exact sums over the whole data set, on any number of devices and hosts."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

PerExample = Callable[[Any, Mapping[str, jax.Array]], Mapping[str, jax.Array]]


# A finite data set of which each iteration gives every example once: padded batches of equal size and number on
# every host, with `_mask` (B,) 1 for examples and 0 for padding, as `data.PaddedBatches`.
Source = Iterable[Mapping[str, np.ndarray]]
SourceFactory = Callable[..., Source]  # (data, pp_fn, global batch size, and where it is not 'none' cache=)


def on_mesh(source: Source, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """The batches of all hosts as global arrays, axis 0 sharded over all axes of the mesh."""
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    for batch in source:
        size = len(batch["_mask"])
        if size % len(mesh.local_devices):
            raise ValueError(
                f"an evaluation batch of {size} examples per host does not divide among its "
                f"{len(mesh.local_devices)} devices; give a batch_size divisible by {mesh.size}."
            )
        yield {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def means(function: PerExample, params: Any, source: Source, mesh: Mesh) -> dict[str, float]:
    """Mean of each per-example value of `function(params, batch)` over the examples of all hosts.

    function: gives {name: (B,) values}. The weight of an example is its `_mask`, times the values named
      '_weight' where `function` gives them. It must be hashable: it is compiled once for all its callers.
    Sums are float32 within a batch (exact for counts up to 2^24) and float64 over batches.
    """
    sums = _sums(function, mesh)
    totals: Counter[str] = Counter()
    in_flight = None
    for batch in on_mesh(source, mesh):
        dispatched = sums(params, batch)
        totals.update(_fetch(in_flight))  # one batch behind, so that the device has work while we wait
        in_flight = dispatched
    totals.update(_fetch(in_flight))
    weight = totals.pop("_weight", 0)
    if not weight:
        raise ValueError("the evaluation saw no labelled example: check the split, and that `_mask` is not all 0.")
    return {name: total / weight for name, total in totals.items()}


def _fetch(sums: Mapping[str, jax.Array] | None) -> dict[str, float]:
    return {} if sums is None else {name: float(value) for name, value in jax.device_get(sums).items()}


@functools.cache
def _sums(function: PerExample, mesh: Mesh) -> Callable[[Any, Any], dict[str, jax.Array]]:
    """Jitted (params, batch) -> {name: weighted sum}, '_weight' among them, the same on every host."""

    def sums(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        values = dict(function(params, batch))
        weight = batch["_mask"].astype(jnp.float32) * values.pop("_weight", 1.0)
        wrong = {name: value.shape for name, value in values.items() if value.shape != weight.shape}
        if wrong:
            raise ValueError(f"per-example values must have the shape {weight.shape} of the batch; given: {wrong}.")
        # `where`, not a product: what the model makes of padding may be NaN
        weighted = {name: jnp.sum(jnp.where(weight > 0, weight * value, 0.0)) for name, value in values.items()}
        return {**weighted, "_weight": jnp.sum(weight)}

    return jax.jit(sums, out_shardings=NamedSharding(mesh, P()))
