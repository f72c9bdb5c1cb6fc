"""The best linear projection of the effect on attributes: which attributes go with larger effects."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science import _segment_sums
from pricelab_dagster.science._cluster_robust import check_confidence
from pricelab_dagster.science._families import holm, wald
from pricelab_dagster.science._segment_groups import MISSING, OTHER, levels
from pricelab_dagster.science._segment_sums import MIN_PER_ARM
from pricelab_dagster.science.affinity import encode
from pricelab_dagster.science.effect_scores import Scores

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

UNITS_PER_TERM = 5
"""Fewest assignment units for each coefficient: with fewer the robust standard error is no guide."""
MEAN, ANY = "mean effect", "any attribute (Wald test)"
PER_STEP = "; of an attribute: its change for one standard deviation up, the other attributes being equal"
RELATIVE_WORDS = "; relative to the mean without treatment over all products"

# A column whose part that earlier columns do not explain is shorter than this is a combination of them.
COLLINEAR = 1e-8
# A unit that alone fixes a coefficient has a leverage of 1.
FULL_LEVERAGE = 1.0 - 1e-8


@dataclass(frozen=True, slots=True)
class Projection:
    """Coefficients of K terms, in order: the mean effect, the attributes, and the joint test, which has no coefficient.

    Attributes
    ----------
    term
        Names (K,).
    coefficient, se, ci_lower, ci_upper
        (K,), in the units of the scores or relative to the mean without treatment, of an attribute per one standard
        deviation of it; nan where `reason` says why.
    p_value
        (K,) two-sided; of the joint test that no attribute goes with the effect.
    p_adjusted
        (K,) of the attributes, by Holm's method; of the mean and the joint test their own p-value.
    statistic
        F of the joint test.
    n_units
        Assignment units.
    estimand
        In words.
    reason
        (K,) text or None.
    """

    term: tuple[str, ...]
    coefficient: FloatArray
    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    p_value: FloatArray
    p_adjusted: FloatArray
    statistic: float
    n_units: int
    estimand: str
    reason: tuple[str | None, ...]


def best_linear_projection(
    scores: Scores,
    X: pd.DataFrame,
    *,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Projection:
    """Return the least-squares coefficients of the scores on standardised attributes.

    The estimand is the best linear predictor of the product's effect given its attributes, whether or not effects are
    linear in them: what a product one standard deviation above the mean has more of effect, the other attributes being
    equal. It tells which products respond more, not why. With an outcome all coefficients are divided by the mean
    without treatment over all products, mu0 = mean(Z) - tau mean(W), so that the mean effect is that of
    `segments.segment_effects` over all products. Standard errors are cluster-robust over assignment units by the
    jackknife (CR3), which redoes the division; intervals from t with units less coefficients degrees of freedom.

    Assumes independent units and attributes fixed before the experiment. Text gives a 0/1 column for each level with
    five products in each arm; a column that others add up to, such as the last level, is left out with the reason and
    is what the other levels are compared with. With fewer than five units for each coefficient nothing is estimated.

    Parameters
    ----------
    scores
        Of N products.
    X
        Attributes (N, P).
    outcome, exposure
        (N,) means over the analysed periods of the scaled metric and of W; both or neither.
    confidence
        Of the intervals.

    Raises
    ------
    ValueError
        If X has another number of rows, holds what `affinity.encode` refuses, confidence is not inside (0, 1), or one
        of outcome and exposure is missing.

    References
    ----------
    Semenova and Chernozhukov, "Debiased machine learning of conditional average treatment effects", Econometrics
    Journal 24 (2021), section 2. Cui, Kosorok, Sverdrup, Wager and Zhu; Tibshirani et al., R package grf,
    `best_linear_projection`. Bell and McCaffrey, "Bias reduction in standard errors for linear regression with
    multi-stage samples", Survey Methodology 28 (2002), for CR3.

    Examples
    --------
    >>> from pricelab_dagster.science import effect_scores
    >>> size = np.arange(12.0)
    >>> scores = effect_scores.within_products(1.0 + size, np.tile([0.0, 1.0], (12, 1)))
    >>> best_linear_projection(scores, pd.DataFrame({"size": size})).coefficient.round(3)
    array([6.5  , 3.606,   nan])
    """
    check_confidence(confidence)
    if len(X) != len(scores.score):
        raise ValueError(f"X has {len(X)} rows, must have {len(scores.score)}. Give one row of attributes per product.")
    used = scores.weight > 0
    columns, names = _columns(X, scores, used)
    weight, unit = scores.weight[used], np.unique(scores.unit[used], return_inverse=True)[1]
    n_units = int(unit.max(initial=-1)) + 1
    design, kept = _independent(columns, weight)
    terms = (MEAN, *(f"{name}, one standard deviation up" for name in names), ANY)
    over = _segment_sums.terms(scores, outcome, exposure)
    words = scores.estimand + PER_STEP + ("" if over is None else RELATIVE_WORDS)
    n_terms = design.shape[1]
    if n_units < UNITS_PER_TERM * n_terms or n_units == 0:
        reason = (
            f"not identified: {n_units} assignment units for {n_terms} coefficients, "
            f"{UNITS_PER_TERM} for each are needed."
        )
        return _refused(terms, n_units, words, reason)
    b, influence, leverage = _fit(design, scores.score[used], weight, unit)
    if leverage >= FULL_LEVERAGE:
        return _refused(terms, n_units, words, "not identified: one assignment unit alone fixes a coefficient.")
    if over is not None:
        mu0, without = _untreated(b, influence, over[0][used], over[1][used], unit)
        least = min(mu0, without.min())
        if not least > 0.0:
            reason = f"The mean without treatment is {least:.3g}, not positive: no relative effect."
            return _refused(terms, n_units, words, reason)
        b, influence = b / mu0, b / mu0 - (b - influence) / without[:, None]
    return _summary(terms, kept, b, influence, n_units, words, confidence)


def _columns(X: pd.DataFrame, scores: Scores, used: BoolArray) -> tuple[FloatArray, list[str]]:
    """Return the attributes of the used products as numbers, and their names; rare levels have no column."""
    parts: list[tuple[str, FloatArray]] = []
    for position, name in enumerate(X.columns):
        column = X.iloc[:, position]
        if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            features, names = encode(column.to_frame()[used])
            parts += list(zip(names, features.T, strict=True))
            continue
        for level, member in levels(column, scores.treated, scores.control, MIN_PER_ARM):
            label = f"{name} {level}" if level in (MISSING, OTHER) else f"{name}={level}"
            parts.append((label, member[used].astype(float)))
    parts = [(name, values) for name, values in parts if (values[1:] != values[:1]).any()]
    matrix = np.column_stack([values for _, values in parts]) if parts else np.empty((int(used.sum()), 0))
    return matrix, [name for name, _ in parts]


def _independent(columns: FloatArray, weight: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return a constant and the standardised columns that are no combination of earlier ones, and which they are."""
    n = len(columns)
    if n == 0:
        return np.empty((0, 1)), np.zeros(columns.shape[1], dtype=bool)
    spread = columns.std(axis=0, ddof=1) if n > 1 else np.ones(columns.shape[1])
    standard = (columns - np.average(columns, axis=0, weights=weight)) / spread
    basis = np.empty((n, 0))
    kept = np.zeros(columns.shape[1], dtype=bool)
    for k, column in enumerate((np.sqrt(weight / weight.mean())[:, None] * standard).T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > COLLINEAR * np.linalg.norm(column):
            kept[k] = True
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return np.column_stack([np.ones(n), standard[:, kept]]), kept


def _fit(
    design: FloatArray, psi: FloatArray, weight: FloatArray, unit: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, float]:
    """Return coefficients (k,), what each unit's absence does to them (G, k), and the largest leverage of a unit."""
    root = np.sqrt(weight)
    A, y = root[:, None] * design, root * psi
    inverse = np.linalg.inv(A.T @ A)
    b = inverse @ (A.T @ y)
    residual = y - A @ b
    order = np.argsort(unit, kind="stable")
    start = np.r_[0, np.cumsum(np.bincount(unit))]
    influence, largest = np.empty((len(start) - 1, len(b))), 0.0
    for g in range(len(start) - 1):
        rows = order[start[g] : start[g + 1]]
        H = A[rows] @ inverse @ A[rows].T
        largest = max(largest, float(np.linalg.eigvalsh(H)[-1]))
        if largest >= FULL_LEVERAGE:
            break
        influence[g] = inverse @ (A[rows].T @ np.linalg.solve(np.eye(len(rows)) - H, residual[rows]))
    return b, influence, largest


def _untreated(
    b: FloatArray, influence: FloatArray, Z: FloatArray, W: FloatArray, unit: NDArray[np.int64]
) -> tuple[float, FloatArray]:
    """Return the mean without treatment, over all products and without each unit (G,)."""
    left = len(Z) - np.bincount(unit)
    mean_Z, mean_W = ((column.sum() - np.bincount(unit, column)) / left for column in (Z, W))
    return float(Z.mean() - b[0] * W.mean()), np.asarray(mean_Z - (b[0] - influence[:, 0]) * mean_W)


def _summary(
    terms: tuple[str, ...],
    kept: BoolArray,
    b: FloatArray,
    influence: FloatArray,
    n_units: int,
    words: str,
    confidence: float,
) -> Projection:
    """Return the coefficients in the order of the terms, with intervals and tests."""
    G, k = n_units, len(b)
    covariance = (G - 1) / G * (influence.T @ influence)
    freedom = G - k
    place = np.r_[0, 1 + np.flatnonzero(kept)]
    coefficient, se, p_value = np.full((3, len(terms)), np.nan)
    coefficient[place], se[place] = b, np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value[place] = 2.0 * stats.t.sf(np.abs(coefficient[place]) / se[place], freedom)
    half = stats.t.isf((1.0 - confidence) / 2.0, freedom) * se
    p_adjusted = holm(np.r_[np.nan, p_value[1:-1], np.nan])
    F, p_joint = wald(b[1:], covariance[1:, 1:], freedom)
    for values in (p_value, p_adjusted):
        values[0], values[-1] = p_value[0], p_joint
    reason: list[str | None] = [None] * len(terms)
    for position in np.flatnonzero(~kept):
        reason[1 + position] = "left out: other terms add up to it."
    if not np.isfinite(p_joint):
        reason[-1] = "no attribute to test." if k == 1 else "the covariance of the coefficients is singular."
    else:
        reason[-1] = f"F({k - 1}, {freedom}) = {F:.3g}; a test, without a coefficient."
    return Projection(
        term=terms,
        coefficient=coefficient,
        se=se,
        ci_lower=coefficient - half,
        ci_upper=coefficient + half,
        p_value=p_value,
        p_adjusted=p_adjusted,
        statistic=F,
        n_units=G,
        estimand=words,
        reason=tuple(reason),
    )


def _refused(terms: tuple[str, ...], n_units: int, words: str, reason: str) -> Projection:
    names = ("coefficient", "se", "ci_lower", "ci_upper", "p_value", "p_adjusted")
    nothing: dict[str, Any] = {name: np.full(len(terms), np.nan) for name in names}
    reasons = (reason,) * len(terms)
    return Projection(terms, **nothing, statistic=np.nan, n_units=n_units, estimand=words, reason=reasons)
