# %% [markdown]
# # Dualize your own model
# From a network that this package has never seen to an optimizer whose learning rate holds when the network grows:
# the tree of its norms, the table, the check, the training. Open this file with jupytext as a notebook, or run it.

# %%
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import big_vision_dual as bvd

DEPTH, CLASSES, FEATURES = 2, 10, 16

# %% [markdown]
# ## The model
# A residual network, written without a thought of norms but for one: with `L` branches each is added as
# `(1 - 1/L) x + f(x)/L`, so that depth does not make the whole more sensitive to its input.


# %%
class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x_BxD):
        hidden_BxH = nn.relu(nn.Dense(4 * self.width, name="up")(nn.LayerNorm(name="norm")(x_BxD)))
        return nn.Dense(self.width, name="down")(hidden_BxH)


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x_BxF):
        x_BxD = nn.Dense(self.width, name="embed")(x_BxF)
        for layer in range(DEPTH):
            x_BxD = (1 - 1 / DEPTH) * x_BxD + Block(self.width, name=f"block_{layer}")(x_BxD) / DEPTH
        return nn.Dense(CLASSES, name="head")(x_BxD)


# %% [markdown]
# ## Its tree of norms
# `outer @ inner` composes, `residual` adds a branch, `** depth` stacks, `tare` says how much of the learning the blocks
# do together. Names are those of the parameters; `{layer}` is filled in.


# %%
def tree(width):
    n = bvd.norms
    up = n.RELU @ n.dense("block_{layer}/up", width, 4 * width) @ n.layer_norm("block_{layer}/norm", width)
    blocks = (n.residual(n.dense("block_{layer}/down", 4 * width, width) @ up, DEPTH) ** DEPTH).tare(DEPTH)
    return n.dense("head", width, CLASSES) @ blocks @ n.dense("embed", FEATURES, width)


table = bvd.build_table(tree(32))
print(f"mass {table.mass:g}, sensitivity {table.sensitivity:.3g}, {len(table.rows)} atoms")

# %% [markdown]
# ## The check
# A tree that does not fit the parameters is refused, and both sides are listed.

# %%
params = jax.eval_shape(Net(32).init, jax.random.key(0), jnp.zeros((1, FEATURES)))["params"]
bvd.check_table(table, params)
try:
    bvd.check_table(bvd.build_table(tree(64)), params)
except ValueError as error:
    print("as it should be:", str(error)[:90], "...")

# %% [markdown]
# ## Training
# Data from a random teacher. `bvd.project` brings the initial weights to unit norm, each in its own; `bvd.dualized` is
# an optax optimizer: momentum, dual maps to the target norms, learning rate.


# %%
X_BxF = jax.random.normal(jax.random.key(1), (2048, FEATURES))
TEACHER = [jax.random.normal(jax.random.key(i), shape) for i, shape in ((2, (FEATURES, 32)), (3, (32, CLASSES)))]
LABELS_B = jnp.argmax(jnp.tanh(X_BxF @ TEACHER[0]) @ TEACHER[1], axis=-1)


def loss(params, width):
    logits_BxC = Net(width).apply({"params": params}, X_BxF)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxC, LABELS_B).mean()


@functools.partial(jax.jit, static_argnums=0)
def trained(width, learning_rate):
    """The loss after 30 steps."""
    tx = bvd.dualized(tree(width), optax.linear_schedule(learning_rate, 0.0, 30))
    params = Net(width).init(jax.random.key(0), X_BxF)["params"]
    params = bvd.project(params, bvd.build_table(tree(width)))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, width)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=30)
    return loss(params, width)


# %% [markdown]
# ## Does the learning rate hold when the network grows?
# The same four learning rates at width 16 and at width 64. One seed and one small problem: a look, not a study; for
# that there are `bvd coord-check` and `bvd lr-sweep`.

# %%
RATES = (0.2, 0.8, 3.2, 12.8)
losses = {width: {rate: float(trained(width, rate)) for rate in RATES} for width in (16, 64)}
for width, of_rate in losses.items():
    print(f"width {width:3}:", "  ".join(f"lr {rate}: {value:.3f}" for rate, value in of_rate.items()))
best = {width: min(of_rate, key=of_rate.__getitem__) for width, of_rate in losses.items()}
print("best learning rate by width:", best)
