"""The linear recurrences of Mamba (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060), each in three forms.

'chunked' is the one to train with: time is cut into chunks, only the state between chunks is kept for the backward
pass, and each chunk is computed again there (`jax.checkpoint`). 'sequential' and 'associative' (parallel prefix) keep
every state; they are the oracle and the baselines of benchmarks/ssm.py. All forms compute in float32.

Shapes: B batch, L time, E channels, N state, H heads, P channels a head, G groups of heads that share b
and c, R heads a group, C chunks, Q (and K, for the inner of two) steps a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

SCANS = ("chunked", "sequential", "associative")
Step = Callable[[jax.Array, tuple[jax.Array, ...]], tuple[jax.Array, jax.Array]]


def selective_scan(
    x_BxLxE: jax.Array,
    delta_BxLxE: jax.Array,
    a_ExN: jax.Array,
    b_BxLxN: jax.Array,
    c_BxLxN: jax.Array,
    *,
    scan: str = "chunked",
    chunk: int = 32,
) -> jax.Array:
    """h_t = exp(delta_t a) h_{t-1} + delta_t b_t x_t; y_t = c_t h_t, from h = 0. Returns y_BxLxE in float32.

    Any length will do; the result does not depend on `chunk`. Raises `ValueError` for an unknown `scan`.
    """
    _check(scan, chunk)
    inputs = tuple(v.astype(jnp.float32) for v in (x_BxLxE, delta_BxLxE, b_BxLxN, c_BxLxN))
    if scan == "associative":
        x, delta, b, c = inputs
        decay_BxLxExN = jnp.exp(delta[..., None] * a_ExN)
        h_BxLxExN = _associative(decay_BxLxExN, (delta * x)[..., None] * b[:, :, None, :])
        return jnp.einsum("blen,bln->ble", h_BxLxExN, c)
    step = functools.partial(selective_step, a_ExN=a_ExN)
    start = jnp.zeros((x_BxLxE.shape[0], *a_ExN.shape), jnp.float32)
    if scan == "sequential":
        return _over_time(step, start, inputs)
    return _over_chunks(functools.partial(_selective_chunk, a_ExN=a_ExN), start, inputs, chunk)


def selective_step(h_BxExN: jax.Array, inputs: tuple[jax.Array, ...], a_ExN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of `selective_scan`: (h, (x_BxE, delta_BxE, b_BxN, c_BxN)) -> (h, y_BxE)."""
    x, delta, b, c = inputs
    h_BxExN = jnp.exp(delta[..., None] * a_ExN) * h_BxExN + (delta * x)[..., None] * b[:, None, :]
    return h_BxExN, jnp.einsum("ben,bn->be", h_BxExN, c)


