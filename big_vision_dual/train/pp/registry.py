"""The registry of preprocessing ops: one decorator to add an op, one function to bind a call to it.

An op is a builder: called once with the arguments from the op string, it returns the function that
handles every example. No TensorFlow here: ops bring their own.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from big_vision_dual.train.pp.parse import OpCall, PreprocessError

Example = dict[str, Any]
Builder = Callable[..., Callable[..., Any]]
_KEYS = ("inkey", "outkey", "key")
_OPS: dict[str, Op] = {}


@dataclasses.dataclass(frozen=True)
class Op:
    """A registered op; the fields are the arguments of `register`."""

    name: str
    build: Builder
    key: str | None
    random: bool

    @property
    def signature(self) -> inspect.Signature:
        """The builder's arguments, and for ops on one entry also `inkey`, `outkey` and `key`."""
        own = inspect.signature(self.build).parameters.values()
        added = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=None) for k in _KEYS if self.key]
        return inspect.Signature(
            [*(parameter.replace(annotation=inspect.Parameter.empty) for parameter in own), *added]
        )


def register(name: str, *, key: str | None = None, random: bool = False) -> Callable[[Builder], Builder]:
    """Decorator which makes a builder known to op strings as `name`.

    The builder's arguments are those of the op string. What it returns is called for each example as
    `f(example)` -> example or, with `key`, as `f(example[key])` -> the new value of that entry; users
    may then redirect it with `inkey`, `outkey`, or `key` for both. With `random` it is also given a
    seed (int64[2]) of its own, as second argument, for TensorFlow's stateless random functions: the
    result must depend on nothing else. It runs inside a TensorFlow graph without AutoGraph: choose by
    tf.where or tf.cond, not by a Python `if` on a tensor.

    Raises `PreprocessError` if another builder has the name.
    """

    def decorate(build: Builder) -> Builder:
        taken = _OPS.get(name)
        if taken and (taken.build.__module__, taken.build.__qualname__) != (build.__module__, build.__qualname__):
            raise PreprocessError(
                f"op {name!r} of {build.__module__} exists already in {taken.build.__module__}; choose another name."
            )
        _OPS[name] = Op(name, build, key, random)
        return build

    return decorate


def known() -> tuple[str, ...]:
    """Names of all registered ops, sorted."""
    return tuple(sorted(_OPS))


@dataclasses.dataclass(frozen=True)
class Step:
    """An op bound to its arguments; `inkey` is None for ops on the whole example."""

    op: Op
    text: str
    function: Callable[..., Any]
    inkey: str | None
    outkey: str | None

    def __call__(self, example: Example, seed: Any) -> Example:
        extra = (seed,) if self.op.random else ()
        if self.inkey is None or self.outkey is None:
            return self.function(example, *extra)
        if self.inkey not in example:
            raise PreprocessError(
                f"{self.text!r} reads {self.inkey!r}, but at this point the example has {sorted(example)}; "
                "change the order of the ops, or name the entry with inkey=."
            )
        return {**example, self.outkey: self.function(example[self.inkey], *extra)}


def bind(call: OpCall) -> Step:
    """Looks a call up and builds it; errors name the nearest known ops, arguments and the signature."""
    if call.name not in _OPS:
        raise PreprocessError(
            f"unknown op {call.name!r} in {call.text!r}; {_nearest(call.name, known())}. "
            "Ops of your own: @register(name) in a module listed in config.pp_modules."
        )
    op = _OPS[call.name]
    try:
        op.signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        wrong = [name for name in call.kwargs if name not in op.signature.parameters]
        hint = "".join(f" {name!r}: {_nearest(name, op.signature.parameters)}." for name in wrong)
        raise PreprocessError(f"{call.text!r}: {error}.{hint} The op is {op.name}{op.signature}.") from error
    keys = {name: call.kwargs.get(name) for name in _KEYS if op.key}
    arguments = {name: value for name, value in call.kwargs.items() if name not in keys}
    inkey = keys.get("inkey") or keys.get("key") or op.key
    outkey = keys.get("outkey") or keys.get("key") or op.key
    try:
        return Step(op, call.text, op.build(*call.args, **arguments), inkey, outkey)
    except ValueError as error:
        raise PreprocessError(f"{call.text!r}: {error} The op is {op.name}{op.signature}.") from error


def _nearest(name: str, possible: Iterable[str]) -> str:
    possible = list(possible)
    close = difflib.get_close_matches(name, possible, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"possible: {', '.join(possible)}"
