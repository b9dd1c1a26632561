"""Modula's own networks (arXiv 2405.14813; github.com/modula-systems/modula) in our algebra, against figures by hand.

Every constant here was worked out by hand from the rules of the paper's section 3: composition divides the inner
budget by the outer sensitivity, sums share a budget by mass, `tare` rescales. Arrays are checked against NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import big_vision_dual as bvd
from big_vision_dual.core import trees

n = bvd.norms
VOCABULARY, HEADS, WIDTH, QUERY, VALUE, BLOCKS = 7, 2, 8, 4, 3, 2
ATTENTION_SCALE, FINAL_SCALE, BLOCKS_MASS = 2.0, 3.0, 5.0


def gpt():
    """Modula's GPT: rotary positions, a causal mask, no biases, blocks tared to 5."""
    query, key = (n.linear("block_{layer}/" + name, WIDTH, HEADS * QUERY) for name in ("q", "k"))
    value = n.linear("block_{layer}/v", WIDTH, HEADS * VALUE)
    logits = n.CAUSAL_MASK @ n.QK @ n.ROPE
    core = n.attention(query, key, value, logits=logits, scale=ATTENTION_SCALE, factor=1 / 3)
    attention = n.linear("block_{layer}/out", HEADS * VALUE, WIDTH) @ core
    wide = n.linear("block_{layer}/up", WIDTH, 4 * WIDTH)
    mlp = n.linear("block_{layer}/down", 4 * WIDTH, WIDTH) @ n.gelu("unit") @ wide
    block = n.residual(mlp, 2 * BLOCKS) @ n.residual(attention, 2 * BLOCKS)
    blocks = (block**BLOCKS).tare(BLOCKS_MASS)
    return FINAL_SCALE * n.linear("head", WIDTH, VOCABULARY) @ blocks @ n.embed("embed", VOCABULARY, WIDTH).tare()


def test_the_gpts_masses_sensitivities_and_target_norms():
    """12 matrices share the blocks' mass of 5. A value counts 1, query and key 2 each: (1 + 2 + 2) / 3 = 5/3.

    An attention branch has s = 3/4 + 5/3/4 = 7/6, an MLP's 1; the head and its scale 3. So behind block b lie
    3 * (7/6)^(1 - b), and before an MLP nothing of its own block.
    """
    table = bvd.build_table(gpt())
    mass, head = 5 / 12, 3.0
    after = {0: 7 / 6 * head, 1: head}
    # sensitivity of what follows the atom: the residual's 1/4, its own branch, then later blocks
    expected = {"embed": (1.0, 49 / 36 * head), "head": (1.0, head)}
    for block, rest in after.items():
        expected |= {
            f"block_{block}/{name}": (mass, s * rest)
            for name, s in (
                ("q", 2 / 3 / 4), ("k", 2 / 3 / 4), ("v", 1 / 3 / 4), ("out", 1 / 4), ("up", 1 / 4), ("down", 1 / 4),
            )
        }  # fmt: skip
    assert table.mass == pytest.approx(7, rel=1e-12)
    assert table.sensitivity == pytest.approx(49 / 36 * 3, rel=1e-12)
    assert {row.path for row in table.rows} == set(expected)
    for row in table.rows:
        mass, sensitivity = expected[row.path]
        assert row.mass == pytest.approx(mass, rel=1e-12), row.path
        assert row.sensitivity == pytest.approx(sensitivity, rel=1e-12), row.path
        assert row.target_norm == pytest.approx(mass / 7 / sensitivity, rel=1e-12), row.path


def cnn():
    """A residual CNN in Modula's manner: a stem, two blocks, a mean, a head of half the usual mass."""
    branch = n.RELU @ n.conv("conv_{layer}", (3, 3), 4, 4)
    blocks = (n.residual(branch, 2) ** 2).tare(3)
    return n.linear("head", 4, 5).tare(relative=0.5) @ n.MEAN @ blocks @ n.RELU @ n.conv("stem", (2, 3), 2, 4)


def test_the_cnns_masses_sensitivities_and_target_norms():
    table = bvd.build_table(cnn())
    masses = {"stem": 1.0, "conv_0": 1.5, "conv_1": 1.5, "head": 0.5}
    downstream = {"stem": 1.0, "conv_0": 0.5, "conv_1": 0.5, "head": 1.0}
    assert (table.mass, table.sensitivity) == (pytest.approx(4.5, rel=1e-12), pytest.approx(1, rel=1e-12))
    for row in table.rows:
        assert row.mass == pytest.approx(masses[row.path], rel=1e-12)
        assert row.sensitivity == pytest.approx(downstream[row.path], rel=1e-12)
        assert row.target_norm == pytest.approx(masses[row.path] / 4.5 / downstream[row.path], rel=1e-12)


