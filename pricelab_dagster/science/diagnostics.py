"""Checks that stand beside an effect: each says in one sentence what it saw and never changes the estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from pricelab_dagster.science import _arm_statistics as arm_statistics

__all__ = [
    "Diagnostic",
    "carryover",
    "cell_balance",
    "covariate_balance",
    "missing_by_arm",
    "one_price",
    "pre_trend",
    "price_compliance",
    "triggers_by_arm",
    "two_arm_share",
    "worst_arm",
]

Array = npt.NDArray[Any]
Status = Literal["passed", "failed", "informational"]

ALPHA = 0.01
"""A check with a p-value fails below this: a red check in one of a hundred sound experiments, not in one of twenty."""
CONFIDENCE = 0.95
PRICE_TOLERANCE_MONEY = 0.005
PRICE_TOLERANCE_SHARE = 0.005
WINDOW_NEEDED = 0.5
"""Share of the products with placebo windows that a window must have: fewer are other products."""
NEARLY_ALL = 0.9
N_EXAMPLES = 3
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One check; `threshold` is held against `p_value` where there is one, else against `value`."""

    check_name: str
    status: Status
    value: float
    threshold: float
    p_value: float
    message: str


def covariate_balance(
    X: Array, arm: Array, *, units: Array | None = None, n_permutations: int = 999, rng: np.random.Generator
) -> Diagnostic:
    """Whether the arms' mean attributes differ by more than a random draw of the units makes them.

    Statistic: Mahalanobis distance d' S⁺ d n1 n0 / n, d the difference of arm means, S⁺ the pseudo-inverse of the
    covariance; constant columns count for nothing. p by drawing the arms again over units:
    (1 + draws at least as far) / (1 + draws). Assumes that all units could change arms; under a stratified draw the
    check is conservative.

    Parameters
    ----------
    X : (N, P) numbers, text encoded and gaps filled by the caller
    arm : (N,) 0 or 1, constant within a unit
    units : (N,) assignment units; each product its own when None

    Raises
    ------
    ValueError
        If X is not finite, an arm is empty, or a unit has both arms.

    References
    ----------
    Morgan and Rubin (2012), Annals of Statistics 40, 1263-1282.
    """
    Z = np.asarray(X, dtype=np.float64)
    if not np.isfinite(Z).all():
        raise ValueError("X == nan, must be finite. Encode text and fill gaps before the check.")
    W, G = arm_statistics.arms(arm, units)
    sd = Z.std(axis=0)
    Z = Z[:, sd > np.finfo(float).eps * 8 * np.abs(Z).max(axis=0, initial=0)]
    if not Z.shape[1]:
        return Diagnostic(
            "covariate_balance", "informational", np.nan, ALPHA, np.nan, "Not computed: no attribute varies."
        )
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
    left, size, _ = np.linalg.svd(Z, full_matrices=False)
    white = left[:, size > size[0] * max(Z.shape) * np.finfo(float).eps] * np.sqrt(len(Z) - 1)
    count = np.bincount(G)
    sums = np.stack([np.bincount(G, column) for column in white.T], axis=1)
    unit_arm = np.bincount(G, W) / count
    observed = arm_statistics.distance(unit_arm[None], sums, count)[0]
    as_far = 0
    for begin in range(0, n_permutations, BLOCK):
        draws = np.tile(unit_arm, (min(BLOCK, n_permutations - begin), 1))
        as_far += int(
            np.sum(arm_statistics.distance(rng.permuted(draws, axis=1), sums, count) >= observed * (1 - 1e-9))
        )
    p = (1 + as_far) / (1 + n_permutations)
    message = (
        f"Attributes of treated and control products lie {observed:.2f} apart (Mahalanobis, "
        f"{white.shape[1]} dimensions); {p:.1%} of random draws are as far."
    )
    return Diagnostic("covariate_balance", _by_p(p), float(observed), ALPHA, p, message)


