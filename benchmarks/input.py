"""Images per second and core of the ViT-S/16 input pipeline, against bare decode-and-crop with tf.image.

    python benchmarks/input.py --data_dir ../shared/data/tfds [--write]

Everything runs on one core. A rate is images per second of processor time (all threads of this process), so that
a busy machine disturbs little; the pipelines take turns and the median over the rounds counts. Ratios compare
rates of one run. `--write` puts the result under "Input pipeline" in docs/performance.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from big_vision_dual.train import data
from big_vision_dual.train.data.tfds import open_split
from big_vision_dual.train.pp import randaug
from big_vision_dual.train.pp.quiet_tf import tf

BATCH = 50
BATCHES = 6  # timed in each round, after one that is not
RECIPE = (
    "decode_jpeg_and_inception_crop(224)",
    "flip_lr",
    "randaug(2,10)",
    "value_range(-1,1)",
    'onehot(1000, key="label", key_result="labels")',
    'keep("image","labels")',
)
WITHOUT_RANDAUG = tuple(op for op in RECIPE if not op.startswith("randaug"))
TO_DEVICE = tuple(op for op in WITHOUT_RANDAUG if not op.startswith("value_range"))  # input.augment="randaug(2,10)"
REDUCED = ("decode_jpeg_and_inception_crop(224, reduced=True)", *TO_DEVICE[1:])
REFERENCE_RATE = 90 * 1_281_167 / (6.5 * 3600)  # images/s: Big Vision's 90 epochs in 6h30 on a v3-8
HOSTS = {  # name: (hosts, vCPUs a host, model speed in images/s)
    "v3-8": (1, 96, REFERENCE_RATE),
    "v4-32": (4, 240, REFERENCE_RATE * (16 * 275) / (4 * 123)),  # chips x peak TFLOP/s in bfloat16, equal utilization
}
DOCS = pathlib.Path(__file__).parents[1] / "docs" / "performance.md"
HEADING = "## Input pipeline"


def bare(data_dir: str, kind: str) -> Iterator[Any]:
    """The limits, nothing around them: 'decode' a file, 'crop' (decode a random box of it) or 'resize' that crop."""
    split = open_split({"name": "imagenet2012", "data_dir": data_dir})
    files = [split.parse(record)["image"].numpy() for record in split.records()]

    def make(index: Any, file: Any) -> Any:
        if kind == "decode":
            return tf.shape(tf.image.decode_jpeg(file, channels=3))
        box = tf.image.stateless_sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(file),
            tf.zeros((1, 0, 4)),
            seed=tf.stack([tf.constant(0, tf.int64), index]),
            min_object_covered=0.0,
            area_range=(0.05, 1.0),
            aspect_ratio_range=(0.75, 1.33),
            use_image_if_no_bounding_boxes=True,
        )
        pixels = tf.image.decode_and_crop_jpeg(file, tf.concat([box[0][:2], box[1][:2]], 0), channels=3)
        return tf.image.resize(pixels, (224, 224)) if kind == "resize" else tf.shape(pixels)

    images = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    return images.map(make, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(2).as_numpy_iterator()


def ours(data_dir: str, ops: tuple[str, ...]) -> Iterator[Any]:
    """The trainer's own batches: shuffled, seeded, preprocessed by `ops`."""
    config = {
        "data": {"name": "imagenet2012", "data_dir": data_dir},
        "batch_size": BATCH,
        "cache_raw": True,
        "shuffle_buffer_size": 200,
        "pp": "|".join(ops),
    }
    return data.make(config, seed=0).batches()


def rate(batches: Iterator[Any]) -> float:
    """Images per second of processor time, once the first batch is there."""
    next(batches)
    start = time.process_time()
    for _ in itertools.islice(batches, BATCHES):
        pass
    return BATCH * BATCHES / (time.process_time() - start)


def rates(pipelines: dict[str, Callable[[], Iterator[Any]]], rounds: int) -> dict[str, float]:
    measured = [{name: rate(make()) for name, make in pipelines.items()} for _ in range(rounds)]
    return {name: statistics.median(row[name] for row in measured) for name in pipelines}


