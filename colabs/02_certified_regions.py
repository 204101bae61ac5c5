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
# # Certified regions, and what the gradient adds
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/robustjax/robustjax/blob/v0.1.0/colabs/02_certified_regions.ipynb)
#
# Noise samples around an image estimate the probability of its class. At little extra
# cost they also estimate the gradient of that probability. This notebook draws the
# region that both together certify, converts it into radii in several norms, and
# certifies a few digits with and without the gradient.
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
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import norm as normal

from robustjax import data, metrics, models, plotting, smoothing

jax.devices()

# %% [markdown]
# ## Settings
#
# `sigma` is the noise level in units of the pixels, which are in [0, 1].

# %%
sigma = 0.25  # @param {type:"number"}
alpha = 0.001  # @param {type:"number"}
num_samples = 20_000  # @param {type:"integer"}
num_images = 40  # @param {type:"integer"}
num_steps = 500  # @param {type:"integer"}
num_angles = 181  # @param {type:"integer"}

if os.environ.get("ROBUSTJAX_FAST") == "1":  # a trial of every cell
    num_samples, num_images, num_steps, num_angles = 1_000, 8, 30, 6

# %% [markdown]
# ## The region around one point
#
# Let p be the probability of class A under noise. *Zeroth order* uses p alone. The
# worst classifier with that p is a half-space whose boundary may lie in any direction,
# so the certified region is a ball of radius sigma times the quantile of p.
#
# *First order* uses the gradient of p as well. Among all classifiers with that p the
# half-space has the longest gradient. A shorter gradient means that the boundary is
# curved, and its direction points away from the nearest part of the boundary. Below,
# rho is the length of the gradient divided by that of the half-space. On each outline
# the worst classifier with this p and this gradient has probability 1/2. The figure
# shows a plane through x that contains the gradient; all of these planes look the same.


# %%
def regions(p):
    """Certified radius in every direction, in units of sigma, for several gradients."""
    angles = np.linspace(1e-3, np.pi - 1e-3, num_angles)  # from the worst one
    rho = np.array([0.1, 0.5, 0.8, 0.95, 1])[:, None]
    length = rho * normal.pdf(normal.ppf(p))
    radii = smoothing.first_order_radius(
        p,
        -length * np.cos(angles),  # along the perturbation
        length * np.sin(angles),  # orthogonal to it
        form="unproven",
    )
    labels = [rf"$\rho$ = {share:g}" for share in rho.flat]
    return angles, dict(zip(labels, radii, strict=True))


p = 0.8
plotting.certified_region(
    *regions(p), reference=normal.ppf(p), max_radius=3, title=f"p = {p}"
)

# %% [markdown]
# For a small gradient the region is nearly a ball, larger than that of zeroth order. As
# the gradient grows, the region moves along it, away from the boundary, and becomes
# wider orthogonally to it. At rho = 1 it is the half-space itself. The dashed ball
# touches it in one point, in the direction opposite to the gradient. The l2 radius is
# determined by that direction, so it gains little. In orthogonal directions the gain is
# large.

# %%
p = 0.99
plotting.certified_region(*regions(p), reference=normal.ppf(p), title=f"p = {p}")

# %% [markdown]
# ## Radii in norms
#
# An l1 ball reaches as far as the l2 ball of the same radius only along single pixels.
# If the gradient is spread over many pixels, each of these directions is nearly
# orthogonal to it. So the radius in a norm follows from p, from the *dual* norm of the
# gradient, which is its maximum component along perturbations of the ball, and from its
# length:
#
# | ball | dual norm of the gradient |
# | --- | --- |
# | l2 | its length |
# | l1 | its largest component |
# | linf | the sum of its components' sizes |
# | subspace | the length of its part inside, and the length of the rest |
#
# The table shows the radii as multiples of the zeroth-order radius, for three gradients
# of the same length, rho = 0.9, that are spread over 1, 8 or all of 64 pixels.

