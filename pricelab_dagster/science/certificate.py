"""The certificate before launch: how much spillover would bias an experiment, and what avoiding it would cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from pricelab_dagster.science import bootstrap, designs
from pricelab_dagster.science._certificate_designs import (
    correlation_of,
    unrelated,
)
from pricelab_dagster.science._certificate_designs import (
    same_stratum as same_stratum,
)
from pricelab_dagster.science._certificate_designs import (
    same_unit as same_unit,
)
from pricelab_dagster.science._certificate_evidence import (
    Clusters as Clusters,
)
from pricelab_dagster.science._certificate_evidence import (
    Evidence as Evidence,
)
from pricelab_dagster.science._certificate_evidence import (
    FloatArray,
    IntArray,
    moving_apart,
    moving_together,
)
from pricelab_dagster.science._certificate_evidence import (
    evidence as evidence,
)
from pricelab_dagster.science._certificate_evidence import (
    form_clusters as form_clusters,
)
from pricelab_dagster.science._certificate_frontier import (
    Choice as Choice,
)
from pricelab_dagster.science._certificate_frontier import (
    Recommendation as Recommendation,
)
from pricelab_dagster.science._certificate_frontier import (
    by_cluster,
)
from pricelab_dagster.science._certificate_frontier import (
    recommend as recommend,
)
from pricelab_dagster.science._certificate_frontier import (
    standard_error as standard_error,
)

BLOCK_WEEKS = 2
"""Weeks that are resampled together; demand is related within a centred mean of four, most of it within two."""
ESTIMAND = (
    "expected difference between the arms less the effect of treating every product, from spillover alone, in parts of "
    "mean untreated demand"
)
MDE = 2.8
"""Standard errors of the effect that a two-sided 5 % test finds with probability .8."""
NOT_HELD_OUT = "not identified: too few weeks to form clusters from some of them and look at the others."


@dataclass(frozen=True, slots=True)
class Prediction:
    """The spillover bias that a design is predicted to have; in parts of mean untreated demand, .01 is a point.

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
        Why the bias is nan, or None.
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

    The estimand is E[difference between the arms] less the effect of treating every product. To first order it is
    -(1/N) ln(m) sum over ordered pairs of theta_ij (1 - rho_ij); predicted is m^e (m^(r) - m^(s)), e the mean own
    elasticity, s = (1/N) sum theta_ij, r = (1/N) sum theta_ij rho_ij: what spills onto a treated product scales with
    what its own price sells. For `Clusters` rho is 1 inside and 0 across, and theta inside comes from weeks that did
    not form the clusters. Other designs were not formed by looking at theta, and take it from all weeks.

    Assumes the cross effects of the history's prices hold for those of the experiment, effects that are constant in
    logs and add up, no effects across categories, and pairs that are not identified like the rest of their category.
    Where prices were set in answer to demand the bias is predicted with that error. The interval is of the weeks:
    clusters and own elasticity are held, and two weeks are resampled together by their scores.

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
    if not (np.isfinite(multiplier) and multiplier > 0 and multiplier != 1):
        raise ValueError(f"multiplier == {multiplier}, must be above 0 and not 1. Give treated price over control.")
    correlation = None if isinstance(design, Clusters) else correlation_of(design, len(evidence.product_id))
    n_weeks = evidence.n_periods // evidence.season
    held_out = correlation is not None or evidence.levels
    reason = evidence.reason or (None if held_out else NOT_HELD_OUT)
    if reason is not None:
        nothing = (np.nan,) * 9
        return Prediction(*nothing, evidence.identified_share, n_weeks, ESTIMAND, reason)
    values, scores = _sums(evidence, design, correlation)
    n_units, spread = _resampled(scores, evidence.season, n_replicates, rng)
    bias = float(_bias(values, multiplier, evidence.own_elasticity))
    drawn = _bias(values + spread, multiplier, evidence.own_elasticity)
    found = bootstrap.interval(bias, drawn, confidence=confidence, n_units_smaller_arm=n_units, n_units=n_units + 1)
    sums = values[0] + spread[:, 0]
    shown = bootstrap.interval(values[0], sums, confidence=confidence, n_units_smaller_arm=n_units, n_units=n_units + 1)
    told = shown.ci_lower > 0 or shown.ci_upper < 0
    return Prediction(
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
        reason=None,
    )


def frontier(
    evidence: Evidence,
    first_difference: ArrayLike,
    *,
    caps: tuple[int, ...] = (1, 4, 8, 12, 24),
    strata: ArrayLike | None = None,
    multiplier: float = 0.95,
    confidence: float = 0.95,
    n_replicates: int = 500,
    rng: np.random.Generator,
) -> tuple[Choice, ...]:
    """Return predicted bias, standard error and minimum detectable effect by product and by clusters of each cap.

    The estimands are those of `predict` and `standard_error`. Products are drawn in `strata`, clusters in pairs of like
    size from different categories, as in `designs.paired_strata`. All intervals come from the same weeks. The standard
    error is that of the unadjusted difference of the first differences passed in: it is for comparing the choices, and
    to compare with other figures these must be on their scale and over their window.

    Parameters
    ----------
    evidence
        From `evidence`.
    first_difference
        D (N,) of a placebo window, in parts of mean demand; nan takes no part in the standard error.
    caps
        Largest cluster of each choice.
    strata
        (N,) labels in which products are drawn; None: one stratum, whose correlation is taken as 0.
    multiplier, confidence, n_replicates
        As for `predict`.
    rng
        Breaks ties of clusters and draws weeks.

    Raises
    ------
    ValueError
        As `predict`, `form_clusters` and `standard_error`.

    References
    ----------
    Eckles, Karrer and Ugander, "Design and analysis of experiments in networks", J. Causal Inference 5 (2017): bias
    against variance of cluster assignment.
    """
    N, weeks_seed = len(evidence.product_id), int(rng.integers(2**63))
    independent = sparse.csr_array((N, N)) if strata is None else same_stratum(strata)
    base = standard_error(first_difference, strata=strata)

    def row(design: Clusters | sparse.csr_array, max_size: int | None, n_units: int, se: float) -> Choice:
        found = predict(
            evidence,
            design,
            multiplier=multiplier,
            confidence=confidence,
            n_replicates=n_replicates,
            rng=np.random.default_rng(weeks_seed),
        )
        return Choice(
            assignment="product" if max_size is None else "cluster",
            max_size=max_size,
            n_units=n_units,
            bias=found.bias,
            bias_se=found.se,
            ci_lower=found.ci_lower,
            ci_upper=found.ci_upper,
            kept_share=found.kept_share,
            identified_share=found.identified_share,
            se=se,
            se_cost=se / base - 1 if base > 0 else np.nan,
            mde=MDE * se,
            rmse=float(np.hypot(found.bias, se)),
            reason=found.reason,
        )

    choices = [row(independent, None, N, base)]
    for cap in caps:
        formed = form_clusters(evidence, max_size=cap, rng=rng)
        pairs = _paired(evidence, formed.label)
        se = standard_error(first_difference, units=formed.label, strata=pairs)
        choices.append(row(formed, cap, int(formed.label.max()) + 1, se))
    return tuple(choices)


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


def _paired(evidence: Evidence, label: IntArray) -> IntArray:
    """Return the stratum (N,) of each product's cluster."""
    category, size = by_cluster(label, evidence.category, evidence.mean_units)
    return designs.paired_strata(size, category=category)[label]


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
