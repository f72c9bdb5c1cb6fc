"""Comparison estimators for panels in which products start treatment at different times.

Two-way fixed effects is what most people run; group-time effects compare each group with untreated products alone.
"""

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _cell_means, _cluster_robust, _group_time, _two_way
from pricelab_dagster.science._group_time import NEVER, Aggregate, Control, GroupTime, Kind, Spread
from pricelab_dagster.science._two_way import FixedEffects

__all__ = ["Aggregate", "FixedEffects", "GroupTime", "aggregate", "group_time", "two_way_fixed_effects"]

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

CONTROL_WORDS = {"never": "never-treated products", "not_yet": "products not yet treated"}
KIND_WORDS = {
    "simple": "mean effect over treated groups and periods, each group counting by its products",
    "dynamic": "effect by periods since the first treated one, groups by their products; overall: plain mean over 0 on",
    "group": "mean effect over the treated periods of each group; overall: groups by their products",
}


def two_way_fixed_effects(
    outcome: ArrayLike,
    treated: ArrayLike,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
) -> FixedEffects:
    """Return the coefficient of treatment in a regression with product and period effects.

    The estimand is a weighted mean of the effects in treated cells. Its weights are the treatment's residuals: where
    groups start at different times and effects grow or differ, early treated cells serve as controls and may count
    negatively, so that the coefficient can lie outside the range of all effects; `negative_weight` says how much does.
    Assumes parallel trends between all products and independent units. With two periods and one group it is
    difference-in-differences. Few units on a side, ever or never treated, have t with few degrees of freedom; one
    alone shows no noise, and there is no standard error.

    Parameters
    ----------
    outcome
        Y (N, T), nan where not observed.
    treated
        (N, T) treatment in force, 0 or 1 or a dose, need not stay on; cells with nan take no part.
    units
        (N,) labels of what was assigned together; None: each row alone.
    weights
        (N,) or (N, T), finite and not negative; None: 1 each.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        If shapes, weights or confidence break these rules.

    References
    ----------
    de Chaisemartin and D'Haultfoeuille, "Two-way fixed effects estimators with heterogeneous treatment effects", AER
    110 (2020), theorem 1. Goodman-Bacon, "Difference-in-differences with variation in treatment timing", Journal of
    Econometrics 225 (2021). Cameron and Miller, "A practitioner's guide to cluster-robust inference", JHR 50 (2015).

    Examples
    --------
    >>> outcome, treated = [[1.0, 2.0], [1.0, 3.0], [2.0, 7.0]], [[0, 0], [0, 0], [0, 1]]
    >>> round(two_way_fixed_effects(outcome, treated).effect, 10)
    3.5
    """
    Y, D = np.asarray(outcome, dtype=float), np.asarray(treated, dtype=float)
    if Y.ndim != 2 or D.shape != Y.shape:
        raise ValueError(f"treated.shape == {D.shape}, must be outcome's, (N, T), not {Y.shape}. Give both by period.")
    _cluster_robust.check_confidence(confidence)
    codes = _cluster_robust.unit_codes(units, len(Y))
    w = np.where(np.isfinite(Y) & np.isfinite(D), _two_way.cell_weights(weights, (Y.shape[0], Y.shape[1])), 0.0)
    w[(w > 0).sum(axis=1) < 2] = 0.0
    seen = w > 0
    D, row = np.where(seen, D, 0.0), np.flatnonzero(seen.any(axis=1))
    x = _two_way.centred(D, w)
    spread = float((w * x * x).sum())
    n_units, n_treated = len(np.unique(codes[row])), int((D != 0).any(axis=1).sum())
    reason = _two_way.unidentified(D, w, spread, n_units)
    if reason is not None:
        nothing = (np.nan,) * 5
        return FixedEffects(*nothing, n_units, n_treated, len(row) - n_treated, np.nan, _two_way.ESTIMAND, reason)
    y = _two_way.centred(np.where(seen, Y, 0.0), w)
    effect = float((w * x * y).sum() / spread)
    score = (w * x * (y - effect * x)).sum(axis=1) / spread
    n_ever = len(np.unique(codes[(D != 0).any(axis=1)]))
    freedom = _two_way.freedom(n_ever, n_units - n_ever)
    se, _ = _cluster_robust.standard_error(score[row], codes[row])
    se = se if np.isfinite(freedom) else np.nan
    found = _cluster_robust.interval(effect, se, freedom, confidence)
    return FixedEffects(
        effect=effect,
        se=se,
        ci_lower=found.ci_lower,
        ci_upper=found.ci_upper,
        p_value=found.p_value,
        n_units=n_units,
        n_treated=n_treated,
        n_control=len(row) - n_treated,
        negative_weight=float(np.maximum(-w * x * D / spread, 0.0).sum()),
        estimand=_two_way.ESTIMAND,
        reason=None if np.isfinite(freedom) else _two_way.ALONE,
    )


