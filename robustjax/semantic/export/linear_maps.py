"""Linear primitives of JAX as Gemm and Conv.

    dot_general:         y = W x,                              (1)
    convolutions:        y = kernel * x,                       (2)
    sums of windows:     y = (1 for each channel) * x,         (3)
    products:            y = diag(c) x.                        (4)

Constants that are added are left out: see `composition`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from robustjax.semantic.export import moved_entries as entries
from robustjax.semantic.export.onnx_nodes import Tensor, Writer
from robustjax.semantic.export.single_steps import Step


def written(
    writer: Writer, step: Step, tensors: Sequence[Tensor | None]
) -> Tensor | None:
    """A linear primitive of tensors. [host].

    Args:
        writer: gets the nodes.
        step: the primitive.
        tensors: the inputs; None where one is zero.

    Returns:
        The result; None if the primitive, or such a case of it, has no form of its own.
    """
    if step.name in _JOINS:
        return _JOINS[step.name](writer, step, tensors)
    numbers = [a for a in step.operands if isinstance(a, int)]
    x = tensors[numbers[0]]
    if len(numbers) != 1 or x is None or step.name not in _FORMS:
        return None
    return _FORMS[step.name](writer, step, x)


def _sum(writer: Writer, step: Step, tensors: Sequence[Tensor | None]) -> Tensor | None:
    """A sum or difference of tensors, or of one and a constant."""
    terms = []
    signs = (1.0, -1.0 if step.name == "sub" else 1.0)
    for operand, sign in zip(step.operands, signs, strict=True):
        x = tensors[operand] if isinstance(operand, int) else None
        if x is not None and x.shape != step.shape:
            return None
        if x is not None:
            terms.append(x._replace(factor=sign * x.factor))
    return terms[0] if len(terms) == 1 else writer.added(*terms)


def _negative(writer: Writer, step: Step, x: Tensor) -> Tensor:
    return x._replace(factor=-x.factor)


def _product(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """An entrywise product with a constant, or a quotient by one: (4)."""
    first, second = step.operands
    if x.shape != step.shape:
        return None
    if isinstance(second, int):
        return None if step.name == "div" else writer.scaled(x, np.asarray(first))
    return writer.scaled(x, 1 / second if step.name == "div" else second)


def _reduce_sum(writer: Writer, step: Step, x: Tensor) -> Tensor:
    over = step.params["axes"]
    ones = np.ones((1, math.prod(x.shape[axis] for axis in over)))
    name, dims, free = writer.summed(x, over, ones)
    kept = [axis for axis in range(len(x.shape)) if axis not in over]
    return writer.tensor(
        name, dims, shape=step.shape, axes=[kept.index(axis) for axis in free]
    )


def _select(
    writer: Writer, step: Step, tensors: Sequence[Tensor | None]
) -> Tensor | None:
    """The sum of the cases, each where a constant chooses it."""
    which, *cases = step.operands
    if isinstance(which, int):
        return None
    terms = []
    for number, operand in enumerate(cases):
        x = tensors[operand] if isinstance(operand, int) else None
        if x is not None:
            chosen = np.broadcast_to(which == number, step.shape)
            terms.append(writer.scaled(x, chosen.astype(np.float64)))
    return functools.reduce(writer.added, terms)


def _dot(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """A matrix product with a constant, without batch axes: (1)."""
    contracted, batch = step.params["dimension_numbers"]
    if any(batch):
        return None
    is_left = isinstance(step.operands[0], int)
    constant = np.asarray(step.operands[1 if is_left else 0])
    over, own = contracted if is_left else contracted[::-1]
    others = [axis for axis in range(constant.ndim) if axis not in own]
    weights = np.transpose(constant, [*others, *own])
    weights = weights.reshape(-1, math.prod(x.shape[axis] for axis in over))
    name, dims, free = writer.summed(x, over, weights)
    kept = [axis for axis in range(len(x.shape)) if axis not in over]
    first = 0 if is_left else len(others)  # axis of the result that kept ones start at
    new = [first + kept.index(axis) for axis in free]
    start = len(kept) if is_left else 0
    return writer.tensor(
        name, dims, shape=step.shape, axes=[*range(start, start + len(others)), *new]
    )


def _conv(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """A convolution of one example with a constant kernel: (2)."""
    params = step.params
    inputs, kernels, outputs = params["dimension_numbers"]
    if (
        not isinstance(step.operands[0], int)
        or x.shape[inputs[0]] != 1
        or params["batch_group_count"] != 1
        or any(rate != 1 for rate in params["lhs_dilation"])
    ):
        return None
    return _windowed(
        writer,
        x,
        np.transpose(step.operands[1], kernels),
        axes=inputs[1:],
        result=(step.shape, outputs[1:]),
        strides=params["window_strides"],
        padding=params["padding"],
        dilation=params["rhs_dilation"],
        group=params["feature_group_count"],
    )


def _window_sum(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """Sums of windows, a convolution of each channel with ones: (3)."""
    params = step.params
    settings = [
        params[name] for name in ("window_dimensions", "window_strides", "padding")
    ]
    moving = [
        axis
        for axis, (window, stride, pad) in enumerate(zip(*settings, strict=True))
        if (window, stride, tuple(pad)) != (1, 1, (0, 0))
    ]
    still = [axis for axis in x.order() if axis not in moving]
    if any(rate != 1 for rate in params["base_dilation"]) or len(moving) > 2:
        return None
    window, strides, padding, dilation = (
        [params[name][axis] for axis in moving]
        for name in (
            "window_dimensions", "window_strides", "padding", "window_dilation",
        )
    )  # fmt: skip
    count = math.prod(x.shape[axis] for axis in still)
    kernel = np.eye(count).reshape(count, count, *[1] * len(moving)) * np.ones(window)
    return _windowed(
        writer,
        x,
        kernel,
        axes=[*still, *moving],
        result=(step.shape, [*still, *moving]),
        strides=strides,
        padding=padding,
        dilation=dilation,
    )


def _windowed(
    writer: Writer,
    x: Tensor,
    kernel: np.ndarray,
    *,
    axes: Sequence[int],
    result: tuple[tuple[int, ...], Sequence[int]],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    group: int = 1,
) -> Tensor | None:
    """A kernel `[m, k, *window]` over axes, those of channels first."""
    if any(pad < 0 for pads in padding for pad in pads):
        return None
    num_places = kernel.ndim - 2
    # Zeros in the kernel: a reader of networks may pass over dilations.
    window = kernel.shape[2:]
    sizes = [(n - 1) * rate + 1 for n, rate in zip(window, dilation, strict=True)]
    spread = np.zeros((*kernel.shape[:2], *sizes))
    spread[:, :, *(slice(None, None, rate) for rate in dilation)] = kernel
    places = [x.shape[axis] for axis in axes[len(axes) - num_places :]]
    num_channels = math.prod(x.shape) // math.prod(places)
    missing = 2 - num_places  # one place or none: axes of length one are added
    if missing > 0:
        spread = spread.reshape(*spread.shape, *[1] * missing)
        places += [1] * missing
    pads = np.array([*padding, *[(0, 0)] * max(missing, 0)]).T
    strides = [*strides, *[1] * max(missing, 0)]
    name = writer.conv(
        writer.arranged(x, axes, (num_channels, *places)),
        x.factor * spread,
        strides=[int(stride) for stride in strides],
        pads=pads.ravel().tolist(),
        group=group,
    )
    lengths = [
        (n + before + after - size) // stride + 1
        for n, before, after, size, stride in zip(
            places, *pads, spread.shape[2:], strides, strict=True
        )
    ]
    shape, order = result
    return writer.tensor(name, (len(spread), *lengths), shape=shape, axes=order)


_JOINS: dict[str, Callable[[Writer, Step, Sequence[Any]], Tensor | None]] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "concatenate": entries.concatenate,
    "select_n": _select,
}
_FORMS: dict[str, Callable[[Writer, Step, Tensor], Tensor | None]] = {
    "neg": _negative,
    "mul": _product,
    "div": _product,
    "reshape": entries.reshape,
    "squeeze": entries.reshape,
    "expand_dims": entries.reshape,
    "transpose": entries.transpose,
    "broadcast_in_dim": entries.broadcast,
    "slice": entries.part,
    "dynamic_slice": entries.dynamic_part,
    "gather": entries.taken,
    "rev": entries.reverse,
    "pad": entries.pad,
    "reduce_sum": _reduce_sum,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_sum": _window_sum,
}
