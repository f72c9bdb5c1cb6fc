"""Known estimators beside HPTE on the same first differences: regression adjustment, CUPED, double machine learning."""

from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _adjusted, _double_ml, _peer_effects, affinity, hpte
from pricelab_dagster.science._replicate import Trim

__all__ = ["ancova", "causal_forest_dml", "cuped"]

FloatArray = NDArray[np.float64]
Estimand = Literal["ate", "att"]

OVER = {"ate": "mean effect over products", "att": "mean effect on treated products"}


def ancova(
    first_difference: ArrayLike,
    arm: ArrayLike,
    X: pd.DataFrame | ArrayLike | None = None,
    *,
    units: ArrayLike | None = None,
    estimand: Estimand = "ate",
    trim: Trim = "trim",
    trim_c: float = 5.0,
    group: ArrayLike | None = None,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    factor: float = 1.0,
    within: ArrayLike | None = None,
    confidence: float = 0.95,
    n_replicates: int = 500,
    weights: ArrayLike | None = None,
    rng: np.random.Generator,
) -> hpte.Effect:
    """Return the effect of the arm by least squares with covariates, interacted with the arm.

    Estimand: the mean effect over kept products (ate) or over the treated ones (att), times `factor`; with an outcome,
    divided by the untreated mean. D = b0 + b1 W + X b2 + W (X - c) b3 + blocks, the effect b1, c the mean of X over
    those products. Under a drawn assignment it is consistent whatever the true shape, and asymptotically no less
    precise than the difference of means; of an assignment that was not drawn it removes what is linear in X and no
    more. Few units for each covariate make it worse than no adjustment: there is at most one covariate per ten units of
    the smaller arm, first ones first, and those that repeat others or do not vary in an arm are left out.

    Parameters
    ----------
    first_difference
        D (N,), or any outcome, such as the mean after the start for ANCOVA on raw sales.
    arm
        W (N,), 0 or 1, nan where not in the analysis.
    X
        Covariates as for `affinity.encode`, the most telling ones first, known before the start; None: none, which is
        the difference of means.
    units, trim, trim_c, group, outcome, exposure, factor, within, confidence, n_replicates, weights, rng
        As for `hpte.estimate`: the same filter and bootstrap, redone in each replicate.

    Raises
    ------
    ValueError
        If shapes, arms or options break these rules.

    References
    ----------
    Lin, "Agnostic notes on regression adjustments to experimental data: reexamining Freedman's critique", Annals of
    Applied Statistics 7 (2013), section 4.

    Examples
    --------
    >>> import numpy as np
    >>> found = ancova([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], trim="none", rng=np.random.default_rng(0))
    >>> round(found.effect, 9)
    4.0
    """
    _check_estimand(estimand)
    W = np.asarray(arm, dtype=float)
    problem = _peer_effects.problem(first_difference, W, units, trim, trim_c, group, outcome, exposure, factor, within)
    covariates = _peer_effects.covariates(problem, W, X, units)
    under = partial(_adjusted.effects_under, X=covariates.X, form="interacted", estimand=estimand)
    words = f"{OVER[estimand]}, adjusted by {covariates.X.shape[1]} covariates, linear in each arm"
    return _peer_effects.summary(
        problem, under, units, weights, n_replicates, confidence, covariates.note(), words, rng
    )


