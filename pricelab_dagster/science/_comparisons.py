"""What stands in for HPTE where a design does not identify it: one-sequence crossovers and staggered starts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import hpte, paired, staggered
from pricelab_dagster.science._experiment import SIGNED_METRICS, BoolArray, FloatArray, Panel, Trimmed
from pricelab_dagster.science._first_differences import mean, missing_phase

STAGGERED_HEADLINE = "group_time_simple_not_yet"
PRE_DAYS = 28
"""Days before the start that enter a staggered panel; by week, or coarser periods, all of the history does."""

ONE_SEQUENCE = (
    "not identified: all products have the same sequence of arms, so the effect cannot be told from what changed "
    "between the phases. `paired` holds the effect only if nothing else changed."
)
STAGGERED = (
    "not identified by one before and after: products start at different times. "
    f"Quote {STAGGERED_HEADLINE}; two_way_fixed_effects may weigh effects negatively."
)


def refusal(panel: Panel) -> str | None:
    """Return why HPTE has no meaning on this panel, or None."""
    counted = (panel.in_analysis & np.isfinite(panel.arm)).any(axis=1)
    if panel.kind == "crossover":
        missing = missing_phase(panel)
        if missing is not None:
            return f"not identified: {missing}."
        sequences = panel.sequence[counted]
        return ONE_SEQUENCE if len(np.unique(sequences)) == 1 else None
    if panel.kind == "time_bound" and panel.imported:
        known = np.where(np.isfinite(panel.arm), panel.arm, panel.sequence[:, None])
        return STAGGERED if (counted & (known.max(axis=1, initial=0) > panel.sequence)).any() else None
    return None


def refused(effect: hpte.Effect, reason: str) -> hpte.Effect:
    """Return the effect as not identified."""
    nothing: dict[str, Any] = dict.fromkeys(("effect", "se", "ci_lower", "ci_upper", "p_value"), np.nan)
    return replace(effect, **nothing, n_replicates=0, draws=np.full_like(effect.draws, np.nan), reason=reason)


def beside(
    panel: Panel, one: Trimmed, base: FloatArray, *, confidence: float, rng: np.random.Generator
) -> Iterator[tuple[str, hpte.Effect]]:
    """Yield the name and effect of each estimator that is offered instead.

    `base` (N, T) is what divides a relative effect of a signed metric: its relative revenue, over both arms.
    """
    if panel.kind == "crossover":
        if missing_phase(panel) is None:
            yield "paired", _paired(panel, one, base, confidence)
        return
    outcome, treated, first = _window(panel, one)
    everyone = np.asarray(np.isfinite(outcome).any(axis=1))
    fixed = staggered.two_way_fixed_effects(outcome, treated, units=panel.unit_id, confidence=confidence)
    numbers = (fixed.effect, fixed.se, fixed.ci_lower, fixed.ci_upper, fixed.p_value)
    weighed = f"negative weights sum to {fixed.negative_weight:.2g}" if np.isfinite(fixed.effect) else None
    words = fixed.estimand
    yield "two_way_fixed_effects", _effect(panel, one, base, everyone, numbers, words, fixed.reason or weighed)
    for control in get_args(staggered.Control):
        found = staggered.group_time(
            outcome, first, control=control, units=panel.unit_id, confidence=confidence, rng=rng
        )
        for kind in get_args(staggered.Kind):
            total = staggered.aggregate(found, kind, confidence=confidence, rng=rng)
            interval = (total.overall_ci_lower, total.overall_ci_upper)
            numbers = (total.overall_effect, total.overall_se, *interval, total.overall_p_value)
            effect = _effect(panel, one, base, everyone, numbers, total.estimand, total.reason)
            yield f"group_time_{kind}_{control}", effect


def _paired(panel: Panel, one: Trimmed, base: FloatArray, confidence: float) -> hpte.Effect:
    """Return the mean of treated minus control phases of the products that the filter keeps."""
    D = np.where(one.kept, np.where(panel.sequence > 0, 1.0, -1.0) * one.first_difference, np.nan)
    known = np.isfinite(D)
    found = paired.contrast(D[known], np.zeros(known.sum()), units=panel.unit_id[known], confidence=confidence)
    numbers = (found.effect, found.se, found.ci_lower, found.ci_upper, found.p_value)
    used = one.kept & np.isfinite(panel.arm).any(axis=1)
    return _effect(panel, one, base, used, numbers, found.estimand, found.reason)


def _window(panel: Panel, one: Trimmed) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Return the outcome (N, P + T) of the days before the start and the window, who is treated, and since when.

    The first treated column is -1 for products that never are.
    """
    n_before = PRE_DAYS if panel.grain == "day" else panel.n_history
    before = panel.history[one.metric][:, -n_before:] / one.product_scale[:, None]
    during = np.where(panel.analysed(one.outcome), one.outcome, np.nan)
    # a product that is out of the analysis must not lend its history to the time effects
    before = np.where(np.asarray(np.isfinite(during).any(axis=1))[:, None], before, np.nan)
    known = np.where(np.isfinite(panel.arm), panel.arm, 0.0)
    first = np.where(known.any(axis=1), before.shape[1] + known.argmax(axis=1), -1)
    outcome = np.concatenate([before, during], axis=1)
    return outcome, np.concatenate([np.zeros_like(before), known], axis=1), first


