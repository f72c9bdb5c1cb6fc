"""The four steps of HPTE over the panel of one experiment: every metric, both scales, beside simple estimators."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import _comparisons, _peer_rows, affinity, bootstrap, detrend, hpte
from pricelab_dagster.science._experiment import SIGNED_METRICS, FloatArray, Panel, Trimmed
from pricelab_dagster.science._first_differences import (
    SCALES,
    choices,
    contrast,
    filter_rule,
    forecasts,
    groups,
    mean,
    missing_phase,
    trimmed,
)

__all__ = [
    "ESTIMATORS",
    "LIKE_WITH_LIKE",
    "SCALES",
    "Panel",
    "Trimmed",
    "choices",
    "contrast",
    "dose_line",
    "estimates",
    "filter_rule",
    "fit_leaves",
    "forecasts",
    "groups",
    "headline",
    "missing_phase",
    "trimmed",
]

RAW_WINDOW_DAYS = 28
LIKE_WITH_LIKE = ("hpte", "hpte_leaf", "hpte_doubly_robust")
"""Estimators that compare products within leaves."""
NO_EFFECT_SPLIT = "Random days have no control products to split effects on: the forest splits on the outcome."
ESTIMATORS = (*LIKE_WITH_LIKE, "hajek", "difference_in_differences", *_peer_rows.PEERS)


def fit_leaves(
    panel: Panel,
    X: pd.DataFrame,
    primary: Trimmed,
    *,
    split: Literal["auto", "outcome", "joint", "effect"] = "auto",
    n_trees: int = 200,
    min_leaf: int = 4,
    rng: np.random.Generator,
) -> affinity.Leaves:
    """Return the forest's leaves, split on the primary metric's relative first differences of the kept products.

    `split` auto is `joint` for imported assignments and `outcome` for drawn ones. Random days split on the mean
    residual of the window, because their first difference is the effect itself, and have no `effect` split: a causal
    forest compares treated with control products, and all products are both. `outcome` stands in for it, and the
    leaves say so.
    """
    target = primary.first_difference
    if panel.kind == "random_days":
        target = detrend.first_difference(
            primary.residual, np.zeros_like(primary.residual), panel.analysed(primary.residual)
        )
    elif panel.block is not None:
        frame = pd.Series(np.where(primary.kept, target, np.nan))
        target = (frame - frame.groupby(panel.block).transform("mean")).to_numpy()
    target = np.where(primary.kept, target, np.nan)
    resolved: affinity.Split = ("joint" if panel.imported else "outcome") if split == "auto" else split
    instead = NO_EFFECT_SPLIT if panel.kind == "random_days" and resolved == "effect" else None
    resolved = resolved if instead is None else "outcome"
    exposure = np.minimum(panel.sequence, 1.0)
    if panel.kind == "random_days":
        exposure = mean(panel.treated, panel.analysed(panel.arm))
    arm = None if resolved == "outcome" else exposure
    found = affinity.fit_leaves(X, target, arm=arm, split=resolved, n_trees=n_trees, min_leaf=min_leaf, rng=rng)
    return replace(found, reason=" ".join(note for note in (instead, found.reason) if note) or None)


def estimates(
    panel: Panel,
    trimmed_metrics: list[Trimmed],
    leaves: affinity.Leaves,
    *,
    trim: str = "auto",
    c: float = 5.0,
    n_replicates: int = 500,
    confidence: float = 0.95,
    estimators: tuple[str, ...] = ESTIMATORS,
    weights: NDArray[np.float32] | None = None,
    X: pd.DataFrame | None = None,
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, str, hpte.Effect]]:
    """Yield metric, scale, estimator and effect of one treatment arm; one bootstrap draw serves them all.

    `panel` has the arms 0 and 1: of several arms each is estimated on `panel.against(arm)`, with the same `weights`
    (N, B) from `bootstrap.poisson_weights`.

    Estimands: hpte is overlap-weighted over kept products; hpte_leaf the article's literal form; hpte_doubly_robust
    (for time_bound and crossover) the effect on kept products, of an imported assignment on its treated ones; hajek the
    inverse-probability-weighted difference of the same filtered first differences, without affinity;
    difference_in_differences the raw change against the mean of the last 28 days, unfiltered. Triggered products are
    compared within their start weeks. With the attributes X (N rows) peers stand beside them, on the same first
    differences and filter, adjusted for attributes and for sales before the start: ancova, cuped (recent sales alone)
    and, for the first metric on the relative scale, causal_forest_dml; ancova and the forest estimate the effect on the
    treated of an imported assignment. Random days are balanced within products and have no peers. `ancova_raw`,
    `cuped_raw` and `causal_forest_dml_raw`, on request, are the same on the mean sales after the start. A crossover
    with one sequence and starts that are staggered are refused by all of these, with the reason; `paired`, or two-way
    fixed effects and group-time averages, stand beside them then. So is a crossover in its first phase.
    """
    if weights is None:
        weights = bootstrap.poisson_weights(panel.unit_id, n_replicates=n_replicates, rng=rng)
    common: dict[str, Any] = {"units": panel.unit_id, "weights": weights, "confidence": confidence, "rng": rng}
    common |= {"group": groups(panel), "within": panel.block}
    refusal = _comparisons.refusal(panel)
    for one in trimmed_metrics:
        here = replace(one, first_difference=contrast(panel, one.residual))
        common |= {"outcome": None, "exposure": None, **_relative_terms(panel, trimmed_metrics, here)}
        for estimator in estimators:
            if not _offered(panel, one, estimator, X, primary=trimmed_metrics[0].metric):
                continue
            rule = filter_rule(trim, one.scale)
            effect = _effect(panel, here, estimator, leaves, X if refusal is None else None, common, rule=rule, c=c)
            if refusal is not None:
                effect = _comparisons.refused(effect, refusal)
            yield one.metric, one.scale, estimator, effect
        if refusal is not None:
            base = _base_outcome(trimmed_metrics, one)
            for estimator, effect in _comparisons.beside(panel, here, base, confidence=confidence, rng=rng):
                yield one.metric, one.scale, estimator, effect


def dose_line(
    panel: Panel,
    trimmed_metrics: list[Trimmed],
    leaves: affinity.Leaves | None,
    doses: FloatArray,
    *,
    weights: NDArray[np.float32],
    trim: str = "auto",
    c: float = 5.0,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, hpte.Effect]]:
    """Yield metric, scale and the change of the metric per unit of dose, over all treatment arms and control.

    Estimand: the slope of the best line through the arms' effects and control, each product (cell) weighted by how open
    its dose was. Assumes that the line is near: with three doses or more the arms' own effects show how near. Refused
    where the arms' own effects are: for staggered starts and a crossover with one sequence.

    Parameters
    ----------
    leaves : as for `estimates`; None compares all products in one leaf, for clusters.
    doses : (K + 1,) by arm, 0 for control, such as per cent of price.
    weights : (N, B), the draw that served the arms.
    """
    dosed, refusal = panel.dosed(doses), _comparisons.refusal(panel)
    common: dict[str, Any] = {"units": panel.unit_id, "weights": weights, "confidence": confidence, "rng": rng}
    common |= {"group": groups(panel), "within": panel.block, "linear": True, "leaves": leaves, "trim_c": c}
    for one in trimmed_metrics:
        terms = _relative_terms(dosed, trimmed_metrics, _with_slope(panel, one))
        options = {**common, **terms, "trim": filter_rule(trim, one.scale)}
        if panel.kind == "random_days":
            effect = hpte.estimate(one.residual, _cells(dosed, one), **options)
        elif panel.kind == "crossover":
            doses_of = doses[panel.drawn_arm] * np.where(panel.sequence > 0, 1.0, -1.0)
            effect = hpte.estimate(one.first_difference, doses_of, **options)
        else:
            effect = hpte.estimate(one.first_difference, dosed.sequence, **options)
        yield one.metric, one.scale, effect if refusal is None else _comparisons.refused(effect, refusal)


def headline(*, unit: str, kind: str, imported: bool, staggered: bool = False) -> str:
    """Return the estimator to quote.

    hajek where clusters are assigned, because comparing like with like would re-create the interference; the effect on
    the treated where the assignment was drawn elsewhere, for staggered starts by group-time averages; hpte otherwise.
    """
    if unit == "cluster":
        return "hajek"
    if staggered:
        return _comparisons.STAGGERED_HEADLINE
    if imported:
        return "hpte_leaf" if kind in ("random_days", "triggered") else "hpte_doubly_robust"
    return "hpte"


def _offered(panel: Panel, one: Trimmed, estimator: str, X: pd.DataFrame | None, *, primary: str) -> bool:
    """Return whether a design has a row by this estimator for a metric and scale."""
    if _peer_rows.is_peer(estimator):
        return X is not None and _peer_rows.offered(panel, one, estimator, primary=primary)
    return estimator != "hpte_doubly_robust" or panel.kind not in ("random_days", "triggered")


def _effect(
    panel: Panel,
    one: Trimmed,
    estimator: str,
    leaves: affinity.Leaves,
    X: pd.DataFrame | None,
    common: dict[str, Any],
    *,
    rule: str,
    c: float,
) -> hpte.Effect:
    """Return one estimator's effect."""
    estimand = "att" if panel.imported else "ate"
    filtered = {**common, "trim": rule, "trim_c": c}
    if _peer_rows.is_peer(estimator):
        return _peer_rows.effect(panel, one, estimator, X, filtered)
    if estimator == "difference_in_differences":
        return _estimate(panel, _raw_change(panel, one), trim="none", **common)
    if estimator == "hajek":
        return _hajek(panel, one, filtered)
    forms: dict[str, dict[str, Any]] = {
        "hpte": {},
        "hpte_leaf": {"method": "leaf", "estimand": estimand},
        "hpte_doubly_robust": {"method": "doubly_robust", "estimand": estimand},
    }
    return _estimate(panel, one, leaves=leaves, **forms[estimator], **filtered)


