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
# # What would Gauss say about your encoder?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/06_what_would_gauss_say.ipynb)
#
# SynBench measures how much of the information in its inputs an encoder keeps, without
# any data set. It draws two Gaussian classes in the input space, for which the optimal
# rule is known in closed form, and measures how much of that rule's accuracy and margin
# a linear rule on the features still has.
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
import numpy as np
import optax

from robustjax import data, plotting, probes, synbench

jax.devices()

# %%
num_steps = 600  # @param {type:"integer"}
num_inputs = 2048  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_steps, num_inputs = 50, 512

# %% [markdown]
# ## Four encoders of digits
#
# The encoders are the raw pixels, the 16 largest principal components of the training
# images, an untrained network with 32 features, and the same network trained to
# classify digits.

# %%
train, test = data.load("digits", split="train"), data.load("digits", split="test")
shape = train.images.shape[1:]  # 8 x 8 x 1, in [0, 1]


def pixels(x):
    return x.reshape(len(x), -1)


flat = train.images.reshape(len(train.images), -1)
_, _, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
components = jnp.asarray(directions[:16].T, jnp.float32)


def principal(x):
    return pixels(x) @ components


def hidden(params, x):  # [n, 8, 8, 1] to [n, 32]
    x = pixels(x)
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x


def loss_fn(params, images, labels):
    weight, bias = params[-1]
    logits = hidden(params, images) @ weight + bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


sizes = (64, 64, 32, 10)
keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
initial = [
    (jax.random.normal(k, (a, b)) * np.sqrt(2 / a), jnp.zeros(b))
    for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
]
optimizer = optax.adam(2e-3)


@jax.jit
def step(params, state, images, labels):
    gradient = jax.grad(loss_fn)(params, images, labels)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state


params, state, rng = initial, optimizer.init(initial), np.random.default_rng(0)
for _ in range(num_steps):
    batch = rng.integers(0, len(train.labels), 128)
    params, state = step(params, state, train.images[batch], train.labels[batch])

encoders = {
    "pixels": pixels,
    "principal": principal,
    "untrained": jax.tree_util.Partial(hidden, initial),
    "trained": jax.tree_util.Partial(hidden, params),
}

# %% [markdown]
# ## Their scores
#
# Every encoder gets the same random inputs at 49 scales: two classes, slightly brighter
# and slightly darker than grey under noise, from very hard to easy. The score is 0 if
# the features keep nothing of the signal, and about 1 if they keep all of it.

# %%
found = {
    name: synbench.synbench(
        jax.random.key(1),
        fn,
        shape,
        num_train=num_inputs,
        num_test=num_inputs,
        thresholds=(0.6, 0.7, 0.8, 0.9),
    )
    for name, fn in encoders.items()
}
print("encoder    features  score at .6 .7 .8 .9         ceiling at .9")
for name, own in found.items():
    scores = "  ".join(f"{s:.3f}" for s in own.score[0])
    print(f"{name:<10} {own.num_features:>8}  {scores}   {own.ceiling[3]:.3f}")

plotting.synbench_scores(found)

# %% [markdown]
# A rule estimated from finitely many inputs cannot reach a score of 1: the dashed lines
# show the score of a perfect representation of that width. The trained network keeps
# much more than the untrained one of the same shape, and about as much as 16 principal
# components. The signal is a change of brightness, which is unrelated to digits: a high
# score concerns signals in general, not a particular task.
#
# Which differences are significant? All encoders saw the same inputs, so the intervals
# of differences are narrower than those of the scores.

# %%
for one, other in (("pixels", "principal"), ("untrained", "trained")):
    gap = synbench.compare_scores(found[one], found[other])
    print(
        f"{one} - {other} at .9: {gap.difference[0, 3]:+.3f}, "
        f"from {gap.lower[0, 3]:+.3f} to {gap.upper[0, 3]:+.3f}"
    )

# %% [markdown]
# ## How far can the features move?
#
# We train a linear probe on the features of the trained network, and another one
# against shifts of length 0.5. The certificate is the distance to the decision boundary
# in feature space; it implies nothing about shifts of the image.

# %%
encode = jax.jit(encoders["trained"])
features, held_out = encode(train.images), encode(test.images)
for epsilon in (0.0, 0.5):
    fit = probes.linear_probe(features, train.labels, num_classes=10, epsilon=epsilon)
    radius = probes.certified_feature_radius(fit.probe, held_out, test.labels)
    shares = probes.robust_probe_accuracy(
        fit.probe, held_out, test.labels, epsilons=[0.0, 0.5, 1.0]
    )
    print(
        f"trained against {epsilon}: accuracy under shifts up to 0, .5, 1: "
        f"{shares.round(3)}, average certified radius {radius.mean():.3f}"
    )

# %% [markdown]
# Next: `python experiments/synbench.py` trains and scores encoders, scores vision
# transformers from files and any function, including PyTorch models, and writes a page
# with plots, differences and the correlation with probe accuracies. The guide is
# `docs/synbench.md`.
