"""Convolutions and pools of ONNX: the operators that look through windows.

Images are `[n, c, *spatial]` with any number of spatial axes. Convolutions run in full
precision. All functions are [device].
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Windows(NamedTuple):
    """Where a kernel or a pool looks, one entry a spatial axis."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # below, above


def layout(
    x: jax.Array,
    size: Sequence[int],
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Windows:
    """The windows that the attributes of an operator describe.

    Args:
        x: the images.
        size: entries of a window along each spatial axis.
        auto_pad: "NOTSET" for `pads`, "VALID" for none, "SAME_UPPER" or "SAME_LOWER"
            for as many windows as input entries over stride; an odd entry of padding
            goes to the upper or lower end.
        dilations: distances between the entries of a window, ones unless given.
        pads: all lower ends, then all upper ends; zeros unless given.
        strides: distances between windows, ones unless given.

    Raises:
        ValueError: if the padding is not one of these.
    """
    ones = (1,) * (x.ndim - 2)
    strides, dilations = tuple(strides or ones), tuple(dilations or ones)
    pads = pads or (0, 0) * len(ones)
    if auto_pad != "NOTSET" and any(pads):
        raise ValueError(f"pads {pads} with auto_pad {auto_pad!r} are not supported.")
    if auto_pad in ("NOTSET", "VALID"):
        ends = zip(pads[: len(ones)], pads[len(ones) :], strict=True)
        return Windows(tuple(size), strides, dilations, tuple(ends))
    axes = zip(x.shape[2:], size, strides, dilations, strict=True)
    totals = [
        max((math.ceil(n / stride) - 1) * stride + (k - 1) * dilation + 1 - n, 0)
        for n, k, stride, dilation in axes
    ]
    halves = {
        "SAME_UPPER": tuple((total // 2, total - total // 2) for total in totals),
        "SAME_LOWER": tuple((total - total // 2, total // 2) for total in totals),
    }
    if auto_pad not in halves:
        raise ValueError(f"auto_pad {auto_pad!r} is not supported.")
    return Windows(tuple(size), strides, dilations, halves[auto_pad])


def conv(
    x: jax.Array,
    weight: jax.Array,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    **window: Any,
) -> jax.Array:
    """A convolution with `[out, c / group, *size]`, without flipping the kernel.

    Args:
        x: the images.
        weight: the kernels.
        group: groups of channels that do not see each other.
        kernel_shape: the size of the kernels again.
        **window: attributes of `layout`.
    """
    size = weight.shape[2:]
    if tuple(kernel_shape or size) != size:
        raise ValueError(f"kernel_shape is {kernel_shape}, the weight has {size}.")
    windows = layout(x, size, **window)
    return lax.conv_general_dilated(
        x,
        weight,
        windows.strides,
        windows.pads,
        rhs_dilation=windows.dilations,
        feature_group_count=group,
        precision=lax.Precision.HIGHEST,
    )


def conv_transpose(
    x: jax.Array,
    weight: jax.Array,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    **window: Any,
) -> jax.Array:
    """The transpose of a convolution with `[c, out / group, *size]`.

    Args:
        x: the images.
        weight: the kernels.
        group: groups of channels that do not see each other.
        kernel_shape: the size of the kernels again.
        output_padding: entries to add at the upper end of each axis, zeros unless
            given.
        output_shape: lengths of the spatial axes, which decide on the padding.
        auto_pad: as for `layout`; "SAME_UPPER" and "SAME_LOWER" multiply lengths by
            the strides.
        **window: other attributes of `layout`.
    """
    size = weight.shape[2:]
    if tuple(kernel_shape or size) != size:
        raise ValueError(f"kernel_shape is {kernel_shape}, the weight has {size}.")
    windows = layout(x, size, **window)
    extra = tuple(output_padding or (0,) * len(size))
    reach = [(k - 1) * d for k, d in zip(size, windows.dilations, strict=True)]
    wanted = output_shape
    if auto_pad.startswith("SAME") and wanted is None:
        axes = zip(x.shape[2:], windows.strides, strict=True)
        wanted = [n * stride for n, stride in axes]
    pads = windows.pads
    if wanted is not None:
        parts = (x.shape[2:], windows.strides, reach, extra, wanted[-len(size) :])
        totals = [
            (n - 1) * s + r + 1 + e - w for n, s, r, e, w in zip(*parts, strict=True)
        ]
        halves = [(total // 2, total - total // 2) for total in totals]
        pads = tuple(h if auto_pad == "SAME_UPPER" else h[::-1] for h in halves)
    channels, out = weight.shape[:2]
    kernel = weight.reshape(group, channels // group, out, *size).swapaxes(1, 2)
    kernel = kernel.reshape(group * out, channels // group, *size)
    return lax.conv_general_dilated(
        x,
        lax.rev(kernel, range(2, x.ndim)),
        (1,) * len(size),
        [
            (r - low, r - high + e)
            for r, (low, high), e in zip(reach, pads, extra, strict=True)
        ],
        lhs_dilation=windows.strides,
        rhs_dilation=windows.dilations,
        feature_group_count=group,
        precision=lax.Precision.HIGHEST,
    )


def max_pool(
    x: jax.Array,
    *,
    kernel_shape: Sequence[int],
    ceil_mode: int = 0,
    storage_order: int = 0,
    **window: Any,
) -> jax.Array:
    """The largest entry of each window; padding is no candidate.

    Args:
        x: the images.
        kernel_shape: size of the windows.
        ceil_mode: 1 for a last window that may stick out at the upper end.
        storage_order: of the indices, which are not computed.
        **window: attributes of `layout`.
    """
    del storage_order
    windows = _stretched(ceil_mode, x, layout(x, kernel_shape, **window))
    return _reduced(lax.max, -math.inf, x, windows)


def average_pool(
    x: jax.Array,
    *,
    kernel_shape: Sequence[int],
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    **window: Any,
) -> jax.Array:
    """The mean of each window.

    Args:
        x: the images.
        kernel_shape: size of the windows.
        ceil_mode: 1 for a last window that may stick out at the upper end. What sticks
            out of the padding is left out of the mean.
        count_include_pad: 1 to take padding as zeros, 0 to leave it out of the mean.
        **window: attributes of `layout`.
    """
    windows = layout(x, kernel_shape, **window)
    stretched = _stretched(ceil_mode, x, windows)
    sums = _reduced(lax.add, 0.0, x, stretched)
    pads = windows.pads if count_include_pad else ((0, 0),) * len(windows.pads)
    counts = _num_inside(x.shape[2:], stretched, pads)
    return sums / counts.astype(x.dtype)[None, None]


def lp_pool(
    x: jax.Array,
    *,
    kernel_shape: Sequence[int],
    p: int = 2,
    ceil_mode: int = 0,
    **window: Any,
) -> jax.Array:
    """The p-norm of each window.

    Args:
        x: the images.
        kernel_shape: size of the windows.
        p: of the norm, > 0.
        ceil_mode: 1 for a last window that may stick out at the upper end.
        **window: attributes of `layout`.
    """
    windows = _stretched(ceil_mode, x, layout(x, kernel_shape, **window))
    return _root(_reduced(lax.add, 0.0, _power(x, p), windows), p)


def global_average_pool(x: jax.Array) -> jax.Array:
    """The mean over all spatial axes, which stay with length one."""
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest entry over all spatial axes, which stay with length one."""
    return x.max(axis=tuple(range(2, x.ndim)), keepdims=True)


def global_lp_pool(x: jax.Array, *, p: int = 2) -> jax.Array:
    """The p-norm over all spatial axes, which stay with length one.

    Args:
        x: the images.
        p: of the norm, > 0.
    """
    axes = tuple(range(2, x.ndim))
    return _root(_power(x, p).sum(axis=axes, keepdims=True), p)


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Values `[c]` as `[1, c, 1, ...]` of the rank of x."""
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _reduced(
    combine: Callable[..., Any], start: float, x: jax.Array, windows: Windows
) -> jax.Array:
    size, strides, dilations, pads = windows
    if jnp.issubdtype(x.dtype, jnp.integer):
        start = max(start, jnp.iinfo(x.dtype).min)
    return lax.reduce_window(
        x,
        x.dtype.type(start),
        combine,
        window_dimensions=(1, 1, *size),
        window_strides=(1, 1, *strides),
        padding=((0, 0), (0, 0), *pads),
        window_dilation=(1, 1, *dilations),
    )


def _power(x: jax.Array, p: int) -> jax.Array:
    """Sizes to the power p."""
    return jnp.square(x) if p == 2 else jnp.abs(x) if p == 1 else jnp.abs(x) ** p


def _root(x: jax.Array, p: int) -> jax.Array:
    return jnp.sqrt(x) if p == 2 else x if p == 1 else x ** (1 / p)


def _steps(length: int, axis: int, windows: Windows) -> tuple[int, int]:
    """Number of windows along an axis less one, and what is left over at its end."""
    reach = (windows.size[axis] - 1) * windows.dilations[axis] + 1
    return divmod(length + sum(windows.pads[axis]) - reach, windows.strides[axis])


def _stretched(ceil_mode: int, x: jax.Array, windows: Windows) -> Windows:
    """The windows with padding for a last one that sticks out, if there is one.

    It has to start before the padding of the upper end.
    """
    pads = list(windows.pads)
    for axis, length in enumerate(x.shape[2:]):
        count, rest = _steps(length, axis, windows)
        low, high = pads[axis]
        stride = windows.strides[axis]
        if ceil_mode and rest and (count + 1) * stride < length + low:
            pads[axis] = (low, high + stride - rest)
    return windows._replace(pads=tuple(pads))


def _num_inside(
    lengths: Sequence[int], windows: Windows, pads: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Number of entries of each window that are in the image with these pads."""
    counts = []
    for axis, length in enumerate(lengths):
        starts = np.arange(_steps(length, axis, windows)[0] + 1)
        starts = starts * windows.strides[axis] - windows.pads[axis][0]
        offsets = np.arange(windows.size[axis]) * windows.dilations[axis]
        places = np.add.outer(starts, offsets)
        low, high = pads[axis]
        counts.append(np.sum((places >= -low) & (places < length + high), axis=1))
    return functools.reduce(np.multiply.outer, counts)
