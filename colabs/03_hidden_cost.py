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
# # The hidden cost of smoothing
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/03_hidden_cost.ipynb)
#
# More noise certifies larger radii, but it shrinks the decision regions of the classes.
# Small and narrow regions vanish first. This notebook shows a ball that vanishes, a
# cone whose apex recedes, and a digits model that loses classes while its average
# accuracy looks fine.
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
from matplotlib.figure import Figure

from robustjax import data, hidden_cost, models, plotting, smoothing

jax.devices()

# %% [markdown]
# ## Settings
#
# Noise levels are in units of the pixels, which are in [0, 1].

# %%
train_sigma = 0.5  # @param {type:"number"}
sigmas = (0.25, 0.5, 0.75, 1.0, 1.5)
num_samples = 1_000  # @param {type:"integer"}
num_images = 300  # @param {type:"integer"}
num_steps = 800  # @param {type:"integer"}
resolution = 64  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_samples, num_images, num_steps, resolution = 128, 40, 20, 8


# %% [markdown]
# ## The ball that vanishes
#
# Let the region of a class be a ball of radius 1, so that its centre is robust up to
# radius 1. Under noise the class keeps a majority in a smaller ball. Its radius, and
# the noise at which it vanishes, are known exactly in any dimension.


# %%
def vanishing_balls():
    dims = np.array([2, 10, 100, 784, 3072])
    gone = hidden_cost.ball_vanishing_sigma(1.0, dim=dims)
    shares = np.sin(np.linspace(0.01, np.pi / 2, 80))  # up to 1, and dense there
    levels = shares * gone[:, None]
    left = hidden_cost.smoothed_ball_radius(1.0, sigma=levels, dim=dims[:, None])
    needed = hidden_cost.min_sigma_for_radius(0.1, num_samples=100_000, alpha=0.001)

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    disc, curve = figure.subplots(1, 2)
    turn = np.linspace(0, 2 * np.pi, 100)
    disc.fill(np.cos(turn), np.sin(turn), color="#DDDDDD", label="no noise")
    for sigma in (0.3, 0.5, 0.7, 0.8):
        radius = hidden_cost.smoothed_ball_radius(1.0, sigma=sigma, dim=2)
        outline = radius * np.cos(turn), radius * np.sin(turn)
        disc.plot(*outline, label=rf"$\sigma$ = {sigma}")
    disc.set(xlim=(-1.1, 2.4), ylim=(-1.1, 1.1), aspect="equal", title="d = 2")
    disc.legend(loc="right", frameon=False)
    for dim, sigma, radius in zip(dims, levels, left, strict=True):
        curve.semilogx(sigma, np.nan_to_num(radius), label=f"d = {dim}")
    curve.axvline(needed, color="black", linestyle="--", label="certifies radius 0.1")
    curve.set(
        xlabel=r"noise level $\sigma$", ylabel="radius that is left", xlim=(4e-3, 1)
    )
    curve.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


vanishing_balls()


# %% [markdown]
# The class vanishes at a noise level of about 1 / sqrt(d), and just before that its
# region shrinks steeply. With 3,072 inputs it has vanished before 100,000 samples could
# certify even a tenth of its true radius (dashed).

# %% [markdown]
# ## The cone that recedes
#
# A cone is unbounded and never vanishes: far inside, almost all noise samples stay in
# the cone. But its tip is narrow, and the tip is lost.


# %%
def sliding_cones():
    half_angle = np.radians(30)
    depth, offset = np.linspace(-0.5, 9.5, 21), np.linspace(0, 5.2, 21)
    p = hidden_cost.cone_class_probability(
        depth, offset=offset[:, None], half_angle=half_angle, sigma=1.0, dim=2
    )
    edge = np.array([np.interp(0.5, row, depth) for row in p])  # where p is 1/2

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    wedge, curve = figure.subplots(1, 2)
    sides = 5 * np.tan([0, half_angle, -half_angle])
    wedge.fill([0, 5, 5], sides, color="#DDDDDD", label="no noise")
    outline = np.append(edge[::-1], edge), np.append(-offset[::-1], offset)
    for sigma in (0.5, 1.0, 2.0):  # the same outline, sigma times as large
        wedge.plot(*(sigma * side for side in outline), label=rf"$\sigma$ = {sigma}")
    wedge.set(xlim=(-0.2, 4.5), ylim=(-2.6, 2.6), aspect="equal", title="d = 2")
    wedge.legend(loc="upper left", frameon=False)
    dims, angles = np.array([2, 10, 100, 784, 3072]), np.array([10, 30, 60])
    shifts = hidden_cost.cone_apex_shift(
        np.radians(angles)[:, None], sigma=1.0, dim=dims
    )
    for angle, shift in zip(angles, shifts, strict=True):
        curve.loglog(dims, shift, ".-", label=f"{angle} degrees")
    curve.set(xlabel="dimension d", ylabel=r"depth of the new tip / $\sigma$")
    curve.legend(title="half-angle", fontsize="small")
    return figure


sliding_cones()

# %% [markdown]
# Noise pushes the tip inwards, in proportion to sigma and to about sqrt(d). With 3,072
# inputs and a half-angle of 30 degrees it moves by 96 sigma: at sigma = 0.25 this is
# nearly half of the diagonal of the cube that contains all images.

# %% [markdown]
# ## The digits model that loses classes
#
# Train two copies of a small network, one without noise and one with noise.

