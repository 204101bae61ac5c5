"""Inputs of the tests; waves have no random numbers, and noted values."""

import numpy as np


def waves(tag, shape):
    index = np.indices(shape).astype(float)
    phase = sum(step * own for step, own in zip((0.7, 1.3, 2.1), index, strict=False))
    return np.sin(0.3 + tag + phase + 0.17 * np.prod(index + 1, axis=0))


FIRST, SECOND = waves(0.0, (4, 3)), waves(0.4, (4, 3))
ANCHORS = waves(0.2, (4, 3))
POSITIVES = 0.3 * waves(0.35, (3, 4, 3)) + ANCHORS
NEGATIVES = waves(1.1, (4, 5, 3))
MIXED = 0.6 * POSITIVES + 0.4 * np.moveaxis(NEGATIVES[:, :3], 1, 0)
ATTACKED = ANCHORS + 0.25 * waves(2.2, (4, 3))
ATTACKED_NEGATIVES = NEGATIVES + 0.1 * waves(3.3, (4, 5, 3))
WEIGHTS = np.array([0.5, 0.75, 1.0, 1.25])
THREE_VIEWS = np.stack([waves(0.15 * v, (4, 3)) for v in range(3)])


def noisy_views(num_views=2, num=6, width=4, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(num, width))
    return images + 0.5 * rng.normal(size=(num_views, num, width))
