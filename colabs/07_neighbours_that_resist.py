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
# # Neighbours that resist
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/07_neighbours_that_resist.ipynb)
#
# An encoder can learn without labels: two views of an image are neighbours, views of
# other images are not. Neighbourhood component analysis (NCA) shows what contrastive
# losses have in common, and which parts can be exchanged. This notebook plots these
# parts, trains with two losses on small digits, and attacks the learned
# representations.
#
# Runtime: about two minutes on a CPU; nothing here needs an accelerator.

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
import functools
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from robustjax import attacks, contrastive, data, models, plotting, probes, smoothing

jax.devices()

# %%
num_epochs = 40  # @param {type:"integer"}
num_samples = 4000  # @param {type:"integer"}
num_images = 300  # @param {type:"integer"}
epsilon = 0.1  # @param {type:"number"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_epochs, num_samples, num_images = 1, 200, 20

# %% [markdown]
# ## Contrastive losses as NCA
#
# In NCA every point picks a neighbour at random, nearer points with higher probability.
# The loss maximises the probability that the pick is one of its true neighbours. With
# embeddings of length 1, cosine similarity, and the other view as the only true
# neighbour, this is exactly the loss of SimCLR (NT-Xent):
#
# $$\text{loss}_i = -\log \frac{e^{s_{ii'}}}{e^{s_{ii'}} + N G_i},\qquad
# N G_i = \sum_k e^{s_{ik}},\qquad s = \cos / t.$$
#
# The figure shows one anchor, its other view and fourteen other images on a circle. The
# size of a dot is its share of the gradient of the loss: at a low temperature only the
# nearest images contribute. Hard-negative weights have the same effect without changing
# the temperature of the positive.

# %%
angles = np.linspace(0.35, 2 * np.pi - 0.5, 14) + 0.1 * np.sin(np.arange(14))
circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
anchor = jnp.array([[1.0, 0.0]])
positive = jnp.array([[np.cos(-0.3), np.sin(-0.3)]])


def pull(negatives, *transforms):
    """How much each negative moves the loss, as shares."""

    def loss(shift):
        batch = contrastive.from_arrays(anchor, positive[None], negatives + shift)
        return contrastive.compose(*transforms)(batch)[0]

    gradient = jax.grad(loss)(jnp.zeros_like(negatives))
    length = jnp.linalg.norm(gradient, axis=-1)
    return length / length.sum()


ways = {
    "t = 0.5": (contrastive.similarity(0.5),),
    "t = 0.1": (contrastive.similarity(0.1),),
    "t = 0.5, hard negatives": (contrastive.similarity(0.5), contrastive.hard(2.0)),
}
figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.5), layout="constrained")
for panel, (title, transforms) in zip(panels, ways.items(), strict=True):
    share = pull(circle, *transforms)
    panel.scatter(*circle.T, s=20 + 2500 * share, color="#D55E00", alpha=0.6)
    panel.scatter(*positive.T, s=90, color="#009E73", marker="s")
    panel.scatter(*anchor.T, s=90, color="#0072B2", marker="D")
    panel.set_title(title, fontsize=11)
    panel.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4))
    panel.set_axis_off()
figure.suptitle("Diamond: anchor; square: its other view; dots: pull of the negatives")
plt.show()

# %% [markdown]
# Hard negatives have a disadvantage: some of the nearest "other" images belong to the
# same class. Debiasing subtracts their expected share from the sum, with a floor that
# keeps the result positive. The library reports the share of anchors at the floor:

# %%
noise = jax.random.normal(jax.random.key(0), (2, 256, 16))
views = jax.random.normal(jax.random.key(1), (256, 16))[None] + 0.5 * noise
for tau_plus in (0.0, 0.1, 0.2):
    loss, aux = contrastive.hard_negative(views, tau_plus=tau_plus, beta=1.0)
    print(
        f"tau_plus {tau_plus}: loss {loss:.3f}, {aux.effective_negatives:.0f} of 510 "
        f"negatives count, {aux.clamped_fraction:.0%} of the anchors clamped"
    )

# %% [markdown]
# ## Two losses
#
# SimCLR uses two views and one neighbour. The integrated loss uses four views, three
# neighbours, hard and debiased negatives, and a second term whose neighbour is an
# *adversarial* view: the anchor's image, perturbed within an $\ell_\infty$ ball so that its
# embedding moves away from the anchor.

# %%
train, test = data.load("digits", split="train"), data.load("digits", split="test")
images = jnp.asarray(train.images)
backbone = models.create("cnn", num_classes=64)  # its last layer begins the head
augment = contrastive.in_turn(
    contrastive.pixel_shift(1),
    contrastive.cut_out(2),
    contrastive.random_brightness(0.6, 1.2),
    contrastive.additive_noise(0.1),
)
estimator = (contrastive.hard(1.0), contrastive.debias(0.1))
attacked_loss = contrastive.compose(contrastive.similarity(0.5), *estimator)


class Encoder(nn.Module):
    """A convolutional network and a projection head."""

    backbone: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(32)(nn.relu(self.backbone(x)))


encoder = Encoder(backbone)


def encode(params, x):
    return encoder.apply({"params": params}, x)


