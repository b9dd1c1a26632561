# pyright: reportArgumentType=false, reportIndexIssue=false, reportAttributeAccessIssue=false
"""What docs/size.md says that the algebra may claim: bounds for unit-norm weights, reached or exceeded as it says."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from big_vision_dual import models
from big_vision_dual.core.dualize import groups
from big_vision_dual.core.tables import TargetNormTable
from big_vision_dual.lab.studies import grid, norm_audit, settings
from big_vision_dual.lab.studies.program import Program
from big_vision_dual.models import arch, mamba, scans, transformer
from big_vision_dual.train import recipes

K = 4  # width of a head
ATTENTION = dataclasses.replace(arch.DUAL, attention_out=1.0)


def rms(x: jax.Array) -> float:
    """The largest RMS over features of any token."""
    return float(jnp.sqrt(jnp.mean(jnp.square(x), axis=-1)).max())


def attention(heads: int):
    """(module, parameters with all kernels the identity and no biases)."""
    width = heads * K
    module = transformer.MultiHeadDotProductAttention(transformer.BlockSpec(0, heads, ATTENTION))
    params = module.init(jax.random.key(0), jnp.zeros((1, 1, width)), jnp.zeros((1, 1, width)))["params"]
    unit = {name: {**leaf, "kernel": jnp.eye(width).reshape(leaf["kernel"].shape)} for name, leaf in params.items()}
    return module, unit


@pytest.mark.parametrize("heads", [1, 4, 16])
@pytest.mark.parametrize("what", ["query", "key"])
def test_queries_and_keys_reach_the_number_of_heads_in_the_rms_over_all_features(heads, what):
    """All that is unit in that RMS may sit in one head, where it is sqrt(H): query, key and value multiply."""
    module, params = attention(heads)

    def output(features_D: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
        """Of one token to two of opposite values, with factors on the query and on the keys."""
        tokens_1x2xD = jnp.stack([features_D, -features_D])[None]
        kernels = {**params, "key": {**params["key"], "kernel": key * params["key"]["kernel"]}}
        return module.apply({"params": kernels}, (query * features_D)[None, None], tokens_1x2xD)[0]

    one = jnp.zeros(heads * K).at[:K].set(1.0)
    for features_D, expected in ((one * math.sqrt(heads), heads), (one, 1)):  # unit over all; unit in its head
        at, along = ((0.0, 1.0), (1.0, 0.0)) if what == "query" else ((1.0, 0.0), (0.0, 1.0))
        _, changed = jax.jvp(lambda q, k, f=features_D: output(f, q, k), at, along)
        assert rms(changed) / rms(features_D) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("heads", "tokens"), [(4, 8), (4, 4), (9, 4), (1, 3)])
def test_values_reach_the_root_of_the_smaller_of_heads_and_tokens(heads, tokens):
    """Each head attends to another token, and each token's value sits in the heads that attend to it."""
    width, chosen = heads * K, np.arange(heads) % tokens
    module, params = attention(heads)
    attended_TxH = jnp.asarray(np.arange(tokens)[:, None] == chosen, jnp.float32)
    size_T = jnp.sqrt(heads / jnp.maximum(attended_TxH.sum(1), 1))  # so that each token's value has RMS 1
    inputs_1xTxD = jnp.eye(width)[None, :tokens]

    def kernel(values_TxH: jax.Array) -> jax.Array:
        return jnp.zeros((width, heads, K)).at[:tokens].set(values_TxH[..., None])

    value = kernel(attended_TxH * size_T[:, None])
    bias = jnp.zeros((heads, K))
    leaves = {
        "query": {"kernel": kernel(0 * attended_TxH), "bias": bias + 1},
        "key": {"kernel": kernel(100 * attended_TxH), "bias": bias}, "value": {"kernel": value, "bias": bias},
        "out": params["out"],
    }  # fmt: skip
    out = module.apply({"params": leaves}, inputs_1xTxD, inputs_1xTxD)
    moved = jnp.einsum("td,dhk->thk", inputs_1xTxD[0], value).reshape(tokens, width)
    assert rms(out) / rms(moved) == pytest.approx(math.sqrt(min(heads, tokens)), rel=1e-3)