def _estimate(panel: Panel, one: Trimmed, **options: Any) -> hpte.Effect:
    if panel.kind == "random_days":
        return hpte.estimate(one.residual, _cells(panel, one), contrast=one.first_difference, **options)
    factor = 0.5 if panel.kind == "crossover" else 1.0
    return hpte.estimate(one.first_difference, panel.sequence, factor=factor, **options)


def _cells(panel: Panel, one: Trimmed) -> FloatArray:
    return np.where(panel.analysed(one.residual), panel.arm, np.nan)


def _hajek(panel: Panel, one: Trimmed, options: dict[str, Any]) -> hpte.Effect:
    """Return the difference of first differences without affinity, weighted by the design's probabilities.

    Without probabilities (imported), within start weeks, and for the cells of random days, all products are compared in
    one leaf. Of several arms each has the same part of the probability.
    """
    if panel.kind in ("random_days", "triggered") or panel.imported:
        return _estimate(panel, one, **options)
    first = np.argmax(np.isfinite(panel.arm), axis=1)
    probability = panel.probability[np.arange(len(first)), first]
    return _estimate(panel, one, method="hajek", probability=probability, **options)


def _relative_terms(panel: Panel, metrics: list[Trimmed], one: Trimmed) -> dict[str, FloatArray]:
    """Return what divides a relative effect: mean outcome and exposure over each product's analysed periods.

    Signed metrics are divided by the mean of the metric whose scale they use, over both arms: points per revenue.
    """
    if one.scale == "level":
        return {}
    outcome = _base_outcome(metrics, one)
    # a product without a first difference has weight 0, and 0 times nan would be nan
    known = np.isfinite(one.first_difference)
    analysed = panel.analysed(one.outcome) & known[:, None]
    dose = np.zeros_like(panel.arm) if one.metric in SIGNED_METRICS else panel.arm
    means = {"outcome": mean(outcome, analysed), "exposure": mean(dose, analysed)}
    return {name: np.where(known, mean, 0.0) for name, mean in means.items()}