def embed(params, views):
    flat = views.reshape(-1, *views.shape[2:])
    return encode(params, flat).reshape(*views.shape[:2], -1)


def simclr(params, key, batch):
    views = contrastive.make_views(key, batch, augment, num_views=2)
    return contrastive.nt_xent(embed(params, views))[0]


def integrated(params, key, batch):
    view_key, attack_key = jax.random.split(key)
    views = contrastive.make_views(view_key, batch, augment, num_views=4)
    z = embed(params, views)
    moved = contrastive.adversarial_view(
        attack_key,
        functools.partial(encode, params),
        views[0],
        anchors=z[0],
        loss_fn=attacked_loss,
        epsilon=epsilon,
    )
    both = jnp.stack([z[0], encode(params, moved)])
    clean = contrastive.from_views(z, num_anchor_views=2)
    return contrastive.int_nacl(clean, both, estimator=estimator)[0]


# %%
def fit(loss_fn, batch_size=256):
    """Parameters after some epochs of Adam."""
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, key, batch):
        grads = jax.grad(loss_fn)(params, key, batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    key = jax.random.key(0)
    params = encoder.init(key, images[:1])["params"]
    state = optimizer.init(params)
    for epoch in range(num_epochs):
        own = jax.random.fold_in(key, epoch)
        order = jax.random.permutation(own, len(images))
        for i in range(len(images) // batch_size):
            batch = images[order[i * batch_size : (i + 1) * batch_size]]
            params, state = step(params, state, jax.random.fold_in(own, i), batch)
    return params


trained = {"SimCLR": fit(simclr), "IntNaCl": fit(integrated)}

# %% [markdown]
# ## How robust are the representations?
#
# We train a linear probe on each frozen encoder and attack encoder and probe together.
# APGD adapts its step size and runs with two losses. An image that it cannot change is
# not proven to be robust.

# %%
classifier = models.create("cnn", num_classes=10)


def probe(params):
    """A classifier: the frozen encoder below a linear probe."""
    backbone_params = params["backbone"]
    feature_fn = models.features_of(backbone, {"params": backbone_params})
    fit, *_ = probes.linear_probe(feature_fn(images), train.labels, num_classes=10)
    head = {"kernel": fit.weight, "bias": fit.bias}
    return models.classifier(classifier, {"params": {**backbone_params, "head": head}})


@jax.jit
def survivors(apply_fn, x, labels):
    key, how = jax.random.key(1), {"labels": labels, "epsilon": epsilon}
    by_pgd = attacks.pgd(key, apply_fn, x, **how)
    by_apgd = [
        attacks.apgd(key, apply_fn, x, loss=loss, **how)
        for loss in ("cross_entropy", "dlr")
    ]
    kept = ~by_apgd[0].is_adversarial & ~by_apgd[1].is_adversarial
    clean = apply_fn(x).argmax(axis=-1) == labels
    return {"clean": clean, "PGD": ~by_pgd.is_adversarial, "APGD": kept}, by_pgd.x


x, labels = test.images[:num_images], test.labels[:num_images]
classifiers = {name: probe(params) for name, params in trained.items()}
found = {name: survivors(own, x, labels) for name, own in classifiers.items()}
accuracies = {
    name: {attack: [float(own[attack].mean())] for attack in ("clean", "PGD", "APGD")}
    for name, (own, _) in found.items()
}
for name, own in accuracies.items():
    text = ", ".join(f"{attack} {100 * v[0]:.1f} %" for attack, v in own.items())
    print(f"{name}: {text}")
plotting.accuracy_under_attack(accuracies, title=f"Digits, linf radius {epsilon}")

# %% [markdown]
# With the integrated loss the accuracy under attack is much higher, without labels in
# the training of the encoder and without loss of clean accuracy. One seed is little
# evidence: the effect of several neighbours or of weights is within the noise, that of
# the adversarial term is not.
# `experiments/contrastive.py` compares seven methods over several seeds.
#
# An attacked image (each pixel changes by at most 0.1):

# %%
moved = found["SimCLR"][1]
predicted = np.asarray(classifiers["SimCLR"](moved).argmax(axis=-1))
shown = np.flatnonzero(predicted != labels)[:6]
figure, panels = plt.subplots(2, 6, figsize=(8.4, 3.3), layout="constrained")
for column, i in zip(panels.T, shown, strict=False):
    for panel, image in zip(column, (x[i], moved[i]), strict=True):
        panel.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        panel.set_axis_off()
    column[0].set_title(f"{labels[i]} is taken", fontsize=10)
    column[1].set_title(f"for {predicted[i]}", fontsize=10)
plt.show()

# %% [markdown]
# ## Certified accuracy
#
# Randomized smoothing certifies both classifiers, with the same noise level and the
# same confidence. Neither encoder was trained with noise.

# %%
for name, own in classifiers.items():
    certified = smoothing.certify(
        jax.random.key(2),
        own,
        x,
        sigma=0.25,
        num_classes=10,
        num_selection=100,
        num_estimation=num_samples,
        alpha=0.001,
    )
    is_right = certified.prediction == labels
    radius = np.where(is_right, certified.radius["l2"], 0).mean()
    print(
        f"{name}: certified accuracy {is_right.mean():.2f}, "
        f"average certified radius {radius:.3f} (l2)"
    )