def _effect(
    panel: Panel,
    one: Trimmed,
    base: FloatArray,
    used: BoolArray,
    numbers: tuple[float, ...],
    estimand: str,
    reason: str | None,
) -> hpte.Effect:
    """Return an effect from (effect, se, ci_lower, ci_upper, p_value); on the relative scale over the untreated mean.

    `used` (N,) are the products behind the numbers. A signed metric has no mean to be a part of: points per revenue.
    """
    effect, se, lower, upper, p_value = numbers
    if one.scale == "relative":
        signed = one.metric in SIGNED_METRICS
        mu0 = _base_mean(panel, one, base, used) if signed else _untreated_mean(panel, one, used)
        effect, se, lower, upper = (number / mu0 if mu0 > 0 else np.nan for number in numbers[:4])
        p_value = p_value if mu0 > 0 else np.nan
        divisor = "mean revenue" if signed else "mean without treatment"
        estimand += f"; relative to the {divisor}"
        if reason is None and not mu0 > 0:
            found = "not known" if np.isnan(mu0) else f"{mu0:.3g}, not positive"
            reason = f"The {divisor} is {found}: no relative effect."
    ever = (panel.arm > 0).any(axis=1)
    return hpte.Effect(
        effect=effect,
        se=se,
        ci_lower=lower,
        ci_upper=upper,
        p_value=p_value,
        n_treated=int((ever & used).sum()),
        n_control=int((~ever & used).sum()),
        n_trimmed=int((np.isfinite(one.first_difference) & ~used).sum()),
        two_arm_share=np.nan,
        n_replicates=0,
        estimand=estimand,
        reason=reason,
        kept=used,
        draws=np.empty(0),
    )


def _base_mean(panel: Panel, one: Trimmed, base: FloatArray, used: BoolArray) -> float:
    """Return the mean over products of their mean base over the periods that count; nan without any."""
    counted = panel.analysed(base) & np.isfinite(one.residual) & used[:, None]
    means = mean(base, counted)[counted.any(axis=1)]
    return float(means.mean()) if means.size else np.nan


def _untreated_mean(panel: Panel, one: Trimmed, used: BoolArray) -> float:
    """Return what the treated cells would have been: their forecast, moved as the control cells moved from theirs.

    Control cells of the same periods tell how, and periods without any do not count, as they do not in the effect;
    where no treated period has one (one sequence), the control cells of the other periods do.
    The treated mean less the effect would be that too, but carries the noise of the effect into the denominator, and
    the ratio of a noisy effect to it reads too high. The mean's own noise is left out of the interval.
    """
    known = panel.analysed(one.residual) & used[:, None]
    treated, control = (known & side for side in (panel.arm > 0, panel.arm == 0))
    if not (treated.any() and control.any()):
        return np.nan
    n_treated, n_control = treated.sum(axis=0), control.sum(axis=0)
    moved = np.where(control, one.residual, 0.0).sum(axis=0) / np.maximum(n_control, 1)
    shared = (n_control > 0) & (n_treated > 0)
    if shared.any():
        treated &= shared
    drift = np.average(moved, weights=treated.sum(axis=0) if shared.any() else n_control)
    return float((one.outcome - one.residual)[treated].mean() + drift)
