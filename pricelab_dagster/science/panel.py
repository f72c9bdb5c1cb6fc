"""The four steps of HPTE over the panel of one experiment: every metric, both scales, beside simple estimators."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import affinity, bootstrap, detrend, hpte, outliers

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

SCALES = ("relative", "level")
SIGNED_METRICS = {"profit": "revenue"}
RAW_WINDOW_DAYS = 28
ESTIMATORS = ("hpte", "hpte_leaf", "hpte_doubly_robust", "hajek", "difference_in_differences")


@dataclass(frozen=True, slots=True)
class Panel:
    """What is known of one experiment: N products, T0 periods before the start, T periods since.

    Attributes
    ----------
    product_id, unit_id, category
        Text (N,), products sorted.
    date
        The periods (T,), datetime64[D].
    arm
        Float (N, T): 1 treated, 0 control, nan where not assigned.
    in_analysis
        Boolean (N, T): False in a blackout.
    probability
        Float (N, T), the design's probability of treatment; nan for imported assignments.
    phase
        Integer (T,): the phase of each period, counted from 1.
    history
        By metric, float (N, T0): nan before a product's first sale.
    observed
        By metric, float (N, T): nan where the metric was not observed, such as the price of a period without sales.
    kind
        time_bound, random_days or crossover.
    grain
        day or week.
    imported
        Whether the assignment was drawn elsewhere.
    """

    product_id: NDArray[np.object_]
    date: NDArray[np.datetime64]
    unit_id: NDArray[np.object_]
    category: NDArray[np.object_]
    arm: FloatArray
    in_analysis: BoolArray
    probability: FloatArray
    phase: NDArray[np.int64]
    history: Mapping[str, FloatArray]
    observed: Mapping[str, FloatArray]
    kind: str
    grain: Literal["day", "week"] = "day"
    imported: bool = False

    @property
    def season(self) -> int:
        """Periods of the weekly season: 7 by day, 1 by week."""
        return 7 if self.grain == "day" else 1

    @property
    def n_history(self) -> int:
        """T0, the periods before the start."""
        return next(iter(self.history.values())).shape[1]

    @property
    def through(self) -> str:
        """The last period, as an ISO date."""
        return str(self.date[-1])

    def analysed(self, values: FloatArray) -> BoolArray:
        """Cells (N, T) that enter an estimate on `values`: assigned, outside blackouts and observed."""
        return self.in_analysis & np.isfinite(self.arm) & np.isfinite(values)

    @property
    def sequence(self) -> FloatArray:
        """What a product was drawn for (N,): its arm in the first period in which it has one."""
        first = np.argmax(np.isfinite(self.arm), axis=1)
        return self.arm[np.arange(len(self.arm)), first]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The first differences of one metric on one scale, and what the filter does with them.

    Attributes
    ----------
    metric, scale
        Names.
    first_difference
        D (N,): nan where the product has none.
    placebo
        (N, K): the same on windows before the start.
    product_scale
        s (N,): what relative values are divided by; 1 on the level scale.
    kept
        Boolean (N,).
    reason
        (N,) text or None: why a product is not kept, or how it is changed.
    residual
        (N, T): observed minus predicted on this scale.
    outcome
        (N, T): observed on this scale.
    """

    metric: str
    scale: str
    first_difference: FloatArray
    placebo: FloatArray
    product_scale: FloatArray
    kept: BoolArray
    reason: NDArray[np.object_]
    residual: FloatArray
    outcome: FloatArray


def forecasts(
    panel: Panel, *, method: detrend.Method = "pooled_ridge", window: int | None = 28
) -> dict[str, FloatArray]:
    """Return by metric the predicted values (N, T) of the experiment's periods, from the history alone.

    `window` None uses the whole history. Products without history get nan.
    """
    return {
        metric: detrend.forecast(
            history,
            panel.arm.shape[1],
            groups=panel.category,
            season=panel.season,
            method=method,
            window=_window(history, window),
        )
        for metric, history in panel.history.items()
    }


