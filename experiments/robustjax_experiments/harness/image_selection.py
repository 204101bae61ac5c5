"""Selection of the images of a run."""

from robustjax_experiments.configs.images import ImageRunConfig

from robustjax.results.certification import selection


def indices(config: ImageRunConfig, num_images: int) -> list[int]:
    """Indices of the images that --start, --skip and --max_examples choose.

    Raises:
        ValueError: if the flags select no image.
    """
    chosen = selection.indices(
        num_images,
        start=config.start,
        skip=config.skip,
        max_examples=config.max_examples,
    )
    if not chosen:
        raise ValueError(
            f"Expected start < {num_images}, the number of {config.split} images of "
            f"{config.dataset}, got {config.start}."
        )
    return list(chosen)
