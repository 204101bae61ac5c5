"""Position embeddings for another grid of patches, by the rule of each source. [host].

The rules differ in the interpolating kernel, in where a grid point lies (pixel centres
or corners) and in whether shrinking averages. Weights fine-tuned or published at
another resolution went through one of them, so it is chosen by name.
"""

import numpy as np
import scipy.ndimage
from einops import rearrange

from robustjax import _validate

RULES = ("vit_jax", "timm", "timm_npz", "dinov2", "transformers")
_CUBIC = ("dinov2", "transformers")  # a = -3/4, on four points
_OFFSET = 0.1  # patches that the code of DINO and DINOv2 adds to the side it scales to


def effective_rule(rule: str, *, registers: int) -> str:
    """The rule that is applied: models with registers are resized as by timm.

    [host] The code of DINOv2 and transformers average where they shrink the table of a
    model with registers, and only there.

    Args:
        rule: one of the table of `resize_positions`.
        registers: number of register tokens of the model.

    Returns:
        "timm" for "dinov2" and "transformers" with registers, else the rule.
    """
    return "timm" if registers and rule in _CUBIC else rule


def resize_positions(
    table: np.ndarray, side: int, *, rule: str, registers: int = 0
) -> np.ndarray:
    """Interpolates a table of position embeddings to side * side patches.

    [host] Computed in float64.

    ============  ==============================================================
    rule          what it does
    ============  ==============================================================
    vit_jax       linear, corners on corners, as `scipy.ndimage.zoom(order=1)`
    timm          cubic (a = -1/2), averages where it shrinks
    timm_npz      linear between pixel centres, never averages
    dinov2        cubic (a = -3/4) with scale (side + 0.1) / old side, never
                  averages: the code of DINO and DINOv2
    transformers  cubic (a = -3/4) with scale side / old side, never averages:
                  current transformers (old versions: dinov2), exports of DINOv2
    ============  ==============================================================

    With registers the last two are replaced by "timm", see `effective_rule`.

    Args:
        table: `[1, old_side ** 2, width]`, without a row for the class token.
        side: patches along a side of the new grid.
        rule: one of the table.
        registers: number of register tokens of the model.

    Returns:
        `[1, side ** 2, width]` in the dtype of the table.

    Raises:
        ValueError: if the rule is not known.

    Example:
        >>> table = np.arange(4.0).reshape(1, 4, 1)
        >>> resize_positions(table, 3, rule="vit_jax").ravel()
        array([0. , 0.5, 1. , 1. , 1.5, 2. , 2. , 2.5, 3. ])
    """
    _validate.one_of(RULES, rule=rule)
    _validate.integer(1, side=side)
    old = round(table.shape[1] ** 0.5)
    grid = rearrange(np.float64(table), "1 (row col) d -> row col d", row=old)
    rule = effective_rule(rule, registers=registers)
    if rule == "vit_jax":
        grid = scipy.ndimage.zoom(grid, (side / old, side / old, 1), order=1)
    else:
        weights = _weights(old, side, rule)
        grid = np.einsum("ia,jb,abd->ijd", weights, weights, grid, optimize=True)
    return rearrange(grid, "row col d -> 1 (row col) d").astype(table.dtype)


def _weights(old: int, new: int, rule: str) -> np.ndarray:
    """`[new, old]`: how much of each old grid point a new one takes, along one axis."""
    step = old / (new + _OFFSET) if rule == "dinov2" else old / new
    centers = (np.arange(new) + 0.5) * step - 0.5
    if rule == "timm":  # the kernel is as wide as a new pixel; the border is cut off
        distances = np.abs(centers[:, None] - np.arange(old)) / max(step, 1.0)
        weights = _cubic(distances, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    reach = 2 if rule in _CUBIC else 1
    points = np.floor(centers).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    distances = np.abs(centers[:, None] - points)
    taps = _cubic(distances, -0.75) if rule in _CUBIC else 1 - distances
    weights = np.zeros((new, old))
    inside = points.clip(0, old - 1)  # points beyond the border repeat it
    np.add.at(weights, (np.arange(new)[:, None], inside), taps)
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981), with slope a at distance 1."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
