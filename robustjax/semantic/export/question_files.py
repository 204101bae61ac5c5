"""A question about a moved image, as a network and a property for other verifiers.

The network maps the parameters t of an attribute to the logits f(g(t)). The property
asks for a counterexample,

    -left <= t <= right   and   f_j(g(t)) >= f_y(g(t)) for some j != y.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate, bounds
from robustjax._precision import as_run, cpu, float64_on_cpu, own_copies
from robustjax.bounds import tracing
from robustjax.semantic import attributes, color, parameter_ranges
from robustjax.semantic.attributes import Attribute
from robustjax.semantic.export import composition, image_units, network_files
from robustjax.semantic.export.onnx_nodes import Writer
from robustjax.semantic.search import counterexamples


class Exported(NamedTuple):
    """The files of a question."""

    onnx: pathlib.Path
    vnnlib: pathlib.Path
    operators: tuple[str, ...]  # of the network, sorted


def export_onnx(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    limit: parameter_ranges.Limit | None = None,
    path: str | os.PathLike[str],
) -> Exported:
    """Writes a moved image in front of a model as ONNX, and its question as VNN-LIB.

    [host] The network takes the parameters of the attribute, `[1, d]`, and gives the
    logits, `[1, k]`. The image is a part of its constants. The property holds no
    counterexample if, and only if, the label wins within the limits.

    A ReLU network becomes Gemm, Conv, Add, Relu, Reshape and Transpose of opset 13, and
    so do its maxima, clips and absolute values. tanh, sigmoid, exp and a few other
    curves are written as they are; softmax, SiLU and GELU have no form. Mul is written
    for products of two numbers that depend on the parameters, and for a product with
    more than 2,048 different factors.

    Guarantee:
        In exact arithmetic the network is the model at the moved image, within the
        limits only. Its constants are rounded to float32 once, so its logits differ
        from those of the model by about 1e-5, relative to the largest number inside. A
        verdict is about the network in the file and holds for the model up to this
        difference.

    Args:
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: "hue", "saturation", "lightness", "shear", "translation_rows" or
            "translation_columns", or one of these "+brightness"; "brightness",
            "contrast" or "brightness_contrast". See `semantic.attribute`.
        limit: how far to go, a number for all, (left, right), or a pair a parameter;
            default: that of the attribute.
        path: the network, a name that ends in .onnx; an existing file is replaced. The
            property goes next to it, with the ending .vnnlib.

    Returns:
        The paths of both files, and the operators of the network.

    Raises:
        ImportError: if onnx is not installed.
        ValueError: if the image is no image in [0, 1], the label no class, the
            attribute not piecewise linear in its parameters, the limits zero or out of
            range, or the path has another ending.
        UnsupportedError: if an operation of the model has no form in the file; names
            it.

    Example:
        >>> import tempfile
        >>> model = lambda x: x[:, 0, 0] * np.array([[1, -1]]) + np.array([[0, 0.6]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export_onnx(model, np.full((1, 1, 1), 0.5), 0, limit=0.1,
        ...                         attribute="brightness", path=f"{folder}/net.onnx")
        ...     print(found.vnnlib.read_text())
        (declare-const X_0 Real)
        (declare-const Y_0 Real)
        (declare-const Y_1 Real)
        (assert (>= X_0 -0.1))
        (assert (<= X_0 0.1))
        (assert (>= Y_1 Y_0))

    Reference: Mohapatra et al. (2020), arXiv 1912.09533, for layers in front of a
        verifier; their form here is ours.
    """
    path = pathlib.Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"Expected path to end in .onnx, got {path}.")
    network_files.library()
    moving = attributes.resolve(attribute)
    ranges = parameter_ranges.resolve(moving, limit)
    if not any(map(any, ranges)):
        raise ValueError(f"Expected a limit above 0, got {limit}.")
    x = color.on_host(image, is_color=moving.is_color)
    run = as_run(bounds.single(apply_fn))
    writer = Writer()
    with float64_on_cpu():
        fn: Any = jax.device_put(own_copies(run), cpu())
        num_classes = len(counterexamples.logits_of(fn, x))
        if num_classes < 2:
            raise ValueError("Expected a model of several logits, got one.")
        _validate.labels(num_classes, label=label)
        moved = image_units.image_fn(moving, x, ranges)
        numbers = jax.ShapeDtypeStruct((len(ranges),), np.float64)
        graph = tracing.trace(lambda t: fn(moved(t)), numbers, casts="ignore")
        result = composition.write(graph, writer)
    operators = network_files.save(
        writer, result, path, num_parameters=len(ranges), num_outputs=num_classes
    )
    property_path = path.with_suffix(".vnnlib")
    property_path.write_text(_property(ranges, int(label), num_classes), "utf-8")
    return Exported(path, property_path, operators)


def _property(
    ranges: Sequence[tuple[float, float]], label: int, num_classes: int
) -> str:
    """The question in VNN-LIB."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(ranges))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(num_classes)]
    for i, (left, right) in enumerate(ranges):
        lines += [
            f"(assert (>= X_{i} {0.0 - left!r}))",
            f"(assert (<= X_{i} {right!r}))",
        ]
    losses = [f"(>= Y_{j} Y_{label})" for j in range(num_classes) if j != label]
    if len(losses) == 1:
        lines.append(f"(assert {losses[0]})")
    else:
        lines.append(f"(assert (or {' '.join(f'(and {loss})' for loss in losses)}))")
    return "\n".join(lines) + "\n"
