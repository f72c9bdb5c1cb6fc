"""What the peers of HPTE share: their checked arguments, and the effect made of what they estimate."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science import _adjusted, affinity, bootstrap, hpte
from pricelab_dagster.science._replicate import Problem, Trim, state

FloatArray = NDArray[np.float64]

RELATIVE = "; relative to the mean without treatment"
BLOCKS = "; arms compared within their blocks"


def problem(
    D: ArrayLike,
    W: FloatArray,
    units: ArrayLike | None,
    trim: Trim,
    trim_c: float,
    group: ArrayLike | None,
    outcome: ArrayLike | None,
    exposure: ArrayLike | None,
    factor: float,
    within: ArrayLike | None,
) -> Problem:
    """Return the checked arguments; raise ValueError where they break the rules."""
    if W.ndim != 1:
        raise ValueError(f"arm.shape == {W.shape}, must be (N,). Give one arm per product; cells have no peers.")
    return state(
        np.asarray(D, dtype=float),
        W,
        units=units,
        contrast=None,
        group=group,
        filter_rule=(trim, trim_c),
        method="residual",
        estimand="ate",
        probability=None,
        outcome=outcome,
        exposure=exposure,
        factor=factor,
        within=within,
    )


def covariates(
    problem: Problem, W: FloatArray, X: pd.DataFrame | ArrayLike | None, units: ArrayLike | None
) -> _adjusted.Covariates:
    """Return the covariates that count among the products that the filter keeps."""
    features = np.empty((len(W), 0)) if X is None else affinity.encode(X)[0]
    if len(features) != len(W):
        raise ValueError(f"X has {len(features)} rows, must have {len(W)}. Give one row of covariates per product.")
    kept = problem.filtered(np.ones((len(W), 1))).weights[:, 0] > 0
    labels = np.arange(len(W)) if units is None else np.asarray(units)
    n_units = min(len(pd.unique(labels[kept & (side == W)])) for side in (1.0, 0.0))
    return _adjusted.covariates(features, kept, W == 1.0, n_units)


def summary(
    problem: Problem,
    under: hpte.Under,
    units: ArrayLike | None,
    weights: ArrayLike | None,
    n_replicates: int,
    confidence: float,
    note: str | None,
    words: str,
    rng: np.random.Generator,
) -> hpte.Effect:
    """Return the estimate of `under` with its interval from the replicates."""
    n = len(problem.contrast)
    labels = np.arange(n) if units is None else np.asarray(units)
    if weights is None:
        weights = bootstrap.poisson_weights(labels, n_replicates=n_replicates, rng=rng)
    drawn = np.asarray(weights)
    if drawn.ndim != 2 or len(drawn) != n:
        raise ValueError(f"weights.shape == {drawn.shape}, must be ({n}, B). Use bootstrap.poisson_weights.")
    filtered = problem.filtered(np.ones((n, 1)))
    found = hpte._summary(problem, filtered, labels, drawn, confidence, note, under)
    return replace(found, two_arm_share=np.nan, estimand=_words(problem, words))


def clustered(units: ArrayLike | None, n: int) -> bool:
    return units is not None and len(pd.unique(np.asarray(units))) < n


def _words(problem: Problem, words: str) -> str:
    blocks = "" if problem.within is None else BLOCKS
    return f"{words}{blocks}" if problem.outcome is None else f"{words}{blocks}{RELATIVE}"


def without_draws(
    problem: Problem,
    passed: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    W: FloatArray,
    tau: float,
    se: float,
    confidence: float,
    reason: str | None,
    words: str,
) -> hpte.Effect:
    """Return an effect without draws from tau and its standard error, over the untreated mean where there is one."""
    if problem.outcome is not None and problem.exposure is not None and kept.any():
        mean = float(problem.outcome[kept].mean())
        mu0 = mean - tau * float(problem.exposure[kept].mean())
        if mu0 <= 0.0:
            reason, tau, se = f"The mean without treatment is {mu0:.3g}, not positive: no relative effect.", np.nan, se
        tau, se = tau / mu0, se * mean / mu0**2
    se = se if np.isfinite(tau) else np.nan
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * se
    return hpte.Effect(
        effect=tau,
        se=se,
        ci_lower=tau - half,
        ci_upper=tau + half,
        p_value=float(2.0 * stats.norm.sf(abs(tau) / se)) if se > 0 else np.nan,
        n_treated=int((kept & (W == 1.0)).sum()),
        n_control=int((kept & (W == 0.0)).sum()),
        n_trimmed=int((np.isfinite(problem.contrast) & ~passed).sum()),
        two_arm_share=np.nan,
        n_replicates=0,
        estimand=_words(problem, words),
        reason=reason,
        kept=kept,
        draws=np.empty(0),
    )
