"""What holds for Mamba and Mamba-2 whatever their weights: causality, generation, initial values, options."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.models import mamba, ssm, torch_weights

VOCAB, LENGTH = 11, 7
OPTIONS = {
    "mamba": {"d_model": 24, "n_layers": 2, "d_state": 5, "dt_rank": 3, "chunk": 4},
    "mamba2": {"d_model": 24, "n_layers": 2, "d_state": 5, "d_head": 8, "n_groups": 2, "chunk": 4},
}


def model(name, **changes):
    return models.get(name).Model(VOCAB, **{**OPTIONS[name], **changes})


def draw(module):
    """Weights of the scale that keeps activations near 1, drawn by NumPy: compiling `init` would take 9 s."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]

    def leaf(path, shape):
        values = rng.standard_normal(shape.shape, np.float32)
        return jnp.asarray(values / np.sqrt(shape.shape[0]) if path.endswith("kernel") else values)

    return trees.map_with_path(leaf, shapes)


@pytest.fixture(scope="module", params=OPTIONS)
def drawn(request):
    """(name, model, params)."""
    made = model(request.param)
    return request.param, made, draw(made)


def forward(module, params, tokens):
    return jax.jit(lambda p, t: module.apply({"params": p}, t))(params, tokens)


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (3, LENGTH)))


def test_step_equals_the_parallel_form(drawn, tokens):
    _, module, params = drawn
    logits, _ = forward(module, params, tokens)

    def step(state, token_B):
        logits_BxV, state = module.step(params, state, token_B)
        return state, logits_BxV

    _, stepped_LxBxV = jax.jit(lambda t: jax.lax.scan(step, module.init_state(3), t))(tokens.T)
    np.testing.assert_allclose(stepped_LxBxV.swapaxes(0, 1), logits, rtol=0, atol=1e-5)


def test_output_depends_on_the_past_alone(drawn):
    """By gradient: of the mixer's output at time t with respect to its input at each time."""
    name, module, params = drawn
    mixer = models.get(name).Mixer(module.spec)
    weights = {"params": params["layers_0"]["mixer"]}
    u = jnp.asarray(np.random.default_rng(2).standard_normal((2, LENGTH, 24), np.float32))
    gradient = jax.jit(jax.grad(lambda u, t: jnp.sin(mixer.apply(weights, u)[0][:, t]).sum()))
    for t in (0, 3, 5):
        reach = jnp.abs(gradient(u, t)).max(axis=(0, 2))
        assert (reach[: t + 1] > 1e-6).all(), t
        assert (reach[t + 1 :] == 0).all(), t


