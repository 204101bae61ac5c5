"""The evidence in the rows: counts that can be, bounds of gradients that can be.

Of n samples, `count` fell to the selected class, `runner_up_count` to the strongest of
the other columns and `num_invalid` to the column of samples with non-finite logits,
which is one of the others, or the selected one where it won the selection.

The gradient m = sigma * grad p of a probability p has at most the length that half-
spaces have, phi(Phi^-1(p)). In d dimensions the dual norm of m, that of lq with
1/p + 1/q = 1, is between d^min(1/2 - 1/p, 0) and d^max(1/2 - 1/p, 0) times its length.
"""

from collections.abc import Iterator

import numpy as np
from scipy import special

from robustjax import norms
from robustjax.results.checks.run import Run

Fault = tuple[np.ndarray, str]  # a mask of rows, and what is wrong with them
_SLACK = 1e-6  # relative, of bounds that come from float32 sums


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
    from robustjax.smoothing import moments

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


def _of_norm(run: Run, norm: str, is_first: np.ndarray) -> Iterator[Fault]:
    c = run.log.columns
    upper, lower = c[f"dual_upper_{norm}"], c[f"length_lower_{norm}"]
    quantile = special.ndtri(np.clip(c["p_lower"], 0.5, 1))
    longest = np.exp(-(quantile**2) / 2) / np.sqrt(2 * np.pi) * (1 + _SLACK)
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
