"""Sums over assignment units, their robust standard error and the interval from it."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science.bootstrap import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEVERAGE = 1e-10
"""Eigenvalue of I - H_gg below which a unit decides a coefficient alone and shows no error in that direction."""


def unit_codes(units: ArrayLike | None, n_rows: int) -> IntArray:
    """Return unit codes (N,) in the order of the labels; without labels each row is its own unit."""
    if units is None:
        return np.arange(n_rows)
    labels = np.asarray(units)
    if labels.shape != (n_rows,):
        raise ValueError(f"units.shape == {labels.shape}, must be ({n_rows},). Give one unit label per product.")
    codes, _ = pd.factorize(labels, sort=True)
    if (codes < 0).any():
        raise ValueError(f"units has {(codes < 0).sum()} missing labels, must have none. Give each product its unit.")
    return codes.astype(np.int64)


def check_confidence(confidence: float) -> None:
    """Raise ValueError for a confidence that is not inside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence == {confidence}, must be in (0, 1). 0.95 is usual.")


def standard_error(scores: FloatArray, codes: IntArray) -> tuple[float, int]:
    """Return the CR1 standard error of a sum of scores (M,) over units, sqrt(G / (G - 1) sum S_g^2), and G."""
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], scores)
    G = len(sums)
    return (float(np.sqrt(G / (G - 1) * (sums @ sums))) if G > 1 else np.nan), G


def few_clusters(y: FloatArray, X: FloatArray, wanted: FloatArray, codes: IntArray) -> tuple[float, float, float]:
    """Return a contrast of least squares coefficients, its CR2 standard error over units, and degrees of freedom.

    Residuals of each unit are turned by (I - H_gg)^(-1/2), which makes the variance unbiased where errors are alike and
    independent; the degrees of freedom are Satterthwaite's under the same.

    Parameters
    ----------
    y : outcome (N,).
    X : regressors (N, K) of full rank.
    wanted : (K,) the contrast.
    codes : (N,) units.

    References
    ----------
    Bell and McCaffrey, Survey Methodology 28 (2002); Imbens and Kolesár, Review of Economics and Statistics 98 (2016).
    """
    bread = np.linalg.inv(X.T @ X)
    beta = bread @ X.T @ y
    rest, order = y - X @ beta, np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    score, size, through = np.empty(len(groups)), np.empty(len(groups)), np.empty((len(groups), X.shape[1]))
    for g, rows in enumerate(groups):
        part = X[rows]
        value, vector = np.linalg.eigh(np.eye(len(rows)) - part @ bread @ part.T)
        root = np.where(value > LEVERAGE, 1.0 / np.sqrt(np.maximum(value, LEVERAGE)), 0.0)
        turned = (vector * root) @ (vector.T @ (part @ (bread @ wanted)))
        score[g], size[g], through[g] = turned @ rest[rows], turned @ turned, turned @ part
    spread = np.diag(size) - through @ bread @ through.T
    freedom = np.trace(spread) ** 2 / (spread**2).sum()
    return float(wanted @ beta), float(np.sqrt(score @ score)), float(freedom)


def interval(effect: float, se: float, freedom: float, confidence: float) -> Interval:
    """Return the interval and two-sided p-value from t with `freedom`; without any spread p is 0, nan for effect 0."""
    half = half_width(se, freedom, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = float(2.0 * stats.t.sf(np.divide(abs(effect), se), freedom))
    return Interval(se, float(effect - half), float(effect + half), p_value)


def half_width(se: Any, freedom: Any, confidence: float) -> Any:
    """Return half the length of the interval, of numbers or arrays."""
    return stats.t.ppf(0.5 + confidence / 2.0, freedom) * se


def degrees_of_freedom(n_treated: Any, n_control: Any) -> FloatArray:
    """Return one less than the units on the smaller side; nan for fewer than two, which show no spread."""
    smaller = np.minimum(n_treated, n_control).astype(np.float64)
    return np.where(smaller < 2, np.nan, smaller - 1.0)
