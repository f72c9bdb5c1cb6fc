"""Several hypotheses at once: Holm's method, the largest of many t, and the Wald test."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# A direction with less than this part of the largest variance is rounding.
NO_VARIANCE = 1e-10


def holm(p_value: FloatArray) -> FloatArray:
    """Return p-values adjusted by Holm's step-down method over those that are not nan.

    Examples
    --------
    >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).round(4)
    array([0.03,  nan, 0.06, 0.06])
    """
    adjusted = np.full(p_value.shape, np.nan)
    rows = np.flatnonzero(np.isfinite(p_value))
    rows = rows[np.argsort(p_value[rows], kind="stable")]
    stepped = p_value[rows] * np.arange(len(rows), 0, -1)
    adjusted[rows] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def joint_level(sums: FloatArray, used: BoolArray, confidence: float, n_draws: int, rng: np.random.Generator) -> float:
    """Return the two-sided normal level at which the largest |t| of the used columns exceeds its quantile.

    `sums` (G, K) are the units' sums of influences; they are multiplied by standard normal draws.
    """
    if not used.any():
        return np.nan
    standard = sums[:, used] / np.sqrt((sums[:, used] ** 2).sum(axis=0))
    largest = np.abs(rng.standard_normal((n_draws, len(sums))) @ standard).max(axis=1)
    return float(2.0 * stats.norm.sf(np.quantile(largest, confidence, method="inverted_cdf")))


def wald(effect: FloatArray, covariance: FloatArray, freedom: float) -> tuple[float, float]:
    """Return F and the p-value of all effects (k,) being 0; nan without effects or where the covariance is singular."""
    k = len(effect)
    if k == 0 or not (np.isfinite(effect).all() and np.isfinite(covariance).all()) or not freedom >= 1:
        return np.nan, np.nan
    roots = np.linalg.eigvalsh(covariance)
    if roots[0] <= NO_VARIANCE * roots[-1]:
        return np.nan, np.nan
    F = float(effect @ np.linalg.solve(covariance, effect)) / k
    return F, float(stats.f.sf(F, k, freedom))