def trimmed(
    panel: Panel,
    predicted: Mapping[str, FloatArray],
    *,
    trim: str = "auto",
    c: float = 5.0,
    method: detrend.Method = "pooled_ridge",
    window: int | None = 28,
) -> list[Trimmed]:
    """Return the first differences of each metric and scale with the outlier filter's verdict.

    `trim` is auto (drop on the relative scale, winsorise on the level scale), trim, winsorize or none.
    """
    found = []
    for metric, observed in panel.observed.items():
        history = panel.history[metric]
        placebo = detrend.placebo(
            history,
            observed.shape[1],
            groups=panel.category,
            season=panel.season,
            method=method,
            window=_window(history, window),
        )
        for scale in SCALES:
            s = _scale(panel, metric, scale)
            with np.errstate(invalid="ignore", divide="ignore"):
                residual = (observed - predicted[metric]) / s[:, None]
                D = contrast(panel, residual)
                verdict = _verdict(D, groups(panel), s, rule=filter_rule(trim, scale), c=c)
                found.append(
                    Trimmed(metric, scale, D, placebo / s[:, None], s, *verdict, residual, observed / s[:, None])
                )
    return found


def contrast(panel: Panel, residual: FloatArray) -> FloatArray:
    """Return each product's first difference (N,), as the design contrasts the residuals (N, T).

    time_bound: mean over the analysed periods. crossover: odd minus even phases. random_days: treated minus control
    periods within the product.
    """
    analysed = panel.analysed(residual)
    if panel.kind == "crossover":
        return detrend.phase_contrast(residual, panel.phase, analysed)
    if panel.kind == "random_days":
        return detrend.within_contrast(residual, panel.arm, analysed)
    return detrend.first_difference(residual, np.zeros_like(residual), analysed)


def groups(panel: Panel) -> NDArray[Any]:
    """Return the groups (N,) in which outliers are ranked: arms or sequences; one group for random days."""
    return np.zeros(len(panel.product_id)) if panel.kind == "random_days" else panel.sequence


