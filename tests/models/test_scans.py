import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_dual.models import scans

B, L, E, N, H, P, G = 2, 11, 6, 5, 6, 4, 2
SCANS = {"selective": scans.selective_scan, "ssd": scans.ssd}


def inputs(kind, decay=1.0):
    """x, Delta, a, b, c with log-decays a step of about -`decay`."""
    rng = np.random.default_rng(0)
    widths = {"selective": ((E,), (E,), (E, N), (N,), (N,)), "ssd": ((H, P), (H,), (H,), (G, N), (G, N))}[kind]
    x, delta, b, c = (rng.standard_normal((B, L, *widths[i]), np.float32) for i in (0, 1, 3, 4))
    a = -decay * np.exp(rng.standard_normal(widths[2], np.float32))
    return tuple(map(jnp.asarray, (x, np.logaddexp(0, delta), a, b, c)))


def recurrence(kind, x, delta, a, b, c):
    """The textbook recurrence in float64, one time after the other."""
    x, delta, a, b, c = (np.asarray(v, np.float64) for v in (x, delta, a, b, c))
    if kind == "ssd":
        b, c = (v.repeat(H // G, axis=2)[:, :, :, None, :] for v in (b, c))
        x, delta, a = x[..., None], delta[..., None, None], a[:, None, None]
    else:
        b, c, x, delta = b[:, :, None, :], c[:, :, None, :], x[..., None], delta[..., None]
    state, ys = 0.0, []
    for t in range(L):
        state = np.exp(delta[:, t] * a) * state + delta[:, t] * x[:, t] * b[:, t]
        ys.append((state * c[:, t]).sum(-1))
    return np.stack(ys, axis=1)


@functools.cache
def with_gradients(kind, scan, chunk):
    def loss(values):
        y = SCANS[kind](*values, scan=scan, chunk=chunk)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize(("scan", "chunk"), [("sequential", 1), ("associative", 1), ("chunked", 4), ("chunked", 32)])
def test_every_form_is_the_recurrence(kind, scan, chunk):
    values = inputs(kind)
    (_, y), grads = with_gradients(kind, scan, chunk)(values)
    np.testing.assert_allclose(y, recurrence(kind, *values), rtol=0, atol=1e-5)  # measured: 1e-6, max |y| 13
    _, expected = with_gradients(kind, "sequential", 1)(values)
    for ours, theirs in zip(grads, expected, strict=True):
        assert jnp.abs(ours - theirs).max() < 1e-5 * jnp.abs(theirs).max()  # measured: 1.4e-6


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("decay", [1e3, 1e30])
def test_extreme_decay_has_finite_gradients(kind, decay):
    """At 1e3 a step forgets everything; at 1e30 the difference of two cumulative sums would be inf - inf."""
    values = inputs(kind, decay)
    (_, y), grads = with_gradients(kind, "chunked", 4)(values)
    (_, expected), _ = with_gradients(kind, "sequential", 1)(values)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    assert all(bool(jnp.isfinite(grad).all()) for grad in grads)


def test_a_weak_step_after_a_strong_one_keeps_its_precision():
    """The state after a decay of e^-1e7 depends on the later, weak decays alone; a cumulative sum would lose them."""
    x, delta, a, b, c = inputs("ssd", 1e-2)
    delta = delta.at[:, 1].set(1e9)
    b = b.at[:, 1].set(0.0)
    y = scans.ssd(x, delta, a, b, c, chunk=32)
    np.testing.assert_allclose(y, recurrence("ssd", x, delta, a, b, c), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SCANS)
def test_half_precision_inputs_are_scanned_in_float32(kind):
    values = [v.astype(jnp.bfloat16) for v in inputs(kind)]
    y = SCANS[kind](*values)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, recurrence(kind, *values), rtol=0, atol=1e-5)


def test_unknown_scans_are_refused():
    with pytest.raises(ValueError, match="scan is 'fast'; possible: 'chunked', 'sequential', 'associative'"):
        scans.ssd(*inputs("ssd"), scan="fast")
    with pytest.raises(ValueError, match="chunk is 0; possible: a number of steps >= 1"):
        scans.selective_scan(*inputs("selective"), chunk=0)
