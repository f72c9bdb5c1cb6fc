"""Whether the estimators beside a headline agree with it, and the likely reason where one does not."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pricelab_dagster.science import _reasons, affinity, diagnostics, panel
from pricelab_dagster.science._reasons import Evidence
from pricelab_dagster.science.panel import Panel, Trimmed

__all__ = ["Comparison", "Estimate", "Evidence", "compare", "estimators_agree", "evidence"]

FloatArray = NDArray[np.float64]

ALPHA = 0.01
"""Of all comparisons together: a red check in one of a hundred sound experiments."""
MARGIN = 0.5
"""Differences up to this part of the headline's standard error count as agreement: a bias of that size leaves a 95 %
interval with 92 % coverage."""
MIN_JOINT_DRAWS = 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """An effect with its standard error and its bootstrap draws (B,), empty where there are none."""

    effect: float
    se: float
    draws: FloatArray


@dataclass(frozen=True, slots=True)
class Comparison:
    """One estimator against the headline.

    Attributes
    ----------
    estimator, headline
        Names.
    effect
        The headline's.
    difference
        The estimator's effect less the headline's.
    se
        Of the difference.
    joint
        Whether `se` comes from draws that both share; otherwise it is the root of the sum of both squares, too large
        for estimates of the same sales, which move together.
    p_value
        Of a difference within the margin, adjusted for the other comparisons (Holm).
    differs
        Whether that is below alpha.
    reason
        The likely reason in words, where it differs.
    expected
        Whether it differs because the two are meant to estimate different things.
    """

    estimator: str
    headline: str
    effect: float
    difference: float
    se: float
    joint: bool
    p_value: float
    differs: bool
    reason: str | None
    expected: bool


def evidence(
    one: Panel,
    metrics: list[Trimmed],
    X: pd.DataFrame,
    *,
    clustered: bool,
    n_permutations: int = 999,
    rng: np.random.Generator,
) -> Evidence:
    """Return what tells why estimators of one arm differ: the filter's part, balance, and how open the arms were.

    Parameters
    ----------
    one
        The panel of one treatment arm against control.
    metrics
        All metrics, for what divides a signed one; the first, on the relative scale, is the one compared.
    X
        Attributes (N rows).
    clustered
        Whether clusters were assigned.
    n_permutations
        Draws behind the balance.
    rng
        Source of those draws.
    """
    weights = np.ones((len(one.product_id), 2), dtype=np.float32)
    leaves = affinity.Leaves.single(len(weights))
    found = panel.estimates(
        one, metrics, leaves, trim="none", estimators=("hajek",), weights=weights, rng=np.random.default_rng(0)
    )
    unfiltered = next(found)[3].effect
    W = one.sequence
    known = np.isfinite(W)
    features = affinity.encode(X[known])[0]
    balance = diagnostics.Diagnostic("", "informational", np.nan, np.nan, np.nan, "")
    if one.kind != "random_days" and len(np.unique(W[known])) == 2:
        units = one.unit_id[known]
        balance = diagnostics.covariate_balance(features, W[known], units=units, n_permutations=n_permutations, rng=rng)
    certain = np.nan if one.kind == "random_days" else _reasons.certain_share(features, W[known])
    return Evidence(
        unfiltered=unfiltered,
        balance_distance=balance.value,
        balance_p=balance.p_value,
        certain_share=certain,
        clustered=clustered,
    )


def compare(
    estimates: Mapping[str, Estimate], *, headline: str, evidence: Evidence, alpha: float = ALPHA
) -> list[Comparison]:
    """Return every other estimator against the headline, the least likely agreement first.

    Null hypothesis of each: the two differ by no more than half of the headline's standard error. The p-value is that
    at the margin, P(|N(m, se)| >= |difference|), from a normal difference; Holm's steps hold the chance of any false
    alarm at `alpha`, whatever moves the estimators together. Which reason is likely follows from what else is on the
    peer's side: see METHODS.md.

    Parameters
    ----------
    estimates
        By estimator; one without a finite effect and standard error is not compared.
    headline
        The estimator that is quoted.
    evidence
        As `evidence` finds it.
    alpha
        Of all comparisons together.

    Raises
    ------
    ValueError
        If the headline is not among the estimates, or alpha not in (0, 1).

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", Journal of Pharmacokinetics
    and Biopharmaceutics 15 (1987), on hypotheses with a margin.
    """
    if headline not in estimates:
        raise ValueError(f"headline == {headline!r}, must be one of {sorted(estimates)}. Give its estimate too.")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha == {alpha}, must be in (0, 1). 0.01 is usual.")
    quoted = estimates[headline]
    defined = {name: one for name, one in estimates.items() if np.isfinite(one.effect) and np.isfinite(one.se)}
    if headline not in defined:
        return []
    names = [name for name in defined if name != headline]
    errors = [_standard_error(defined[name], quoted) for name in names]
    gaps = np.array([defined[name].effect - quoted.effect for name in names])
    p_values = _holm(_beyond(gaps, np.array([se for se, _ in errors]), MARGIN * quoted.se))
    effects = {name: one.effect for name, one in defined.items()}
    found = []
    for name, gap, (se, joint), p in zip(names, gaps, errors, p_values, strict=True):
        differs = bool(p < alpha)
        reason, expected = _reasons.likely(name, effects, headline, evidence) if differs else (None, False)
        found.append(
            Comparison(name, headline, quoted.effect, float(gap), se, joint, float(p), differs, reason, expected)
        )
    return sorted(found, key=lambda one: (one.p_value, -abs(one.difference)))


def estimators_agree(arms: Mapping[str, list[Comparison]], *, alpha: float = ALPHA) -> diagnostics.Diagnostic:
    """Return whether the estimators of all arms agree with the headline; the furthest is named, with its likely reason.

    Failed where one differs for another reason than that it is meant to estimate something else, for which the check
    only informs. `value` is the difference, `p_value` that of the furthest times the number of arms.

    Parameters
    ----------
    arms
        By treatment arm, as `compare` gives them.
    alpha
        Of all arms together; that of `compare` is to be this over the number of arms.
    """
    name, n_arms = "estimators_agree", len(arms)
    ranked = [
        (not one.differs, one.expected, one.p_value, -abs(one.difference), arm, one)
        for arm, part in arms.items()
        for one in part
    ]
    if not ranked:
        message = "Not computed: the headline has no value, or nothing stands beside it."
        return diagnostics.Diagnostic(name, "informational", np.nan, alpha, np.nan, message)
    *_, arm, worst = min(ranked, key=lambda one: one[:-1])
    p = min(1.0, n_arms * worst.p_value)
    where = f" (arm {arm})" if n_arms > 1 else ""
    basis = "from shared draws" if worst.joint else "at most, without shared draws"
    gap = (
        f"{worst.estimator} reads {worst.effect + worst.difference:+.1%}, {worst.headline} {worst.effect:+.1%}{where}: "
        f"{100.0 * abs(worst.difference):.2f} points apart, standard error {100.0 * worst.se:.2f} {basis}"
    )
    if not worst.differs:
        message = f"{len(ranked)} estimates agree with the headline. The furthest, {gap}."
        return diagnostics.Diagnostic(name, "passed", worst.difference, alpha, p, message)
    status: diagnostics.Status = "informational" if worst.expected else "failed"
    n_differ = sum(one.differs for part in arms.values() for one in part)
    message = f"{n_differ} of {len(ranked)} estimates differ from the headline. {gap}. Likely reason: {worst.reason}."
    return diagnostics.Diagnostic(name, status, worst.difference, alpha, p, message)


def _standard_error(one: Estimate, other: Estimate) -> tuple[float, bool]:
    """Return the standard error of the difference, and whether it comes from draws that both share."""
    if len(one.draws) == len(other.draws) > 0:
        gaps = one.draws - other.draws
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps) >= MIN_JOINT_DRAWS:
            return float(gaps.std(ddof=1)), True
    return float(np.hypot(one.se, other.se)), False


def _beyond(gap: FloatArray, se: FloatArray, margin: float) -> FloatArray:
    """Return the p-values of differences of at most the margin; rounding is no difference."""
    size = np.abs(gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.norm.sf((size - margin) / se) + stats.norm.sf((size + margin) / se)
    return np.where(size <= margin, np.where(np.isfinite(p), p, 1.0), np.where(se > 0, p, 0.0))


def _holm(p: FloatArray) -> FloatArray:
    """Return Holm's adjusted p-values."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
