"""The evidence in the rows: counts that can be, bounds of gradients that can be.

Among n samples, `count` are votes for the selected class, `runner_up_count` for the
strongest of the other columns, and `num_invalid` samples with non-finite logits, which
is one of the others, or the selected one where it won the selection.

The gradient m = sigma * grad p of a probability p has at most the length that half-
spaces have, phi(Phi^-1(p)). In d dimensions the dual norm of m, that of lq with
1/p + 1/q = 1, is between d^min(1/2 - 1/p, 0) and d^max(1/2 - 1/p, 0) times its length.

`dual_norm` is an estimate of the dual norm and is above it by the noise of the samples,
so it may be above the upper bound `dual_upper`. With x and y the means of s z over the
even and the odd samples, a and 1 - a their shares, and v = a x + (1 - a) y, all
estimates are norms of the same vectors: |v|_inf for p = 1, |v|_1 for p = inf, and
<x, y>^(1/2) for p = 2, where 4 a (1 - a) <x, y> <= |v|_2^2 <= |v|_1 |v|_inf. Each
coordinate of v has at most the variance 1/n, as |s| <= 1.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import special

from robustjax import norms
from robustjax.results.checks.run import Run

Fault = tuple[np.ndarray, str]  # a mask of rows, and what is wrong with them
_SLACK = 1e-6  # relative, of bounds that come from float32 sums
_DEVIATIONS = 10  # standard deviations of noise that an estimate is granted
_BLOCK = 128  # samples; the odd blocks are one of the halves


def counts(run: Run) -> Iterator[Fault]:
    """Rows with counts that no sample of n classified inputs can give."""
    names = ("num_estimation", "count", "runner_up_count", "num_invalid", "num_classes")
    values = [run.log.columns[name].tolist() for name in names]  # ints do not overflow
    abstains = (run.log.predict == -1).tolist()
    wrong = [
        not (_of_a_class(*row) or (may_be_invalid and _of_invalid(*row)))
        for *row, may_be_invalid in zip(*values, abstains, strict=True)
    ]
    text = (
        "count, runner_up_count and num_invalid cannot be those of num_estimation "
        "samples: the counts do not add up"
    )
    yield np.array(wrong, bool), text


def _of_a_class(n: int, count: int, rival: int, invalid: int, classes: int) -> bool:
    """Whether a class can be selected: the other classes share what is left."""
    left = n - count - invalid
    least = rival if invalid < rival else 0  # some other column has as many as rival
    fits = least <= left <= (classes - 1) * rival
    return fits and count >= 0 and 0 <= invalid <= rival


def _of_invalid(n: int, count: int, rival: int, invalid: int, classes: int) -> bool:
    """Whether non-finite logits can be selected, so that the example abstains."""
    return count == invalid >= 0 and 0 <= rival <= n - count <= classes * rival


def soft_votes(run: Run) -> Iterator[Fault]:
    """Rows with bounds of soft votes above what the hard votes allow.

    The softmax probability of a class is at most 1/2 where another one wins, so the
    mean is at most (count + (n - count - num_invalid) / 2) / n. Among samples of one
    mean the bound is largest where all are equal.
    """
    from robustjax import smoothing
    from robustjax.smoothing.sampling import moments

    c = run.log.columns
    is_soft = (c["bound"] == "betting") & (c["num_estimation"] > 0)
    if not is_soft.any():
        return
    n, count, invalid = (
        c[name][is_soft] for name in ("num_estimation", "count", "num_invalid")
    )
    loss = (n + invalid - count) / (2 * n)
    bets = np.asarray(moments.SOFT_BETS, np.float64)
    limit = np.zeros(len(run.log))
    shares = np.where(c["order"] == 1, c["alpha"] / 2, c["alpha"])[is_soft]
    for alpha in np.unique(shares):
        at = shares == alpha
        wealth = n[at, None] * np.log1p(-np.outer(np.clip(loss[at], 0, 1), bets))
        limit[np.flatnonzero(is_soft)[at]] = smoothing.bounded_mean_lower(
            wealth, bets, num_samples=n[at], alpha=float(alpha), relative_error=0.0
        )
    wrong = is_soft & ~(c["p_lower"] <= limit * (1 + _SLACK))
    yield wrong, "p_lower is above what the hard votes allow"
    wrong = is_soft & ~(c["p_lower"] >= 0)
    yield wrong, "p_lower is negative"


def gradients(run: Run) -> Iterator[Fault]:
    """Rows with bounds of the gradient that no gradient has."""
    c = run.log.columns
    is_first = (c["order"] == 1) & (c["failed"] == 0)
    needed = ("dual_upper", "length_lower")
    missing = [
        f"{name}_{norm}"
        for norm in run.log.radii
        for name in needed
        if f"{name}_{norm}" not in c
    ]
    if missing:
        text = f"order 1 needs the columns {', '.join(missing)}"
        yield c["order"] == 1, text
        return
    for norm in run.log.radii if is_first.any() else ():
        for name in (*needed, "dual_norm"):
            values = c.get(f"{name}_{norm}", np.zeros(len(run.log)))
            wrong = is_first & ~((values >= 0) & np.isfinite(values))
            yield wrong, f"{name}_{norm} is not a length"
        yield from _of_norm(run, norm, is_first)
        if f"dual_norm_{norm}" in c:
            limit = _largest_estimate(run, norm)
            wrong = is_first & ~(c[f"dual_norm_{norm}"] <= limit * (1 + _SLACK))
            text = f"dual_norm_{norm} is above dual_upper_{norm} by more than noise"
            yield wrong, text
    if is_first.any():
        for wrong, text in _of_estimates(run):
            yield is_first & wrong, text


def _largest_estimate(run: Run, norm: str) -> np.ndarray:
    """Largest estimate of a dual norm: its upper bound, and ten deviations of noise.

    The mean of n samples adds a vector of d coordinates of variance at most 1/n to the
    gradient: its linf norm is about (2 log d / n)^(1/2), its l1 norm at most d n^(-1/2)
    with deviation (d/n)^(1/2). To <x, y> the noise of the halves adds, with k samples
    in the smaller one, 2 |m| k^(-1/2) and d^(1/2) / k in deviations. Estimates of other
    norms are interpolated from these three, for the longest gradient.
    """
    c = run.log.columns
    n, dim = c["num_estimation"].astype(float), np.maximum(c["dim"], 1).astype(float)
    upper, fewest = c[f"dual_upper_{norm}"], np.maximum(_num_odd(c), 1.0)
    p = norms.exponent(norm) if norms.subspace_name(norm) is None else 2.0

    def linf(m: np.ndarray) -> np.ndarray:
        return m + (np.sqrt(2 * np.log(2 * dim)) + _DEVIATIONS) / np.sqrt(n)

    def l1(m: np.ndarray) -> np.ndarray:
        return m + (dim + _DEVIATIONS * np.sqrt(dim)) / np.sqrt(n)

    def l2(m: np.ndarray) -> np.ndarray:
        noise = 2 * m / np.sqrt(fewest) + np.sqrt(dim) / fewest
        return np.sqrt(m**2 + _DEVIATIONS * noise)

    of_norm = {1.0: linf, 2.0: l2, np.inf: l1}
    if p in of_norm:
        return of_norm[p](upper)
    longest = _longest(c["p_lower"])
    if p < 2:  # q = p / (p - 1) > 2
        return l2(longest) ** (2 - 2 / p) * linf(longest) ** (2 / p - 1)
    return l1(longest * np.sqrt(dim)) ** (1 - 2 / p) * l2(longest) ** (2 / p)


def _of_estimates(run: Run) -> Iterator[Fault]:
    """Estimates of l1, l2 and linf norms that no vector in d dimensions has."""
    c = run.log.columns
    linf, l1 = c.get("dual_norm_l1"), c.get("dual_norm_linf")
    num_odd = np.maximum(_num_odd(c), 1.0)
    share = num_odd / np.maximum(c["num_estimation"], num_odd)
    root = np.sqrt(4 * share * (1 - share)) * (1 - _SLACK)
    dim = np.maximum(c["dim"], 1).astype(float)
    if linf is not None and l1 is not None:
        wrong = (linf * (1 - _SLACK) > l1) | (l1 * (1 - _SLACK) > dim * linf)
        yield wrong, "dual_norm_linf is not between dual_norm_l1 and dim times that"
    subspaces = [name for name in c if name.startswith("dual_norm_subspace")]
    for name in ("dual_norm_l2", *subspaces) if "dual_norm_l2" in c else subspaces:
        length = c[name] * root
        if linf is not None:
            wrong = length > np.sqrt(dim) * linf
            yield wrong, f"{name} is above dim^(1/2) times dual_norm_l1"
        if l1 is not None:
            yield length > l1, f"{name} is above dual_norm_linf"
        if linf is not None and l1 is not None:
            wrong = length**2 > linf * l1
            yield wrong, f"{name} squared is above dual_norm_l1 dual_norm_linf"


def _num_odd(c: Mapping[str, np.ndarray]) -> np.ndarray:
    """Samples in odd blocks, the second, fourth, ...; the smaller half."""
    pairs, rest = np.divmod(c["num_estimation"], 2 * _BLOCK)
    return pairs * _BLOCK + np.maximum(rest - _BLOCK, 0)


def _longest(p_lower: np.ndarray) -> np.ndarray:
    """Length of the longest gradient of a probability of at least p_lower."""
    quantile = special.ndtri(np.clip(p_lower, 0.5, 1))
    return np.exp(-(quantile**2) / 2) / np.sqrt(2 * np.pi)


def _of_norm(run: Run, norm: str, is_first: np.ndarray) -> Iterator[Fault]:
    c = run.log.columns
    upper, lower = c[f"dual_upper_{norm}"], c[f"length_lower_{norm}"]
    longest = _longest(c["p_lower"]) * (1 + _SLACK)
    is_whole = norms.subspace_name(norm) is None
    p = norms.exponent(norm) if is_whole else 2.0
    dim = np.maximum(c["dim"], 1).astype(float)
    circumradius = dim ** max(0.5 - 1 / p, 0.0)
    wrong = is_first & (upper > longest * circumradius)
    yield wrong, f"dual_upper_{norm} is above the longest gradient"
    wrong = is_first & (lower > longest)
    yield wrong, f"length_lower_{norm} is above the longest gradient"
    if is_whole:
        least = lower * dim ** min(0.5 - 1 / p, 0.0)
        wrong = is_first & (upper < least * (1 - _SLACK))
        text = f"dual_upper_{norm} is below what length_lower_{norm} allows"
        yield wrong, text
