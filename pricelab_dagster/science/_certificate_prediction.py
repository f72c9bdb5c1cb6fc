"""The spillover bias that a design is predicted to have, with its interval."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from pricelab_dagster.science import bootstrap
from pricelab_dagster.science._certificate_designs import correlation_of, unrelated
from pricelab_dagster.science._certificate_evidence import (
    LEVELS,
    Clusters,
    Evidence,
    FloatArray,
    IntArray,
    moving_apart,
    moving_together,
)

BLOCK_WEEKS = 2
"""Weeks that are resampled together; demand is related within a centred mean of four, most of it within two."""
ESTIMAND = (
    "expected ratio of the arms' mean demand less 1, less the relative effect of treating every product, from "
    "spillover alone"
)
JUDGED = 0.9
"""Part of the pairs of which weeks held out must say what clusters keep; the others count as not kept."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The spillover bias that a design is predicted to have; of the relative effect, .01 is a point.

    Attributes
    ----------
    bias, se, ci_lower, ci_upper, p_value
        With the interval of a week bootstrap; nan where `reason` says why.
    first_order
        -ln(multiplier) sum of theta_ij (1 - rho_ij) / N, which `bias` follows to second order.
    total, apart
        (1/N) sum of theta_ij over candidate pairs, and of theta_ij (1 - rho_ij).
    kept_share
        1 - apart / total: the part of cross effects between products that move together; nan where the total is not
        told from zero.
    identified_share
        Identified part of the candidate pairs.
    n_weeks
        Weeks of history.
    estimand
        What is predicted, in words.
    reason
        Why the bias is nan, or what it leaves out, or None.
    """

    bias: float
    se: float
    ci_lower: float
    ci_upper: float
    p_value: float
    first_order: float
    total: float
    apart: float
    kept_share: float
    identified_share: float
    n_weeks: int
    estimand: str
    reason: str | None


def predict(
    evidence: Evidence,
    design: Clusters | ArrayLike | sparse.sparray,
    *,
    multiplier: float = 0.95,
    confidence: float = 0.95,
    n_replicates: int = 500,
    rng: np.random.Generator,
) -> Prediction:
    """Return the predicted spillover bias of the total effect under a design, with its interval.

    The estimand is E[mean of the treated / mean of the control] - 1 less the relative effect of treating every product.
    To first order it is -(1/N) ln(m) sum over ordered pairs of theta_ij (1 - rho_ij); predicted is m^e (m^(r) - m^(s)),
    e the mean own elasticity, s = (1/N) sum theta_ij, r = (1/N) sum theta_ij rho_ij: what spills onto a treated product
    scales with what its own price sells. For `Clusters` rho is 1 inside and 0 across, and theta inside comes from weeks
    that did not form the clusters. Other designs were not formed by looking at theta, and take it from all weeks.

    Assumes the cross effects of the history's prices hold for those of the experiment, effects that are constant in
    logs and add up, no effects across categories, and pairs that are not identified like the rest of their category.
    Where prices were set in answer to demand the bias is predicted with that error. The interval is of the weeks:
    clusters and own elasticity are held, and two weeks are resampled together by their scores. Where weeks held out say
    nothing of more than a tenth of the pairs, clusters are not judged; of fewer they count as keeping nothing.

    Parameters
    ----------
    evidence
        From `evidence`.
    design
        `Clusters` from `form_clusters`; or draws of arms (R, N), 0 or 1; or corr(W_i, W_j), scipy sparse (N, N), zeros
        where products are drawn on their own; the diagonal plays no part.
    multiplier
        Treated price over control price.
    confidence, n_replicates
        Of the interval.
    rng
        Draws weeks.

    Raises
    ------
    ValueError
        If the design does not fit, or multiplier or confidence are out of range.

    References
    ----------
    Kline and Santos, "A score based approach to wild bootstrap inference", J. Econometric Methods 1 (2012), with
    resampled blocks of weeks in place of wild weights.
    """
    options: Any = {"multiplier": multiplier, "confidence": confidence, "n_replicates": n_replicates, "rng": rng}
    return predicted(evidence, design, **options)[0]


def predicted(
    evidence: Evidence,
    design: Any,
    *,
    multiplier: float,
    confidence: float,
    n_replicates: int,
    rng: np.random.Generator,
) -> tuple[Prediction, FloatArray]:
    """Return the prediction and the bias in each replicate of the weeks (B,), none where it is nan."""
    if not (np.isfinite(multiplier) and multiplier > 0 and multiplier != 1):
        raise ValueError(f"multiplier == {multiplier}, must be above 0 and not 1. Give treated price over control.")
    correlation = None if isinstance(design, Clusters) else correlation_of(design, len(evidence.product_id))
    n_weeks = evidence.n_periods // evidence.season
    not_judged, judged = _not_judged(evidence, design)
    reason = evidence.reason or (None if judged else not_judged)
    if reason is not None:
        nothing = Prediction(*(np.nan,) * 9, evidence.identified_share, n_weeks, ESTIMAND, reason)
        return nothing, np.empty(0)
    values, scores = _sums(evidence, design, correlation)
    n_units, spread = _resampled(scores, evidence.season, n_replicates, rng)
    bias = float(_bias(values, multiplier, evidence.own_elasticity))
    drawn = _bias(values + spread, multiplier, evidence.own_elasticity)
    found = bootstrap.interval(bias, drawn, confidence=confidence, n_units_smaller_arm=n_units, n_units=n_units + 1)
    sums = values[0] + spread[:, 0]
    shown = bootstrap.interval(values[0], sums, confidence=confidence, n_units_smaller_arm=n_units, n_units=n_units + 1)
    told = shown.ci_lower > 0 or shown.ci_upper < 0
    prediction = Prediction(
        bias=bias,
        se=found.se,
        ci_lower=found.ci_lower,
        ci_upper=found.ci_upper,
        p_value=found.p_value,
        first_order=float(-np.log(multiplier) * values[1]),
        total=float(values[0]),
        apart=float(values[1]),
        kept_share=float(1 - values[1] / values[0]) if told else np.nan,
        identified_share=evidence.identified_share,
        n_weeks=n_weeks,
        estimand=ESTIMAND,
        reason=not_judged,
    )
    return prediction, drawn


def _not_judged(evidence: Evidence, design: Any) -> tuple[str | None, bool]:
    """Return what weeks held out do not say of clusters, or None, and whether the rest is enough to judge them."""
    if not isinstance(design, Clusters) or design.max_size == 1 or evidence.judged_share == 1.0:
        return None, True
    n_weeks = evidence.n_periods // evidence.season
    if len(evidence.levels) < len(LEVELS):
        needed = min(LEVELS) * evidence.min_weeks
        why = "not identified: too few weeks to form clusters from half of them and judge them by the other half"
        return f"{why}, {n_weeks}, needs {needed}.", False
    missing = f"{100 * (1 - evidence.judged_share):.0f} % of the pairs"
    why = f"are in categories with too many prices for a quarter of {n_weeks} weeks"
    if evidence.judged_share < JUDGED:
        return f"not identified: {missing} {why}.", False
    return f"{missing} {why}, and count as not kept inside clusters.", True


def _sums(
    evidence: Evidence, design: Any, correlation: Callable[[IntArray], FloatArray] | None
) -> tuple[FloatArray, FloatArray]:
    """Return (1/N) sum theta and (1/N) sum theta (1 - rho), (2,), and their scores (2, T)."""
    total = moving_apart(evidence, unrelated)
    if correlation is not None:
        apart = moving_apart(evidence, correlation)
    else:
        together = moving_together(evidence, design)
        apart = total[0] - together[0], total[1] - together[1]
    return np.array([total[0], apart[0]]), np.stack([total[1], apart[1]])


def _bias(sums: FloatArray, multiplier: float, own_elasticity: float) -> FloatArray:
    """Return the bias from (1/N) sum theta and (1/N) sum theta (1 - rho), (..., 2)."""
    together = multiplier ** (sums[..., 0] - sums[..., 1])
    return np.asarray(multiplier**own_elasticity * (together - multiplier ** sums[..., 0]))


def _resampled(scores: FloatArray, season: int, n_replicates: int, rng: np.random.Generator) -> tuple[int, FloatArray]:
    """Return the number of blocks, and the change of each sum (B, 2) when blocks of weeks are resampled."""
    blocks = np.add.reduceat(scores, np.arange(0, scores.shape[1], season * BLOCK_WEEKS), axis=1)
    n = blocks.shape[1]
    times = rng.multinomial(n, np.full(n, 1 / n), size=n_replicates)
    return n, np.asarray((times - 1.0) @ blocks.T)
