"""Certificates of one batch of images under the settings of a run."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustjax.results.certification.settings import Settings

if TYPE_CHECKING:
    import jax

    from robustjax import data, smoothing


def certify_batch(
    settings: Settings,
    apply_fn: "Callable[[jax.Array], jax.Array]",
    dataset: "data.Dataset",
    *,
    batch: Sequence[int],
    mesh: "jax.sharding.Mesh | None",
) -> "smoothing.Certificate":
    """Certifies images of a data set, with the noise of their indices.

    [host] What `certify.py` computes and `replay` computes again.

    Args:
        settings: of the run.
        apply_fn: the classifier, as in `smoothing.certify`.
        dataset: the images.
        batch: indices in the data set; the last may be repeated.
        mesh: devices that share the samples.

    Returns:
        The certificates, in the order of the batch.

    Raises:
        ValueError: as `smoothing.certify` and `smoothing.certify_adaptively`.
    """
    import jax

    from robustjax import smoothing

    asked: dict[str, Any] = {
        "sigma": settings.sigma,
        "num_classes": dataset.num_classes,
        "num_selection": settings.num_selection,
        "alpha": settings.alpha,
        "order": settings.order,
        "norms": settings.norms,
        "simultaneous": settings.simultaneous,
        "form": settings.form,
        "subspaces": settings.load_masks(),
        "example_ids": np.asarray(batch),
        "chunk_size": settings.chunk_size or None,
        "mesh": mesh,
    }
    certify: Callable[..., smoothing.Certificate] = smoothing.certify
    if settings.max_samples:
        asked |= {
            "target_radius": settings.target_radius,
            "max_samples": settings.max_samples,
        }
        certify = smoothing.certify_adaptively
    else:
        asked |= {
            "num_estimation": settings.num_estimation,
            "runner_up": settings.runner_up,
            "votes": settings.votes,
            "method": settings.method,
        }
    key = jax.random.key(settings.seed)
    return certify(key, apply_fn, dataset.images[list(batch)], **asked)


def sample_mesh(num_devices: int) -> "jax.sharding.Mesh | None":
    """A mesh of devices of this process, None for a single one.

    [host]

    Args:
        num_devices: how many; 0 asks for all.

    Returns:
        The mesh, with the axis "samples".

    Raises:
        ValueError: if the process has fewer devices.
    """
    import jax

    local = jax.local_devices()
    if num_devices > len(local):
        raise ValueError(f"Expected --devices <= {len(local)}, got {num_devices}.")
    devices = local[: num_devices or None]
    if len(devices) == 1:
        return None
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh(
        (len(devices),), ("samples",), devices=devices, axis_types=auto
    )
