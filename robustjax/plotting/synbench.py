"""SynBench: margins against accuracies, and scores with their errors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from robustjax.plotting import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robustjax.synbench import SynBenchResult


def synbench_scores(
    results: Mapping[str, "SynBenchResult"], *, epsilon_index: int = 0
) -> "Figure":
    """The curves whose areas are compared, and the scores at every threshold.

    [host] Left: mean scaled bound over all scales whose accuracy exceeds the running
    one, of the inputs themselves and of each representation. Right: scores with 95%
    intervals of the test noise; dashes are ceilings, which a perfect representation of
    that width reaches.

    Args:
        results: name -> `SynBenchResult`, all of the same thresholds.
        epsilon_index: which radius is drawn.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: if no result is given, or thresholds differ.
        ImportError: if matplotlib is missing.

    Example:
        >>> import jax
        >>> from robustjax import synbench
        >>> found = synbench.synbench(jax.random.key(0), lambda x: x, (4,),
        ...                           scales=(1.0, 3.0), num_train=256, num_test=256)
        >>> len(synbench_scores({"inputs": found}).axes)
        2

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    from robustjax import synbench

    if not results:
        raise ValueError("Expected at least one result, got none.")
    if len({found.thresholds for found in results.values()}) > 1:
        raise ValueError("Expected results of the same thresholds.")
    figure = style.new_figure((9.0, 3.8))
    left, right = figure.subplots(1, 2)
    running = np.linspace(0.5, 1, 501)
    first = next(iter(results.values()))
    raw = first.raw_accuracy[epsilon_index], first.raw_bound[epsilon_index]
    curve = synbench.bound_curve(*raw, thresholds=running)
    left.step(running, curve, where="post", color="#888888", label="inputs, exact")
    for index, (name, found) in enumerate(results.items()):
        colour = style.COLOURS[index % len(style.COLOURS)]
        own = found.accuracy[epsilon_index], np.nan_to_num(found.bound[epsilon_index])
        curve = synbench.bound_curve(*own, thresholds=running)
        left.step(running, curve, where="post", color=colour, label=name)
        thresholds = np.array(found.thresholds)
        width = 1.96 * found.standard_error[epsilon_index]
        right.errorbar(
            thresholds,
            found.score[epsilon_index],
            width,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            capsize=2,
        )
        right.plot(
            thresholds, found.ceiling, color=colour, linestyle="--", linewidth=0.9
        )
    epsilon = first.task["relative_epsilons"][epsilon_index]
    left.set_xlabel("accuracy exceeded")
    left.set_ylabel("mean scaled bound")
    left.set_ylim(bottom=0)
    right.set_xlabel("threshold accuracy")
    right.set_ylabel(f"SynBench score (epsilon {epsilon:g})")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        style.finish(axes)
    style.add_legend(figure, left)
    return figure
