"""Step time of five optimizers on the accelerator of this machine: ViT-S/16, batch 1024, bfloat16, in one run.

    python benchmarks/gpu.py --keep                                     on one H100: some minutes
    python benchmarks/gpu.py --update B/16 L/16 --keep                  the optimizer's update alone, on those leaves
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --variant "" --batch 8 --steps 2   a ViT of width 64, to see that it runs

The step is the trainer's (`setup.prepare`), on images that are on the device already, with mixup off. The optimizers
take turns, and the median over the rounds counts. MFU: model FLOPs over time and the device's bfloat16 peak. `--input`
is what the input pipeline gives (benchmarks/input.py times the host's cores), to be compared with images/s. With
`--keep` the rows are added to benchmarks/results/gpu.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from big_vision_dual.pods.step_cost import Examples, changed
from big_vision_dual.train import flops, losses, recipes, setup, throughput

RESULTS = pathlib.Path(__file__).parent / "results" / "gpu.jsonl"
SMALL = {"width": 64, "depth": 2, "mlp_dim": 256, "num_heads": 4, "patch_size": (16, 16)}
_DUALIZED = {"momentum": 0.9, "nesterov": True, "dtype": "bfloat16"}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"optax_name": "trace", "optax": {"decay": 0.9}},
    "AdamW": {"optax_name": "scale_by_adam", "optax": {"b2": 0.95}},
    "Muon": {"optax_name": "big_vision_dual.muon", "optax": {"consistent_rms": 0.2}},
    "dualized": {"optax_name": recipes.DUALIZE, "optax": {"polar": "schatten_4", **_DUALIZED}},
    "dualized, newton_schulz_6": {"optax_name": recipes.DUALIZE, "optax": {"polar": "newton_schulz_6", **_DUALIZED}},
    "dualized, hyperball": {
        "optax_name": recipes.DUALIZE,
        "optax": {"polar": "schatten_4", **_DUALIZED},
        "weight_constraint": {"kind": "hyperball", "norm": "frobenius"},
        "wd": None,
    },
}


def config_of(optimizer: str, variant: str, batch: int) -> Any:
    """The dual recipe with another optimizer; variant '' is `SMALL`."""
    fields = {name: ml_collections.ConfigDict(value) if isinstance(value, dict) else value
              for name, value in OPTIMIZERS[optimizer].items()}  # fmt: skip
    config = changed(
        recipes.load("vit_s16_i1k_dual"), model__dtype_mm="bfloat16", input__batch_size=batch, mixup=None,
        log_atom_norms=False, **{"weight_constraint": None, **fields},
    )  # fmt: skip
    with config.unlocked():
        if variant:
            config.model.variant = variant
        else:
            del config.model["variant"]
            config.model.update(SMALL)
    return config


def step_of(run: setup.Run) -> Callable[[], float]:
    """A function that takes a step and returns its seconds."""
    key = jax.random.key(0)
    images = jax.jit(lambda: jax.random.normal(key, run.fns.batch["image"].shape))()
    labels = jnp.eye(run.fns.batch["labels"].shape[1])[jnp.arange(len(images)) % run.fns.batch["labels"].shape[1]]
    batch = jax.device_put({"image": images, "labels": labels}, {k: v.sharding for k, v in run.fns.batch.items()})
    compiled = run.fns.train.lower(run.fns.state, run.fns.batch, run.fns.measured).compile()
    state = run.fns.init()

    def step() -> float:
        nonlocal state
        started = time.perf_counter()
        state, outputs = compiled(state, batch, jnp.asarray(False))
        jax.block_until_ready((state, outputs))
        return time.perf_counter() - started

    return step


def update_of(run: setup.Run) -> Callable[[], float]:
    """A function that does the optimizer's update alone, and returns its seconds."""
    state = run.fns.init()
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(state.params)))
    gradients = jax.tree.unflatten(
        jax.tree.structure(state.params),
        [jax.random.normal(key, leaf.shape, leaf.dtype)
         for key, leaf in zip(keys, jax.tree.leaves(state.params), strict=True)],
    )  # fmt: skip
    update = jax.jit(run.tx.update)

    def one() -> float:
        started = time.perf_counter()
        jax.block_until_ready(update(gradients, state.opt_state, state.params))
        return time.perf_counter() - started

    return one


def seconds(timed: Mapping[str, Callable[[], float]], steps: int) -> dict[str, float]:
    """{name: median seconds}; the first turn compiles and warms up."""
    turns = [{name: one() for name, one in timed.items()} for _ in range(steps + 1)]
    return {name: statistics.median(turn[name] for turn in turns[1:]) for name in timed}


def model_flops(run: setup.Run) -> float:
    forward = functools.partial(run.model.apply, train=False)
    inputs = jax.eval_shape(losses.inputs, run.fns.batch)
    return flops.training_flops(forward, {"params": run.fns.state.params}, inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16", help='of the steps; "" for a small one')
    parser.add_argument("--update", nargs="+", metavar="VARIANT", help="the update alone, on the leaves of these")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--input", type=float, help="images/s that the input pipeline gives")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    device = jax.devices()[0]
    for variant in args.update or [args.variant]:
        runs = {name: setup.prepare(config_of(name, variant, args.batch), Examples(1_281_167)) for name in OPTIMIZERS}
        make = update_of if args.update else step_of
        found = seconds({name: make(run) for name, run in runs.items()}, args.steps)
        what = "update" if args.update else "step"
        print(f"{what}, ViT {variant or 'small'}, batch {args.batch}, {device.device_kind} x {jax.device_count()}")
        for name, spent in found.items():
            row = {"what": what, "variant": variant, "batch": args.batch, "optimizer": name, "seconds": spent}
            row |= {"device": device.device_kind, "devices": jax.device_count(), "jax": jax.__version__}
            told = f"{name:28} {spent * 1e3:9.2f} ms, {spent / found['momentum']:.3f} of momentum's"
            if not args.update:
                row["images_per_second"] = args.batch / spent
                peak = throughput.peak(device)
                row["mfu"] = model_flops(runs[name]) / spent / (peak * jax.device_count()) if peak else None
                told += f", {row['images_per_second']:,.0f} images/s"
                told += f", MFU {row['mfu']:.1%}" if row["mfu"] else ""
                if args.input:
                    told += f", {args.input / row['images_per_second']:.2f} of it from the input"
            print(told, flush=True)
            if args.keep:
                RESULTS.parent.mkdir(exist_ok=True)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
