"""The rows of a certification run: columns, and a certificate as rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustjax import data, smoothing

_COLUMNS = (
    "idx", "label", "predict", "radius", "correct", "time", "count", "runner_up_count",
    "num_selection", "num_estimation", "num_invalid", "alpha", "sigma", "norm", "order",
    "runner_up", "num_classes", "dim", "p_lower", "p_upper", "bound", "stage", "form",
    "simultaneous", "failed",
)  # fmt: skip
FIRST_ORDER = ("zeroth_radius", "dual_norm", "dual_upper", "length_lower")


def columns(norms: Sequence[str], *, order: int) -> tuple[str, ...]:
    """Names of the columns of a run; those of single norms end in _<norm>.

    [host]

    Args:
        norms: as in `smoothing.certify`.
        order: 0 or 1.

    Returns:
        The names, as `rows` gives them.
    """
    names = [*_COLUMNS, *(f"radius_{norm}" for norm in norms[1:])]
    if order == 1:
        names += [f"{name}_{norm}" for norm in norms for name in FIRST_ORDER]
    return tuple(names)


def rows(
    certificate: "smoothing.Certificate",
    dataset: "data.Dataset",
    batch: Sequence[int],
    *,
    norms: Sequence[str],
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """One row for each distinct index of the batch.

    [host]

    Args:
        certificate: of the images of the batch, in its order.
        dataset: the images and their labels.
        batch: indices in the data set; the last may be repeated.
        norms: as in `smoothing.certify`.
        seconds: time of one image.

    Yields:
        Column -> value.
    """
    c = certificate
    for i, idx in enumerate(dict.fromkeys(batch)):
        label, predict = int(dataset.labels[idx]), int(c.prediction[i])
        values = (
            idx,
            label,
            predict,
            c.radius[norms[0]][i],
            int(predict == label),
            round(seconds, 6),
            c.count[i],
            c.runner_up_count[i],
            c.num_selection,
            c.num_samples[i],
            c.num_invalid[i],
            c.alpha,
            c.sigma,
            norms[0],
            c.order,
            c.runner_up,
            dataset.num_classes,
            dataset.images[0].size,
            c.p_lower[i],
            c.p_upper[i],
            c.bound,
            c.stage[i],
            c.form,
            int(c.simultaneous),
            int(c.failed[i]),
        )
        row: dict[str, Any] = dict(zip(_COLUMNS, values, strict=True))
        row |= {f"radius_{norm}": c.radius[norm][i] for norm in norms[1:]}
        for norm in c.gradient:
            of_norm = (c.zeroth_radius[norm][i], *(v[i] for v in c.gradient[norm]))
            names = (f"{name}_{norm}" for name in FIRST_ORDER)
            row |= dict(zip(names, of_norm, strict=True))
        yield row