def test_values_never_exceed_it():
    generator, heads, tokens = np.random.default_rng(0), 4, 3
    for _ in range(50):
        weights_HxS = generator.dirichlet(np.full(tokens, 0.1), heads)
        values_SxHxK = generator.normal(size=(tokens, heads, K)) * generator.exponential(size=(tokens, heads, 1))
        out = np.einsum("hs,shk->hk", weights_HxS, values_SxHxK)
        unit = np.sqrt(np.mean(values_SxHxK**2, axis=(1, 2))).max()
        assert np.sqrt(np.mean(out**2)) / unit <= math.sqrt(min(heads, tokens))


def test_layer_norm_after_a_convex_stream_amplifies_by_one_over_its_rms():
    model = models.get("vit").Model(
        10, width=64, depth=12, num_heads=4, patch_size=(8, 8), pool_type="gap", posemb="sincos2d", scaling="dual"
    )
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    params = model.init(jax.random.key(1), images)["params"]
    stream = model.apply({"params": params}, images)[1]["encoder"]["pre_ln"].reshape(-1, 64)
    size = float(jnp.sqrt(jnp.mean(stream**2)))
    assert 2 < 1 / size < 4
    norm = nn.LayerNorm()
    variables = norm.init(jax.random.key(0), stream)
    direction = jax.random.normal(jax.random.key(2), stream.shape)
    _, changed = jax.jvp(lambda x: norm.apply(variables, x), (stream,), (direction / rms(direction),))
    assert float(jnp.sqrt(jnp.mean(changed**2))) == pytest.approx(1 / size, rel=0.3)


@pytest.mark.parametrize("expand", [2, 8])
def test_mambas_gate_reaches_the_root_of_the_inner_width(expand):
    spec = mamba.Mamba(d_model=8, n_layers=1, expand=expand)
    mixer, u = mamba.Mixer(spec), jnp.full((1, 1, 8), 10.0)
    params = mixer.init(jax.random.key(0), u)["params"]
    inner = spec.d_inner
    channels = jnp.zeros((8, 2 * inner)).at[:, [0, inner]].set(1.0)  # of x and of the gate, one each
    conv = {"kernel": jnp.ones_like(params["conv"]["kernel"]), "bias": jnp.zeros(inner)}
    _, acts = mixer.apply({"params": {**params, "in_proj": {"kernel": channels}, "conv": conv}}, u)
    gate = nn.silu(acts["in_proj"][..., inner:])
    assert rms(acts["gated"]) / (rms(acts["y"]) * rms(gate)) == pytest.approx(math.sqrt(inner), rel=1e-4)


@pytest.mark.parametrize("d_state", [16, 64])
def test_mamba_2s_scan_gains_up_to_d_state(d_state):
    x, delta, unit = jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1, d_state))
    gained = scans.ssd(x, delta, -jnp.ones(1), unit, unit)
    assert float(gained[0, 0, 0, 0]) == pytest.approx(d_state)
    assert rms(unit[0, 0]) == 1
    other = unit.at[..., ::2].set(-1.0)
    assert float(scans.ssd(x, delta, -jnp.ones(1), unit, other)[0, 0, 0, 0]) == pytest.approx(0, abs=1e-5)


def test_bounds_hold_for_unit_norm_weights_and_grow_with_them():
    base = grid.replace(
        recipes.load("study_vit").to_dict(),
        {"model_name": "mlp", "model": {"width": 32, "depth": 3}, "input.batch_size": 32},
    )
    program = Program.of(settings.dualize(base))
    assert isinstance(program.table, TargetNormTable)
    table, data = program.table, program.data()
    batch = program.source.batch(data["train"], 0, 0)
    params = program.params(0)
    grown = {key: (3.0 if key.endswith("kernel") else 1.0) * leaf for key, leaf in groups.split(params, table).items()}
    measure = jax.jit(lambda params: norm_audit.changes(program, table, params, batch))
    shares_A = np.array(list(norm_audit.shares(table).values()))
    assert (np.asarray(measure(params)) <= 1.02 * shares_A).all()
    assert np.asarray(measure(groups.join(grown, params, table)))[-1] > 3
