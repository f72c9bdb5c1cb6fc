"""The numbers behind `substitutes`: the regression of a category, its refusals, and the steps over all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, sparse, stats

Array = npt.NDArray[Any]

CAP_QUANTILE = 0.995
SAME_SERIES = 0.95
"""Price series correlated above this are one series."""
PERIODS_PER_SERIES = 3
"""Periods of history that each regressor needs; with fewer the residuals are too short for their own errors."""
N_SHRINKAGE_STEPS = 50


def checked(product_id: Array, units: Array, price: Array, season: int, min_units: float) -> tuple[Array, Array, Array]:
    ids = np.asarray(product_id, dtype=object)
    Y, P = np.asarray(units, dtype=np.float64), np.asarray(price, dtype=np.float64)
    if Y.ndim != 2 or Y.shape != P.shape or len(ids) != len(Y):
        raise ValueError(f"units.shape == {Y.shape}, must be that of price {P.shape}, one row for each product_id.")
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"product_id == {pd.Series(ids)[pd.Series(ids).duplicated()].iloc[0]!r} twice, must be unique."
        )
    if not (np.isfinite(Y).all() and np.isfinite(P).all()):
        raise ValueError("units, price == nan, must be finite. Fill the calendar first: zero units, last price.")
    if min_units <= 0:
        raise ValueError(f"min_units == {min_units}, must be above 0. Give the least mean demand of a period.")
    if (P <= 0).any():
        raise ValueError(f"price == {P.min()}, must be above 0. Leave the product out.")
    if season not in (1, 7):
        raise ValueError(f"season == {season}, must be 7 or 1. Give 7 by day, 1 by week.")
    return ids, Y, P


def relative(Y: Array) -> Array:
    share = Y / Y.mean(axis=1, keepdims=True)
    return np.asarray(np.minimum(share, np.quantile(share, CAP_QUANTILE, axis=1, keepdims=True)))


def window(season: int) -> Array:
    """Weights of the centred mean: 28 days with half days at both ends, or 5 weeks."""
    return np.r_[0.5, np.ones(27), 0.5] if season == 7 else np.ones(5)


def detrend(A: Array, season: int) -> Array:
    """Rows of A less their centred mean (shorter at the ends), then less their weekday means."""
    weights = window(season)
    total = ndimage.convolve1d(A, weights, axis=1, mode="constant")
    out = A - total / ndimage.convolve1d(np.ones(A.shape[1]), weights, mode="constant")
    for phase in range(min(season, A.shape[1])):
        out[:, phase::season] -= out[:, phase::season].mean(axis=1, keepdims=True)
    return np.asarray(out)


def same_series(X: Array) -> Array:
    """For each row the first row whose series it shares, through chains of correlations."""
    if not len(X):
        return np.empty(0, dtype=np.int64)
    alike = np.atleast_2d(np.corrcoef(X)) > SAME_SERIES
    _, label = sparse.csgraph.connected_components(alike, directed=False)
    _, first = np.unique(label, return_index=True)
    return np.asarray(first[label])


def spent(season: int) -> float:
    """Parts of a degree of freedom that the centred mean costs per period."""
    return 1 / float(window(season).sum())


def regress(Y: Array, X: Array, season: int) -> tuple[Array, Array]:
    """Coefficients of every row of Y on all rows of X and their Newey-West errors, each (n, K)."""
    n_periods = Y.shape[1]
    A = np.linalg.pinv(X.T)
    beta = Y @ A.T
    E = Y - beta @ X
    variance = (E**2) @ (A**2).T
    n_lags = 7 if season == 7 else 1
    for lag in range(1, n_lags + 1):
        weight = 2 * (1 - lag / (n_lags + 1))
        variance += weight * (E[:, lag:] * E[:, :-lag]) @ (A[:, lag:] * A[:, :-lag]).T
    freedom = n_periods * (1 - spent(season)) - season - len(X)
    return beta, np.sqrt(variance * n_periods / freedom)


def category_reason(n_periods: int, weeks: int, n_series: int, min_weeks: int, season: int) -> str:
    if weeks < min_weeks:
        return f"not identified: {weeks} weeks of history, needs {min_weeks}"
    if n_periods < PERIODS_PER_SERIES * (n_series + season):
        return f"not identified: {n_series} price series are more than {n_periods} periods bear"
    return ""


def reasons(
    ids: Array, Y: Array, X: Array, group: Array, sells: Array, moves: Array, floors: tuple[float, float]
) -> Array:
    """Why row's demand on column's price is not identified, (n, n) text, empty where it is."""
    reason = np.full((len(ids), len(ids)), "", dtype=object)
    for j in np.flatnonzero(~moves):
        reason[:, j] = (
            f"not identified: no price movement of {ids[j]}, sd {X[j].std():.3g} of log price < {floors[1]:g}"
        )
    for j in np.flatnonzero(~sells):
        thin = f"not identified: thin demand of {ids[j]}, {Y[j].mean():.3g} units a period < {floors[0]:g}"
        reason[:, j], reason[j, :] = thin, thin
    for j in np.flatnonzero((np.bincount(group, minlength=len(ids)) > 1)[group]):
        mates = np.flatnonzero(group == group[j])
        reason[j, mates] = f"not identified: one price series with {ids[j]}"
    return reason


def ordered(frame: pd.DataFrame) -> tuple[Array, Array]:
    """The two ids of each row, the smaller first."""
    a = frame["product_id"].to_numpy(dtype=object)
    b = frame["on_price_of"].to_numpy(dtype=object)
    # the only product of a class has no partner: None, or nan once it has been a column of text
    swap = np.array([bool(pd.notna(y)) and y < x for x, y in zip(a, b, strict=True)], dtype=bool)
    return np.where(swap, b, a), np.where(swap, a, b)


def first_of_pair(frame: pd.DataFrame) -> Array:
    """Mask of one identified row per unordered pair."""
    first, second = ordered(frame)
    known = np.isfinite(frame["z"].to_numpy(dtype=np.float64))
    pairs = pd.DataFrame({"first": first, "second": second})[known]
    mask = np.zeros(len(frame), dtype=bool)
    mask[np.flatnonzero(known)] = ~pairs.duplicated().to_numpy()
    return mask


def pair_q_values(frame: pd.DataFrame) -> Array:
    """Benjamini-Hochberg over unordered pairs, written to every identified row."""
    z = frame["z"].to_numpy(dtype=np.float64)
    tested = first_of_pair(frame)
    # Bartlett's equivalent degrees of freedom of the errors, 1.5 T / (lags + 1), lie about one a week.
    p = np.asarray(2 * stats.t.sf(np.abs(z), frame["history_weeks"].to_numpy(dtype=np.float64)))
    q = np.full(len(z), np.nan)
    if tested.any():
        sorted_p = np.sort(p[tested])
        level = sorted_p * len(sorted_p) / np.arange(1, len(sorted_p) + 1)
        level = np.minimum(np.minimum.accumulate(level[::-1])[::-1], 1.0)
        known = np.isfinite(z)
        q[known] = level[np.minimum(np.searchsorted(sorted_p, p[known], side="right"), len(sorted_p)) - 1]
    return q


def similarity(rows: pd.DataFrame, attributes: pd.DataFrame) -> Array:
    """exp(-d) of the two products of each row, d the root mean square attribute distance."""
    named = rows[["product_id", "on_price_of"]]
    missing = sorted(set(named.to_numpy(dtype=object).ravel()) - set(attributes.index))
    if missing:
        raise ValueError(f"attributes lack {len(missing)} products, such as {missing[:3]}. Give a row for each.")
    squared = np.zeros(len(rows))
    for name in attributes.columns:
        column = attributes[name]
        a, b = (column.reindex(rows[end]).to_numpy() for end in named)
        if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            sd = float(column.astype(float).std(ddof=0))
            gap = (a.astype(float) - b.astype(float)) ** 2 / (sd**2 if sd > 0 else 1.0)
        else:
            gap = np.where(pd.isna(a) | pd.isna(b), np.nan, (a != b).astype(float))
        known = np.isfinite(gap)
        squared += np.where(known, gap, gap[known].mean() if known.any() else 0.0)
    return np.asarray(np.exp(-np.sqrt(squared / max(attributes.shape[1], 1))))


def shrink(effect: Array, variance: Array, design: Array) -> Array:
    """Posterior means under N(design b, tau²), b and tau² by moments."""
    tau2 = max(float(np.var(effect) - variance.mean()), 0.0)
    for _ in range(N_SHRINKAGE_STEPS):
        w = 1 / (tau2 + variance)
        b = np.linalg.pinv(design * np.sqrt(w)[:, None]) @ (effect * np.sqrt(w))
        gap2 = (effect - design @ b) ** 2
        tau2 = max(float(np.sum(w**2 * (gap2 - variance)) / np.sum(w**2)), 0.0)
    prior = design @ b
    return np.asarray(prior + tau2 / (tau2 + variance) * (effect - prior))


def hands(category: Array, rng: np.random.Generator) -> list[Array]:
    """Random groups of at least two products, no two of one category, as large as the median category."""
    codes = pd.factorize(category, sort=True)[0]
    size = max(2, int(np.median(np.bincount(codes))))
    order = rng.permutation(len(codes))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[order] = pd.Series(codes[order]).groupby(codes[order]).cumcount().to_numpy()
    hands = []
    for r in range(int(rank.max()) + 1):
        deck = order[rank[order] == r]
        hands += [deck[i : i + size] for i in range(0, len(deck), size)]
    return [hand for hand in hands if len(hand) > 1]
