"""Lower bounds of the margins of a class over cells of an attribute, many at a time.

    margin(C) <= min over rows j and t in C of spec_j . f(g(t)),

with the moved image g(t), enclosed by intervals, planes or SP-layers, and the logits f.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robustjax import _validate, bounds
from robustjax._precision import cpu, float64_on_cpu, own_copies
from robustjax.semantic import sp_layers
from robustjax.semantic.attributes import CONTRAST, HSL, Attribute
from robustjax.semantic.relaxations import enclosures
from robustjax.semantic.search import counterexamples

TARGETS = ("all", "top2")
RELAXATIONS = ("planes", "layers", "both", "pixel_box", "scalar_box")


class How(NamedTuple):
    """How cells are bounded; static under jit."""

    attribute: Attribute
    max_widths: tuple[float, ...]  # of cells, straightened
    relaxation: str = "planes"
    """"planes": affine bounds of pixels; "layers": SP-layers; "both": the better for
    each class; "pixel_box": intervals of pixels; "scalar_box": the widest for all."""
    method: str = "crown"
    subdivisions: int = 1  # number of boxes along the first parameter, united
    chunk_size: int | None = None


def of_cells(
    fn: Partial,
    image: np.ndarray,
    cells: np.ndarray,
    *,
    spec: np.ndarray,
    how: How,
) -> np.ndarray:
    """Lower bounds of the minimum margin of each cell; NaN and negative prove nothing.

    [host] NaN as well where a margin may be infinite: a logit of inf proves nothing.
    Off the CPU, cells are bounded in float32 first, and those that seem proven again
    in float64 on the host CPU, which decides.

    Args:
        fn: maps one image to logits `[k]`, as from `as_run`.
        image: `[h, w, c]` float64.
        cells: `[n, 2, d]` float64.
        spec: `[s, k]`, rows that make margins of logits.
        how: options.

    Returns:
        `[n]` float64, which cover the rounding of float64 as in `bounds.verify`.
    """
    if jax.default_backend() == "cpu":
        return _in_float64(fn, image, cells, spec, how)
    arrays = [jnp.asarray(a, jnp.float32) for a in (image, cells, spec)]
    least = _least(fn, *_spread_out(arrays), how=how, rounding="ignore")
    margin = np.array(least, np.float64)
    likely = margin > 0
    if likely.any():
        kept = np.where(likely[:, None, None], cells, cells[likely][:1])
        margin[likely] = _in_float64(fn, image, kept, spec, how)[likely]
    return margin


def _in_float64(
    fn: Partial, image: np.ndarray, cells: np.ndarray, spec: np.ndarray, how: How
) -> np.ndarray:
    with float64_on_cpu():
        moved = jax.device_put(own_copies(fn), cpu())
        arrays = [jnp.asarray(a, jnp.float64) for a in (image, cells, spec)]
        return np.asarray(_least(moved, *arrays, how=how, rounding="cover"))


def _spread_out(arrays: list[jax.Array]) -> list[jax.Array]:
    """The cells divided between the devices, where their number allows."""
    devices = jax.local_devices()
    if len(arrays[1]) % len(devices):
        return arrays
    mesh = jax.sharding.Mesh(np.array(devices), ("cells",))
    spec = jax.sharding.PartitionSpec("cells")
    arrays[1] = jax.device_put(arrays[1], jax.sharding.NamedSharding(mesh, spec))
    return arrays


@functools.partial(jax.jit, static_argnames=("how", "rounding"))
def _least(
    fn: Partial,
    image: jax.Array,
    cells: jax.Array,
    spec: jax.Array,
    *,
    how: How,
    rounding: str,
) -> jax.Array:
    bound = functools.partial(_bound, spec=spec, how=how, rounding=rounding)

    def enclosed(cell: jax.Array) -> tuple[jax.Array, jax.Array, bounds.AffineInputs]:
        found = enclosures.enclosure(
            how.attribute, image, cell, max_widths=how.max_widths
        )
        if rounding == "cover":
            return enclosures.covered(how.attribute, image, found)
        return found

    def one(cell: jax.Array) -> jax.Array:
        found = []
        if how.relaxation != "layers":
            of_model = functools.partial(bound, fn)
            found.append(_through_pixels(image, cell, how, of_model, enclosed))
        if how.relaxation in ("layers", "both"):
            composed = sp_layers.compose(layer_of(how.attribute, image), jax.vmap(fn))
            found.append(bound(composed, (cell[0], cell[1])))
        lower = functools.reduce(jnp.fmax, [known.lower for known in found])
        upper = functools.reduce(jnp.fmin, [known.upper for known in found])
        is_finite = jnp.all(jnp.isfinite(lower) & jnp.isfinite(upper))
        return jnp.where(is_finite, jnp.min(lower), jnp.nan)

    return jax.vmap(one)(cells)


def _through_pixels(
    image: jax.Array,
    cell: jax.Array,
    how: How,
    bound: Callable[..., bounds.Bounds],
    enclosed: Callable[..., Any],
) -> bounds.Bounds:
    input_set: Any = None
    if how.subdivisions > 1:
        pieces = jax.vmap(enclosed)(_divided(cell, how.subdivisions))
        input_set = bounds.UnionOfBoxes(pieces[0], pieces[1])
        lower, upper = jnp.min(pieces[0], axis=0), jnp.max(pieces[1], axis=0)
    else:
        lower, upper, planes = enclosed(cell)
        input_set = planes if how.relaxation in ("planes", "both") else None
    if how.relaxation == "scalar_box":
        radius = jnp.max(jnp.maximum(upper - image, image - lower))
        lower, upper = image - radius, image + radius
    found = bound((lower, upper), input_set)
    is_known = jnp.all(jnp.isfinite(lower) & jnp.isfinite(upper))
    return bounds.Bounds(*(jnp.where(is_known, side, jnp.nan) for side in found))


def _bound(
    fn: Any,
    box: tuple[Any, Any],
    input_set: Any = None,
    *,
    spec: jax.Array,
    how: How,
    rounding: str,
) -> bounds.Bounds:
    return bounds.linear_bounds(
        fn,
        *box,
        spec=spec,
        input_set=input_set,
        method=how.method,
        casts="ignore",
        rounding=rounding,
        chunk_size=how.chunk_size,
    )


def _divided(cell: jax.Array, count: int) -> jax.Array:
    """Cells `[count, 2, d]` along the first parameter, with common ends."""
    ends = jnp.linspace(cell[0, 0], cell[1, 0], count + 1, dtype=cell.dtype)
    cells = jnp.broadcast_to(cell, (count, *cell.shape))
    return cells.at[:, 0, 0].set(ends[:-1]).at[:, 1, 0].set(ends[1:])


def batch_size_of(batch_size: int | None) -> int:
    """Cells at a time: as many as are asked for, or as suit the device. [host]."""
    if batch_size is None:
        return 4 if jax.default_backend() == "cpu" else 64
    _validate.integer(1, batch_size=batch_size)
    return batch_size


def margin_spec(
    fn: Partial, image: np.ndarray, label: int, *, targets: str
) -> np.ndarray:
    """Rows that turn logits into the margins that have to be positive. [host].

    Args:
        fn: maps one image to logits `[k]`.
        image: `[h, w, c]`.
        label: the class.
        targets: "all" or "top2".

    Returns:
        `[s, k]`.

    Raises:
        ValueError: if the label is no class.
    """
    _validate.one_of(TARGETS, targets=targets)
    logits = counterexamples.logits_of(fn, image)
    _validate.labels(len(logits), label=label)
    rows = np.asarray(bounds.margin_rows(label, num_classes=len(logits)), np.float64)
    if targets == "all":
        return rows
    others = np.where(np.arange(len(logits)) == label, -np.inf, logits)
    return rows[rows[:, int(np.argmax(others))] < 0]


def layer_of(attribute: Attribute, image: Any) -> Any:
    """The SP-layer of an attribute. [host].

    Args:
        attribute: hue, saturation, lightness, brightness and contrast have one.
        image: `[h, w, c]`.

    Returns:
        A Flax module, or what has its `apply`.

    Raises:
        ValueError: if the attribute has no SP-layer.
    """
    names = attribute.names
    if len(names) == 1 and names[0] in HSL:
        kinds = {
            "hue": sp_layers.Hue,
            "saturation": sp_layers.Saturation,
            "lightness": sp_layers.Lightness,
        }
        return kinds[names[0]](image)
    if names == CONTRAST:
        return sp_layers.BrightnessContrast(image)
    if len(names) == 1 and names[0] in CONTRAST:
        return sp_layers.BrightnessContrast(image, only=names[0])
    raise ValueError(
        f"There is no SP-layer of {attribute.name!r}; use relaxation='planes'."
    )