# %%
train, test = data.load("digits", split="train"), data.load("digits", split="test")
images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
x, y = test.images[:num_images], test.labels[:num_images]
module = models.create("cnn", num_classes=train.num_classes, mean=0.3, std=0.4)
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))


@jax.jit
def train_step(key, sigma, variables, state):
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.randint(batch_key, (128,), 0, len(images))
    noisy = images[batch] + sigma * jax.random.normal(noise_key, images[batch].shape)

    def loss_fn(variables):
        logits = module.apply(variables, noisy)
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, labels[batch]
        ).mean()

    gradients = jax.grad(loss_fn)(variables)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(variables, updates), state


def trained(sigma):
    variables = module.init(jax.random.key(0), images[:1])
    state = optimizer.init(variables)
    for key in jax.random.split(jax.random.key(1), num_steps):
        variables, state = train_step(key, sigma, variables, state)
    return models.classifier(module, variables)


classifiers = {
    "trained without noise": trained(0.0),
    f"trained with noise {train_sigma}": trained(train_sigma),
}

# %% [markdown]
# Smooth both at several noise levels. One certification gives two reports. *Certified*
# counts the class that a certificate names, and abstentions as errors. *Predicted*
# counts the class with most votes, which needs no majority.

# %%
reports = {}
for name, apply_fn in classifiers.items():
    print(
        f"{name}\nsigma  predicted  worst class  gap (by chance)  average certified radius"
    )
    for sigma in sigmas:
        certificate = smoothing.certify(
            jax.random.key(0),
            apply_fn,
            x,
            sigma=sigma,
            num_classes=test.num_classes,
            num_estimation=num_samples,
        )
        certified, predicted = (
            hidden_cost.classwise_report(
                y, labels, num_classes=test.num_classes, radii=certificate.radius["l2"]
            )
            for labels in (
                certificate.prediction,
                hidden_cost.plurality(certificate.counts),
            )
        )
        reports[name, sigma] = certified, predicted
        gap, worst = predicted.disparity, predicted.accuracy.argmin()
        print(
            f"{sigma:5}  {predicted.overall_accuracy:9.2f}"
            f"  {worst:>5} {predicted.accuracy[worst]:.2f}"
            f"  {gap.gap:6.2f} ({gap.chance_gap:.2f})"
            f"  {certified.radii.overall_average:18.3f}"
        )


# %% [markdown]
# With this number of images, ten equal classes would differ by the number in brackets
# on average. Only a gap well above it is meaningful.


# %%
def accuracy_by_class(name, kind):
    """Accuracy against noise, one line a class; kind 0 is certified, 1 predicted."""
    tables = [reports[name, sigma][kind] for sigma in sigmas]
    accuracy = np.stack([table.accuracy for table in tables], axis=1)
    return plotting.accuracy_by_class(
        sigmas,
        {str(c): accuracy[c] for c in range(test.num_classes)},
        needed={
            f"radius {radius}": hidden_cost.min_sigma_for_radius(
                radius, num_samples=num_samples, alpha=0.001
            )
            for radius in (1, 2)
        },
        ylabel=f"Accuracy ({('certified', 'most votes')[kind]})",
        title=name,
    )


first, second = classifiers
accuracy_by_class(first, 1)

# %% [markdown]
# The model trained without noise loses whole classes while others keep their accuracy.
# A dashed line marks the minimum noise level at which this number of samples can
# certify that radius. The accuracy lost there is the cost of the radius.

# %%
for finding in hidden_cost.classwise_findings(reports[first, sigmas[-1]][1]):
    print(finding)

# %%
accuracy_by_class(second, 1)

# %% [markdown]
# Training with noise preserves the predictions up to a larger noise level. But a
# prediction is not a certificate:

# %%
accuracy_by_class(second, 0)

# %% [markdown]
# Certificates need a majority of the votes, and classes differ as soon as a larger
# radius is requested. The average over all classes would only show one line in the
# middle.

# %% [markdown]
# ## Regions on a plane
#
# The figure shows the plane through three images, for the model trained without noise.
# Each pixel shows the class with most votes.

# %%
corners = np.stack([x[y == c][0] for c in (1, 6, 4)])
slices = {
    f"sigma {sigma}": hidden_cost.slice_map(
        jax.random.key(0),
        classifiers[first],
        corners,
        sigma=sigma,
        num_classes=test.num_classes,
        resolution=resolution,
        num_samples=num_samples // 4,
    )
    for sigma in (0.75, 1.5)
}
for name, found in slices.items():
    ratio = hidden_cost.area_fractions(found).ratio
    print(
        name, *(f"class {c}: {ratio[c]:.2f} of its area" for c in (1, 6, 4)), sep=", "
    )

# %%
plotting.region_slice(slices, class_names=[str(c) for c in range(test.num_classes)])

# %% [markdown]
# The regions of two classes shrink until their own images are outside, and another
# class takes their place. An average radius does not show this.

# %% [markdown]
# ## Next steps
#
# - Set `train_sigma` to 1.0: too much noise in training costs accuracy as well.
# - `experiments/hidden_cost.py` in the repository does all of this for any model, with
#   intervals, over a grid of noise in training and smoothing, and for logs of other
#   tools, and writes one HTML page.
# - The page "The hidden cost of smoothing" of the documentation is the guide, and
#   "Hidden Cost of Randomized Smoothing" has the equations, their tests and numbers.
