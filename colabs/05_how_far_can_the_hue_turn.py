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
# # How far can the hue turn before the network changes its mind?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/05_how_far_can_the_hue_turn.ipynb)
#
# A change of the light or of the camera changes all pixels together, with a few
# parameters: hue, lightness, contrast, rotation. This notebook finds how far a
# parameter can change before the prediction of a network does: exactly if the pixels
# are piecewise linear in it, and by branch and bound otherwise.
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

from robustjax import bounds, data, semantic
from robustjax.semantic import sp_layers

jax.devices()

# %%
num_steps = 600  # @param {type:"integer"}
num_images = 20  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_steps, num_images = 100, 2

# %% [markdown]
# ## Digits in colours
#
# Each digit is coloured. In nine of ten training images the colour is determined by the
# digit, so the network learns to use both. The test images are coloured in the same
# way.


# %%
def dyed(dataset, seed):
    rng = np.random.default_rng(seed)
    own = dataset.labels / 10
    turns = np.where(rng.uniform(size=len(own)) < 0.9, own, rng.uniform(size=len(own)))
    turns = turns + rng.normal(scale=0.02, size=len(own))
    red = np.stack(
        [dataset.images[..., 0], *[np.zeros_like(dataset.images[..., 0])] * 2], -1
    )
    return np.asarray(jax.vmap(semantic.hue)(red, turns), np.float32)


train, test = data.load("digits", split="train"), data.load("digits", split="test")
train_images, test_images = dyed(train, 0), dyed(test, 1)


def network(params, x):  # [n, 8, 8, 3] to [n, 10]
    x = x.reshape(len(x), -1)
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ params[-1][0] + params[-1][1]


def loss_fn(params, images, labels):
    logits = network(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


sizes = (192, 64, 64, 10)
keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
params = [
    (jax.random.normal(k, (a, b)) * np.sqrt(2 / a), jnp.zeros(b))
    for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
]
optimizer = optax.adam(2e-3)


@jax.jit
def step(params, state, images, labels):
    gradient = jax.grad(loss_fn)(params, images, labels)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state


state, rng = optimizer.init(params), np.random.default_rng(0)
for _ in range(num_steps):
    batch = rng.integers(0, len(train.labels), 128)
    params, state = step(params, state, train_images[batch], train.labels[batch])

model = jax.tree_util.Partial(network, params)
predicted = np.asarray(model(test_images)).argmax(axis=-1)
print(f"accuracy {np.mean(predicted == test.labels):.3f}")

# %% [markdown]
# ## The exact range of the hue
#
# The pixels are piecewise linear in the hue, and the logits in the pixels. So the
# logits are piecewise linear in the hue: `exact_radius` moves from breakpoint to
# breakpoint until the first tie.

# %%
for index in np.flatnonzero(predicted == test.labels):
    image, label = test_images[index], int(test.labels[index])
    exact = semantic.exact_radius(model, image, label, attribute="hue")
    if min(exact.flip_left, exact.flip_right) >= 0:  # the first that can be turned over
        break
print(f"digit {label}: hue may turn by -{exact.left:.4f} to +{exact.right:.4f} turns")
print(
    f"then it is taken for {exact.flip_left} or {exact.flip_right} (-1: for no other)"
)

# %% [markdown]
# The predictions just inside and just outside this range:

# %%
turns = [-exact.left - 0.01, -exact.left + 0.01, -exact.left / 2, 0.0]
turns += [exact.right / 2, exact.right - 0.01, exact.right + 0.01]
strip = np.stack([semantic.hue(image, turn) for turn in turns])
answers = np.asarray(model(strip)).argmax(axis=-1)
figure, panels = plt.subplots(1, len(turns), figsize=(10, 1.8))
for panel, picture, turn, answer in zip(panels, strip, turns, answers, strict=True):
    panel.imshow(np.clip(picture, 0, 1))
    panel.set_title(f"{turn:+.3f}\nsays {answer}", fontsize=9)
    panel.set_axis_off()

# %% [markdown]
# The margin of the label over the whole circle of hues, by direct evaluation. Its first
# zeros on both sides are the ends of the exact range.

# %%
grid = np.linspace(-0.5, 0.5, 400)
logits = np.asarray(model(jax.vmap(lambda turn: semantic.hue(image, turn))(grid)))
margin = logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)
figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(grid, margin)
axes.axhline(0, color="0.6", linewidth=0.8)
axes.axvspan(-exact.left, exact.right, alpha=0.15)
axes.set_xlabel("hue, turns")
axes.set_ylabel("margin")

# %% [markdown]
# ## Other attributes
#
# Rotation is not piecewise linear: cells of angles are certified, and halved where that
# fails. The attack is the nearest counterexample found; the certified range cannot
# exceed it.

# %%
chosen = np.flatnonzero(predicted == test.labels)[:num_images]
for attribute in ("hue", "saturation", "lightness", "contrast"):
    radii = []
    for i in chosen:
        found = semantic.exact_radius(
            model, test_images[i], int(test.labels[i]), attribute=attribute
        )
        radii.append(min(found.left, found.right))
    print(f"average certified radius, {attribute:10} {np.mean(radii):.4f} (exact)")
radii, attacks = [], []
for i in chosen:
    found = semantic.certify(
        model, test_images[i], int(test.labels[i]), attribute="rotation", limit=20.0
    )
    radii.append(min(found.left, found.right))
    attacks.append(min(found.attack_left, found.attack_right, 20.0))
print(
    f"average certified radius, rotation   {np.mean(radii):.2f} degrees "
    f"(attack {np.mean(attacks):.2f})"
)

# %% [markdown]
# ## SP-layers for any verifier
#
# An SP-layer is a Flax module that maps the hue to the image by affine functions and
# ReLU. Composed with the network, it turns a range of hues into a one-dimensional input
# box. Bounds over a wide range are loose, which is why `certify` splits it.

# %%
fn = sp_layers.compose(sp_layers.Hue(image), model)
low, high = np.array([0.0], np.float32), np.array([0.1 * exact.right], np.float32)
rows = bounds.margin_rows(label, num_classes=10)
found = bounds.linear_bounds(fn, low, high, spec=rows)
print("least margin by CROWN over a tenth of the range:", found.lower.min().round(2))

# %% [markdown]
# The same from the command line, for any data set and model, including ONNX files:
#
# ```
# python experiments/verify_semantic.py --flagfile=experiments/flags/semantic_digits.flags
# ```
