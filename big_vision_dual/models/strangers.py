"""Other people's models behind the interface of ours: a Flax module, linen or nnx, or a pair of functions.

`config.model_name` 'my_package.my_model:Net' names a class, an instance, or a function that makes one; its arguments
are `config.model`, and `num_classes` where it has an argument of that name. 'my_package.my_model' names a file with
functions init(key, x, **options) -> parameters and apply(parameters, x, **options) -> logits, each of which is given
the options that it names, or one with a `Model` (`models.get`). A `FAMILY` in that file is the model's record.

What is asked of a model: init(key, x) -> {"params": tree}, and apply({"params": tree}, x, train=, rngs=, mutable=) ->
(logits, {name: activation}). `train` reaches the model as the argument of that name, or as `deterministic`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from big_vision_dual.core import trees

PyTree = Any
Pair = tuple[Callable[..., Any], Callable[..., Any]]
Called = tuple[jax.Array, dict[str, jax.Array]]  # logits, activations by name
_NO_OPTIONS = {"parent", "name", "rngs"}  # of Flax modules: what config.model cannot give


class ModelError(ValueError):
    """A model of one's own that cannot be used as it is."""


def get(name: str) -> Any:
    """The module 'package.module', which has a Model(num_classes, **options) of ours; or what stands for one.

    Raises `ModelError` for a name that leads nowhere, or to what is no model.
    """
    place, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(place)
        found = getattr(module, attribute) if attribute else module
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelError(
            f"config.model_name {name!r}: {error}. Possible: 'package.module:Name' of what Python can import from here."
        ) from error
    if not attribute and hasattr(module, "Model"):
        return module
    if not callable(found) and _pair(found) is None:
        raise ModelError(
            f"config.model_name {name!r} is a {type(found).__name__} without Model, or init and apply. Possible: "
            f"'{place}:Name' of a Flax module (linen or nnx), of a function that makes one, or of a pair (init, apply)."
        )
    record = {"FAMILY": module.FAMILY} if hasattr(module, "FAMILY") else {}
    return types.SimpleNamespace(Model=lambda classes, /, **options: _made(name, found, classes, options), **record)


def check(model: Any, name: str, shape: Sequence[int], dtype: Any, num_classes: int) -> None:
    """Raises `ModelError` unless the model takes examples of that shape and dtype and gives them logits.

    Traces the model, computes nothing.
    """

    def called(x: jax.Array) -> Any:
        variables = model.init(jax.random.key(0), x)
        return model.apply({"params": variables["params"]}, x, train=False)

    x = jax.ShapeDtypeStruct((2, *shape), dtype)
    try:
        output = jax.eval_shape(called, x)
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"{name} cannot be called with {jnp.dtype(dtype)}{[2, *shape]}: {type(error).__name__}: {reason[0]}"
        ) from error
    logits: Any = output[0] if isinstance(output, tuple) and len(output) == 2 else output
    fits = hasattr(logits, "shape") and jnp.issubdtype(logits.dtype, jnp.floating) and logits.ndim >= 2
    if not fits or logits.shape[-1] != num_classes:
        given = f"{logits.dtype}{list(logits.shape)}" if hasattr(logits, "shape") else type(logits).__name__
        raise ModelError(
            f"{name} gives {given} for a batch of 2; possible: logits (2, {num_classes}), one a class of the data, "
            "alone or in a pair (logits, dict of activations). Say so in config.model, or wrap it in a function."
        )


def _made(name: str, found: Any, num_classes: int, options: Mapping[str, Any]) -> Any:
    """A model of ours from whatever was named."""
    offered = {"num_classes": num_classes}
    if (pair := _pair(found)) is not None:
        return Functions.of(name, pair, offered, options)
    if isinstance(found, linen.Module):
        if options:
            raise ModelError(f"{name} is an instance and takes no config.model; given: {sorted(options)}.")
        return Linen(found, name)
    _check_options(name, _parameters(found), options)
    given = {**_named(found, offered), **options}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {p.name for p in _parameters(found) if p.default is p.empty and p.kind not in variadic}
    if missing := sorted(needed - set(given) - _NO_OPTIONS):
        raise ModelError(f"{name} needs {missing} in config.model, as --config.model.{missing[0]}=...")
    if "rngs" in {parameter.name for parameter in _parameters(found)}:
        return Nnx(lambda rngs: found(**given, rngs=rngs), name)
    made = found(**given)
    if (pair := _pair(made)) is not None:
        return Functions.of(name, pair, {}, {})
    if not isinstance(made, linen.Module):
        raise ModelError(
            f"{name} makes a {type(made).__name__}; possible: a linen module, an nnx module (with an argument `rngs`), "
            "or a pair (init, apply)."
        )
    return Linen(made, name)


def _pair(found: Any) -> Pair | None:
    """The functions (init, apply): a tuple of them, or attributes of a file or a named tuple; not of a Flax module."""
    if isinstance(found, (linen.Module, type)):
        return None
    if hasattr(found, "init") and hasattr(found, "apply"):
        return found.init, found.apply
    two = isinstance(found, tuple) and len(found) == 2 and all(map(callable, found))
    return (found[0], found[1]) if two else None