def cuped(
    first_difference: ArrayLike,
    arm: ArrayLike,
    covariate: ArrayLike,
    *,
    units: ArrayLike | None = None,
    trim: Trim = "trim",
    trim_c: float = 5.0,
    group: ArrayLike | None = None,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    factor: float = 1.0,
    within: ArrayLike | None = None,
    confidence: float = 0.95,
    n_replicates: int = 500,
    weights: ArrayLike | None = None,
    rng: np.random.Generator,
) -> hpte.Effect:
    """Return the difference between the arms of the outcome less one multiple of a covariate from before the start.

    Estimand: the mean effect over kept products, times `factor`; with an outcome, divided by the untreated mean.
    D - theta (x - mean x), theta = cov(D, x) / var(x) over both arms. Assumes a drawn assignment, to which the
    covariate is unrelated: theta is then the best of all multiples. Where arms differ in the covariate, theta takes a
    part of the effect for the covariate's.

    Parameters
    ----------
    first_difference, arm
        As for `ancova`.
    covariate
        x (N,), the mean before the start; a missing one takes the median. One that does not vary adjusts nothing.
    units, trim, trim_c, group, outcome, exposure, factor, within, confidence, n_replicates, weights, rng
        As for `hpte.estimate`.

    Raises
    ------
    ValueError
        If shapes, arms or options break these rules.

    References
    ----------
    Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online controlled experiments by utilizing
    pre-experiment data", WSDM (2013), eq. 4.

    Examples
    --------
    >>> import numpy as np
    >>> x = [1.0, 3.0, 1.0, 3.0]
    >>> found = cuped([1.0, 3.0, 5.0, 7.0], [0, 0, 1, 1], x, trim="none", rng=np.random.default_rng(0))
    >>> round(found.effect, 9)
    4.0
    """
    W = np.asarray(arm, dtype=float)
    problem = _peer_effects.problem(first_difference, W, units, trim, trim_c, group, outcome, exposure, factor, within)
    x = np.asarray(covariate, dtype=float)
    if x.shape != W.shape:
        raise ValueError(f"covariate.shape == {x.shape}, must be {W.shape}. Give one value per product.")
    known = np.isfinite(x)
    x = np.where(known, x, np.median(x[known]) if known.any() else 0.0)
    kept = problem.filtered(np.ones((len(x), 1))).weights[:, 0] > 0
    spread = x[kept].std() if kept.any() else 0.0
    X = ((x - x[kept].mean()) / spread)[:, None] if spread > 0 else np.empty((len(x), 0))
    under = partial(_adjusted.effects_under, X=X, form="pooled", estimand="ate")
    words = f"{OVER['ate']}, less one multiple of the mean before the start"
    return _peer_effects.summary(problem, under, units, weights, n_replicates, confidence, None, words, rng)


def causal_forest_dml(
    first_difference: ArrayLike,
    arm: ArrayLike,
    X: pd.DataFrame | ArrayLike | None,
    *,
    units: ArrayLike | None = None,
    estimand: Estimand = "ate",
    trim: Trim = "trim",
    trim_c: float = 5.0,
    group: ArrayLike | None = None,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    factor: float = 1.0,
    within: ArrayLike | None = None,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> hpte.Effect:
    """Return the doubly robust average effect of econml's causal forest with double machine learning.

    Estimand: the mean effect over kept products (ate) or over the treated ones (att), times `factor`; with an outcome,
    divided by the untreated mean. Outcome and arm are predicted from X by random forests of 100 trees with leaves of
    ten, cross-fitted over five folds; the causal forest has 400 trees. Blocks enter as attributes. Assumes that within
    X the arm is as good as drawn, and products that stand alone: the standard error takes products as independent, and
    `groups` of the library keep clusters together in the folds only, so that assigned clusters have no estimate here.
    The interval is normal, and leaves out the noise of the mean that a relative effect is divided by. There are no
    bootstrap draws.

    Parameters
    ----------
    first_difference, arm, X
        As for `ancova`; without X there is no estimate.
    units, estimand, trim, trim_c, group, outcome, exposure, factor, within, confidence
        As for `ancova`.
    rng
        Source of the forests' seed; trees depend on the order of rows.

    Raises
    ------
    ValueError
        If shapes, arms or options break these rules.

    References
    ----------
    Athey, Tibshirani and Wager, "Generalized random forests", Annals of Statistics 47 (2019), section 6. Chernozhukov
    et al., "Double/debiased machine learning for treatment and structural parameters", Econometrics Journal 21 (2018).
    """
    _check_estimand(estimand)
    W = np.asarray(arm, dtype=float)
    problem = _peer_effects.problem(first_difference, W, units, trim, trim_c, group, outcome, exposure, factor, within)
    filtered = problem.filtered(np.ones((len(W), 1)))
    kept = filtered.weights[:, 0] > 0
    D = problem.panel.in_given_order(problem.panel.value)[:, 0]
    D = D if filtered.shift is None else D + filtered.shift[:, 0]
    features = np.empty((len(W), 0)) if X is None else affinity.encode(X)[0]
    if problem.within is not None:
        features = np.column_stack([features, affinity.encode(problem.within.astype(str))[0]])
    reason = _double_ml.no_forest(features[kept], W[kept], clustered=_peer_effects.clustered(units, len(W)))
    tau = se = np.nan
    if reason is None:
        seed = int(rng.integers(2**31 - 1))
        tau, se = (
            factor * number for number in _double_ml.average_effect(D[kept], W[kept], features[kept], estimand, seed)
        )
        se = abs(se)
    words = f"{OVER[estimand]}, by double machine learning"
    return _peer_effects.without_draws(problem, filtered.passed[:, 0], kept, W, tau, se, confidence, reason, words)


def _check_estimand(estimand: str) -> None:
    if estimand not in get_args(Estimand):
        raise ValueError(f"estimand == {estimand!r}, must be one of {get_args(Estimand)}. 'att' is for imported arms.")