def randaug_costs(data_dir: str, count: int = 200) -> dict[str, float]:
    """{operation: microseconds an image of 224 x 224} at magnitude 10."""
    images = next(ours(data_dir, (RECIPE[0], 'keep("image")')))["image"]
    dataset = tf.data.Dataset.from_tensor_slices(images)
    seconds = {}
    for name in (None, *randaug.operations(10, -1.0, (0.5, 0.5))):

        def apply(image: Any, name: str | None = name) -> Any:
            sign, center = tf.constant(-1.0), tf.constant((0.5, 0.5))
            return randaug.operations(10, sign, center)[name](image) if name else tf.identity(image)

        results = dataset.repeat().map(apply).batch(BATCH).as_numpy_iterator()
        next(results)
        start = time.process_time()
        for _ in itertools.islice(results, count // BATCH):
            pass
        seconds[name] = (time.process_time() - start) / count
    return {name: (value - seconds[None]) * 1e6 for name, value in seconds.items() if name}


def report(data_dir: str, rounds: int) -> str:
    """Measures everything and returns the section for the documentation."""
    pipelines: dict[str, Callable[[], Iterator[Any]]] = {
        "decode": lambda: bare(data_dir, "decode"),
        "crop": lambda: bare(data_dir, "crop"),
        "resize": lambda: bare(data_dir, "resize"),
        "without randaug": lambda: ours(data_dir, WITHOUT_RANDAUG),
        "to device": lambda: ours(data_dir, TO_DEVICE),
        "reduced": lambda: ours(data_dir, REDUCED),
        RECIPE[-1]: lambda: ours(data_dir, RECIPE),
    }
    for index, op in enumerate(RECIPE[:-1], 1):
        keep = 'keep("image")' if "labels" not in op else RECIPE[-1]
        pipelines[op] = lambda ops=(*RECIPE[:index], keep): ours(data_dir, ops)
    rate_of = rates(pipelines, rounds)
    return "\n".join(
        [HEADING, "", *_limits(rate_of, rounds), "", *_costs(rate_of, randaug_costs(data_dir)), "", *_needs(rate_of)]
    )


def _limits(rate_of: dict[str, float], rounds: int) -> list[str]:
    limits = [rate_of[kind] for kind in ("decode", "crop", "resize")]
    rows = [
        ("tf.image: decode the whole file", rate_of["decode"]),
        ("tf.image: decode a random box of it", rate_of["crop"]),
        ("tf.image: the same and resize to 224, the least that makes a batch", rate_of["resize"]),
        ("ours: the S/16 recipe without randaug", rate_of["without randaug"]),
        ('ours: raw pixels, for `input.augment="randaug(2,10)"` on the devices', rate_of["to device"]),
        ("ours: the same, decoded at a reduced scale", rate_of["reduced"]),
        ("ours: the S/16 recipe", rate_of[RECIPE[-1]]),
    ]
    return [
        f"`python benchmarks/input.py --data_dir DIR --rounds {rounds} --write`, the 200 training images of ../shared,",
        f"on one core of {_processor()}; images per second of processor time, median of {rounds} rounds",
        "in which the pipelines take turns.",
        "",
        "| pipeline | images/s/core | of decoding | of decoding the box | of decoding the box and resizing |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {rate:.0f} | {' | '.join(f'{rate / limit:.2f}' for limit in limits)} |" for name, rate in rows),
    ]


def _costs(rate_of: dict[str, float], randaug_us: dict[str, float]) -> list[str]:
    total = 1 / rate_of[RECIPE[-1]]
    seconds = [1 / rate_of[op] for op in RECIPE[:-1]]
    costs = [after - before for before, after in itertools.pairwise([0.0, *seconds])]
    return [
        "Each op's cost is the difference between the recipe cut off after it and before it, so noise can make a cheap",
        "one negative; the first line contains reading, shuffling, parsing and batching.",
        "",
        "| op | µs/image | share of the recipe |",
        "|---|---:|---:|",
        *(f"| `{op}` | {cost * 1e6:.0f} | {cost / total:.0%} |" for op, cost in zip(RECIPE, costs, strict=False)),
        "",
        "randaug applies two of its operations to each image; at magnitude 10 on 224 x 224 pixels they take, in µs:",
        ", ".join(f"{name} {cost:.0f}" for name, cost in sorted(randaug_us.items(), key=lambda item: -item[1])) + ".",
    ]


def _needs(rate_of: dict[str, float]) -> list[str]:
    recipe = rate_of[RECIPE[-1]]
    rows = [
        f"| {name} | {speed:.0f} | {speed / hosts:.0f} | {speed / hosts / recipe:.0f} | {cores} |"
        for name, (hosts, cores, speed) in HOSTS.items()
    ]
    return [
        "Extrapolated, not measured: cores like this one that a host needs to feed ViT-S/16. Assumptions: the v3-8",
        f"trains as fast as Big Vision's reference run (90 epochs in 6h30, {REFERENCE_RATE:.0f} images/s); the v4-32",
        "as much faster as its 16 chips x 275 TFLOP/s are than 4 x 123, at equal utilization; and a vCPU of a host",
        "is as fast as this core.",
        "",
        "| slice | images/s | images/s/host | cores needed/host | vCPUs/host |",
        "|---|---:|---:|---:|---:|",
        *rows,
    ]


def _processor() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(section: str) -> None:
    """Replaces the section "Input pipeline" of docs/performance.md, or adds it at the end."""
    page = DOCS.read_text() if DOCS.is_file() else "# Performance\n"
    before, _, rest = page.partition(HEADING)
    following = rest[rest.find("\n## ") :] if "\n## " in rest else "\n"
    DOCS.write_text(f"{before.rstrip()}\n\n{section}\n{following}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data_dir", required=True, help="folder of imagenet2012 in TFDS's format")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the section into docs/performance.md")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # before TensorFlow's first op, which sizes its pools
    section = report(arguments.data_dir, arguments.rounds)
    print(section)
    if arguments.write:
        write(section)


if __name__ == "__main__":
    main()
