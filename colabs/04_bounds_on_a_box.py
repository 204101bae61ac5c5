# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What can your network output inside this box?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/04_bounds_on_a_box.ipynb)
#
# Samples and attacks show what a network does at some points. Bounds hold at all of
# them. This notebook bounds a small function, then a digits classifier, compares the
# methods, and trains the classifier on its bounds.
#
# Runtime: about a minute on a CPU; nothing here needs an accelerator.

# %% [markdown]
# ## Install
#
# The installed JAX is kept, because a newer one would not match the drivers.

# %%
import importlib.metadata
import importlib.util
import pathlib

if importlib.util.find_spec("robustjax") is None:
    installed = {
        d.name: d.version for d in importlib.metadata.distributions() if d.name
    }
    if tuple(map(int, installed["jax"].split(".")[:2])) < (0, 10):
        raise RuntimeError(
            f"This runtime has jax {installed['jax']}; robustjax needs 0.10 or later. "
            "Choose a newer runtime version."
        )
    keep = ("jax", "libtpu", "numpy", "scipy")
    kept = [f"{n}=={v}" for n, v in installed.items() if n.startswith(keep)]
    pathlib.Path("kept.txt").write_text("\n".join(kept))
    # %pip install -q -c kept.txt "robustjax[plot] @ git+https://github.com/robustjax/robustjax@v0.1.0" scikit-learn

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from robustjax import attacks, bounds, data

jax.devices()

# %%
num_steps = 500  # @param {type:"integer"}
num_images = 50  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_steps, num_images = 20, 5

# %% [markdown]
# ## One input, one output
#
# The function below is not monotone. On [0.6, 1.6], interval arithmetic uses only the
# range of each operation. Linear bounds also use that all operations depend on the same
# x.


# %%
def curve(x):
    return jnp.sin(2 * x) + jnp.abs(x - 1) - 0.5 * x**2


lower, upper = jnp.array([0.6]), jnp.array([1.6])
grid = jnp.linspace(0.6, 1.6, 200)
print("true      ", curve(grid).min().round(2), curve(grid).max().round(2))
for method in ("ibp", "crown", "alpha"):
    found = bounds.linear_bounds(curve, lower, upper, method=method)
    print(f"{method:10}", found.lower[0].round(2), found.upper[0].round(2))

# %% [markdown]
# The linear bounds themselves are useful too: they hold at every point of the box.

# %%
lines = bounds.affine_bounds(curve, lower, upper)
figure, axes = plt.subplots(figsize=(6, 3.5))
axes.plot(grid, curve(grid), label="function")
for weight, bias, label in (
    (lines.lower_weight, lines.lower_bias, "line below"),
    (lines.upper_weight, lines.upper_bias, "line above"),
):
    axes.plot(grid, weight[0, 0] * grid + bias[0], "--", label=label)
axes.legend(frameon=False)
axes.set_xlabel("x")
# %% [markdown]
# ## A classifier
#
# Next, a small network on the 8x8 digits, written as plain functions.

# %%
train, test = data.load("digits", split="train"), data.load("digits", split="test")


def network(params, x):  # one image to ten logits
    x = x.reshape(-1)
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def initial(key, sizes=(64, 64, 64, 10)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) * np.sqrt(2 / a), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def fit(key, loss_fn, num_steps=num_steps):
    params, optimizer = initial(key), optax.adam(2e-3)

    @jax.jit
    def step(params, state, images, labels, share):
        gradient = jax.grad(loss_fn)(params, images, labels, share)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(0)
    for number in range(num_steps):
        batch = rng.integers(0, len(train.labels), 128)
        images, labels = train.images[batch], train.labels[batch]
        params, state = step(params, state, images, labels, number / num_steps)
    return params


def plain_loss(params, images, labels, share):
    logits = jax.vmap(lambda x: network(params, x))(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


plain = fit(jax.random.key(0), plain_loss)

# %% [markdown]
# For each image we compute the largest linf radius that each of three methods verifies,
# and the distance of the nearest adversarial image that PGD finds. The true radius lies
# between them.

# %%
images, labels = test.images[:num_images], test.labels[:num_images]


def report(params):
    fn = jax.tree_util.Partial(network, params)
    for method in ("ibp", "crown-ibp", "crown"):
        found = bounds.largest_epsilon(fn, images, labels, limit=0.2, method=method)
        print(f"average certified radius, {method:9} {found.epsilon.mean():.4f}")
    attack = attacks.smallest_epsilon(
        jax.random.key(1), jax.vmap(fn), images, labels=labels, limit=0.2
    )
    print(
        f"average distance of attacks         {np.minimum(attack.epsilon, 0.2).mean():.4f}"
    )
    logits = jax.vmap(fn)(test.images)
    print(
        f"accuracy                            {np.mean(logits.argmax(axis=-1) == test.labels):.3f}"
    )


report(plain)

# %% [markdown]
# ## Train for the bound
#
# Bounds are differentiable. Here the loss is the cross-entropy of the worst logits that
# intervals allow in a box around each image, mixed with the standard cross-entropy. The
# radius of the box grows to 0.05 in the first half of the training.


# %%
def certified_loss(params, images, labels, share):
    radius = 0.05 * jnp.minimum(2 * share, 1.0)

    def one(image, label):
        worst = bounds.worst_case_logits(
            lambda x: network(params, x), image - radius, image + radius, label=label
        )
        return optax.softmax_cross_entropy_with_integer_labels(worst, label)

    return 0.5 * (
        plain_loss(params, images, labels, share) + jax.vmap(one)(images, labels).mean()
    )


certified = fit(jax.random.key(0), certified_loss, num_steps=4 * num_steps)
report(certified)

# %% [markdown]
# The trained network has the same accuracy. Intervals alone now verify larger radii
# than linear bounds did before, and the nearest adversarial images are farther away as
# well.
#
# The same from the command line, for any data set and model, including ONNX files:
#
# ```
# python experiments/verify_linf.py --flagfile=experiments/flags/verify_digits.flags
# ```
