# pyright: reportIndexIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportOptionalSubscript=false
# (optax types the trees of its updates too narrowly to be indexed)
"""The public door: models that are not ours, as norm trees, checked, dualized and trained."""

import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import big_vision_dual as bvd
from big_vision_dual.core import tables
from big_vision_dual.core.tables import io

n = bvd.norms
ROOT = pathlib.Path(__file__).parent.parent.parent


def digits(count=96, seed=0):
    """Images (N, 8, 8, 1) of ten random patterns with noise, and their labels."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(1).standard_normal((10, 8, 8, 1))
    labels = rng.integers(0, 10, count)
    return jnp.asarray(patterns[labels] + rng.standard_normal((count, 8, 8, 1)), jnp.float32), jnp.asarray(labels)


def cross_entropy(logits_BxC, labels_B):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BxC, labels_B))


def train(loss, params, tx, steps=12):
    """(first loss, last loss)."""

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
    return values[0], values[-1]


class ConvNet(nn.Module):
    """A stranger's model: a stem, two residual blocks of two convolutions, a head."""

    @nn.compact
    def __call__(self, x_BxHxWxC):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x_BxHxWxC))
        for block in range(2):
            y = nn.Conv(12, (3, 3), use_bias=False, name=f"block_{block}_a")(x)
            y = nn.Conv(8, (3, 3), use_bias=False, name=f"block_{block}_b")(nn.relu(y))
            x = 0.5 * x + 0.5 * y
        return nn.Dense(10, name="head")(x.reshape(len(x), -1))


def snippet(page, name):
    """The code behind a marker of a page."""
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", (ROOT / page).read_text(), re.S)[1]


def conv_net():
    """The norm tree of `ConvNet`, as docs/your_model.md has it."""
    scope = {}
    exec(snippet("docs/your_model.md", "resnet"), scope)
    return scope["tree"]


def test_the_small_resnet_of_the_docs_is_checked_and_trained():
    images, labels = digits()
    params = ConvNet().init(jax.random.key(0), images[:1])["params"]
    scope = {"bvd": bvd, "jax": jax, "tree": conv_net(), "params": params}
    exec(snippet("docs/your_model.md", "check"), scope)
    table = scope["table"]
    assert table.sensitivity == pytest.approx(1)
    assert sum(row.mass for row in table.rows if "block" in row.path) == pytest.approx(2)

    def draw():
        exec(snippet("docs/your_model.md", "initialize"), drawn := dict(scope))
        return drawn["params"]

    first, last = train(lambda p: cross_entropy(ConvNet().apply({"params": p}, images), labels),
                        jax.jit(draw)(),
                        bvd.dualized(table, optax.cosine_decay_schedule(2.0, 12), weight_decay=1e-4))  # fmt: skip
    assert last < 0.8 * first
    without_head = {name: leaf for name, leaf in params.items() if name != "head"} | {"tail": params["head"]}
    with pytest.raises(
        tables.TableError,
        match=r"your model .*2 parameters without a row: tail/bias, tail/kernel; 2 rows without a parameter: head",
    ):
        bvd.check_table(table, without_head)


def test_the_rules_of_the_docs_are_rules():
    params = {"block_0_a": {"kernel": np.zeros((3, 3, 8, 8))}, "attn": {"qkv": {"kernel": np.zeros((8, 24))}}}
    exec(snippet("docs/your_model.md", "rules"), scope := {"bvd": bvd, "params": params})
    assert [row.atom for row in scope["table"].rows] == ["Linear", "Linear", "Linear", "Conv"]


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(64, 24, rngs=rngs), nnx.Linear(24, 16, rngs=rngs)])
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(self.norm(x))


def test_an_nnx_model_under_nnx_optimizer():
    images, labels = digits()
    model = Mlp(nnx.Rngs(0))
    hidden = n.RELU @ n.dense("layers/1", 24, 16) @ n.RELU @ n.dense("layers/0", 64, 24)
    tree = n.dense("head", 16, 10) @ n.layer_norm("norm", 16) @ hidden
    table = bvd.build_table(tree)
    bvd.check_table(table, nnx.state(model, nnx.Param))
    fallback = [("norm/.*", "adam")]
    optimizer = nnx.Optimizer(model, bvd.dualized(tree, 0.3, fallback=fallback), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return cross_entropy(model(images.reshape(len(images), -1)), labels)

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer)) for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


