"""Draws the figures of the gallery from the embedded digits.

    python docs/gallery.py    # writes docs/_static/gallery/*.png, about a minute

Each function below is one figure and is shown next to it in `docs/gallery.md`.
"""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.stats import norm as normal

from robustjax import (
    attacks,
    data,
    hidden_cost,
    plotting,
    semantic,
    smoothing,
    synbench,
)

FOLDER = pathlib.Path(__file__).parent / "_static" / "gallery"
DIGITS = data.load("digits")
TEST = slice(0, 100)  # certified
TRAIN = slice(100, None)
SIGMAS = (0.1, 0.25, 0.5, 1.0)


def linear_classifier(train_sigma=0.25):
    """Least squares on the digits; noise in training is a ridge penalty."""
    x = DIGITS.images[TRAIN].reshape(-1, 64)
    targets = np.eye(10)[DIGITS.labels[TRAIN]] - 0.1
    center = x.mean(axis=0)
    covariance = (x - center).T @ (x - center) + len(x) * train_sigma**2 * np.eye(64)
    weight = jnp.asarray(np.linalg.solve(covariance, (x - center).T @ targets))
    return lambda images: (images.reshape(len(images), 64) - center) @ weight


def certificates(sigma, *, train_sigma=0.25, **settings):
    """Whether each test image is classified correctly, and its certificate."""
    found = smoothing.certify(
        jax.random.key(0),
        linear_classifier(train_sigma),
        DIGITS.images[TEST],
        sigma=sigma,
        num_classes=10,
        num_estimation=2048,
        **settings,
    )
    return found.prediction == DIGITS.labels[TEST], found


def certified_accuracy_curve():
    runs = {}
    for sigma in SIGMAS[:3]:
        correct, found = certificates(sigma)
        runs[f"sigma {sigma}"] = correct, found.radius["l2"]
    return plotting.certified_accuracy_curve(runs, alpha=1e-3)


def certified_accuracy_by_norm():
    correct, found = certificates(0.25, order=1, norms=("l2", "l1", "linf"))
    return plotting.certified_accuracy_by_norm(
        correct, found.zeroth_radius, found.radius
    )


def certified_region():
    p, angles = 0.8, np.linspace(1e-3, np.pi - 1e-3, 181)
    share = np.array([0.1, 0.5, 0.9])[:, None]
    length = share * normal.pdf(normal.ppf(p))
    radii = smoothing.first_order_radius(
        p, -length * np.cos(angles), length * np.sin(angles)
    )
    labels = [f"gradient {s:g} of its maximum" for s in share.flat]
    return plotting.certified_region(
        angles, dict(zip(labels, radii, strict=True)), reference=normal.ppf(p)
    )


def accuracy_by_class():
    correct = np.stack([certificates(sigma)[0] for sigma in SIGMAS])
    labels = DIGITS.labels[TEST]
    accuracy = {
        f"digit {c}": correct[:, labels == c].mean(axis=1) for c in (0, 1, 6, 8)
    }
    return plotting.accuracy_by_class(SIGMAS, accuracy)


def noise_heat_map():
    accuracy = [
        [certificates(sigma, train_sigma=train)[0].mean() for sigma in SIGMAS]
        for train in SIGMAS
    ]
    return plotting.noise_heat_map(SIGMAS, SIGMAS, {"certified accuracy": accuracy})


def region_slice():
    images, labels = DIGITS.images[TEST], DIGITS.labels[TEST]
    corners = np.stack([images[labels == c][0] for c in (1, 6, 4)])
    slices = {
        f"sigma {sigma}": hidden_cost.slice_map(
            jax.random.key(0),
            linear_classifier(),
            corners,
            sigma=sigma,
            num_classes=10,
            resolution=32,
            num_samples=256,
        )
        for sigma in (0.5, 1.0)
    }
    return plotting.region_slice(slices, class_names=list("0123456789"))


def shrinkage_along_rays():
    images = DIGITS.images[TEST][:40]
    key = jax.random.key(0)
    directions = jax.random.normal(key, images.shape)
    exits = {}
    for sigma in (0.25, 1.0):
        found = hidden_cost.ray_shrinkage(
            key,
            linear_classifier(),
            images,
            directions=directions,
            sigma=sigma,
            num_classes=10,
            max_distance=8.0,
            num_samples=256,
        )
        exits[f"sigma {sigma}"] = found.smoothed_exit
    return plotting.shrinkage_along_rays(found.base_exit, exits)


def radius_histograms():
    classify, certified, attacked = linear_classifier(), [], []
    how = {"attribute": "brightness", "limit": 0.5}
    for image, label in zip(DIGITS.images[:12], DIGITS.labels[:12], strict=True):
        exact = semantic.exact_radius(classify, image, int(label), **how)
        attack = semantic.attack(classify, image, int(label), **how)
        certified.append(min(exact.left, exact.right))
        attacked.append(min(attack.left, attack.right, how["limit"]))
    return plotting.radius_histograms({"brightness": (certified, attacked)})


def image_grid():
    image = DIGITS.images[3]
    degrees, levels = (-20, 0, 20), (-0.3, 0.0, 0.3)
    rotated = [semantic.rotate(image, angle) for angle in degrees]
    brighter = [semantic.brightness(image, level) for level in levels]
    titles = [[f"{a} degrees" for a in degrees], [f"brightness {b}" for b in levels]]
    return plotting.image_grid([rotated, brighter], titles)


def synbench_scores():
    features = {
        "inputs": lambda x: x,
        "first half": lambda x: x[:, :8],
        "absolute values": jnp.abs,
    }
    found = {
        name: synbench.synbench(
            jax.random.key(0), feature_fn, (16,), num_train=512, num_test=512
        )
        for name, feature_fn in features.items()
    }
    return plotting.synbench_scores(found)


def accuracy_under_attack():
    x, labels = DIGITS.images[TEST], DIGITS.labels[TEST]
    accuracies = {}
    for train_sigma in SIGMAS[:3]:
        classify = linear_classifier(train_sigma)
        attacked = attacks.pgd(
            jax.random.key(0), classify, x, labels=labels, epsilon=0.1
        )
        clean = np.mean(np.argmax(classify(x), axis=-1) == labels)
        accuracies[f"trained with noise {train_sigma}"] = {
            "clean": [clean],
            "PGD": [1 - np.mean(attacked.is_adversarial)],
        }
    return plotting.accuracy_under_attack(accuracies)


FIGURES = (
    certified_accuracy_curve,
    certified_accuracy_by_norm,
    certified_region,
    accuracy_by_class,
    noise_heat_map,
    region_slice,
    shrinkage_along_rays,
    radius_histograms,
    image_grid,
    synbench_scores,
    accuracy_under_attack,
)


def write(figure, path):
    """Writes a figure as a small PNG of at most 64 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80, format="png")
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def main():
    """Draws all figures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        path = FOLDER / f"{draw.__name__}.png"
        write(draw(), path)
        print(path.name, path.stat().st_size, "bytes", flush=True)


if __name__ == "__main__":
    main()