def _selective_chunk(h_BxExN: jax.Array, piece: tuple[jax.Array, ...], a_ExN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All steps of one chunk, one after the other: (state before, pieces BxQx...) -> (state after, y_BxQxE)."""
    h_BxExN, y_QxBxE = lax.scan(functools.partial(selective_step, a_ExN=a_ExN), h_BxExN, _swap(piece))
    return h_BxExN, _swap(y_QxBxE)


def ssd(
    x_BxLxHxP: jax.Array,
    delta_BxLxH: jax.Array,
    a_H: jax.Array,
    b_BxLxGxN: jax.Array,
    c_BxLxGxN: jax.Array,
    *,
    scan: str = "chunked",
    chunk: int = 32,
) -> jax.Array:
    """S_t = exp(delta_t a) S_{t-1} + delta_t x_t b_t^T; y_t = S_t c_t, one scalar decay a head. Returns y_BxLxHxP.

    Chunked, it is the state-space dual form (arXiv 2405.21060, section 6): matrix products within a chunk.
    """
    _check(scan, chunk)
    inputs = tuple(v.astype(jnp.float32) for v in (x_BxLxHxP, delta_BxLxH, b_BxLxGxN, c_BxLxGxN))
    batch, _, heads, width = x_BxLxHxP.shape
    if scan == "associative":
        x, delta, b, c = inputs
        b, c = (_per_head(v, heads) for v in (b, c))
        decay_BxLxHx1x1 = jnp.exp(delta * a_H)[..., None, None]
        s_BxLxHxPxN = _associative(decay_BxLxHx1x1, (delta[..., None] * x)[..., None] * b[..., None, :])
        return jnp.einsum("blhpn,blhn->blhp", s_BxLxHxPxN, c)
    start = jnp.zeros((batch, heads, width, b_BxLxGxN.shape[-1]), jnp.float32)
    if scan == "sequential":
        return _over_time(functools.partial(ssd_step, a_H=a_H), start, inputs)
    return _over_chunks(functools.partial(_ssd_chunk, a_H=a_H), start, inputs, chunk)


def ssd_step(s_BxHxPxN: jax.Array, inputs: tuple[jax.Array, ...], a_H: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of `ssd`: (S, (x_BxHxP, delta_BxH, b_BxGxN, c_BxGxN)) -> (S, y_BxHxP)."""
    x, delta, b, c = inputs
    b_BxHxN, c_BxHxN = (_per_head(v, x.shape[1]) for v in (b, c))
    inflow_BxHxPxN = (delta[..., None] * x)[..., None] * b_BxHxN[:, :, None, :]
    s_BxHxPxN = jnp.exp(delta * a_H)[..., None, None] * s_BxHxPxN + inflow_BxHxPxN
    return s_BxHxPxN, jnp.einsum("bhpn,bhn->bhp", s_BxHxPxN, c_BxHxN)


def _ssd_chunk(s_BxHxPxN: jax.Array, piece: tuple[jax.Array, ...], a_H: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All steps of one chunk at once: (state before, pieces of `ssd`'s inputs) -> (state after, y_BxQxHxP)."""
    x, delta, b, c = piece
    batch, steps, heads, width = x.shape
    groups = b.shape[2]
    split = (groups, heads // groups)
    inflow_BxQxGxRxP = (delta[..., None] * x).reshape(batch, steps, *split, width)
    state_BxGxRxPxN = s_BxHxPxN.reshape(batch, *split, width, -1)
    log_decay_BxGxRxQ = jnp.moveaxis((delta * a_H).reshape(batch, steps, *split), 1, -1)
    decay_BxGxRxQxQ = _decay_between(log_decay_BxGxRxQ)
    since_start_BxGxRxQ = jnp.exp(jnp.cumsum(log_decay_BxGxRxQ, axis=-1))
    scores_BxGxQxK = jnp.einsum("bqgn,bkgn->bgqk", c, b)
    y = jnp.einsum("bgrqk,bkgrp->bqgrp", scores_BxGxQxK[:, :, None] * decay_BxGxRxQxQ, inflow_BxQxGxRxP)
    y += jnp.einsum("bqgn,bgrq,bgrpn->bqgrp", c, since_start_BxGxRxQ, state_BxGxRxPxN)
    state_BxGxRxPxN *= since_start_BxGxRxQ[..., -1, None, None]
    state_BxGxRxPxN += jnp.einsum("bkgn,bgrk,bkgrp->bgrpn", b, decay_BxGxRxQxQ[..., -1, :], inflow_BxQxGxRxP)
    return state_BxGxRxPxN.reshape(s_BxHxPxN.shape), y.reshape(x.shape)


def _decay_between(log_decay_Q: jax.Array) -> jax.Array:
    """exp(sum of log_decay over k+1..q) at [..., q, k] for q >= k, else 0.

    The sums are taken from each k on, not as differences of one cumulative sum, which would cancel at strong decay;
    by a product with a triangle of ones, since `cumsum` took half of the whole scan's time on a CPU. The mask stands
    on both sides of exp: behind it alone, a masked overflow has a gradient of NaN.
    """
    steps = log_decay_Q.shape[-1]
    later = jnp.tril(jnp.ones((steps, steps), bool), k=-1)
    causal = jnp.tril(jnp.ones((steps, steps), bool))
    addends = jnp.where(later, log_decay_Q[..., :, None], 0.0)
    sums = jnp.matmul(causal.astype(addends.dtype), addends, precision=lax.Precision.HIGHEST)
    return jnp.where(causal, jnp.exp(jnp.where(causal, sums, 0.0)), 0.0)


def _over_time(step: Step, start: jax.Array, inputs: tuple[jax.Array, ...]) -> jax.Array:
    """`step` along axis 1 of the inputs, one time after the other."""
    return _swap(lax.scan(step, start, _swap(inputs))[1])


def _over_chunks(piece: Step, start: jax.Array, inputs: tuple[jax.Array, ...], chunk: int) -> jax.Array:
    """`piece` (state, BxQx...) -> (state, BxQx...) along chunks of axis 1, rematerialized in the backward pass."""
    batch, length = inputs[0].shape[:2]
    chunk = min(chunk, length)
    chunks = -(-length // chunk)

    def cut(v: jax.Array) -> jax.Array:
        # A step of delta = 0 leaves the state alone and adds nothing, so zeros pad any length.
        v = jnp.pad(v, [(0, 0), (0, chunks * chunk - length)] + [(0, 0)] * (v.ndim - 2))
        return jnp.moveaxis(v.reshape(batch, chunks, chunk, *v.shape[2:]), 1, 0)

    y_CxBxQ = lax.scan(jax.checkpoint(piece, prevent_cse=False), start, tuple(cut(v) for v in inputs))[1]
    return jnp.moveaxis(y_CxBxQ, 0, 1).reshape(batch, chunks * chunk, *y_CxBxQ.shape[3:])[:, :length]


def _associative(decay_BxL: jax.Array, inflow_BxL: jax.Array) -> jax.Array:
    """All states of h_t = decay_t h_{t-1} + inflow_t, by a parallel prefix over axis 1."""

    def combine(first: Any, second: Any) -> Any:
        return first[0] * second[0], second[0] * first[1] + second[1]

    return lax.associative_scan(combine, (decay_BxL, inflow_BxL), axis=1)[1]


def _per_head(v: jax.Array, heads: int) -> jax.Array:
    """(..., G, N) -> (..., H, N): heads g*H/G .. (g+1)*H/G - 1 share group g."""
    return jnp.repeat(v, heads // v.shape[-2], axis=-2)


def _swap(tree: Any) -> Any:
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), tree)


def _check(scan: str, chunk: int) -> None:
    if scan not in SCANS:
        raise ValueError(f"scan is {scan!r}; possible: {', '.join(map(repr, SCANS))}.")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; possible: a number of steps >= 1.")
