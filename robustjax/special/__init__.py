"""Special functions that JAX lacks: the noncentral chi-square distribution."""

from robustjax.special.chi_square import (
    chi2_ppf,
    ncx2_cdf,
    ncx2_logcdf,
    ncx2_logpdf,
    ncx2_logsf,
    ncx2_noncentrality,
    ncx2_pdf,
    ncx2_ppf,
    ncx2_sf,
)

__all__ = [
    "chi2_ppf",
    "ncx2_cdf",
    "ncx2_logcdf",
    "ncx2_logpdf",
    "ncx2_logsf",
    "ncx2_noncentrality",
    "ncx2_pdf",
    "ncx2_ppf",
    "ncx2_sf",
]