def pre_trend(placebo: Array, arm: Array, units: Array | None = None) -> Diagnostic:
    """Whether treated products were already drifting away from control before the start.

    Estimand: treated minus control mean slope of the placebo first differences over their K windows, in metric units a
    window; with one window the difference of means. Welch's t over units. A trend that begins with the experiment is
    not seen, and a pass does not show that there is none.

    Parameters
    ----------
    placebo : (N, K) placebo first differences, oldest window first; windows without values for half of the products
        that have any are left out, then rows with gaps
    arm : (N,) 0 or 1
    units : (N,) assignment units

    Raises
    ------
    ValueError
        If an arm is empty, a unit has both arms, or `placebo` is no matrix.
    """
    D = np.asarray(placebo, dtype=np.float64)
    if D.ndim != 2:
        raise ValueError(f"placebo.shape == {D.shape}, must be (N, K). Give one column a window.")
    W, G = arm_statistics.arms(arm, units)
    known = np.isfinite(D)
    D = D[:, known.sum(axis=0) >= WINDOW_NEEDED * max(known.any(axis=1).sum(), 1)]
    if not D.shape[1]:
        message = "Not computed: no window of the experiment's length has four weeks of sales before it."
        return Diagnostic("pre_trend", "informational", np.nan, ALPHA, np.nan, message)
    kept = np.isfinite(D).all(axis=1)
    window = np.arange(D.shape[1]) - (D.shape[1] - 1) / 2
    slope = D @ window / (window @ window) if D.shape[1] > 1 else D[:, 0]
    name = f"slope over {D.shape[1]} placebo windows" if D.shape[1] > 1 else "placebo difference"
    effect, se, freedom = arm_statistics.difference(slope[kept], W[kept], G[kept])
    if not se > 0:
        message = f"Not computed: the {name} has no spread, or an arm has fewer than 2 units."
        return Diagnostic("pre_trend", "informational", np.nan, ALPHA, np.nan, message)
    p = float(2 * stats.t.sf(abs(effect / se), freedom))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * se
    message = f"Treated minus control {name}: {effect:.4g}, 95 % interval {effect - half:.4g} to {effect + half:.4g}."
    return Diagnostic("pre_trend", _by_p(p), float(effect), ALPHA, p, message)


def missing_by_arm(missing: Array, arm: Array) -> Diagnostic:
    """Whether products are missing more often in one arm: treated minus control share, Fisher's exact p.

    `missing` and `arm` are (N,), one entry a product. Assumes products drawn on their own; with clusters the p is too
    small. Counts of the arms alone say nothing under stratification. It informs, and passes nothing, where nine in ten
    products are missing: too few are left to tell the arms apart.

    Raises
    ------
    ValueError
        If an arm is empty.

    References
    ----------
    Fisher (1935), JRSS 98, 39-82.
    """
    found = _shares_by_arm("missing_by_arm", "Missing", missing, arm)
    if found.status == "passed" and np.mean(np.asarray(missing, dtype=bool)) >= NEARLY_ALL:
        return replace(found, status="informational", message=f"{found.message} Nearly all products are missing.")
    return found


def triggers_by_arm(triggered: Array, arm: Array) -> Diagnostic:
    """Whether products of one arm were triggered more often: treated minus control share, Fisher's exact p.

    `triggered` and `arm` are (N,), one entry a product of the scope, its arm drawn before any event. A difference means
    that treatment, or knowing the arm, brings events about: then triggered products are no longer like for like.
    Assumes products that are triggered on their own; with clusters the p is too small.

    Raises
    ------
    ValueError
        If an arm is empty.

    References
    ----------
    Fisher (1935), JRSS 98, 39-82.
    """
    return _shares_by_arm("triggers_by_arm", "Triggered", triggered, arm)


def _shares_by_arm(name: str, word: str, flag: Array, arm: Array) -> Diagnostic:
    """The treated minus control share of flagged products, with Fisher's exact p."""
    flagged = np.asarray(flag, dtype=bool)
    W, _ = arm_statistics.arms(arm, None)
    in_arms = [flagged[W == 1], flagged[W == 0]]
    table = np.array([[x.sum(), len(x) - x.sum()] for x in in_arms])
    p = float(stats.fisher_exact(table).pvalue)
    shares = [float(x.mean()) for x in in_arms]
    message = (
        f"{word}: {table[0][0]} of {len(in_arms[0])} treated ({shares[0]:.1%}), "
        f"{table[1][0]} of {len(in_arms[1])} control products ({shares[1]:.1%})."
    )
    return Diagnostic(name, _by_p(p), shares[0] - shares[1], ALPHA, p, message)


