"""Which products' prices move which products' demand: signed edges between the products of a category.

theta_ij is the effect of log price i on the relative demand of j. A row (`product_id` = j, `on_price_of` = i) estimates
it; positive means substitution, negative means halo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pricelab_dagster.science import _edge_statistics as statistics

__all__ = [
    "CategoryEdges",
    "GraphEdges",
    "Placebo",
    "category_edges",
    "finish_edges",
    "graph_edges",
    "null_scale",
    "placebo_rate",
]

Array = npt.NDArray[Any]

MAD_TO_SD = 1.4826
EDGE_Z = 1.645
EDGE_EFFECT = 0.1


@dataclass(frozen=True, slots=True)
class CategoryEdges:
    """Ordered pairs of one category, sorted by both ids; every field is a column (M,).

    `effect` and `se` belong to the direction of the row, `z` to the pair and is the same in both rows. Products of one
    `series_group` share the price series, hence the effect: count it once a group. `reason` is empty where `effect` has
    a value. The only product of its category has one row with `on_price_of` None.
    """

    product_id: Array
    on_price_of: Array
    effect: Array
    se: Array
    z: Array
    series_group: Array
    history_weeks: Array
    reason: Array

    def frame(self) -> pd.DataFrame:
        """The rows as a frame with the fields as columns."""
        return pd.DataFrame({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class GraphEdges:
    """Pairs strong enough to bind products together: `edges` (M, 2) product ids, `weights` (M,) scaled z."""

    edges: Array
    weights: Array


@dataclass(frozen=True, slots=True)
class Placebo:
    """Share of pairs of different categories that would pass as edges; `rate` is nan with a `reason` if none exist."""

    rate: float
    n_pairs: int
    reason: str | None


def category_edges(
    product_id: Array,
    units: Array,
    price: Array,
    *,
    season: int = 7,
    min_weeks: int = 26,
    min_units: float = 1.0,
    min_price_sd: float = 0.01,
) -> CategoryEdges:
    """Effects of each product's log price on each other product's relative demand, within one category.

    Estimand: theta_ij, the change of product j's demand, in parts of its own mean, per unit of log price i, with the
    category's other prices held. Demand is capped at its 99.5 % quantile; from demand and log prices alike the centred
    mean (28 days; 5 weeks) and the weekday means are removed; all price series enter one regression; errors are
    Newey-West with lag 7 (week grain: 1). z_ij = (t_ij + t_ji) / sqrt 2; where only one direction is identified, its t.

    Assumptions: price movements within four weeks are unrelated to demand shocks; effects work on the same day; no
    outside price matters. Promotions set in answer to demand, or features that come with them, bias the effect; an
    effect that lasts beyond four weeks is removed with the mean.

    Parameters
    ----------
    product_id : (n,) labels
    units : (n, T) demand, periods without gaps
    price : (n, T) shelf prices, positive
    season : periods of a week: 7 by day, 1 by week
    min_weeks : history below this identifies nothing
    min_units : floor for the mean demand of a period; a product below it neither answers nor enters as a price
    min_price_sd : floor for the standard deviation of the transformed log price

    Raises
    ------
    ValueError
        If shapes differ, values are missing, prices or `min_units` are not positive, ids repeat, or `season` is neither
        7 nor 1.

    References
    ----------
    Newey and West (1987), Econometrica 55, eq. 5, with the factor T / (degrees of freedom).
    """
    ids, Y, P = statistics.checked(product_id, units, price, season, min_units)
    n, n_periods = Y.shape
    order = np.argsort(ids, kind="stable")
    ids, Y, P = ids[order], Y[order], P[order]
    X = statistics.detrend(np.log(P), season)
    sells = Y.mean(axis=1) >= min_units
    moves = X.std(axis=1) >= min_price_sd
    enters = np.flatnonzero(sells & moves)
    group = np.arange(n)
    group[enters] = enters[statistics.same_series(X[enters])]
    series = np.unique(group[enters])
    effect, se = np.full((2, n, n), np.nan)
    weeks = n_periods // season
    reason = statistics.reasons(ids, Y, X, group, sells, moves, (min_units, min_price_sd))
    blocked = statistics.category_reason(n_periods, weeks, len(series), min_weeks, season)
    if blocked:
        reason[:] = blocked
    elif len(series):
        pooled = np.stack([X[enters[group[enters] == g]].mean(axis=0) for g in series])
        beta, beta_se = statistics.regress(statistics.detrend(statistics.relative(Y[sells]), season), pooled, season)
        column = np.searchsorted(series, group[enters])
        rows = np.ix_(np.flatnonzero(sells), enters)
        effect[rows], se[rows] = beta[:, column], beta_se[:, column]
    unknown = reason != ""
    effect[unknown], se[unknown] = np.nan, np.nan
    return _pairs(ids, effect, se, ids[group], weeks, reason)


def null_scale(z: Array) -> float:
    """Standard deviation of z among unrelated pairs: 1.4826 MAD of the finite values, at least 1; (M,) -> scalar.

    Estimand: the spread of the null part, given that most pairs are unrelated. With many true edges it is too large,
    and the test conservative.

    References
    ----------
    Efron (2004), JASA 99, 96-104, with the MAD in place of central matching.

    Examples
    --------
    >>> round(null_scale(np.array([-4.0, -2.0, 0.0, 2.0, 4.0])), 4)
    2.9652
    >>> null_scale(np.array([-0.1, 0.0, 0.1]))
    1.0
    """
    known = np.asarray(z, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return 1.0
    return float(max(1.0, MAD_TO_SD * np.median(np.abs(known - np.median(known)))))


def finish_edges(frame: pd.DataFrame, attributes: pd.DataFrame | None = None) -> pd.DataFrame:
    """The edges of all categories with scaled `z`, `q_value` and `shrunk_effect`, in the order of `frame`.

    Estimand of `q_value`: the expected false share among pairs called edges at that level, two-sided because edges
    carry a sign, each unordered pair one test; Student's t with one degree of freedom a week of history. Estimand of
    `shrunk_effect`: the posterior mean of theta under a normal prior whose mean is linear in the similarity exp(-d) of
    the two products, d the root mean square distance over attributes (standard deviations; 0 or 1 for text). Without
    attributes the prior mean is common.

    Assumptions: Benjamini-Hochberg's positive dependence; normal effects around the prior mean. True effects that are
    few and large are shrunk too far: sums over the graph use the raw effect.

    Parameters
    ----------
    frame : rows of `CategoryEdges.frame` over all categories
    attributes : indexed by product id; numeric, boolean or text, missing values count as the column's mean distance

    Raises
    ------
    ValueError
        If a product of an estimated pair has no row in `attributes`.

    References
    ----------
    Benjamini and Hochberg (1995), JRSS B 57, 289-300; Morris (1983), JASA 78, 47-55; Priestley (1981), Spectral
    Analysis and Time Series, chapter 6 (equivalent degrees of freedom).
    """
    out = frame.copy()
    z = out["z"].to_numpy(dtype=np.float64)
    scale = null_scale(z[statistics.first_of_pair(out)])
    out["z"] = z / scale
    out["q_value"] = statistics.pair_q_values(out)
    out["shrunk_effect"] = np.nan
    known = np.isfinite(out["effect"].to_numpy(dtype=np.float64))
    if known.any():
        rows = out[known]
        design = np.ones((len(rows), 1))
        if attributes is not None:
            design = np.column_stack([design, statistics.similarity(rows, attributes)])
        effect, se = rows["effect"].to_numpy(dtype=np.float64), rows["se"].to_numpy(dtype=np.float64)
        out.loc[known, "shrunk_effect"] = statistics.shrink(effect, (scale * se) ** 2, design)
    return out


def placebo_rate(
    product_id: Array,
    units: Array,
    price: Array,
    category: Array,
    *,
    scale: float,
    season: int = 7,
    min_weeks: int = 26,
    min_units: float = 1.0,
    min_price_sd: float = 0.01,
    rng: np.random.Generator,
) -> Placebo:
    """Share of pairs from different categories with z / scale > 1.645: what edges that cannot be look like.

    Estimand: the false rate of one pair at the nominal one-sided 5 %. Products are dealt at random to hands of the
    median category size in which no two share a category, and each hand gets the statistic of `category_edges`.
    Assumption: no effects across categories; where they exist, the rate overstates.

    Parameters
    ----------
    product_id, category : (n,)
    units, price : (n, T)
    scale : the divisor of the real edges, `null_scale` of their z
    season, min_weeks, min_units, min_price_sd : as in `category_edges`
    rng : deals the hands
    """
    ids, labels = np.asarray(product_id, dtype=object), np.asarray(category, dtype=object)
    z = []
    for hand in statistics.hands(labels, rng):
        edges = category_edges(
            ids[hand],
            np.asarray(units)[hand],
            np.asarray(price)[hand],
            season=season,
            min_weeks=min_weeks,
            min_units=min_units,
            min_price_sd=min_price_sd,
        )
        z.append(edges.z[statistics.first_of_pair(edges.frame())])
    known = np.concatenate(z) if z else np.empty(0)
    known = known[np.isfinite(known)]
    if not len(known):
        return Placebo(np.nan, 0, "No pair of products from two categories is identified.")
    return Placebo(float(np.mean(known / scale > EDGE_Z)), len(known), None)


def graph_edges(frame: pd.DataFrame, *, either_sign: bool = False) -> GraphEdges:
    """Pairs of substitutes for clustering: scaled z > 1.645 and mean effect of the known directions > .1.

    No estimand: a screen. A missed edge costs bias, a false one little error, hence the low bar. The weight is z, the
    strength of the evidence: a large effect that is known badly should not decide where the graph is cut.
    Rows of `finish_edges` in, each unordered pair once out, sorted by both ids. `either_sign` takes pairs with z and
    effect below the negative of both bounds too, with weight -z: who is exposed to whom, also by a halo.
    """
    known = frame[np.isfinite(frame["effect"].to_numpy(dtype=np.float64))]
    if known.empty:
        return GraphEdges(np.empty((0, 2), dtype=object), np.empty(0))
    first, second = statistics.ordered(known)
    pairs = pd.DataFrame({"first": first, "second": second, "effect": known["effect"], "z": known["z"]})
    means = pairs.groupby(["first", "second"], sort=True).mean().reset_index()
    sign = np.where(either_sign & (means["z"] < 0), -1.0, 1.0)
    kept = means.assign(z=sign * means["z"])[(sign * means["z"] > EDGE_Z) & (sign * means["effect"] > EDGE_EFFECT)]
    return GraphEdges(kept[["first", "second"]].to_numpy(dtype=object), kept["z"].to_numpy(dtype=np.float64))


def _pairs(ids: Array, effect: Array, se: Array, group: Array, weeks: int, reason: Array) -> CategoryEdges:
    n = len(ids)
    if n == 1:
        alone = np.array(["not identified: the only product of its category"], dtype=object)
        nothing = np.full(1, np.nan)
        no_one = np.array([None], dtype=object)
        return CategoryEdges(ids, no_one, nothing, nothing, nothing, no_one, np.full(1, weeks), alone)
    t = effect / se
    both = (t + t.T) / np.sqrt(2)
    z = np.where(np.isfinite(both), both, np.where(np.isfinite(t), t, t.T))
    row, column = np.nonzero(~np.eye(n, dtype=bool))
    return CategoryEdges(
        product_id=ids[row],
        on_price_of=ids[column],
        effect=effect[row, column],
        se=se[row, column],
        z=np.where(np.isfinite(effect), z, np.nan)[row, column],
        series_group=group[column],
        history_weeks=np.full(len(row), weeks),
        reason=reason[row, column],
    )