def _base_outcome(metrics: list[Trimmed], one: Trimmed) -> FloatArray:
    """Return the relative outcome (N, T) whose mean divides an effect: that of the metric whose scale it uses."""
    base = SIGNED_METRICS.get(one.metric, one.metric)
    return next((other.outcome for other in metrics if (other.metric, other.scale) == (base, "relative")), one.outcome)


def _with_slope(panel: Panel, one: Trimmed) -> Trimmed:
    """Return the metric with a first difference, of no meaning, for each product that enters a dose line.

    On random days that is each product with an analysed cell: without control cells it has no difference of arms, and
    still a slope over its doses.
    """
    if panel.kind != "random_days":
        return one
    return replace(one, first_difference=np.where(panel.analysed(one.residual).any(axis=1), 0.0, np.nan))


def _raw_change(panel: Panel, one: Trimmed) -> Trimmed:
    """Return the metric with the plain mean of the last days before the start in the place of the forecast."""
    n_periods = RAW_WINDOW_DAYS if panel.grain == "day" else RAW_WINDOW_DAYS // 7
    before = np.empty(len(panel.product_id))
    for rows, eve in panel.cohorts():
        history = panel.history[one.metric][rows, max(eve - n_periods, 0) : eve]
        before[rows] = mean(history, np.isfinite(history)) / one.product_scale[rows]
    residual = one.outcome - before[:, None]
    return replace(one, residual=residual, first_difference=contrast(panel, residual))
