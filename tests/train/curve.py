"""Prints the losses of a few steps of variants of the tiny config, as JSON: {variant: [loss, ...]}.

Its argument is JSON, {variant: [model, number of devices, 0 for all, {config field: value}]}. A variant's initial
parameters are left beside the data as VARIANT.npz. Started by test_devices.py, with several devices and processes.
"""

import json
import os
import pathlib
import sys
from typing import Any

import jax

from big_vision_dual.models import weights
from big_vision_dual.train import distributed, feed, recipes, setup, start

STEPS = 4


def losses(variant: str, model: str, devices: int, changes: dict) -> list[float]:
    config = recipes.load(f"{pathlib.Path(__file__).parent / 'tiny_config.py'}:{model}")
    with config.unlocked():
        for field, value in changes.items():
            section, _, name = field.rpartition(".")
            target: Any = config[section] if section else config
            target[name] = value
    run = setup.prepare(config, devices=jax.devices()[:devices] if devices else None)
    state, batches = start.begin(run, None).state, feed.batches(run.source, run.fns, 0)
    if jax.process_count() == 1:
        weights.save(state.params, pathlib.Path(os.environ["DATA"]).with_name(f"{variant}.npz"))
    curve = []
    for _ in range(STEPS):
        state, outputs = run.fns.train(state, next(batches), False)
        curve.append(float(outputs["loss"]))
    return curve


if __name__ == "__main__":
    variants = json.loads(sys.argv[1])
    with distributed.joined():
        curves = {variant: losses(variant, *arguments) for variant, arguments in variants.items()}
    if jax.process_index() == 0:
        print(json.dumps(curves))
