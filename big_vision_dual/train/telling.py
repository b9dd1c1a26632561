"""The first and the last line of a training: what runs, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from big_vision_dual.train import progress

_RESULTS = ("acc@1", "prec@1", "/loss", "bits_per_byte", "training_loss")


def header(run: Any, name: str, workdir: Any) -> str:
    """One line: recipe, model, parameters, devices, data, steps, batch and workdir. run: `setup.Run`."""
    config, devices = run.config, run.fns.mesh.devices
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.fns.state.params))
    data = config.input.data
    source = f"{data['name']} {data.get('split', 'train')}" if "name" in data else " + ".join(data)
    epochs = run.total_steps * config.input.batch_size / run.data_size
    hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    parts = [
        f"{config.model_name} {config.get('model', {}).get('variant') or ''}".strip(),
        f"{parameters:,} parameters",
        f"{devices.size} {devices.flat[0].device_kind}{hosts}",
        f"{source} ({run.data_size:,} examples)",
        f"{run.total_steps:,} steps of {config.input.batch_size:,} ({epochs:.3g} epochs)",
        f"into {workdir}" if workdir else "nothing is kept",
    ]
    return f"{name + ': ' if name else ''}{', '.join(parts)}"


def closing(last: Mapping[str, Any], seconds: float, workdir: Any) -> str:
    """One line: result, time, and what to do next. last: the last value of every metric."""
    results = [f"{key} {value:.4g}" for key, value in last.items() if key.endswith(_RESULTS) and key != "train/loss"]
    result = ", ".join(results) or "nothing left to train"
    return f"done in {progress.duration(seconds)}: {result}; next: bvd report {workdir}"
