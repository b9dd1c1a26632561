"""What the leaves of an unknown model are: by their names, their siblings and their shapes.

The names are those of Flax, with PyTorch's and Equinox's `weight` beside them. A guess that two readings fit is none.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping

from big_vision_dual.core.tables.schema import TableError

Shape = tuple[int, ...]

_SCALES = re.compile(r"(\w*_)?(scale|gain|gamma)", re.I)
_BIASES = re.compile(r"(\w*_)?(bias|beta|b)", re.I)
_WEIGHTS = ("kernel", "weight", "w")
_EMBEDDINGS = re.compile(
    r"wte|wpe|((\w+_)?(embed|emb|embedding|embeddings))|(\w+_)?pos(ition)?s?(_\w+)?|cls(_token)?|probe", re.I
)
_QKV = re.compile(r"\w*(qkv|query_key_value|c_attn|in_proj)\w*", re.I)
_HEADS = re.compile(r"query|key|value|[qkv](_proj)?", re.I)
_DEPTHWISE = re.compile(r"(\w*_)?(dw|depthwise)\w*", re.I)
_STEM = re.compile(r"\w*(stem|patch|embed|conv_?init|conv_?0)\w*", re.I)


@dataclasses.dataclass(frozen=True)
class Guess:
    """kind: "ATOM axes", see `flat`. why: for what the leaf's own name does not say."""

    kind: str
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Doubt:
    """A leaf that may be one of several kinds."""

    kinds: tuple[str, ...]
    why: str


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf without its stack axis, and its siblings in the same module."""

    name: str
    module: str
    shape: Shape
    siblings: Mapping[str, Shape]
    inside: bool  # it is one of several layers that look alike, so none of them reads the model's input

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def bias(self) -> Shape | None:
        return next((shape for name, shape in self.siblings.items() if _BIASES.fullmatch(name)), None)

    @property
    def kernel(self) -> Shape | None:
        return next((shape for name, shape in self.siblings.items() if name in _WEIGHTS), None)


def kinds(paths: Iterable[str], shapes: Mapping[str, Shape], forced: set[str]) -> dict[str, Guess]:
    """{path: guess} for `paths`; `shapes` are those of all leaves, siblings included.

    forced: leaves that are known to be stacked over axis 0. Raises `TableError` that lists all doubts, with rules.
    """
    stacked, doubts = _stacks(shapes, forced)
    modules: dict[str, dict[str, Shape]] = {}
    for path, shape in shapes.items():
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = shape[1:] if path in stacked else shape
    guesses: dict[str, Guess] = {}
    open_: dict[str, Doubt] = {}
    several = sum(_of_one_channel(shape) for shape in shapes.values()) > 1
    for path in paths:
        module = modules[path.rpartition("/")[0]]
        found = doubts.get(path) or _one(path, shapes[path], module, stacked.get(path), several)
        if isinstance(found, Guess):
            guesses[path] = found
        else:
            open_[path] = found
    if open_:
        raise TableError(_asking(open_, shapes))
    return guesses


def _asking(doubts: Mapping[str, Doubt], shapes: Mapping[str, Shape], most: int = 8) -> str:
    lines = [
        f"  {path} {shapes[path]}: {doubt.why}; possible: {', '.join(doubt.kinds)}"
        for path, doubt in list(doubts.items())[:most]
    ]
    more = [f"  and {len(doubts) - most} more"] if len(doubts) > most else []
    path, doubt = next(iter(doubts.items()))
    rule = (re.escape(path).replace(r"\_", "_"), doubt.kinds[0])
    return "\n".join(
        [f"{len(doubts)} parameters may be two things each:", *lines, *more, f"Say which, e.g. rules=[{rule!r}]."]
    )


def _one(path: str, shape: Shape, module: Mapping[str, Shape], stacked: str | None, several: bool) -> Guess | Doubt:
    """stacked: why the leaf is a stack over axis 0, which `module`, {name: shape} with siblings, then lacks."""
    if not math.prod(shape):
        return Guess(f"Bias {'o' * len(shape)}", "it is empty")
    parent, _, name = path.rpartition("/")
    siblings = {other: shape for other, shape in module.items() if other != name}
    leaf = _Leaf(name, parent.rpartition("/")[2], module[name], siblings, several or stacked is not None)
    found = next(result for reading in _READINGS if (result := reading(leaf)) is not None)
    if stacked is None:
        return found
    if isinstance(found, Doubt):
        return dataclasses.replace(found, kinds=tuple(_with_batch(kind) for kind in found.kinds))
    return Guess(_with_batch(found.kind), f"{stacked}{'; ' + found.why if found.why else ''}")


def _with_batch(kind: str) -> str:
    atom, _, axes = kind.partition(" ")
    return f"{atom} b{axes}"


def _vector(leaf: _Leaf) -> Guess | Doubt | None:
    axes = "o" * leaf.rank
    if leaf.name == "A_log":
        return Guess(f"Rate {axes}")
    if _SCALES.fullmatch(leaf.name):
        return Guess(f"Scale {axes}")
    if leaf.name == "weight" and leaf.rank == 1:
        return Guess(f"Scale {axes}", "a weight of one axis is a gain")
    if _BIASES.fullmatch(leaf.name):
        return _fused(leaf) or Guess(f"Bias {axes}")
    return Guess(f"Bias {axes}", "" if leaf.name == "bias" else "a vector") if leaf.rank < 2 else None


def _embedding(leaf: _Leaf) -> Guess | None:
    by_name = _EMBEDDINGS.fullmatch(leaf.name)
    by_module = leaf.name == "weight" and leaf.rank == 2 and _EMBEDDINGS.fullmatch(leaf.module)
    if not (by_name or by_module):
        return None
    return Guess(f"Embed {'i' * (leaf.rank - 1)}o", f"{leaf.name if by_name else leaf.module} names an embedding")


def _fused(leaf: _Leaf) -> Guess | Doubt | None:
    """Query, key and value in one kernel, or their biases in one vector."""
    if not (_QKV.fullmatch(leaf.module) or _QKV.fullmatch(leaf.name)):
        return None
    why = "query, key and value in one"
    kernel = leaf.kernel if _BIASES.fullmatch(leaf.name) else leaf.shape
    if kernel is None:
        return None
    if len(kernel) == 4 and kernel[1] == 3:  # (d, 3, heads, d_head)
        return Guess("Linear iboo" if kernel is leaf.shape else "Bias boo", why)
    if len(kernel) != 2:
        return None
    fused = max(kernel) == 3 * min(kernel)
    if fused:
        axes = "io" if kernel[1] > kernel[0] else "oi"
        return Guess(f"Linear {axes}/3" if kernel is leaf.shape else "Bias o/3", why)
    if _QKV.fullmatch(leaf.module or leaf.name) and "in_proj" in (leaf.module, leaf.name):
        return None  # another kind of fused projection; one Linear
    return Doubt(("Linear io/3", "Linear io"), "it is named as fused query, key and value, of unequal widths")


def _matrix(leaf: _Leaf) -> Guess | Doubt | None:
    if leaf.rank != 2:
        return None
    rows, columns = leaf.shape
    if rows != columns and leaf.bias is not None and len(leaf.bias) == 1:
        if leaf.bias[0] == rows:
            return Guess("Linear oi", "the bias has its first axis")
        if leaf.bias[0] == columns:
            return Guess("Linear io")
    if leaf.name == "weight" and rows != columns:
        return Doubt(("Linear oi", "Linear io"), "no bias says which axis is the output")
    return Guess("Linear io", "" if leaf.name == "kernel" else "a matrix, outputs last")


def _heads(leaf: _Leaf) -> Guess | None:
    if leaf.rank != 3:
        return None
    if _HEADS.fullmatch(leaf.module) or leaf.bias == leaf.shape[1:]:
        return Guess("Linear ioo", "(d, heads, d_head)")
    if leaf.module == "out":
        return Guess("Linear iio", "(heads, d_head, d)")
    return None


def _channels_of_one(leaf: _Leaf) -> Guess | Doubt | None:
    """(taps, 1, channels): a depthwise convolution, or one that reads a single channel."""
    if leaf.name == "weight" or not _of_one_channel(leaf.shape):
        return None
    depthwise, window = f"DepthwiseConv {'i' * (leaf.rank - 1)}o", f"Linear {'i' * (leaf.rank - 1)}o"
    if _DEPTHWISE.fullmatch(leaf.module) or _DEPTHWISE.fullmatch(leaf.name):
        return Guess(depthwise, "a depthwise convolution by name, one input channel by shape")
    if _STEM.fullmatch(leaf.module) or _STEM.fullmatch(leaf.name):
        return Guess(window, "windows of an input with one channel")
    if leaf.inside:
        return Guess(depthwise, "one input channel by shape, in several layers")
    return Doubt((depthwise, window), "a depthwise convolution, or windows of an input with one channel")


def _of_one_channel(shape: Shape) -> bool:
    return len(shape) > 2 and shape[-2] == 1 and math.prod(shape[:-2]) > 1


def _window(leaf: _Leaf) -> Guess | Doubt | None:
    """A convolution as one Linear of its window; a kernel of three axes without a bias may be a stack."""
    first, last = leaf.bias == leaf.shape[:1], leaf.bias == leaf.shape[-1:]
    window, reverse = f"Linear {'i' * (leaf.rank - 1)}o", f"Linear o{'i' * (leaf.rank - 1)}"
    if last and not (first and leaf.name == "weight"):
        return Guess(window, "a window of a convolution as one Linear")
    if first and leaf.name == "weight":
        return Guess(reverse, "a window of a convolution as one Linear, outputs first")
    if leaf.name == "weight":
        return Doubt((reverse, window), "no bias says which axis is the output")
    if leaf.rank == 3:
        return Doubt(("Linear bio", window, "Linear ioo"), "a stack of matrices, a convolution, or a matrix by heads")
    return Guess(window, "a window of a convolution as one Linear")


_READINGS: tuple[Callable[[_Leaf], Guess | Doubt | None], ...] = (
    _vector, _embedding, _fused, _matrix, _heads, _channels_of_one, _window,
)  # fmt: skip


def _stacks(shapes: Mapping[str, Shape], forced: set[str]) -> tuple[dict[str, str], dict[str, Doubt]]:
    """({leaf: why it is stacked over axis 0}, doubts): modules whose vectors have one axis more than vectors have."""
    stacked = dict.fromkeys(forced, "stacked as given")
    doubts: dict[str, Doubt] = {}
    modules: dict[str, list[str]] = {}
    for path, shape in shapes.items():
        if math.prod(shape) and path not in forced:
            parts = path.split("/")
            for length in range(len(parts)):
                modules.setdefault("/".join(parts[:length]), []).append(path)
    for module, members in sorted(modules.items(), key=lambda item: len(item[0])):
        if members[0] in stacked or members[0] in doubts:
            continue
        layers = {shapes[path][:1] for path in members}
        if len(layers) != 1 or layers == {()}:
            continue
        plain, stack = _votes(members, shapes)
        if stack and not plain:
            why = f"{shapes[members[0]][0]} stacked copies of {module or 'the model'}, which share axis 0"
            stacked |= dict.fromkeys(members, why)
        elif stack and plain:
            doubts |= {path: _stack_doubt(shapes[path]) for path in members}
    return stacked, doubts


def _votes(members: Iterable[str], shapes: Mapping[str, Shape]) -> tuple[bool, bool]:
    """(something says that the module is no stack, something says that it is one), from its biases and scales."""
    plain = stack = False
    for path in members:
        module, _, name = path.rpartition("/")
        shape = shapes[path]
        if not (_SCALES.fullmatch(name) or _BIASES.fullmatch(name)):
            continue
        prefix = f"{module}/" if module else ""
        by_heads = any(shapes.get(prefix + other, ())[1:] == shape for other in _WEIGHTS)
        if len(shape) == 1:
            plain = True
        elif not by_heads:
            stack = True
        else:
            plain, stack = True, stack or not _HEADS.fullmatch(module.rpartition("/")[2])
    return plain, stack


def _stack_doubt(shape: Shape) -> Doubt:
    inner = max(0, len(shape) - 2)
    kinds = (f"Linear b{'i' * inner}o", f"Linear {'i' * (inner + 1)}o") if inner else ("Bias bo", "Bias oo")
    why = "its module may be a stack over axis 0, or one layer"
    return Doubt(kinds if len(shape) > 1 else ("Bias b", "Bias o"), why)