def group_time(
    outcome: ArrayLike,
    first_treated: ArrayLike,
    *,
    control: Control = "never",
    anticipation: int = 0,
    units: ArrayLike | None = None,
    n_replicates: int = 999,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> GroupTime:
    """Return the effect on each group of products in each period, against products that are not treated.

    The estimand is ATT(g, t), the mean effect in period t on the products first treated in period g. With a the
    anticipation, for t >= g - a it is estimated by the mean of Y_t - Y_{g-a-1} over the group less the same over the
    controls, which needs trends of both alike without treatment and no effect before g - a. Earlier cells compare
    Y_t - Y_{t-1}: they estimate zero if trends are alike, and show where they are not. Treatment must stay on.

    A product takes part in a cell where both its periods are observed; where that depends on the outcome, effects are
    biased. The variance is the sum over units of squared influence, to which the multiplier bootstrap tends. With n
    units on the smaller side it is short by about 1 / n; t with n - 1 degrees of freedom makes up for most of that.
    The band takes the drawn quantile of the largest |t|, brought from the normal to the same t.

    Parameters
    ----------
    outcome
        Y (N, T), nan where not observed.
    first_treated
        (N,) first treated period, 0..T-1; -1 or nan: never. Rows treated in period `anticipation` or before have no
        period to compare with and are dropped.
    control
        never: never-treated rows; not_yet: those, and rows of other groups first treated after period t + a.
    anticipation
        a, periods before the first treated one in which the effect may have begun.
    units
        (N,) labels of what was assigned together; None: each row alone.
    n_replicates
        Draws behind `critical_value`.
    confidence
        Of intervals and band.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        If shapes, periods or options break these rules.

    References
    ----------
    Callaway and Sant'Anna, "Difference-in-differences with multiple time periods", Journal of Econometrics 225 (2021),
    theorem 1 without covariates, algorithm 1 for the band.

    Examples
    --------
    >>> import numpy as np
    >>> outcome = [[1.0, 2.0], [1.0, 3.0], [2.0, 7.0], [2.0, 8.0]]
    >>> group_time(outcome, [-1, -1, 1, 1], rng=np.random.default_rng(0)).effect
    array([4.])
    """
    Y = np.asarray(outcome, dtype=float)
    first = _first_treated(first_treated, Y)
    if control not in get_args(Control):
        raise ValueError(f"control == {control!r}, must be one of {get_args(Control)}. 'never' assumes least.")
    if anticipation < 0:
        raise ValueError(f"anticipation == {anticipation}, must be 0 or more. Give a number of periods.")
    _check_draws(n_replicates, confidence)
    codes = _cluster_robust.unit_codes(units, len(Y))
    kept = np.isfinite(Y).any(axis=1) & ((first == NEVER) | (first > anticipation))
    cells = _group_time.cells(Y[kept], first[kept], codes[kept], control=control, anticipation=anticipation)
    freedom = _cluster_robust.degrees_of_freedom(cells.treated_units, cells.control_units)
    spread = Spread.of(
        cells.effect, cells.influence, freedom, confidence=confidence, n_replicates=n_replicates, rng=rng
    )
    return GroupTime(
        group=cells.group,
        time=cells.time,
        effect=cells.effect,
        **spread._asdict(),
        n_treated=cells.n_treated,
        n_control=cells.n_control,
        n_dropped=int((~kept).sum()),
        control=control,
        estimand=f"mean effect by period on the products first treated together, against {CONTROL_WORDS[control]}",
        reason=_group_time.cell_reason(cells, first[kept], control),
        cells=cells,
    )


def aggregate(
    found: GroupTime,
    kind: Kind = "simple",
    *,
    n_replicates: int = 999,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Aggregate:
    """Return group-time effects as one number, by time since treatment, or by group.

    Estimands, over cells with an effect and weighted by the number of products in each group: `simple`, the mean over
    all cells with t >= g; `dynamic`, the mean over groups at each t - g, and the plain mean of these from 0 on;
    `group`, the mean over t >= g of each group, and the mean of these over groups. Groups differ in how long they are
    seen: `simple` leans to those treated early, and the groups behind `dynamic` change with t - g; `group` counts each
    product once. The standard errors hold that the weights are estimated.

    Parameters
    ----------
    found
        From `group_time`.
    kind
        simple, dynamic or group.
    n_replicates
        Draws behind `critical_value`.
    confidence
        Of intervals and band.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        If an option breaks these rules.

    References
    ----------
    Callaway and Sant'Anna (2021), section 3 for the three means, corollary 2 for the estimated weights.

    Examples
    --------
    >>> import numpy as np
    >>> outcome, rng = [[1.0, 2.0, 2.0], [1.0, 3.0, 3.0], [2.0, 7.0, 8.0], [2.0, 8.0, 9.0]], np.random.default_rng(0)
    >>> aggregate(group_time(outcome, [-1, -1, 1, 1], rng=rng), "dynamic", rng=rng).effect
    array([4., 5.])
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind == {kind!r}, must be one of {get_args(Kind)}. 'group' counts each product once.")
    _check_draws(n_replicates, confidence)
    cells = found.cells
    defined = np.isfinite(cells.effect)
    after = defined & (cells.time >= cells.group)
    at, parts = _cell_means.parts(cells, kind, defined, after)
    effect, influence = _cell_means.means(cells, parts)
    freedom = np.array([_cell_means.freedom(cells, part) for part in parts])
    spread = Spread.of(effect, influence, freedom, confidence=confidence, n_replicates=n_replicates, rng=rng)
    overall, overall_influence = _cell_means.overall(cells, kind, at, after, effect, influence)
    freedom_overall = _cell_means.freedom(cells, after)
    se = np.nan if np.isnan(freedom_overall) else float(np.sqrt(overall_influence @ overall_influence))
    interval = _cluster_robust.interval(overall, se, freedom_overall, confidence)
    return Aggregate(
        kind=kind,
        at=at,
        effect=effect,
        **spread._asdict(),
        overall_effect=overall,
        overall_se=interval.se,
        overall_ci_lower=interval.ci_lower,
        overall_ci_upper=interval.ci_upper,
        overall_p_value=interval.p_value,
        estimand=f"{KIND_WORDS[kind]}; against {CONTROL_WORDS[found.control]}",
        reason=_cell_means.overall_reason(cells, after, found.reason),
    )


def _first_treated(first_treated: ArrayLike, Y: NDArray[np.float64]) -> IntArray:
    """Return first treated periods (N,), NEVER for none."""
    given = np.asarray(first_treated, dtype=float)
    if Y.ndim != 2 or given.shape != Y.shape[:1]:
        raise ValueError(
            f"outcome.shape == {Y.shape}, first_treated.shape == {given.shape}, must be (N, T) and (N,). "
            "Give one row of periods and one first treated period per product."
        )
    first = np.where(np.isnan(given), NEVER, given)
    wrong = ~np.isin(first, np.arange(NEVER, Y.shape[1]))
    if wrong.any():
        raise ValueError(
            f"first_treated == {first[wrong][:3].tolist()}, must be in 0..{Y.shape[1] - 1}, or -1. "
            "Write -1 for products not treated in these periods."
        )
    return first.astype(np.int64)


def _check_draws(n_replicates: int, confidence: float) -> None:
    _cluster_robust.check_confidence(confidence)
    if n_replicates < 2:
        raise ValueError(f"n_replicates == {n_replicates}, must be at least 2. 999 serve most panels.")