def test_what_dualized_takes():
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    gradients = {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.arange(3.0)}
    tree = n.linear("kernel", 4, 3) + n.bias("bias", 3)
    table = bvd.build_table(tree)

    def first(source, **options):
        tx = bvd.dualized(source, 0.1, **options)
        return tx.update(gradients, tx.init(params), params)[0]

    expected = first(table)
    for source in (tree, params):
        jax.tree.map(np.testing.assert_array_equal, first(source), expected)
    decayed = first(table, weight_decay=0.5)
    np.testing.assert_allclose(decayed["kernel"], expected["kernel"] - 0.1 * 0.5, atol=1e-6)
    np.testing.assert_array_equal(decayed["bias"], expected["bias"])  # a bias does not decay
    held = first(table, radius=[("Bias", None), (".*", 25)])
    shrunk = 1 - 0.1 * table.by_key()["kernel"].target_norm / 25
    np.testing.assert_allclose(held["kernel"], expected["kernel"] - (1 - shrunk) * params["kernel"], atol=1e-6)
    np.testing.assert_array_equal(held["bias"], expected["bias"])
    with pytest.raises(ValueError, match=r"weight_decay=0.5 and radius=25 both decay"):
        bvd.dualized(table, 0.1, weight_decay=0.5, radius=25)
    with pytest.raises(tables.TableError, match="no table 'nowhere'"):
        bvd.dualized("nowhere", 0.1)


def test_a_citizen_of_optax():
    params = {"dense": {"kernel": jnp.ones((4, 3), jnp.bfloat16)}, "scale": jnp.ones(3, jnp.bfloat16)}
    table = bvd.flat_table(params)
    schedule = optax.linear_schedule(0.5, 0.9, 10)
    for factory, options in ((bvd.scale_by_dualize, {"momentum": schedule}), (bvd.dualized, {"learning_rate": 0.1})):
        tx = optax.inject_hyperparams(factory)(table, **options)
        updates, state = jax.jit(tx.update)(params, tx.init(params), params)
        assert updates["dense"]["kernel"].dtype == jnp.bfloat16
        assert set(options) <= set(state.hyperparams)
    plain = bvd.scale_by_dualize(table, momentum=0.5)
    injected = optax.inject_hyperparams(bvd.scale_by_dualize)(table, momentum=0.5)
    jax.tree.map(
        np.testing.assert_array_equal,
        plain.update(params, plain.init(params))[0], injected.update(params, injected.init(params), params)[0],
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_strict_dtype_promotion(dtype):
    params = {"conv": {"kernel": jnp.ones((3, 2, 4), dtype), "bias": jnp.ones(4, dtype)}, "scale": jnp.ones(3, dtype)}
    table = bvd.flat_table(params)
    with jax.numpy_dtype_promotion("strict"):
        tx = bvd.scale_by_dualize(table, nesterov=True, fallback=[("conv/bias", "adam")], fallback_scale=0.3)
        updates, _ = jax.jit(tx.update)(params, tx.init(params))
        projected = bvd.project(params, table)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, projected))} == {jnp.dtype(dtype)}


def test_adams_zero_gradients_in_float16_stay_zero():
    params = {"bias": jnp.ones(4, jnp.float16)}
    gradients = {"bias": jnp.asarray([0, 0, 1e-7, 1], jnp.float16)}
    tx = bvd.scale_by_dualize(bvd.flat_table(params), fallback=[(".*", "adam")])
    update = tx.update(gradients, tx.init(params))[0]["bias"]
    np.testing.assert_allclose(update, [0, 0, 1, 1], atol=0.1)  # 1e-7 is far above Adam's epsilon, 1e-8


def test_a_table_shows_itself():
    table = bvd.build_table(n.dense("<b>", 4, 3) @ n.RELU @ n.dense("in", 2, 4), model_name="<i>")
    text, html = str(table), table._repr_html_()
    assert "in/kernel   Linear  2 x 4" in text
    assert "&lt;b&gt;/kernel" in html
    assert "<i>" not in html
    assert html.count("<tr>") == 1 + len(table.rows)
    many = bvd.flat_table({f"layer_{i:03}": {"bias": np.zeros(2)} for i in range(300)})
    assert "and 101 more" in str(many)


def test_dir_names_the_door():
    assert set(dir(bvd)) == {*bvd.__all__, "__version__"}
    assert all(getattr(bvd, name) is not None for name in dir(bvd))
    with pytest.raises(AttributeError, match=r"no attribute 'flatt_table'; possible: .*flat_table"):
        _ = bvd.flatt_table  # pyright: ignore[reportAttributeAccessIssue]


def test_a_table_of_ones_own_model_is_saved_and_loaded(tmp_path):
    table = bvd.build_table(conv_net())
    bvd.save_table(table, tmp_path / "mine.json")
    assert bvd.load_table(tmp_path / "mine.json") == table
    assert io.digest(table) == io.digest(bvd.load_table(str(tmp_path / "mine.json")))