@dataclasses.dataclass(frozen=True)
class Linen:
    """A linen module. Activations: what each of its modules returns."""

    module: linen.Module
    name: str

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, PyTree]:
        mode = _mode(type(self.module).__call__, train=False)
        variables = self.module.init({"params": key, "dropout": key}, x, **mode)
        others = sorted(set(variables) - {"params", "intermediates"})
        if others or not variables.get("params"):
            raise _stateful(self.name, others)
        return {"params": variables["params"]}

    def apply(self, variables: Any, x: jax.Array, *, train: bool = False, rngs: Any = None, mutable: Any = ()) -> Any:
        mode = _mode(type(self.module).__call__, train)
        if not mutable:
            return _called(self.module.apply(variables, x, rngs=rngs, **mode))
        output, sown = self.module.apply(
            variables, x, rngs=rngs, mutable=["intermediates"], capture_intermediates=True, **mode
        )
        return _recorded(_called(output), sown.get("intermediates", {})), {}


@dataclasses.dataclass(frozen=True)
class Nnx:
    """An nnx module. make: rngs -> module. Activations: what each of its modules returns."""

    make: Callable[[nnx.Rngs], Any]
    name: str

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, PyTree]:
        del x
        _, params, _, others = nnx.split(self.make(nnx.Rngs(key)), nnx.Param, nnx.RngState, ...)
        if others or not params:
            raise _stateful(self.name, list(trees.flatten(others)))
        return {"params": nnx.to_pure_dict(params)}

    def apply(self, variables: Any, x: jax.Array, *, train: bool = False, rngs: Any = None, mutable: Any = ()) -> Any:
        module = self.make(nnx.Rngs((rngs or {}).get("dropout", jax.random.key(0))))
        state = nnx.state(module, nnx.Param)
        nnx.replace_by_pure_dict(state, variables["params"])
        nnx.update(module, state)
        module.set_attributes(deterministic=not train, use_running_average=not train, raise_if_not_found=False)
        mode = _mode(type(module).__call__, train)
        if not mutable:
            return _called(module(x, **mode))
        output, sown = nnx.capture(module, nnx.Intermediate, method_outputs=nnx.Intermediate)(x, **mode)
        return _recorded(_called(output), nnx.to_pure_dict(sown)), {}


@dataclasses.dataclass(frozen=True)
class Functions:
    """A pair of functions with their options in place. Activations: those that `apply` returns beside the logits."""

    parameters: Callable[[jax.Array, jax.Array], PyTree]
    logits: Callable[[PyTree, jax.Array], Any]

    @classmethod
    def of(cls, name: str, pair: Pair, offered: Mapping[str, Any], options: Mapping[str, Any]) -> Functions:
        """offered: options for those who name them; each of `options` must be named by one of the pair."""
        _check_options(name, [p for function in pair for p in _parameters(function)[2:]], options)
        of_init, of_apply = (_named(function, {**offered, **options}) for function in pair)
        init, apply = pair
        return cls(lambda key, x: init(key, x, **of_init), lambda params, x: apply(params, x, **of_apply))

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, PyTree]:
        return {"params": self.parameters(key, x)}

    def apply(self, variables: Any, x: jax.Array, *, train: bool = False, rngs: Any = None, mutable: Any = ()) -> Any:
        del train, rngs
        called = _called(self.logits(variables["params"], x))
        return (_recorded(called, {}), {}) if mutable else called


def _called(output: Any) -> Called:
    """What a model returns, as (logits, activations)."""
    alone = not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Mapping))
    logits: Any = output if alone else output[0]
    return logits, {} if alone else trees.flatten(output[1])


def _recorded(called: Called, captured: Any) -> Called:
    """With the outputs of its modules, {path of the module: array}, and the logits among the activations."""
    logits, given = called
    leaves = {name: x for name, x in trees.flatten(captured).items() if not name.startswith("__call__") and _is_real(x)}
    inside = {name.replace("/__call__/0", "").replace("/__call__", ""): x for name, x in leaves.items()}
    return logits, {**inside, **given, "logits": logits}


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _mode(call: Callable, train: bool) -> dict[str, Any]:
    """The arguments that tell a model whether it trains, under the names that it has for them."""
    return _named(call, {"train": train, "training": train, "is_training": train, "deterministic": not train})


def _named(function: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function names."""
    names = {parameter.name for parameter in _parameters(function)}
    return {name: value for name, value in given.items() if name in names}


def _check_options(name: str, parameters: Sequence[inspect.Parameter], options: Mapping[str, Any]) -> None:
    """Raises `ModelError` for options that are none of the parameters."""
    possible = sorted({p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - _NO_OPTIONS)
    unknown = sorted(set(options) - set(possible))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ModelError(f"config.model has {unknown}, which {name} does not take; possible: {', '.join(possible)}.")


def _parameters(function: Callable) -> list[inspect.Parameter]:
    """Of a class those of its __init__ without self, for a metaclass may hide them."""
    if isinstance(function, type):
        return list(inspect.signature(function.__init__).parameters.values())[1:]
    return list(inspect.signature(function).parameters.values())


def _stateful(name: str, others: Sequence[str]) -> ModelError:
    what = f"state besides its parameters ({', '.join(others[:5])})" if others else "no parameters"
    return ModelError(
        f"{name} has {what}; studies train parameters alone. Take a model without batch statistics, such as one with "
        "LayerNorm, or freeze them in a function."
    )