def unit_dual(atom, g):
    """Linear: sqrt(out/in) U V^T; Conv: the same of each tap, over the number of taps; Embed: rows of RMS 1."""
    if atom == "Embed":
        return g / np.linalg.norm(g, axis=-1, keepdims=True) * np.sqrt(g.shape[-1])
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    taps = np.prod(g.shape[:-2])
    return u @ vt * np.sqrt(g.shape[-1] / g.shape[-2]) / taps


@pytest.mark.parametrize("tree", [gpt, cnn])
def test_dualized_and_projected_as_modula_does(tree):
    table = bvd.build_table(tree())
    rng = np.random.default_rng(0)
    arrays = {row.path: rng.standard_normal(row.shape) for row in table.rows}
    params = trees.unflatten({path: jnp.asarray(array, jnp.float32) for path, array in arrays.items()})
    tx = bvd.scale_by_dualize(table, polar="svd")
    updates, _ = jax.jit(tx.update)(params, jax.jit(tx.init)(params))
    projected = jax.jit(lambda p: bvd.project(p, table, polar="svd"))(params)
    for row in table.rows:
        dual = unit_dual(row.atom, arrays[row.path])
        # float32's SVD of well-conditioned matrices: 1e-6 seen
        np.testing.assert_allclose(trees.flatten(updates)[row.path], row.target_norm * dual, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(trees.flatten(projected)[row.path], dual, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("polar", "band"), [("svd", (0.9999, 1.0001)), ("newton_schulz_6", (0.5, 1.0))])
def test_initial_values_have_unit_norm(polar, band):
    """Newton-Schulz, as Modula draws them: six steps do not lift the smallest singular values all the way to 1."""
    table = bvd.build_table(gpt())
    shapes = trees.unflatten({row.path: jnp.ones(row.shape) for row in table.rows})
    drawn = trees.flatten(jax.jit(lambda key: bvd.initialize(shapes, table, key, polar=polar))(jax.random.key(0)))
    for row in table.rows:
        weight = np.asarray(drawn[row.path], np.float64)
        if row.atom == "Embed":
            np.testing.assert_allclose(np.sqrt(np.mean(weight**2, -1)), 1, atol=1e-5)
        else:
            values = np.linalg.svd(weight, compute_uv=False) / np.sqrt(weight.shape[-1] / weight.shape[-2])
            assert band[0] <= values.min() <= values.max() <= band[1], row.path
    assert not np.allclose(drawn["block_0/q"], drawn["block_1/q"])


def rotated(x_BxTxHxD):
    """Rotary positions: features i and i + D/2 turn by t / 10000^(2i/D)."""
    tokens, half = x_BxTxHxD.shape[1], x_BxTxHxD.shape[-1] // 2
    angle = jnp.outer(jnp.arange(tokens), 10000.0 ** (-jnp.arange(half) / half))[None, :, None]
    a, b = x_BxTxHxD[..., :half], x_BxTxHxD[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1)


def forward(params, tokens_BxT):
    """Modula's GPT in plain JAX."""
    x = params["embed"][tokens_BxT]
    causal = jnp.tril(jnp.ones((tokens_BxT.shape[1],) * 2, bool))
    for block in range(BLOCKS):
        p = params[f"block_{block}"]
        q, k, v = ((x @ p[name]).reshape(*x.shape[:2], HEADS, -1) for name in ("q", "k", "v"))
        logits = jnp.einsum("bthd,bshd->bhts", rotated(q), rotated(k)) / QUERY
        scores = jax.nn.softmax(ATTENTION_SCALE * jnp.where(causal, logits, -jnp.inf))
        mixed = jnp.einsum("bhts,bshd->bthd", scores, v).reshape(*x.shape[:2], -1) / 3
        x = (1 - 1 / (2 * BLOCKS)) * x + mixed @ p["out"] / (2 * BLOCKS)
        x = (1 - 1 / (2 * BLOCKS)) * x + jax.nn.gelu(x @ p["up"]) / 1.1289 @ p["down"] / (2 * BLOCKS)
    return FINAL_SCALE * x @ params["head"]


def test_modulas_gpt_is_trained_some_steps():
    tokens = jnp.asarray((np.arange(8)[:, None] + np.arange(13)) % VOCABULARY)  # the next token is the one after
    table = bvd.build_table(gpt())
    shapes = trees.unflatten({row.path: jnp.ones(row.shape) for row in table.rows})
    params = jax.jit(lambda key: bvd.initialize(shapes, table, key, polar="newton_schulz_6"))(jax.random.key(0))
    bvd.check_table(table, params)
    tx = bvd.dualized(table, 0.5)

    @jax.jit
    def step(params, state):
        def loss(params):
            logp = jax.nn.log_softmax(forward(params, tokens[:, :-1]))
            return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], -1))

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    state, losses = jax.jit(tx.init)(params), []
    for _ in range(15):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    assert set(trees.flatten(params)) == set(table.by_path())
