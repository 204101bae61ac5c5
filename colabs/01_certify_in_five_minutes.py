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
# # Certify a classifier in five minutes
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/01_certify_in_five_minutes.ipynb)
#
# Randomized smoothing turns any classifier into one with a guarantee: for each image it
# computes a radius within which no perturbation changes the prediction of the smoothed
# classifier. The guarantee holds with probability 99.9% over the noise, for any
# network. This notebook trains a small network on 8x8 digits, certifies it, and shows
# how to certify your own model.
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

from robustjax import data, metrics, models, plotting, results, smoothing

jax.devices()

# %% [markdown]
# ## Settings
#
# `sigma` is the noise level in units of the pixels, which are in [0, 1]. More noise
# allows larger radii and costs accuracy. More samples allow larger radii and cost time.

# %%
sigma = 0.25  # @param {type:"number"}
alpha = 0.001  # @param {type:"number"}
num_samples = 10_000  # @param {type:"integer"}
num_images = 300  # @param {type:"integer"}
num_steps = 500  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_samples, num_images, num_steps = 1_000, 20, 30

# %% [markdown]
# ## Train with noise
#
# A network trained without noise has low accuracy under noise. So each step adds fresh
# noise of the level that is used for certification later.

# %%
train, test = data.load("digits", split="train"), data.load("digits", split="test")
module = models.create("cnn", num_classes=train.num_classes, mean=0.3, std=0.4)
variables = module.init(jax.random.key(0), train.images[:1])
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)


@jax.jit
def train_step(key, variables, state):
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.randint(batch_key, (128,), 0, len(images))
    noisy = images[batch] + sigma * jax.random.normal(noise_key, images[batch].shape)

    def loss_fn(variables):
        logits = module.apply(variables, noisy)
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, labels[batch]
        ).mean()

    loss, gradients = jax.value_and_grad(loss_fn)(variables)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(variables, updates), state, loss


state = optimizer.init(variables)
for key in jax.random.split(jax.random.key(1), num_steps):
    variables, state, loss = train_step(key, variables, state)
print(f"loss after {num_steps} steps: {loss:.3f}")

# %% [markdown]
# ## Certify
#
# `apply_fn` maps images in [0, 1] to logits and includes the normalisation. A first set of
# 100 noise samples selects the class; a second, independent set bounds its probability.

# %%
apply_fn = models.classifier(module, variables)
certificate = smoothing.certify(
    jax.random.key(0),
    apply_fn,
    test.images[:num_images],
    sigma=sigma,
    num_classes=test.num_classes,
    num_estimation=num_samples,
    alpha=alpha,
)
certificate.prediction[:10], certificate.radius["l2"][:10].round(3)

# %% [markdown]
# An abstention is `-1` with radius 0. Certified accuracy at radius r is the share of
# images that are classified correctly with a radius of at least r. The third column is
# a lower bound that allows for certificates that are wrong by chance.

# %%
correct = certificate.prediction == test.labels[:num_images]
radius = certificate.radius["l2"]
print("l2 radius  certified accuracy  at least (99.9%)")
for r in results.radius_grid(float(radius.max())):
    accuracy = metrics.certified_accuracy(correct, radius, r)
    lower = metrics.certified_accuracy_lower(correct, radius, r, alpha=alpha)
    print(f"{r:>9.2f}  {accuracy:>18.3f}  {lower:>16.3f}")
print(
    f"average certified radius {metrics.average_certified_radius(correct, radius):.3f}, "
    f"abstained {metrics.abstention_rate(certificate.prediction):.1%}"
)

# %%
plotting.certified_accuracy_curve(
    {f"cnn, sigma {sigma}": (correct, radius)}, alpha=alpha
)

# %% [markdown]
# ## Your own model
#
# Any function from `[n, height, width, channels]` to logits `[n, classes]` can be
# certified. Pass its parameters by `jax.tree_util.Partial`, so that other weights of
# the same model do not compile again. This example returns the nearest class mean.


# %%
def classify(class_means, x):
    distances = x.reshape(len(x), 1, -1) - class_means[None]
    return -jnp.sum(distances**2, axis=-1)


class_means = np.stack(
    [
        train.images[train.labels == label].mean(axis=0).ravel()
        for label in range(train.num_classes)
    ]
)
my_certificate = smoothing.certify(
    jax.random.key(0),
    jax.tree_util.Partial(classify, class_means),
    test.images[:num_images],
    sigma=sigma,
    num_classes=test.num_classes,
    num_estimation=num_samples,
    alpha=alpha,
)
my_correct = my_certificate.prediction == test.labels[:num_images]

# %%
plotting.certified_accuracy_curve(
    {
        "cnn": (correct, radius),
        "nearest class mean": (my_correct, my_certificate.radius["l2"]),
    },
    alpha=alpha,
)

# %% [markdown]
# ## Next steps
#
# - The guarantee is about the smoothed classifier, not about the network alone: classify
#   with `smoothing.predict`. The page "What a certificate says" of the documentation has
#   the exact statement, "Sharp edges" the known mistakes.
# - Set `sigma` to 0.12 or 0.5, train again and compare the curves.
# - `experiments/certify.py` in the repository does this for whole data sets. It resumes,
#   uses several devices and hosts, and records the evidence for every image.
