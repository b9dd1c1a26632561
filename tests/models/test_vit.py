"""The ViT's options: each switch against a NumPy reference, scan, remat, dropout, bfloat16, errors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_params

from big_vision_dual import models
from big_vision_dual.core import trees
from big_vision_dual.models import arch, vit, weights

# Width 24 in 3 heads of 8, mlp 40, patches 4 x 2: no two axes that could be swapped unnoticed are equal.
SIZES = {"width": 24, "depth": 2, "mlp_dim": 40, "num_heads": 3, "patch_size": (4, 2)}
IMAGE = np.random.default_rng(0).normal(size=(2, 12, 8, 3)).astype(np.float32)
SWITCHES = [
    {},
    {"gelu": "unit"},
    {"attention_logits": "inverse"},
    {"attention_out": 1 / 3},
    {"residual": "convex"},
    {"gelu": "unit", "attention_logits": "inverse", "attention_out": 1 / 3, "residual": "convex"},
]


def make(num_classes: int | None = 5, **options):
    return vit.Model(num_classes, **{**SIZES, "head_zeroinit": False, **options})


def apply(model, params, image=IMAGE, **kwargs) -> Any:
    return model.apply({"params": params}, image, **kwargs)


# --- a float64 NumPy reference of one encoder block and of the MAP head


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def attention(queries, inputs, p, scaling):
    query, key, value = (
        np.einsum("btd,dhk->bhtk", x, p[name]["kernel"]) + p[name]["bias"][:, None, :]
        for name, x in (("query", queries), ("key", inputs), ("value", inputs))
    )
    d_head = query.shape[-1]
    logits = query @ key.swapaxes(-1, -2) / (d_head if scaling.attention_logits == "inverse" else np.sqrt(d_head))
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = scaling.attention_out * (scores / scores.sum(-1, keepdims=True)) @ value
    return np.einsum("bhtk,hkd->btd", mixed, p["out"]["kernel"]) + p["out"]["bias"]


def mlp(x, p, scaling):
    x = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    x = x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    return (x / 1.1289 if scaling.gelu == "unit" else x) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def add(x, y, scaling, branches):
    return x + y if scaling.residual == "sum" else (1 - 1 / branches) * x + y / branches


def block(x, p, scaling, depth):
    y = layer_norm(x, p["LayerNorm_0"])
    x = add(x, attention(y, y, p["MultiHeadDotProductAttention_0"], scaling), scaling, 2 * depth)
    return add(x, mlp(layer_norm(x, p["LayerNorm_1"]), p["MlpBlock_0"], scaling), scaling, 2 * depth)


def map_head(x, p, scaling):
    probe = np.broadcast_to(p["probe"], (len(x), 1, x.shape[-1]))
    x = attention(probe, x, p["MultiHeadDotProductAttention_0"], scaling)
    return add(x, mlp(layer_norm(x, p["LayerNorm_0"]), p["MlpBlock_0"], scaling), scaling, 2)[:, 0]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda switches: "+".join(switches) or "standard")
def test_switches_do_what_they_say(switches):
    model = make(scaling=switches, pool_type="map")
    params = random_params.draw(model, IMAGE)
    out = apply(model, params)[1]
    params, scaling = trees.map_with_path(lambda _, p: p.astype(np.float64), params), arch.scaling(switches)
    x = expected = np.asarray(out["with_posemb"], np.float64)
    for layer in range(2):
        expected = block(expected, params["Transformer"][f"encoderblock_{layer}"], scaling, depth=2)
    x = layer_norm(expected, params["Transformer"]["encoder_norm"])
    # Measured: at most 1.5e-6 where entries reach 5.4, float32 against float64.
    np.testing.assert_allclose(out["encoder"]["block01"]["+mlp"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out["head_input"], map_head(x, params["MAPHead_0"], scaling), rtol=0, atol=1e-5)


def test_patch_embedding_is_a_convolution_of_kernel_p_q_c_d():
    model = make()
    params = random_params.draw(model, IMAGE)
    kernel, bias = params["embedding"]["kernel"], params["embedding"]["bias"]
    patch = IMAGE[1, 8:12, 2:4]
    stem = apply(model, params)[1]["stem"]
    assert kernel.shape == (4, 2, 3, 24)
    np.testing.assert_allclose(stem[1, 2, 1], np.einsum("pqc,pqcd->d", patch, kernel) + bias, rtol=1e-4, atol=1e-5)


def test_sincos_positions_are_those_of_moco_v3():
    positions = vit.posemb_sincos_2d(3, 4, 16).reshape(3, 4, 16)
    omega = 10_000.0 ** -(np.arange(4) / 3)
    np.testing.assert_allclose(positions[1, 2, :4], np.sin(2 * omega), atol=1e-7)
    np.testing.assert_allclose(positions[1, 2, 12:], np.cos(1 * omega), atol=1e-7)


@pytest.mark.parametrize("pool_type", vit.POOL_TYPES)
def test_pooling(pool_type):
    model = make(pool_type=pool_type, rep_size=7)
    params = random_params.draw(model, IMAGE)
    logits, out = apply(model, params)
    tokens = 3 * 4 + (pool_type == "tok")
    expected = {"gap": out["encoded"].mean(1), "tok": out["encoded"][:, 0], "0": out["encoded"][:, 0]}
    assert out["encoded"].shape == (2, tokens, 24)
    assert out["logits_2d"].shape == (2, 3, 4, 5)
    assert out["pre_logits"].shape == (2, 7)
    if pool_type in expected:
        np.testing.assert_allclose(out["head_input"], expected[pool_type], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(logits, out["logits"])


def test_without_classes_there_is_no_head():
    model = make(num_classes=None)
    params = random_params.draw(model, IMAGE)
    assert "head" not in params
    np.testing.assert_array_equal(*(lambda logits, out: (logits, out["pre_logits"]))(*apply(model, params)))


@pytest.mark.parametrize("pool_type", ["gap", "map"])
@pytest.mark.parametrize("scaling", ["standard", "dual"])
def test_scan_equals_loop(pool_type, scaling):
    loop, scan = (make(scaling=scaling, pool_type=pool_type, scan=scan) for scan in (False, True))
    params = random_params.draw(loop, IMAGE)
    stacked = trees.unflatten(weights.loop_to_scan(trees.flatten(params)))
    shapes = jax.eval_shape(scan.init, jax.random.key(0), IMAGE)["params"]
    assert {k: v.shape for k, v in trees.flatten(shapes).items()} == {
        k: v.shape for k, v in trees.flatten(stacked).items()
    }
    (logits, out), (logits_scan, out_scan) = apply(loop, params), apply(scan, stacked)
    np.testing.assert_allclose(logits_scan, logits, rtol=0, atol=1e-5)  # measured: 6e-7
    assert jax.tree.structure(out) == jax.tree.structure(out_scan)
    np.testing.assert_allclose(
        out_scan["encoder"]["block01"]["mlp"], out["encoder"]["block01"]["mlp"], rtol=1e-5, atol=1e-5
    )


def test_scan_draws_every_layer_anew():
    params = make(scan=True, scaling="dual").init(jax.random.key(0), IMAGE)["params"]
    kernel = trees.flatten(params)["Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"]
    assert kernel.shape == (2, 24, 40)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


@pytest.mark.parametrize("scan", [False, True])
def test_remat_changes_no_gradient(scan):
    plain, remat = (make(scan=scan, depth=1, remat_policy=policy) for policy in ("none", "nothing_saveable"))
    params = random_params.draw(plain, IMAGE)
    gradients = [
        jax.grad(lambda p, m=model: jnp.sum(apply(m, p, train=True)[0] ** 2))(params) for model in (plain, remat)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)


def test_remat_of_scanned_blocks_takes_less_memory():
    images = jnp.zeros((64, *IMAGE.shape[1:]))
    plain, remat = (lowered_gradient(images, True, policy).compile() for policy in ("none", "nothing_saveable"))
    of_plain, of_remat = plain.memory_analysis(), remat.memory_analysis()
    assert of_plain
    assert of_remat
    assert of_remat.temp_size_in_bytes < 0.7 * of_plain.temp_size_in_bytes


def test_the_compiler_may_not_undo_remat_of_looped_blocks():
    """A CPU's compiler does all the same, a TPU's does not: so this asks the program that they are given."""
    plain, remat = (lowered_gradient(IMAGE, False, policy).as_text() for policy in ("none", "nothing_saveable"))
    assert "optimization_barrier" in remat
    assert "optimization_barrier" not in plain


def lowered_gradient(images, scan, policy):
    model = make(scan=scan, depth=6, remat_policy=policy)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, images, train=True)[0] ** 2))).lower(params)


@pytest.mark.parametrize("scan", [False, True])
def test_attention_logits_are_sown_on_request(scan):
    model = make(scan=scan)
    _, sown = model.apply({"params": random_params.draw(model, IMAGE)}, IMAGE, mutable=["intermediates"])
    leaves = jax.tree.leaves(sown["intermediates"]["Transformer"])
    assert [leaf.shape for leaf in leaves] == ([(2, 2, 3, 12, 12)] if scan else 2 * [(2, 3, 12, 12)])


def test_zero_head_passes_no_gradient_down():
    params = random_params.draw(make(), IMAGE)
    params["head"]["kernel"] = np.zeros_like(params["head"]["kernel"])
    loss = lambda p: jax.nn.log_softmax(apply(make(), p)[0])[:, 3].sum()  # noqa: E731
    gradients = trees.flatten(jax.grad(loss)(params))
    assert {path for path, leaf in gradients.items() if np.any(leaf)} == {"head/kernel", "head/bias"}


def test_dropout_acts_in_training_only():
    dropped, plain = make(dropout=0.5, depth=1), make(depth=1)
    params = random_params.draw(plain, IMAGE)

    def logits(model, train, seed=0):
        return apply(model, params, train=train, rngs={"dropout": jax.random.key(seed)})[0]

    np.testing.assert_array_equal(logits(dropped, train=False), logits(plain, train=True))
    assert np.abs(logits(dropped, train=True) - logits(plain, train=True)).max() > 0.1
    assert np.abs(logits(dropped, train=True) - logits(dropped, train=True, seed=1)).max() > 0.1


@pytest.mark.parametrize("scan", [False, True])
def test_bfloat16_products_keep_float32_parameters_and_stream(scan):
    half, full = (make(scaling="dual", scan=scan, dtype_mm=dtype, pool_type="map") for dtype in ("bfloat16", "float32"))
    params = random_params.draw(half, IMAGE)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    (logits, out), (expected, _) = apply(half, params), apply(full, params)
    assert out["encoder"]["block00"]["mlp"].dtype == jnp.bfloat16
    assert out["encoded"].dtype == logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.03)  # measured: 0.006 with logits of RMS 0.66


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_type": "mean"}, r"pool_type is 'mean'; possible: 'gap', 'tok', 'map', '0'\."),
        ({"posemb": "rope"}, r"posemb is 'rope'; possible: 'learn', 'sincos2d'\."),
        ({"drop_out": 0.1}, r"unknown options of ViT: \['drop_out'\]; possible: .*'dropout'"),
        ({"scaling": {"gelu": "big"}}, "scaling.gelu is 'big'; possible: 'plain', 'unit'"),
        ({"remat_policy": "all"}, "remat_policy is 'all'; possible: 'none', 'nothing_saveable'"),
        ({"patch_size": 16}, "an image of 12 x 8 pixels holds no patch of 16 x 16; resize it"),
        ({"width": 18, "posemb": "sincos2d"}, "needs a width divisible by 4 and at least 8, not 18"),
    ],
)
def test_errors_say_what_is_possible(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(**options).init, jax.random.key(0), IMAGE)


def test_get():
    assert models.get("vit") is vit
    assert models.get("big_vision_dual.models.vit") is vit
    with pytest.raises(ValueError, match=r"'big_vision_dual.models.transformer' is a module without Model"):
        models.get("big_vision_dual.models.transformer")
    with pytest.raises(ValueError, match=r"unknown model_name 'resnet'; possible: vit, mlp.*'package.module:Name'"):
        models.get("resnet")
