"""The noncentral chi-square distribution in JAX, for any degrees of freedom >= 1.

With z standard normal in df dimensions and |mu|^2 = nc,

    F(x; nc) = P[|z + mu|^2 <= x],   F(x; nc) = p solved for x or for nc.

JAX itself has neither this distribution nor the quantile of the central one, and the
error of its incomplete gamma function is 3e-2 at df = 150,528 in float32.

[host] for Python and NumPy numbers, which are computed in float64 whatever the x64
flag, and [device] (pure, jittable, vmappable, differentiable in x, p and nc) for JAX
arrays, which keep their dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.special import tails

_Numbers = jax.Array | np.ndarray


@float64_for_numbers
def ncx2_cdf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """P(X <= x) of the noncentral chi-square distribution, elementwise.

    [host] for numbers, [device] for JAX arrays. Derivatives: f(x; df, nc) in x and
    -f(x; df + 2, nc) in nc; df counts as constant.

    Accuracy:
        Absolute error at most 1e-12 in float64, 5e-6 in float32 (3e-7 up to df = 784),
        for 1 <= df <= 150,528 and nc <= 1e6.

    Args:
        x: any numbers; 0 is returned below zero.
        df: degrees of freedom, >= 1, need not be integers.
        nc: noncentrality, >= 0; 0 is the central distribution.
        excess: x - nc - df, if it is known more exactly than the difference of the
            rounded arguments. The three must be consistent.

    Returns:
        Probabilities of the broadcast shape. NaN for NaN.

    Raises:
        ValueError: if a concrete df is below 1 or a concrete nc is negative.

    Example:
        >>> print(f"{ncx2_cdf(3072.0, 3072, 100.0):.10f}")
        0.1073256610

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return jnp.exp(_distribution(x, df, nc, excess).log_cdf)


@float64_for_numbers
def ncx2_sf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """P(X > x) of the noncentral chi-square distribution; as `ncx2_cdf`.

    [host] for numbers, [device] for JAX arrays. The relative error is small as well,
    down to the smallest normal number.

    Args:
        x: any numbers.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.
        excess: x - nc - df, if known more exactly.

    Returns:
        Probabilities of the broadcast shape.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_sf(40.0, 3, 1.0):.4e}")
        3.2895e-07

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return jnp.exp(_distribution(x, df, nc, excess).log_sf)


@float64_for_numbers
def ncx2_logcdf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """Logarithm of `ncx2_cdf`, finite where that underflows. [host] or [device].

    Args:
        x: any numbers.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.
        excess: x - nc - df, if known more exactly.

    Returns:
        Logarithms of the broadcast shape, -inf for x <= 0.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_logcdf(784.0, 3072, 0.0):.3f}")
        -957.970

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return _distribution(x, df, nc, excess).log_cdf


@float64_for_numbers
def ncx2_logsf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """Logarithm of `ncx2_sf`, finite where that underflows. [host] or [device].

    Args:
        x: any numbers.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.
        excess: x - nc - df, if known more exactly.

    Returns:
        Logarithms of the broadcast shape.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_logsf(9000.0, 3072, 0.0):.3f}")
        -1318.205

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return _distribution(x, df, nc, excess).log_sf


@float64_for_numbers
def ncx2_logpdf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """Logarithm of the density of the noncentral chi-square distribution.

    [host] for numbers, [device] for JAX arrays; derivatives as for `ncx2_cdf`.

    Args:
        x: any numbers.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.
        excess: x - nc - df, if known more exactly.

    Returns:
        Logarithms of the broadcast shape, -inf for x <= 0.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_logpdf(2.0, 2, 0.0):.6f}")  # exp(-1) / 2
        -1.693147

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return _distribution(x, df, nc, excess).log_pdf


@float64_for_numbers
def ncx2_pdf(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, *, excess: ArrayLike | None = None
) -> _Numbers:
    """Density of the noncentral chi-square distribution; as `ncx2_logpdf`.

    [host] for numbers, [device] for JAX arrays.

    Args:
        x: any numbers.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.
        excess: x - nc - df, if known more exactly.

    Returns:
        Densities of the broadcast shape, 0 for x <= 0.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_pdf(2.0, 2, 0.0):.6f}")
        0.183940

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return jnp.exp(_distribution(x, df, nc, excess).log_pdf)


@float64_for_numbers
def ncx2_ppf(p: ArrayLike, df: ArrayLike, nc: ArrayLike) -> _Numbers:
    """Quantiles of the noncentral chi-square distribution, elementwise.

    [host] for numbers, [device] for JAX arrays. Derivatives by the implicit function
    theorem, in p and nc.

    Accuracy:
        Relative error at most 1e-11 in float64 for p from the smallest normal number
        to the largest below 1, df <= 150,528 and nc <= 1e16; where a quantile is below
        the smallest normal number it is 0. A root that was not found is NaN.

    Args:
        p: probabilities in [0, 1]; below the smallest normal number (2.2e-308, in
            float32 1.2e-38) they count as 0.
        df: degrees of freedom, >= 1.
        nc: noncentrality, >= 0.

    Returns:
        Quantiles of the broadcast shape; 0 at p = 0, inf at p = 1, NaN outside.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_ppf(0.5, 784, 100.0):.8f}")
        883.26565826

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    _check(df, nc)
    return tails.quantile(*as_floats(p, df, nc))


def chi2_ppf(p: ArrayLike, df: ArrayLike) -> _Numbers:
    """Quantiles of the central chi-square distribution; `ncx2_ppf` at nc = 0.

    [host] for numbers, [device] for JAX arrays.

    Args:
        p: probabilities in [0, 1], as in `ncx2_ppf`.
        df: degrees of freedom, >= 1.

    Returns:
        Quantiles of the broadcast shape, as exact as those of `ncx2_ppf`.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{chi2_ppf(0.5, 3072):.8f}")
        3071.33335906

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    return ncx2_ppf(p, df, 0.0)


@float64_for_numbers
def ncx2_noncentrality(p: ArrayLike, x: ArrayLike, df: ArrayLike) -> _Numbers:
    """The noncentrality nc with P(X <= x) = p, elementwise; `scipy.special.chndtrinc`.

    [host] for numbers, [device] for JAX arrays. Derivatives by the implicit function
    theorem, in p and x.

    Args:
        p: probabilities in (0, 1), from the smallest normal number on.
        x: any numbers.
        df: degrees of freedom, >= 1.

    Returns:
        Noncentralities >= 0 of the broadcast shape; NaN where the central distribution,
        nc = 0, already has P(X <= x) < p, and where no root was found.

    Raises:
        ValueError: as `ncx2_cdf`.

    Example:
        >>> print(f"{ncx2_noncentrality(0.5, 900.0, 784):.8f}")
        116.74308918

    Reference: ours; `docs/papers/hidden_cost.md`, "The noncentral chi-square
        distribution".
    """
    _check(df, 0.0)
    return tails.noncentrality(*as_floats(p, x, df))


def _distribution(
    x: ArrayLike, df: ArrayLike, nc: ArrayLike, excess: ArrayLike | None
) -> tails.Distribution:
    _check(df, nc)
    if excess is not None:
        return tails.distribution(*as_floats(x, df, nc, excess))
    values = as_floats(x, df, nc)
    return tails.distribution(*values, (values[0] - values[2]) - values[1])


def _check(df: ArrayLike, nc: ArrayLike) -> None:
    _validate.at_least(1, df=df)
    _validate.at_least(0, nc=nc)
