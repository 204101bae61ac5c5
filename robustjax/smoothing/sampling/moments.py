"""First-order moments of a smoothed classifier: sums of noise times outcome.

With f the outcome for class A (1 where it wins, or its probability), z the noise in
units of sigma and b a baseline, 1 or 1/2,

    m = E[z f(z)] = E[z (f(z) - b)],
    X = mean of z (f(z) - b) over the even blocks of noise,   E X = m,
    Y = the same mean over the odd blocks,                    E Y = m.

m is sigma times the gradient of E f; X and Y are independent. The odd blocks come
first: they determine directions and bet sizes, with which the even blocks then bet.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from robustjax import _validate
from robustjax.smoothing.sampling import base_classifier, noise_blocks, vote_counts
from robustjax.smoothing.sampling.subspaces import Subspace

VOTES = ("hard", "soft")
BASELINES = (1.0, 0.5)
NUM_BETS = 8
MAX_PROJECTION = 5.0  # where <z, v> is larger in size, the even blocks count it as zero
SOFT_BETS = np.geomspace(1e-3, 0.95, 24).astype(np.float32)
_LOG_LEVEL = 10.0  # log(1 / alpha) that the bets suit best; they are valid for any
_LARGEST_BET = 0.9  # times the largest possible size of what is bet on
_MAX_ITEMS = 40  # in a step: their sum is not compensated


class Moments(NamedTuple):
    """Sums over the samples of n examples, with s = f - baseline and e = 1 - f.

    The float32 sums are compensated: however many samples there are, each is right to
    1e-5 of the sum of the sizes of its terms. Those of disjoint ranges of samples add
    up; only one of the ranges can have bets.
    """

    counts: jax.Array  # int32 [n, k + 1], votes by class, the last column invalid ones
    num_even: jax.Array  # int32 [n], samples in blocks 0, 2, ...
    num_odd: jax.Array  # int32 [n], samples in blocks 1, 3, ...
    misses_even: jax.Array  # float32 [n], sum of e; whole numbers for hard votes
    misses_odd: jax.Array  # float32 [n]
    sum_even: jax.Array  # float32 [n, ...], sum of s z
    sum_odd: jax.Array  # float32 [n, ...]
    sum_squares: jax.Array  # float32 [n, ...], sum of (s z)^2 over both halves
    log_wealth: jax.Array  # float32 [n, d, 2, 8], of d directions; see `class_moments`
    bets: jax.Array  # float32 [n, 8]
    baseline: jax.Array  # float32 [n]
    selected: jax.Array  # int32 [n]
    soft_log_wealth: jax.Array  # float32 [n, 24], sums of log1p(-SOFT_BETS e)
    part_lengths: jax.Array | None = None  # float32 [n, v], of the odd sum; for checks


def class_moments(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: ArrayLike,
    num_samples: int,
    num_classes: int,
    selected: ArrayLike,
    baseline: ArrayLike,
    subspaces: Sequence[Subspace] = (),
    votes: str = "hard",
    with_bets: bool = True,
    first_sample: int = 0,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Moments:
    """Counts votes as `class_counts` does, with sums of the noise times the outcome.

    [device] Pure, jittable; compiles once as `class_counts` does, and no array grows
    with `num_samples`. The outcome f of a sample is 1 where the selected class wins,
    else 0, or the softmax probability of that class. The noise is that of
    `class_counts` under the same key, without an additional forward pass.

    Directions v of the even half: `sum_odd` = Y divided by its length; then for each
    subspace in turn the projection P Y on it and the rest Y - P Y, divided by theirs. A
    zero vector stays zero. With x = s <z, v>, or 0 where <z, v> is larger than 5 in
    size, `log_wealth` has the sums of log1p(b x) and of log1p(-b x) over the even
    blocks, for each bet b.

    Guarantee:
        Directions and bets depend on the odd blocks alone, so that given them the x of
        the even blocks are independent draws, with b x at most 0.9 in size. Rounding
        moves a direction by at most 1e-6 in length, or by 2e-6 times the ratio of the
        lengths of Y and P Y where the subspace has a basis.
        The counts are those of `class_counts`, if the logits of a row of a batch do not
        depend on the other rows.

    Edge cases: a soft vote with a logit that is not finite has f = 0. Where invalid
    samples are the selected class, hard f counts these, and soft f is 0.

    Args:
        key: the key of the stream, as in `class_counts`.
        apply_fn: maps `[m, ...]` inputs to `[m, num_classes]` logits, row by row.
        x: `[n, ...]` floats in [0, 1].
        sigma: noise level, in the units of x, positive.
        num_samples: noise samples for each example, above 128: each half needs some.
        num_classes: number of classes, an integer >= 2.
        selected: `[n]` integers, the class of each example whose moments are wanted;
            num_classes stands for invalid samples.
        baseline: `[n]` control variates, 1 or 1/2 each: 1 has the smaller variance
            where few samples miss. Choose it, like `selected`, on another stream.
        subspaces: subspaces of the input to bet in as well.
        votes: "hard" or "soft".
        with_bets: whether to bet; without, `log_wealth` and `bets` are zeros.
        first_sample: where to start, a multiple of 256; above 0 only without bets.
        example_ids: `[n]` integers >= 0, as in `class_counts`.
        chunk_size: samples in one forward batch, a multiple of 128, at most 5120: for
            the sums of a batch rounding is bounded, not carried along.
        mesh: devices that share the samples; sums then differ by rounding.

    Returns:
        The `Moments`.

    Raises:
        ValueError: for values outside these ranges, where they are concrete.

    Example:
        >>> apply_fn = lambda x: jnp.stack([x[:, 0], 1.0 - x[:, 0]], axis=-1)
        >>> moments = class_moments(
        ...     jax.random.key(0), apply_fn, jnp.ones((1, 1)), sigma=0.5,
        ...     num_samples=2_000, num_classes=2, selected=[0], baseline=[1.0],
        ... )
        >>> print((moments.sum_even / moments.num_even[:, None]).round(1))
        [[0.2]]

    Reference:
        Mohapatra et al. (2020), NeurIPS, arXiv 2010.06651, for the two half-sums. The
        baseline 1 and the bets are ours.
    """
    _validate.one_of(VOTES, votes=votes)
    work = vote_counts.prepare(
        key,
        apply_fn,
        x,
        sigma=sigma,
        num_samples=num_samples,
        first_sample=first_sample,
        num_classes=num_classes,
        example_ids=example_ids,
    )
    _check_range(num_samples, first_sample, with_bets=with_bets)
    items_per_step = noise_blocks.items_in_step(chunk_size)
    if items_per_step > _MAX_ITEMS:
        raise ValueError(
            f"Expected chunk_size <= {_MAX_ITEMS * noise_blocks.BLOCK_SIZE} for "
            f"moments, got {chunk_size}."
        )
    num_examples, *shape = work.x.shape
    inputs = _Inputs(
        work=work,
        selected=_of_each(
            num_examples, range(num_classes + 1), jnp.int32, selected=selected
        ),
        baseline=_of_each(num_examples, BASELINES, jnp.float32, baseline=baseline),
        subspaces=_subspaces(subspaces, dim=math.prod(shape)),
    )
    settings = _Settings(num_classes, votes == "soft", with_bets, items_per_step)
    return _class_moments(
        vote_counts.replicate(inputs, mesh), settings=settings, mesh=mesh
    )


class _Settings(NamedTuple):
    """What a program is compiled for, besides shapes."""

    num_classes: int
    is_soft: bool
    with_bets: bool
    items_per_step: int


class _Inputs(NamedTuple):
    work: noise_blocks.SampleJob
    selected: jax.Array  # [n]
    baseline: jax.Array  # [n]
    subspaces: tuple[Subspace, ...]

    @property
    def dim(self) -> int:
        """Numbers in an example."""
        return math.prod(self.work.x.shape[1:])

    @property
    def num_directions(self) -> int:
        """Y, then P Y and Y - P Y for each subspace."""
        return 1 + 2 * len(self.subspaces)


class _Plan(NamedTuple):
    """What the odd half fixes for the even one."""

    directions: jax.Array  # [n, d, dim], of unit length or zero
    bets: jax.Array  # [n, b]
    lengths: jax.Array  # [n, d], before they were normalised

    @classmethod
    def empty(cls, inputs: _Inputs) -> "_Plan":
        """For the odd half, of which nothing is known: no directions, no bets."""
        n, d = len(inputs.work.x), inputs.num_directions
        shapes = (n, d, inputs.dim), (n, NUM_BETS), (n, d)
        return cls(*(jnp.zeros(shape, jnp.float32) for shape in shapes))


class _Sums(NamedTuple):
    """A sum for each example, or each item of a step, in any field."""

    misses: jax.Array  # [n]
    moment: jax.Array  # [n, dim]
    squares: jax.Array  # [n, dim]
    log_wealth: jax.Array  # [n, d, 2, b]
    soft_log_wealth: jax.Array  # [n, j]

    @staticmethod
    def shapes(inputs: _Inputs) -> list[tuple[int, ...]]:
        """Those of one row of each field."""
        wealth = (inputs.num_directions, 2, NUM_BETS)
        return [(), (inputs.dim,), (inputs.dim,), wealth, SOFT_BETS.shape]

    def columns(self) -> jax.Array:
        """All of them in one matrix."""
        return jnp.concatenate([a.reshape(len(a), -1) for a in self], axis=1)

    @classmethod
    def from_columns(cls, matrix: jax.Array, inputs: _Inputs) -> "_Sums":
        """The sums whose `columns` are a matrix."""
        shapes = cls.shapes(inputs)
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = jnp.split(matrix, ends[:-1], axis=1)
        rows = len(matrix)
        return cls(*(p.reshape(rows, *s) for p, s in zip(parts, shapes, strict=True)))


@functools.partial(jax.jit, static_argnames=("settings", "mesh"))
def _class_moments(
    inputs: _Inputs, *, settings: _Settings, mesh: Mesh | None
) -> Moments:
    both = functools.partial(_odd_then_even, settings=settings)
    counts, num, sums, bets, lengths = noise_blocks.share_out(both, inputs, mesh=mesh)
    shape = inputs.work.x.shape
    return Moments(
        counts=counts[0] + counts[1],
        num_even=num[1],
        num_odd=num[0],
        misses_even=sums.misses[1],
        misses_odd=sums.misses[0],
        sum_even=sums.moment[1].reshape(shape),
        sum_odd=sums.moment[0].reshape(shape),
        sum_squares=(sums.squares[0] + sums.squares[1]).reshape(shape),
        log_wealth=sums.log_wealth[1],
        bets=bets[1],
        baseline=inputs.baseline,
        selected=inputs.selected,
        soft_log_wealth=sums.soft_log_wealth[0] + sums.soft_log_wealth[1],
        part_lengths=lengths[1],
    )


def _odd_then_even(
    inputs: _Inputs, share: noise_blocks.DeviceShare, *, settings: _Settings
) -> tuple[Any, ...]:
    """Votes, their number, sums, bets and lengths of both halves, `[2, n, ...]`.

    The odd blocks go first; what they find is the plan of the even ones.
    """

    def half(plan: _Plan, skip: jax.Array) -> tuple[_Plan, tuple[Any, ...]]:
        counts, sums = _half(inputs, share, plan=plan, skip=skip, settings=settings)
        num = jnp.sum(counts, axis=1, dtype=jnp.int32)
        next_plan = _plan(sums, num, inputs) if settings.with_bets else plan
        return next_plan, (counts, num, sums, plan.bets, plan.lengths)

    blocks_to_skip = jnp.array([1, 0], jnp.int32)
    return jax.lax.scan(half, _Plan.empty(inputs), blocks_to_skip)[1]


def _half(
    inputs: _Inputs,
    share: noise_blocks.DeviceShare,
    *,
    plan: _Plan,
    skip: jax.Array,
    settings: _Settings,
) -> tuple[jax.Array, _Sums]:
    """Votes and sums over every second block, from the first or the second on."""
    n = len(inputs.work.x)
    num_columns = sum(map(math.prod, _Sums.shapes(inputs)))
    start = (
        jnp.zeros((n, settings.num_classes + 1), jnp.int32),
        noise_blocks.Compensated.zeros(n, num_columns),
    )

    def visit(step: noise_blocks.NoisyBatch, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        counts, sums = carry
        own = _block_sums(step, inputs, plan=plan, is_soft=settings.is_soft)
        return (
            noise_blocks.add_votes(step, counts),
            sums.add_rows(step.example, own.columns()),
        )

    found = noise_blocks.reduce_blocks(
        visit,
        start,
        inputs.work,
        share=share,
        num_classes=settings.num_classes,
        items_per_step=settings.items_per_step,
        skip=skip,
        every=2,
    )
    counts, sums = share.total(found)
    return counts, _Sums.from_columns(sums.value, inputs)


def _block_sums(
    step: noise_blocks.NoisyBatch, inputs: _Inputs, *, plan: _Plan, is_soft: bool
) -> _Sums:
    """The sums of each item of a step, over its 128 samples."""
    example = step.example
    outcome = step.outcome(inputs.selected, is_soft=is_soft)
    baseline = inputs.baseline[example][:, None]
    miss = jnp.where(step.is_used, 1 - outcome, 0)
    weight = jnp.where(step.is_used, outcome - baseline, 0)
    noise = rearrange(step.noise, "item sample ... -> item sample (...)")

    with jax.named_scope("robustjax.smoothing.sampling.moments"):
        contract = functools.partial(jnp.einsum, precision="highest")
        along = contract("itd,ivd->itv", noise, plan.directions[example])
        is_kept = jnp.abs(along) <= MAX_PROJECTION
        played = jnp.where(is_kept, weight[..., None] * along, 0)
        played = jnp.stack([played, -played], axis=-1)[..., None]
        bets = plan.bets[example][:, None, None, None]
        soft_bets = SOFT_BETS if is_soft else 0 * SOFT_BETS
        return _Sums(
            misses=jnp.sum(miss, axis=1),
            moment=contract("it,itd->id", weight, noise),
            squares=jnp.sum((weight[..., None] * noise) ** 2, axis=1),
            log_wealth=jnp.sum(jnp.log1p(bets * played), axis=1),
            soft_log_wealth=jnp.sum(
                jnp.log1p(-soft_bets[None, None] * miss[..., None]), axis=1
            ),
        )


def _plan(odd: _Sums, num_odd: jax.Array, inputs: _Inputs) -> _Plan:
    """Directions and bets for the even half from the sums of the odd one."""
    parts = [odd.moment]
    for subspace in inputs.subspaces:
        parts += [subspace.project(odd.moment), subspace.complement(odd.moment)]
    vectors = jnp.stack(parts, axis=1)
    length = jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))
    directions = vectors / jnp.where(length > 0, length, 1)

    is_one = inputs.baseline == 1
    rate = (odd.misses + 1) / (num_odd + 2)  # of misses
    variance_low = jnp.where(is_one, rate, 0.25)  # of what is bet on
    variance_high = jnp.minimum(rate * (1 - 2 * jnp.log(rate)), 1)
    variance_high = jnp.where(is_one, variance_high, 0.25)
    scale = 2 * _LOG_LEVEL / (inputs.work.num_samples - num_odd)  # num_even: known here
    smallest = 0.7 * jnp.sqrt(scale / variance_high)[:, None]
    largest = 1.4 * jnp.sqrt(scale / variance_low)[:, None]
    steps = jnp.linspace(0, 1, NUM_BETS, dtype=jnp.float32)[None]
    bets = smallest * (largest / smallest) ** steps
    size = MAX_PROJECTION * jnp.where(is_one, 1.0, 0.5)
    bets = jnp.minimum(bets, (_LARGEST_BET / size)[:, None])
    return _Plan(directions, bets, length[..., 0])


def _check_range(num_samples: int, first_sample: int, *, with_bets: bool) -> None:
    if num_samples - first_sample <= noise_blocks.BLOCK_SIZE:
        raise ValueError(
            f"Expected num_samples > {first_sample + noise_blocks.BLOCK_SIZE}, so that "
            f"there are two halves, got {num_samples}."
        )
    if first_sample % (2 * noise_blocks.BLOCK_SIZE) or (first_sample and with_bets):
        raise ValueError(
            f"Expected first_sample as a multiple of {2 * noise_blocks.BLOCK_SIZE}, "
            f"and 0 unless with_bets=False, got {first_sample} with {with_bets=}."
        )


def _of_each(
    num_examples: int, allowed: Sequence[float], dtype: DTypeLike, **named: ArrayLike
) -> jax.Array:
    """The one named argument as an array of a value for each example."""
    ((name, value),) = named.items()
    known = _validate.concrete(value)
    array = jnp.asarray(value, dtype)
    is_allowed = known is None or np.isin(known, allowed).all()
    if array.shape != (num_examples,) or not is_allowed:
        raise ValueError(
            f"Expected {name} as {num_examples} values, each one of "
            f"{list(allowed)}, got {value}."
        )
    return array


def _subspaces(subspaces: Sequence[Subspace], *, dim: int) -> tuple[Subspace, ...]:
    for subspace in subspaces:
        if not isinstance(subspace, Subspace) or subspace.dim != dim:
            raise ValueError(
                f"Expected subspaces of {dim} coordinates, made by subspace() or "
                f"named_subspace(), got {subspace}."
            )
    return tuple(subspaces)
