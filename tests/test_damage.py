"""Damaged files and strings of any kind: an error that the commands print as one message, and that names the file."""

from __future__ import annotations

import json
import string

import jax
import numpy as np
import pytest
import workdirs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from big_vision_dual.core import tables
from big_vision_dual.lab.report import runs
from big_vision_dual.models import norm_trees, torch_weights, weights
from big_vision_dual.train import pp, run_files, sharding
from big_vision_dual.train.data import arrays
from big_vision_dual.train.data.augment import augment_fn

fuzzed = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPES = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}
MAMBA = {"mamba.layers.0.mixer.D": np.arange(4, dtype=np.float32), "norm_f.weight": np.ones(3, np.float32)}


@st.composite
def damage(draw, content: bytes) -> bytes:
    """`content` with a few bytes replaced, a part removed, or cut off."""
    data = bytearray(content)
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[place] = byte
    start, length = draw(st.tuples(st.integers(0, len(data)), st.sampled_from([0, 0, 0, 1, 7, 200])))
    del data[start : start + length]
    return bytes(data[: draw(st.sampled_from([len(data), len(data), start]))])


def survives(read, *, named: str) -> None:
    """`read()` gives something, or raises what the commands print without a traceback, with the name in it."""
    error = raised(read)
    if error is not None:
        assert type(error).__module__.startswith("big_vision_dual") or type(error) is ValueError, repr(error)
        assert named in str(error), repr(error)


def raised(read) -> Exception | None:
    try:
        read()
    except Exception as error:
        return error
    return None


def npz(path, **leaves):
    np.savez(path, **leaves)
    return path.read_bytes()


ARRAYS = dict(train_image=np.full((4, 3, 3, 1), 9, np.uint8), train_label=np.arange(4), test_image=np.ones((2, 3, 3)),
              test_label=np.arange(2))  # fmt: skip


def binary_readers(tmp_path):
    """{name: (a sound file's content, its suffix, what reads it)}."""
    tensors = tmp_path / "w.safetensors"
    torch_weights.save(torch_weights.from_torch(MAMBA), tensors)
    return {
        "arrays": (npz(tmp_path / "a.npz", **ARRAYS), ".npz", lambda f: arrays.load(f"array:{f}", "train")),
        "weights": (npz(tmp_path / "b.npz", **SHAPES), ".npz", lambda f: weights.load(SHAPES, str(f), {})),
        "torch npz": (npz(tmp_path / "c.npz", **MAMBA), ".npz", torch_weights.load),
        "safetensors": (tensors.read_bytes(), ".safetensors", torch_weights.load),
    }


@pytest.mark.parametrize("kind", ["arrays", "weights", "torch npz", "safetensors"])
def test_damaged_arrays(kind, tmp_path):
    content, suffix, read = binary_readers(tmp_path)[kind]
    file = tmp_path / f"damaged{suffix}"
    file.write_bytes(content)
    read(file)  # a sound one is read

    @fuzzed
    @given(damage(content))
    def check(damaged):
        file.write_bytes(damaged)
        survives(lambda: read(file), named=file.name)

    check()


@pytest.fixture(scope="module")
def table():
    return tables.dumps(norm_trees.table_for(dict(
        model_name="mlp", num_classes=3, input_shape=(2, 2, 1), model=dict(width=4, depth=1, scaling="dual"),
    )))  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def other_json(draw, text: str) -> str:
    """JSON with one value, at any depth, replaced by any other."""
    content = json.loads(text)
    if not content or draw(st.integers(0, 9)) == 0:
        return json.dumps(draw(VALUES))
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        node[key] = draw(VALUES)
        return json.dumps(content)


def test_damaged_tables(table, tmp_path):
    file = tmp_path / "damaged_table.json"
    file.write_text(table)
    assert tables.load(file).rows

    @fuzzed
    @given(damage(table.encode()) | other_json(table).map(str.encode))
    def check(damaged):
        file.write_bytes(damaged)
        survives(lambda: tables.load(file), named=file.name)

    check()


@pytest.mark.parametrize(
    "name", [run_files.METRICS, run_files.ATOM_NORMS, run_files.CONFIG, run_files.VERSIONS, run_files.TABLE]
)
def test_damaged_files_of_a_run(name, tmp_path):
    folder = workdirs.workdir(tmp_path / "run")
    content = (folder / name).read_bytes()
    text = (content if name.endswith(".json") else content.splitlines()[0]).decode()
    runs.read(folder)

    @fuzzed
    @given(damage(content) | other_json(text).map(lambda text: f"{text}\n".encode()))
    def check(damaged):
        (folder / name).write_bytes(damaged)
        survives(lambda: runs.read(folder), named=name)

    check()


def strings(*parts: str):
    """Anything, and anything made of the words of a language."""
    words = st.sampled_from(
        [*parts, "(", ")", "|", ",", "=", "1", "-2", "0.5", "'x'", "None", "[", "]", "**", "*", "."]
    )
    return st.text(string.printable, max_size=12) | st.lists(words, max_size=9).map("".join)


PIXELS = jax.ShapeDtypeStruct((2, 4, 4, 3), np.uint8)
MESH = jax.sharding.AbstractMesh((2,), ("data",))


def ops(text: str) -> None:
    pp.get_preprocess_fn(text)


def augment(text: str) -> None:
    jax.eval_shape(augment_fn(text), jax.eval_shape(lambda: jax.random.key(0)), PIXELS)


def strategy(text: str) -> None:
    sharding.infer({"w": jax.ShapeDtypeStruct((1024, 2048), np.float32)}, MESH, [(".*", text)])


@pytest.mark.parametrize(
    ("compile", "words"),
    [
        (ops, ("decode", "resize", "onehot", "keep", "value_range", "inception_crop", "randaug", "key", "lookup",
               "cast", "pad_to_shape", "reshape", "choice", "vgg_value_range", "size")),
        (augment, ("shift", "flip_lr", "pixels", "pad", "'edge'")),
        (strategy, ("replicate", "fsdp", "stack", "axis", "'data'", "min_size_to_shard_mb")),
    ],
)  # fmt: skip
def test_any_string_is_understood_or_explained(compile, words):
    @fuzzed
    @given(strings(*words))
    def check(text):
        survives(lambda: compile(text), named="")

    check()