def two_arm_share(value: float, threshold: float = 0.8) -> Diagnostic:
    """Whether enough products share a leaf with the other arm: `value` is the mean share over trees, in [0, 1].

    Raises
    ------
    ValueError
        If `value` is no share.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"value == {value}, must be in [0, 1]. Give the share of products in leaves with both arms.")
    message = f"{value:.1%} of products share a leaf with the other arm; at least {threshold:.0%} should."
    return Diagnostic("two_arm_share", "passed" if value >= threshold else "failed", value, threshold, np.nan, message)


def worst_arm(arms: Mapping[str, Diagnostic], *, alpha: float = ALPHA) -> Diagnostic:
    """Return the one check that stands for the same check of several arms, each against control, and name its arm.

    Failed where the smallest p-value is below `alpha` over the number of arms (Bonferroni: some arm fails in no more
    than `alpha` of sound experiments), which is its `threshold`. Otherwise an arm that only informs comes before those
    that pass. Of one arm the check as it is.

    Raises
    ------
    ValueError
        If there is no arm.

    References
    ----------
    Dunn (1961), JASA 56, 52-64.
    """
    if not arms:
        raise ValueError("arms == {}, must have at least one. Give the check of each arm.")
    n_arms = len(arms)
    if n_arms == 1:
        return next(iter(arms.values()))

    def rank(arm: str) -> tuple[int, float]:
        p = float(np.nan_to_num(arms[arm].p_value, nan=np.inf))
        return (0 if p < alpha / n_arms else 1 if arms[arm].status == "informational" else 2), p

    name = min(arms, key=rank)
    found, place = arms[name], rank(name)[0]
    status: Status = ("failed", "informational", "passed")[place]
    message = f"Arm {name}, the worst of {n_arms} against control: {found.message}"
    return replace(found, status=status, threshold=alpha / n_arms, message=message)


def price_compliance(
    planned: Array, realised: Array, *, arm: Array, product_id: Array, date: Array, threshold: float = 0.01
) -> Diagnostic:
    """Whether shops charged the planned prices: share of observed periods off by half a cent and .5 %.

    Parameters
    ----------
    planned, realised : (M,) prices; periods where `realised` is nan were not observed and do not count
    arm : (M,) 0 or 1
    product_id, date : (M,) names for the message's worst cases
    threshold : largest share that passes
    """
    plan, real = np.asarray(planned, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    seen = np.isfinite(plan) & np.isfinite(real)
    if not seen.any():
        message = "Not computed: no planned price was observed."
        return Diagnostic("price_compliance", "informational", np.nan, threshold, np.nan, message)
    gap = np.where(seen, np.abs(real - plan), 0.0)
    off = gap > np.maximum(PRICE_TOLERANCE_MONEY, PRICE_TOLERANCE_SHARE * np.abs(plan)) + 1e-9
    share = float(off.sum() / seen.sum())
    message = f"{off.sum()} of {seen.sum()} observed prices ({share:.1%}) differ from the plan"
    for value, label in ((1, "treatment"), (0, "control")):
        in_arm = seen & (np.asarray(arm) == value)
        message += f"; {label} {off[in_arm].mean():.1%}" if in_arm.any() else ""
    worst = np.argsort(-np.where(off, gap / np.abs(plan), -1.0), kind="stable")[: min(N_EXAMPLES, int(off.sum()))]
    cases = [f"{product_id[k]} on {_day(date[k])} planned {plan[k]:.2f} charged {real[k]:.2f}" for k in worst]
    message += f". Worst: {', '.join(cases)}." if cases else "."
    return Diagnostic("price_compliance", _at_most(share, threshold), share, threshold, np.nan, message)


def one_price(plan: pd.DataFrame) -> Diagnostic:
    """Whether each product has one price a day: the count of keys (product_id, date) with more than one row."""
    size = plan.groupby(["product_id", "date"], sort=True).size().reset_index(name="rows")
    double = size[size["rows"] > 1]
    message = f"{len(double)} of {len(size)} products and days have more than one price"
    first = double.head(N_EXAMPLES)
    columns = (first[name] for name in ("product_id", "date", "rows"))
    cases = [f"{product} on {_day(day)} ({rows} rows)" for product, day, rows in zip(*columns, strict=True)]
    message += f", such as {', '.join(cases)}." if cases else "."
    return Diagnostic("one_price", _at_most(len(double), 0), float(len(double)), 0.0, np.nan, message)


def cell_balance(arm: Array, date: Array, *, in_analysis: Array | None = None, threshold: float = 0.1) -> Diagnostic:
    """Whether every weekday has its part of treatment: largest gap of a weekday's treated share to the overall one.

    Parameters
    ----------
    arm : (N, T) 0 or 1
    date : (T,) days
    in_analysis : (N, T) or (T,) bool; all cells when None
    threshold : largest gap that passes
    """
    W = np.asarray(arm, dtype=np.float64)
    counted = np.broadcast_to(np.asarray(True if in_analysis is None else in_analysis, dtype=bool), W.shape)
    if not counted.any():
        message = "Not computed: no cell is in analysis."
        return Diagnostic("cell_balance", "informational", np.nan, threshold, np.nan, message)
    # 1 January 1970 was a Thursday.
    weekday = (np.asarray(date, dtype="datetime64[D]").astype(np.int64) + 3) % 7
    cells = np.bincount(weekday, counted.sum(axis=0), 7)
    treated = np.bincount(weekday, np.where(counted, W, 0).sum(axis=0), 7)
    share = treated[cells > 0] / cells[cells > 0]
    gap = np.abs(share - treated.sum() / cells.sum())
    worst = np.flatnonzero(cells > 0)[gap.argmax()]
    name = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[worst]
    value, overall = float(gap.max()), treated.sum() / cells.sum()
    message = f"Treated share by weekday is furthest from {overall:.1%} on {name}: {share[gap.argmax()]:.1%}."
    return Diagnostic("cell_balance", _at_most(value, threshold), value, threshold, np.nan, message)


def carryover(residual: Array, arm: Array, in_analysis: Array, *, units: Array | None = None) -> Diagnostic:
    """What yesterday's treatment does to today's control cells, with a 95 % interval; it informs and licenses nothing.

    Estimand: mean residual of control cells after a treated day minus after a control day, same product and same date.
    Least squares with product and day effects, errors clustered by unit. Assumes that arms are drawn anew from day to
    day. A short interval around zero excludes one-day carryover only; slow carryover is spread over both kinds of days.

    Parameters
    ----------
    residual, arm, in_analysis : (N, T); `arm` 0 or 1 in force, also in blackout
    units : (N,) assignment units
    """
    R, W = np.asarray(residual, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    before = np.column_stack([np.full(len(W), np.nan), W[:, :-1]])
    used = np.asarray(in_analysis, dtype=bool) & (W == 0) & np.isfinite(before) & np.isfinite(R)
    row, day = np.nonzero(used)
    _, G = np.unique(np.arange(len(W)) if units is None else np.asarray(units), return_inverse=True)
    x, y = arm_statistics.centred(before[used], row, day), R[used]
    spread, n_units = float(x @ x), len(np.unique(G[row]))
    if n_units < 2 or spread <= arm_statistics.CENTRING_TOLERANCE * max(len(x), 1):
        message = "Not computed: control days after treatment and after control do not occur side by side."
        return Diagnostic("carryover", "informational", np.nan, 0.0, np.nan, message)
    effect = float(x @ y / spread)
    score = np.bincount(G[row], x * arm_statistics.centred(y - effect * before[used], row, day))
    se = float(np.sqrt(score @ score * n_units / (n_units - 1)) / spread)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n_units - 1) * se
    p = float(2 * stats.t.sf(abs(effect) / se, n_units - 1)) if se > 0 else np.nan
    message = (
        f"Control days after treatment minus after control: {effect:.4g}, 95 % interval {effect - half:.4g} to "
        f"{effect + half:.4g}. A weak test: it does not show that there is no carryover."
    )
    return Diagnostic("carryover", "informational", effect, 0.0, p, message)


def _by_p(p: float) -> Status:
    return "failed" if p < ALPHA else "passed"


def _at_most(value: float, threshold: float) -> Status:
    return "passed" if value <= threshold else "failed"


def _day(date: Any) -> str:
    return str(np.datetime64(date, "D"))
