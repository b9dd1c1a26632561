"""Model FLOPs of a step; what a device could do is in `throughput`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def training_flops(forward: Callable, *shapes: Any) -> float:
    """FLOPs of one training step: three times the forward pass (Kaplan et al., arXiv 2001.08361, section 2.1).

    Counts what the model asks for: neither rematerialization nor the optimizer.
    """
    return 3.0 * matmul_flops(jax.make_jaxpr(forward)(*shapes).jaxpr)


def matmul_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of all matrix products and convolutions, a multiply-add being two; loop bodies times their length."""
    return float(sum(_equation_flops(equation) for equation in jaxpr.eqns))


def _equation_flops(equation: core.JaxprEqn) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        lhs, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return 2.0 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * math.prod(out) * math.prod(kernel) / features
    times = equation.params["length"] if name == "scan" else 1
    return times * sum(matmul_flops(inner) for inner in _inner(equation.params))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Closed or not, which since JAX 0.12 is one class."""
    inner = [value for value in params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr)]
    opened: list[Any] = [getattr(value, "jaxpr", value) for value in inner]
    return opened
