"""Exact radii of one attribute along which pixels and model are piecewise linear.

With g(t) the moved image, f the logits and y the label,

    right = min {t > 0 : f_y(g(t)) <= f_j(g(t)) for some j != y},

left the same for -t. Between knots a and b with margins v_a > 0 >= v_b the tie is at
a + v_a / (v_a - v_b) (b - a).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _validate, bounds
from robustjax._precision import as_run, cpu, float64_on_cpu, own_copies
from robustjax.semantic import attributes, color, parameter_ranges
from robustjax.semantic.attributes import Attribute
from robustjax.semantic.exact import piecewise_linear
from robustjax.semantic.relaxations import pixel_paths
from robustjax.semantic.search import counterexamples

_PIECES = 350  # that a stretch should have
_FIRST_SHARE = 1 / 256  # of the limit, the first stretch
_SMALLEST_SHARE = 1e-9  # of the limit
_all_knots = jax.jit(pixel_paths.all_knots, static_argnames=("attribute", "max_limit"))


class ExactRadius(NamedTuple):
    """How far an attribute can move before the class changes; float64 on the host."""

    left: float  # (-left, right) is the largest open range around 0
    right: float
    flip_left: int  # the class that ties at -left, -1 where that is the limit
    flip_right: int
    num_pieces: int  # on which the logits are linear, as far as was walked


def exact_radius(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    limit: float | tuple[float, float] | None = None,
) -> ExactRadius:
    """The exact range of an attribute in which a model gives an image its label.

    [host] The logits are followed from knot to knot in float64.

    Guarantee:
        In exact arithmetic the label has the largest logit on (-left, right), and
        another class ties at the end, unless that is the limit. Rounding of float64
        moves the ends by about 1e-12, relative to the limit, of models with well-scaled
        weights, and more where logits almost touch.

    Args:
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`; made of affine functions,
            ReLU, abs, clip and max.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: "hue", "saturation", "lightness", "brightness", "contrast", "shear",
            "translation_rows" or "translation_columns", see `semantic.attribute`.
        limit: how far to go, to both sides or to the left and to the right; default:
            that of the attribute.

    Returns:
        An `ExactRadius`; zeros where another class wins at 0.

    Raises:
        ValueError: if the image is no image in [0, 1], or a colour attribute meets one
            without three channels; if the attribute is unknown or not piecewise linear.
        UnsupportedError: if the model is not piecewise linear; names the primitive.

    Example:
        >>> model = lambda x: jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1)
        >>> found = exact_radius(model, np.full((1, 1, 1), 0.5), 0,
        ...                      attribute="brightness")
        >>> print(round(found.left, 6), found.right, found.flip_left)
        0.2 1.0 1

    Reference: ours, after Sotoudeh and Thakur (2019), arXiv 1908.06214, on lines.
    """
    moving = attributes.resolve(attribute)
    if len(moving.names) > 1 or not pixel_paths.is_linear(moving.names[0]):
        raise ValueError(
            f"Expected an attribute along which pixels are piecewise linear, got "
            f"{moving.name!r}; certify takes it."
        )
    ((left, right),) = parameter_ranges.resolve(moving, limit)
    x = color.on_host(image, is_color=moving.is_color)
    run = as_run(bounds.single(apply_fn))
    with float64_on_cpu():
        fn: Any = jax.device_put(own_copies(run), cpu())
        _validate.labels(len(counterexamples.logits_of(fn, x)), label=label)
        sides = [_one_side(fn, moving, x, int(label), end) for end in (-left, right)]
    return ExactRadius(
        sides[0].reach,
        sides[1].reach,
        sides[0].flip,
        sides[1].flip,
        sides[0].num_pieces + sides[1].num_pieces,
    )


class _Side(NamedTuple):
    reach: float
    flip: int
    num_pieces: int


def _one_side(
    fn: Partial, attribute: Attribute, x: np.ndarray, label: int, end: float
) -> _Side:
    """The way from 0 to an end, stretch by stretch."""
    limit, sign = abs(end), 1.0 if end > 0 else -1.0
    if limit == 0:
        return _Side(0.0, -1, 0)
    max_limit = 2.0 ** np.ceil(np.log2(limit))  # few, as each is compiled
    knots = _all_knots(attribute, jnp.asarray(x), limit, max_limit=max_limit)
    knots = np.asarray(knots) * sign
    knots = np.unique(knots[(knots > 0) & (knots < limit)])
    curve = Partial(_Curve(attribute), jnp.asarray(x), jnp.asarray(sign))
    start, width, pieces = 0.0, limit * _FIRST_SHARE, 0
    while start < limit:
        stop = min(start + width, limit)
        inside = knots[(knots > start) & (knots < stop)]
        if len(inside) > _PIECES:
            inside, stop = inside[:_PIECES], inside[_PIECES]
        try:
            times, logits = piecewise_linear.along_curve(
                fn, curve, np.array([start, *inside, stop])
            )
        except piecewise_linear.TooManyKnotsError:
            width = (stop - start) / 4
            if width < limit * _SMALLEST_SHARE:
                raise
            continue
        flip, reach = _first_loss(times, logits, label)
        pieces += len(times) - 1
        if flip >= 0:
            return _Side(reach, flip, pieces)
        width = (stop - start) * min(max(_PIECES / len(times), 0.25), 4.0)
        start = stop
    return _Side(limit, -1, pieces)


def _first_loss(times: np.ndarray, logits: np.ndarray, label: int) -> tuple[int, float]:
    """The class that first reaches the label, and when; -1 if none does."""
    margin = counterexamples.margins_of(logits, label)
    margin[:, label] = np.inf
    is_lost = ~(margin > 0)  # NaN as well
    if not is_lost.any():
        return -1, float(times[-1])
    at = int(np.argmax(is_lost.any(axis=1)))
    if at == 0:
        return int(np.argmax(is_lost[0])), float(times[0])
    before, after = margin[at - 1], margin[at]
    share = np.where(is_lost[at], 0.0, np.inf)
    fine = is_lost[at] & np.isfinite(after)
    share[fine] = before[fine] / (before[fine] - after[fine])
    flip = int(np.argmin(share))
    return flip, float(times[at - 1] + share[flip] * (times[at] - times[at - 1]))


class _Curve(NamedTuple):
    """The image by time, which runs from 0 to either side."""

    attribute: Attribute

    def __call__(self, image: Any, sign: jax.Array, time: jax.Array) -> jax.Array:
        """The image at a time. [device]."""
        return self.attribute.moved(image, {self.attribute.names[0]: sign * time})