def filter_rule(trim: str, scale: str) -> str:
    """Return trim, winsorize or none for a scale; auto trims relative values and winsorises levels."""
    return {"relative": "trim", "level": "winsorize"}[scale] if trim == "auto" else trim


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
    residual of the window, because their first difference is the effect itself.
    """
    target = primary.first_difference
    if panel.kind == "random_days":
        target = detrend.first_difference(
            primary.residual, np.zeros_like(primary.residual), panel.analysed(primary.residual)
        )
    target = np.where(primary.kept, target, np.nan)
    resolved: affinity.Split = ("joint" if panel.imported else "outcome") if split == "auto" else split
    exposure = _mean(panel.arm, panel.analysed(panel.arm)) if panel.kind == "random_days" else panel.sequence
    arm = None if resolved == "outcome" else exposure
    return affinity.fit_leaves(X, target, arm=arm, split=resolved, n_trees=n_trees, min_leaf=min_leaf, rng=rng)


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
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, str, hpte.Effect]]:
    """Yield metric, scale, estimator and effect; one bootstrap draw serves them all.

    Estimands: hpte is overlap-weighted over kept products; hpte_leaf the article's literal form; hpte_doubly_robust
    (not for random days) the effect on kept products, of an imported assignment on its treated ones; hajek the
    inverse-probability-weighted difference of the same filtered first differences, without affinity;
    difference_in_differences the raw change against the mean of the last 28 days, unfiltered.
    """
    weights = bootstrap.poisson_weights(panel.unit_id, n_replicates=n_replicates, rng=rng)
    common = {"units": panel.unit_id, "weights": weights, "confidence": confidence, "rng": rng, "group": groups(panel)}
    estimand = "att" if panel.imported else "ate"
    forms: dict[str, dict[str, Any]] = {
        "hpte": {},
        "hpte_leaf": {"method": "leaf", "estimand": estimand},
        "hpte_doubly_robust": {"method": "doubly_robust", "estimand": estimand},
    }
    for one in trimmed_metrics:
        common |= {"outcome": None, "exposure": None, **_relative_terms(panel, trimmed_metrics, one)}
        filtered = {**common, "trim": filter_rule(trim, one.scale), "trim_c": c}
        for estimator in estimators:
            if estimator == "hpte_doubly_robust" and panel.kind == "random_days":
                continue
            if estimator == "difference_in_differences":
                effect = _estimate(panel, _raw_change(panel, one), trim="none", **common)
            elif estimator == "hajek":
                effect = _hajek(panel, one, filtered)
            else:
                effect = _estimate(panel, one, leaves=leaves, **forms[estimator], **filtered)
            yield one.metric, one.scale, estimator, effect


def headline(*, unit: str, kind: str, imported: bool) -> str:
    """Return the estimator to quote.

    hajek where clusters are assigned, because comparing like with like would re-create the interference; the effect on
    the treated where the assignment was drawn elsewhere; hpte otherwise.
    """
    if unit == "cluster":
        return "hajek"
    if imported:
        return "hpte_leaf" if kind == "random_days" else "hpte_doubly_robust"
    return "hpte"


def _estimate(panel: Panel, one: Trimmed, **options: Any) -> hpte.Effect:
    if panel.kind == "random_days":
        cells = np.where(panel.analysed(one.residual), panel.arm, np.nan)
        return hpte.estimate(one.residual, cells, contrast=one.first_difference, **options)
    factor = 0.5 if panel.kind == "crossover" else 1.0
    return hpte.estimate(one.first_difference, panel.sequence, factor=factor, **options)


def _hajek(panel: Panel, one: Trimmed, options: dict[str, Any]) -> hpte.Effect:
    """Return the difference of first differences without affinity, weighted by the design's probabilities.

    Without probabilities (imported), and for the cells of random days, all products are compared in one leaf.
    """
    if panel.kind == "random_days" or panel.imported:
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
    base = SIGNED_METRICS.get(one.metric, one.metric)
    outcome = next(
        (other.outcome for other in metrics if (other.metric, other.scale) == (base, "relative")), one.outcome
    )
    # a product without a first difference has weight 0, and 0 times nan would be nan
    known = np.isfinite(one.first_difference)
    analysed = panel.analysed(one.outcome) & known[:, None]
    dose = np.zeros_like(panel.arm) if one.metric in SIGNED_METRICS else panel.arm
    means = {"outcome": _mean(outcome, analysed), "exposure": _mean(dose, analysed)}
    return {name: np.where(known, mean, 0.0) for name, mean in means.items()}


def _raw_change(panel: Panel, one: Trimmed) -> Trimmed:
    """Return the metric with the plain mean of the last days before the start in the place of the forecast."""
    n_periods = RAW_WINDOW_DAYS if panel.grain == "day" else RAW_WINDOW_DAYS // 7
    history = panel.history[one.metric][:, -n_periods:]
    before = _mean(history, np.isfinite(history)) / one.product_scale
    residual = one.outcome - before[:, None]
    return replace(one, residual=residual, first_difference=contrast(panel, residual))


def _mean(values: FloatArray, used: BoolArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.where(used, values, 0.0).sum(axis=1) / used.sum(axis=1)


def _scale(panel: Panel, metric: str, scale: str) -> FloatArray:
    if scale == "level":
        return np.ones(len(panel.product_id))
    s = detrend.product_scale(panel.history[SIGNED_METRICS.get(metric, metric)], grain=panel.grain)
    return np.where(s > 0, s, np.nan)


def _window(history: FloatArray, window: int | None) -> int:
    return history.shape[1] if window is None else min(window, history.shape[1])


def _verdict(
    D: FloatArray, group: NDArray[Any], s: FloatArray, *, rule: str, c: float
) -> tuple[BoolArray, NDArray[np.object_]]:
    finite = np.isfinite(D)
    inside = outliers.keep_mask(D, group, c=c if rule != "none" else 0.0)
    reason = np.full(len(D), None, dtype=object)
    reason[~np.isfinite(s)] = "no sales before the start: no scale"
    reason[np.isfinite(s) & ~finite] = "no first difference: no history, or no period in the analysis"
    if rule == "winsorize":
        reason[finite & ~inside] = "outlier: set to the nearest kept first difference"
        return finite, reason
    reason[finite & ~inside] = "outlier: dropped"
    return inside, reason
