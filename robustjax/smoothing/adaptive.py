"""Certification with as many samples as each example needs.

Order 0 looks at its counts again and again, under a confidence sequence that holds at
any stopping time. Order 1 has a fixed schedule of sample sizes n_1 < n_2 < ...; at
stage k all its events get

    alpha_k = alpha / (k (k + 1)),   alpha_1 + alpha_2 + ... = alpha.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _callables, _validate
from robustjax.smoothing import assembly, certification
from robustjax.smoothing.certificate import Certificate
from robustjax.smoothing.confidence import binomial, sequences
from robustjax.smoothing.radii import zeroth_order
from robustjax.smoothing.sampling import (
    base_classifier,
    moments,
    noise_blocks,
    streams,
    vote_counts,
)
from robustjax.smoothing.settings import Settings, as_norms

# Order 0: any looks are valid. Order 1: each stage costs confidence.
_LOOKS = functools.partial(sequences.stage_sizes, first=512, factor=1.25)
_STAGES = functools.partial(sequences.stage_sizes, first=2048, factor=4)
_FEWEST = 129  # two halves of blocks; a confidence sequence needs some samples, too
_HOPELESS = 1e-3  # level at which an example is given up; no certificate rests on it


def certify_adaptively(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: float,
    num_classes: int,
    target_radius: float,
    max_samples: int = 100_000,
    num_selection: int = 100,
    alpha: float = 1e-3,
    order: int = 0,
    norms: str | Sequence[str] = ("l2",),
    simultaneous: bool = True,
    form: str = "box",
    subspaces: Mapping[str, ArrayLike] | None = None,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Certificate:
    """Certifies until the radius reaches a target, example by example.

    [host] An example is sampled no further once it is certified at `target_radius` in
    the first of `norms`, or at `max_samples`; before that once it will hardly ever be
    certified (order 0: at the target; order 1: at all). Its noise is that of `certify`,
    so counts are prefixes of those of a run of fixed size.

    Guarantee: as `certify`, at the same alpha, whatever the sample sizes turn out to
    be. Order 0: p_lower is `binomial_sequence_lower`, valid at any stopping time.
    Order 1: every event of stage k has alpha / (k (k + 1)); the stages are fixed
    beforehand by `max_samples` alone.

    Args:
        key: random key of the whole run, `jax.random.key(seed)`.
        apply_fn: maps `[m, ...]` inputs in [0, 1] to `[m, num_classes]` logits.
        x: `[n, ...]` floats in [0, 1].
        sigma: noise level, in the units of x, positive.
        num_classes: number of classes, an integer >= 2.
        target_radius: radius in the first norm that is enough, >= 0, in input units.
        max_samples: most estimation samples of an example.
        num_selection: samples that select class A, an integer >= 1.
        alpha: failure probability for each example, in (0, 1).
        order: 0 or 1.
        norms: as in `certify`; the target is in the first.
        simultaneous: as in `certify`.
        form: as in `certify`.
        subspaces: as in `certify`.
        example_ids: `[n]` index of each example in its data set; default arange(n).
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        A `Certificate` with its own `num_samples` and `stage` for each example.

    Raises:
        ValueError: as `certify`, and for a target that is not a number >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> apply_fn = lambda x: jnp.stack([x[:, 0], 1.0 - x[:, 0]], axis=-1)
        >>> certificate = certify_adaptively(
        ...     jax.random.key(0), apply_fn, jnp.ones((1, 3)), sigma=0.25,
        ...     num_classes=2, target_radius=0.3
        ... )
        >>> certificate.num_samples.tolist()
        [512]

    Reference: ours; see `binomial_sequence_lower` for the confidence sequence.
    """
    if not 0 <= target_radius < np.inf:
        raise ValueError(f"Expected target_radius >= 0, got {target_radius}.")
    _validate.integer(_FEWEST, max_samples=max_samples)
    vote_counts.check_sigma(sigma)
    settings = Settings(
        sigma=certification.noise_level(sigma),
        shape=np.shape(x)[1:],
        num_classes=num_classes,
        num_selection=num_selection,
        num_estimation=max_samples,
        alpha=alpha,
        order=order,
        norms=as_norms(norms),
        simultaneous=simultaneous,
        form=form,
        masks=subspaces or {},
    )
    select_key, estimate_key = streams.split(key)
    noisy = _Noisy(
        estimate_key,
        _callables.as_partial(apply_fn),
        np.asarray(x),
        np.arange(len(np.asarray(x)))
        if example_ids is None
        else np.asarray(example_ids),
        settings.sigma,
        num_classes,
        chunk_size,
        mesh,
    )
    everything = np.arange(len(noisy.x))
    first_look = noisy._replace(key=select_key).counts(
        everything, first=0, last=num_selection
    )
    selected, baseline = certification.select(first_look, settings)
    if order == 0:
        return _by_sequence(settings, noisy, selected=selected, target=target_radius)
    return _by_stages(
        settings, noisy, selected=selected, baseline=baseline, target=target_radius
    )


class _Noisy(NamedTuple):
    """Draws for some examples; their number is filled up, so that few sizes compile."""

    key: jax.Array
    apply_fn: Partial
    x: NDArray[np.floating[Any]]  # [n, ...]
    ids: NDArray[np.integer[Any]]  # [n]
    sigma: float
    num_classes: int
    chunk_size: int | None
    mesh: Mesh | None

    def counts(
        self, index: NDArray[np.int64], *, first: int, last: int
    ) -> NDArray[np.int32]:
        """Votes `[i, k + 1]` of the samples first, ..., last - 1."""
        rows = self._filled(index)
        found = vote_counts.class_counts(
            self.key,
            self.apply_fn,
            self.x[rows],
            sigma=self.sigma,
            num_samples=last,
            first_sample=first,
            num_classes=self.num_classes,
            example_ids=self.ids[rows],
            chunk_size=self.chunk_size,
            mesh=self.mesh,
        )
        return np.asarray(found)[: index.size]

    def moments(
        self,
        index: NDArray[np.int64],
        *,
        selected: NDArray[np.int32],
        baseline: NDArray[np.float32],
        first: int,
        last: int,
    ) -> moments.Moments:
        """Moments of the samples first, ..., last - 1."""
        rows = self._filled(index)
        found = moments.class_moments(
            self.key,
            self.apply_fn,
            self.x[rows],
            sigma=self.sigma,
            num_samples=last,
            first_sample=first,
            num_classes=self.num_classes,
            selected=selected[rows],
            baseline=baseline[rows],
            with_bets=False,
            example_ids=self.ids[rows],
            chunk_size=self.chunk_size,
            mesh=self.mesh,
        )
        used = np.arange(rows.size) < index.size
        kept: moments.Moments = _take(jax.tree.map(np.asarray, found), used)
        return kept

    def _filled(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        size = min(len(self.ids), 1 << max(index.size - 1, 0).bit_length())
        return np.pad(index, (0, size - index.size), mode="edge")


def _by_sequence(
    settings: Settings,
    noisy: _Noisy,
    *,
    selected: NDArray[np.int32],
    target: float,
) -> Certificate:
    """Order 0: counts until the confidence sequence decides."""
    counts = np.zeros((len(selected), settings.num_classes + 1), np.int32)
    active, first = np.arange(len(selected)), 0
    for last in _LOOKS(settings.num_estimation):
        if not active.size:
            break
        counts[active] += noisy.counts(active, first=first, last=last)
        votes, _ = vote_counts.votes_of(counts[active], selected[active])
        active, first = active[~_is_settled(settings, votes, last, target)], last
    return assembly.from_counts(settings, counts, selected=selected, bound="sequence")


def _is_settled(
    settings: Settings, votes: NDArray[np.int32], num_samples: int, target: float
) -> NDArray[np.bool_]:
    """Whether the target is reached, or will hardly ever be."""
    lower = sequences.binomial_sequence_lower(votes, num_samples, alpha=settings.alpha)
    upper = sequences.binomial_sequence_upper(votes, num_samples, alpha=_HOPELESS)
    reached, possible = (
        (p > 0.5)
        & (
            zeroth_order.zeroth_order_radius(
                p, sigma=settings.sigma, norm=settings.norms[0], dim=settings.dim
            )
            >= target
        )
        for p in (lower, upper)
    )
    return reached | ~possible


def _by_stages(
    settings: Settings,
    noisy: _Noisy,
    *,
    selected: NDArray[np.int32],
    baseline: NDArray[np.float32],
    target: float,
) -> Certificate:
    """Order 1: moments stage by stage, each certificate from the stage it ended in."""
    active, first = np.arange(len(selected)), 0
    sums: moments.Moments | None = None
    parts = []
    *early, most = _STAGES(settings.num_estimation)
    # Each stage has to reach into two blocks, for its halves.
    schedule = [n for n in early if n + noise_blocks.BLOCK_SIZE < most] + [most]
    for stage, last in enumerate(schedule, start=1):
        new = noisy.moments(
            active, selected=selected, baseline=baseline, first=first, last=last
        )
        sums = _added(sums, new)
        certificate = assembly.from_moments(
            settings,
            sums,
            alpha=float(sequences.stage_alpha(stage, alpha=settings.alpha)),
            stage=stage,
        )
        is_done = _has_ended(settings, certificate, target) | (last == schedule[-1])
        parts.append((active[is_done], _take(vars(certificate), is_done)))
        sums, active, first = _take(sums, ~is_done), active[~is_done], last
        if not active.size:
            break
    order = np.argsort(np.concatenate([index for index, _ in parts]))
    values = [part for _, part in parts]
    joined = jax.tree.map(lambda *rows: _join(rows, order), *values)
    return Certificate(**joined)


def _has_ended(
    settings: Settings, certificate: Certificate, target: float
) -> NDArray[np.bool_]:
    upper = binomial.clopper_pearson_upper(
        certificate.count, certificate.num_samples, alpha=_HOPELESS
    )
    is_certified = certificate.prediction >= 0
    reached = is_certified & (certificate.radius[settings.norms[0]] >= target)
    is_invalid = certificate.selected == settings.num_classes
    return reached | (upper <= 0.5) | is_invalid | certificate.failed


def _added(total: moments.Moments | None, new: moments.Moments) -> moments.Moments:
    """Sums over two ranges of samples; what is no sum stays."""
    if total is None:
        return new
    added = jax.tree.map(np.add, total, new)
    kept = ("bets", "baseline", "selected", "part_lengths")
    return added._replace(**{name: getattr(total, name) for name in kept})


def _take(tree: Any, index: NDArray[np.bool_]) -> Any:
    """The rows of all arrays in a tree; other leaves stay."""
    return jax.tree.map(lambda v: v[index] if isinstance(v, np.ndarray) else v, tree)


def _join(rows: tuple[Any, ...], order: NDArray[np.int64]) -> Any:
    if isinstance(rows[0], np.ndarray):
        return np.concatenate(rows)[order]
    return rows[0]