# %%
p, dim = 0.99, 64
longest = normal.pdf(normal.ppf(p))
top = np.arange(dim) < dim // 2  # a subspace: the upper half of the image
zeroth = smoothing.zeroth_order_radius(p, sigma=1.0)
print("gradient in         l2      l1    linf    top half")
for num_pixels in (1, 8, 64):
    m = np.zeros(dim)
    m[-num_pixels:] = 0.9 * longest / np.sqrt(num_pixels)
    length = np.linalg.norm(m)
    radii = [
        smoothing.norm_radius(p, length, length, norm="l2"),
        smoothing.norm_radius(p, np.abs(m).max(), length, norm="l1"),
        smoothing.norm_radius(p, np.abs(m).sum(), length, norm="linf", dim=dim)
        * np.sqrt(dim),
        smoothing.norm_radius(
            p,
            np.linalg.norm(m[top]),
            np.linalg.norm(m[~top]),
            norm="subspace:top",
        ),
    ]
    shares = "  ".join(f"{radius / zeroth:6.3f}" for radius in radii)
    print(f"{num_pixels:>2} of {dim} pixels  {shares}")

# %% [markdown]
# With a gradient in one pixel l1 gains nothing and linf much; with a gradient spread
# over all pixels it is the opposite. The first two gradients lie in the lower half of
# the image, so perturbations of the upper half are orthogonal to them.
#
# These radii have the form "box", which takes bounds of the norms instead of exact
# values, because estimates only give bounds. It is proved for the whole ball.

# %% [markdown]
# ## Certify digits
#
# First, train a small network with noise.

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
# `order=1` estimates the gradient from the same samples that count the votes. All radii
# of an image hold jointly with probability 1 - alpha; the bounds of the class
# probability and of the gradient share alpha. `zeroth_radius` is the radius from the
# bound of the probability alone, and `radius` is never below it.

# %%
mask = np.zeros(test.images.shape[1:])
mask[: mask.shape[0] // 2] = 1  # the upper half of the image
certificate = smoothing.certify(
    jax.random.key(0),
    models.classifier(module, variables),
    test.images[:num_images],
    sigma=sigma,
    num_classes=test.num_classes,
    num_estimation=num_samples,
    alpha=alpha,
    order=1,
    norms=("l2", "l1", "linf", "subspace:top"),
    subspaces={"top": mask},
)

# %%
print("digit  p at least  l2 order 0 -> 1   l1 order 0 -> 1")
for i in range(8):
    zeroth, first = certificate.zeroth_radius, certificate.radius
    print(
        f"{test.labels[i]:>5}  {certificate.p_lower[i]:>10.4f}"
        f"     {zeroth['l2'][i]:.3f} -> {first['l2'][i]:.3f}"
        f"    {zeroth['l1'][i]:.3f} -> {first['l1'][i]:.3f}"
    )

# %%
correct = certificate.prediction == test.labels[:num_images]
for norm in certificate.radius:
    before, after = (
        metrics.average_certified_radius(correct, radius[norm])
        for radius in (certificate.zeroth_radius, certificate.radius)
    )
    print(
        f"{norm:<12}  average certified radius {before:.4f} -> {after:.4f} "
        f"({after / before - 1:+.1%})"
    )

# %%
plotting.certified_accuracy_by_norm(
    correct, certificate.zeroth_radius, certificate.radius
)

# %% [markdown]
# The gain depends on how precisely the gradient is known. Its bounds become narrower
# with the number of samples, so images with p near 1, where the gradient is short, need
# many.

# %% [markdown]
# ## Next steps
#
# - Raise `num_samples` to 100,000 and see the gain grow, in linf too.
# - `experiments/certify.py --order=1 --norms=l2,l1,linf` in the repository does this for
#   whole data sets. For colour images `subspace:red` is one channel.
# - The page "Higher-Order Certification for Randomized Smoothing" of the documentation
#   has the equations and their tests, and the proof that one number covers a whole ball.