def test_convolution_is_causal_and_per_channel():
    rng, spec = np.random.default_rng(0), model("mamba").spec
    kernel, bias, x = (rng.standard_normal(s, np.float32) for s in ((spec.d_conv, 1, 3), (3,), (2, LENGTH, 3)))
    expected = np.broadcast_to(bias, x.shape).copy()
    for t in range(LENGTH):
        for k in range(min(spec.d_conv, t + 1)):
            expected[:, t] += kernel[spec.d_conv - 1 - k, 0] * x[:, t - k]
    ours: Any = ssm.CausalConv(spec, 3).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_bfloat16_products_keep_float32_logits(tokens):
    module = model("mamba2", n_layers=1)
    params = draw(module)
    half, out = forward(model("mamba2", n_layers=1, dtype_mm="bfloat16"), params, tokens)
    assert half.dtype == jnp.float32
    assert out["layer00"]["delta"].dtype == jnp.float32
    full, _ = forward(module, params, tokens)
    # bfloat16 has 8 bits: 2^-8 relative a product, over some ten of them. Measured: 0.035 of logits up to 2.6.
    np.testing.assert_allclose(half, full, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", OPTIONS)
def test_dual_init_has_unit_norm_slice_by_slice(name):
    spec = model(name, scaling="dual").spec
    widths, largest, start = spec.in_proj, getattr(spec, "max_linear", ()), 0
    kernel = np.asarray(ssm.fused(spec, widths, largest).kernel_init(jax.random.key(0), (24, sum(widths.values()))))
    for slice_name, width in widths.items():
        atom = "MaxLinear" if slice_name in largest else "Linear"
        norm = oracle.weight_norm(atom, kernel[:, start : start + width].astype(np.float64))
        np.testing.assert_allclose(norm, 1.0, atol=1e-5, err_msg=slice_name)
        start += width


def test_dual_taps_have_unit_norm():
    spec = model("mamba", scaling="dual").spec
    taps = ssm.initializers(spec).conv_kernel(jax.random.key(1), (4, 1, 7))
    np.testing.assert_allclose(2 * np.linalg.norm(taps, axis=0), 1.0, atol=1e-5)


def test_convex_residual_averages_over_the_layers(tokens):
    module = model("mamba2", scaling={"residual": "convex"})
    _, out = forward(module, draw(module), tokens)
    expected = 0.5 * out["embedding"] + 0.5 * out["layer00"]["mixer"]
    np.testing.assert_allclose(out["layer00"]["out"], expected, rtol=0, atol=1e-7)


def test_standard_and_mup_bias_of_delta():
    """mamba.py zeroes dt_proj's bias, but under muP keeps softplus^-1 of a Delta between .001 and .1."""
    rows = {}
    for base_width in (None, 12):
        mixer = mamba.Mixer(model("mamba", mup_base_width=base_width).spec)
        bias = jax.jit(lambda key, mixer=mixer: mixer.init(key, jnp.zeros((1, 3, 24)))["params"]["dt_proj"]["bias"])
        rows[base_width] = bias(jax.random.key(0))  # compiled, the other leaves are not drawn at all
    assert (rows[None] == 0).all()
    delta = jax.nn.softplus(rows[12])
    assert 1e-3 <= delta.min() < 5e-3 < 2e-2 < delta.max() <= 0.1


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_weights_survive_the_torch_layout(drawn, tmp_path, suffix):
    _, _, params = drawn
    torch_weights.save(params, tmp_path / f"weights.{suffix}")
    loaded = trees.flatten(torch_weights.load(tmp_path / f"weights.{suffix}"))
    for path, leaf in trees.flatten(params).items():
        np.testing.assert_array_equal(loaded[path], leaf)
    assert torch_weights.to_torch(params)["mamba.layers.1.mixer.conv1d.weight"].shape[1:] == (1, 4)


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match=r"unknown state-dict key 'backbone.layers.0.D'; possible, .*norm_f.weight"):
        torch_weights.from_torch({"backbone.layers.0.D": np.ones(3)})
    with pytest.raises(ValueError, match=r"'weights.pt' is neither .npz nor .safetensors; rename or convert it"):
        torch_weights.load("weights.pt")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mamba", {"width": 3}, r"unknown options of Mamba: \['width'\]; possible: \['d_model', 'n_layers'"),
        ("mamba2", {"d_head": 7}, "d_head 7 does not divide expand . d_model = 48; change d_head"),
        ("mamba2", {"n_groups": 4}, "n_groups 4 does not divide the 6 heads; change n_groups"),
        ("mamba", {"scan": "fast"}, "scan is 'fast'; possible: 'chunked', 'sequential', 'associative'"),
        ("mamba", {"d_conv": 0}, "d_conv is 0; possible: a whole number >= 1"),
        ("mamba", {"scaling": {"gelu": "unit"}}, "has no GELU and no attention; possible: 'standard', 'dual'"),
    ],
)
def test_impossible_options_are_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        model(name, **changes)


def test_missing_options_are_named():
    with pytest.raises(
        ValueError, match=r"Mamba2 needs \['d_head'\] in config.model; given: \['d_model', 'n_layers'\]"
    ):
        models.get("mamba2").Model(VOCAB, d_model=24, n_layers=1)
