"""What a certificate knows of a history: cross effects from all weeks and from weeks that formed no cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _certificate_regressions as regressions
from pricelab_dagster.science import _edge_statistics as statistics
from pricelab_dagster.science import clusters, substitutes
from pricelab_dagster.science._certificate_regressions import Category
from pricelab_dagster.science._draws import text

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Sum = tuple[float, FloatArray]

LEVELS = (2, 4)
"""Numbers of parts, each left out in turn when clusters are formed."""
BEYOND = float(np.log(4 / 3) / np.log(3 / 2))
"""The step from three quarters of the weeks to all, in steps from half to three quarters, by logarithms."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Cross effects of a history, ready for any number of designs.

    Attributes
    ----------
    product_id, category
        (N,) products in scope.
    mean_units
        (N,) a period.
    n_periods, season
        Whole weeks of history, in periods, and the periods of a week.
    levels
        Numbers of parts that leave enough weeks to form clusters without one of them.
    min_weeks
        Fewest weeks that form clusters.
    identified_share
        Identified part of the candidate pairs, nan without any.
    judged_share
        Part of the identified pairs whose category bears its prices on halves and on quarters: of these alone weeks
        held out say how much clusters keep.
    own_elasticity
        Mean over products with a price series of their own; 0 if there is none.
    reason
        Why no bias can be predicted, or None.
    """

    product_id: NDArray[np.object_]
    category: NDArray[np.object_]
    mean_units: FloatArray
    n_periods: int
    season: int
    levels: tuple[int, ...]
    min_weeks: int
    identified_share: float
    judged_share: float
    own_elasticity: float
    reason: str | None
    _categories: tuple[Category, ...]
    _graphs: dict[tuple[int, int, bool], substitutes.GraphEdges]


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of a history, and those that the same route forms without a part of its weeks.

    Attributes
    ----------
    label
        (N,) from all weeks.
    held_out
        By number of parts F: labels (F, N), row f without the weeks of part f.
    max_size
        The cap.
    whole
        Part of the clusters that is assigned as wholes; the products of the others are drawn on their own.
    """

    label: IntArray
    held_out: dict[int, IntArray]
    max_size: int
    whole: float = 1.0


def evidence(
    product_id: ArrayLike,
    units: ArrayLike,
    price: ArrayLike,
    category: ArrayLike,
    *,
    scope: ArrayLike | None = None,
    season: int = 7,
    min_weeks: int = 26,
    min_units: float = 1.0,
    min_price_sd: float = 0.01,
) -> Evidence:
    """Return the cross effects of all candidate pairs, unshrunk and without a threshold, from a history.

    The estimand is theta_ij for all ordered pairs of one category, as in `substitutes.category_edges` and under its
    assumptions, with two changes that matter in a sum: demand is first divided by what the product's own price made of
    it, and capped at its 99.9 % instead of its 99.5 % quantile. They are estimated from all weeks, from halves and from
    quarters; graphs are formed from all weeks and without each half and quarter. Where a category has too many prices
    for a quarter or a half, how much clusters keep of it is not known: `judged_share` counts the others.

    Parameters
    ----------
    product_id, category
        (M,) labels, of all products of the categories.
    units, price
        (M, T) demand and positive shelf prices of the whole history; periods before the last whole weeks are dropped.
    scope
        (M,) bool: the N products that are assigned. All prices of a category enter its regression; pairs in scope
        count. None: all.
    season, min_weeks, min_units, min_price_sd
        As for `substitutes.category_edges`; min_weeks also bounds the weeks that form clusters.

    Raises
    ------
    ValueError
        As `substitutes.category_edges`, or if a category is missing, or the scope is not (M,) with a product in it.

    References
    ----------
    Chernozhukov et al., "Double/debiased machine learning", Econometrics Journal 21 (2018): cross-fitting.
    """
    ids, Y, P = statistics.checked(np.asarray(product_id), np.asarray(units), np.asarray(price), season, min_units)
    labels, inside = text("category", category, len(ids)), _inside(scope, len(ids))
    T = Y.shape[1] // season * season
    Y, P, n_weeks = Y[:, Y.shape[1] - T :], P[:, P.shape[1] - T :], T // season
    levels = tuple(F for F in LEVELS if n_weeks - -(-n_weeks // F) >= min_weeks)
    floors: Any = {"min_weeks": min_weeks, "min_units": min_units, "min_price_sd": min_price_sd}
    members = [np.flatnonzero(labels == name) for name in np.unique(labels[inside])]
    place = np.cumsum(inside) - 1
    found = tuple(
        regressions.category(
            place[own[inside[own]]], Y[own], P[own], season=season, inside=inside[own], levels=(1, *levels), **floors
        )
        for own in members
    )
    n_pairs = sum(len(one.members) * (len(one.members) - 1) for one in found)
    n_known = sum(int(one.known.sum()) for one in found)
    n_judged = sum(int(one.known.sum()) for one in found if one.regressions.keys() >= {1, *LEVELS})
    slopes = np.concatenate([one.own_elasticity for one in found])
    return Evidence(
        product_id=ids[inside],
        category=labels[inside],
        mean_units=Y[inside].mean(axis=1),
        n_periods=T,
        season=season,
        levels=levels,
        min_weeks=min_weeks,
        identified_share=n_known / n_pairs if n_pairs else np.nan,
        judged_share=n_judged / n_known if n_known else np.nan,
        own_elasticity=float(slopes.mean()) if len(slopes) else 0.0,
        reason=None if n_known else _reason(n_pairs, n_weeks, min_weeks),
        _categories=found,
        _graphs=_graphs(ids, Y, P, members, set(ids[inside]), levels, season, floors),
    )


def form_clusters(
    evidence: Evidence,
    *,
    max_size: int,
    method: clusters.Method = "leiden",
    either_sign: bool = False,
    rng: np.random.Generator,
) -> Clusters:
    """Return the clusters of a history under a cap, and those formed without each half and quarter of it.

    No estimand: labels by `substitutes.graph_edges` and `clusters.partition`. All partitions start from one seed, so
    that they differ by their weeks alone.

    Parameters
    ----------
    evidence
        From `evidence`.
    max_size
        Largest cluster, 1 or more.
    method, either_sign
        As for `clusters.partition` and `substitutes.graph_edges`.
    rng
        Breaks ties.

    Raises
    ------
    ValueError
        If max_size is below 1, or the method unknown.
    """
    seed = int(rng.integers(2**63))

    def labels(F: int, f: int) -> IntArray:
        if max_size == 1:
            return np.arange(len(evidence.product_id))
        graph = evidence._graphs[F, f, either_sign]
        return clusters.partition(
            graph.edges,
            weights=graph.weights,
            nodes=evidence.product_id,
            method=method,
            max_size=max_size,
            rng=np.random.default_rng(seed),
        )

    held_out = {F: np.stack([labels(F, f) for f in range(F)]) for F in evidence.levels}
    return Clusters(labels(1, 0), held_out, max_size)


def moving_apart(evidence: Evidence, correlation: Callable[[IntArray], FloatArray]) -> Sum:
    """Return (1/N) sum over candidate pairs of theta_ij (1 - rho_ij) with its score in each period (T,).

    A pair that is not identified counts like the identified of its category, or of all where its category has none.
    """
    N, sides, homeless = len(evidence.product_id), [], 0.0
    for one in evidence._categories:
        apart = 1.0 - correlation(one.members)
        np.fill_diagonal(apart, 0.0)
        unknown = float(apart[~one.known].sum())
        n_known = int(one.known.sum())
        homeless += 0.0 if n_known else unknown
        sides.append((one, apart + (unknown / n_known if n_known else 0.0)))
    n_known = sum(int(one.known.sum()) for one in evidence._categories)
    value, score = 0.0, np.zeros(evidence.n_periods)
    for one, weight in sides:
        if one.known.any():
            found = one.regressions[1].total(one.spread(weight + homeless / n_known)[None] / N)
            value, score = value + found[0], score + found[1]
    return value, score


def moving_together(evidence: Evidence, formed: Clusters) -> Sum:
    """Return (1/N) sum of theta_ij over pairs inside clusters with its score (T,), each from weeks held out.

    More weeks find more of the links. The sums with half and with three quarters of the weeks lie nearly on a line in
    the logarithm of the weeks that formed the clusters; it is followed to all weeks. A category without halves, or
    without quarters, counts as if clusters kept nothing of it: `judged_share` says of how many pairs that is not so.
    """
    N = len(evidence.product_id)
    value, score = 0.0, np.zeros(evidence.n_periods)
    for one in evidence._categories:
        judged = one.known.any() and one.regressions.keys() >= set(LEVELS)
        for F, factor in ((2, -BEYOND), (4, 1.0 + BEYOND)) if judged else ():
            label = formed.held_out[F][:, one.members]
            inside = (label[:, :, None] == label[:, None, :]).astype(float)
            weights = np.stack([one.spread(same) for same in inside]) * (formed.whole * factor / (F * N))
            found = one.regressions[F].total(weights)
            value, score = value + found[0], score + found[1]
    return value, score


def _inside(scope: ArrayLike | None, n: int) -> NDArray[np.bool_]:
    inside = np.full(n, True) if scope is None else np.asarray(scope)
    if inside.shape != (n,) or inside.dtype != bool or not inside.any():
        raise ValueError(f"scope.shape == {inside.shape}, must be ({n},) bool, one or more True. Give who is assigned.")
    return inside


def _graphs(
    ids: NDArray[np.object_],
    Y: FloatArray,
    P: FloatArray,
    members: list[IntArray],
    scope: set[object],
    levels: tuple[int, ...],
    season: int,
    floors: Any,
) -> dict[tuple[int, int, bool], substitutes.GraphEdges]:
    """Return the graphs among products in scope by number of parts, part left out and whether either sign binds."""
    graphs = {}
    for F in (1, *levels):
        part = regressions.parts(Y.shape[1] // season, F, season)
        for f in range(F):
            kept = part != f if F > 1 else np.full(Y.shape[1], True)
            every = [
                substitutes.category_edges(ids[own], Y[own][:, kept], P[own][:, kept], season=season, **floors).frame()
                for own in members
            ]
            edges = substitutes.finish_edges(pd.concat(every, ignore_index=True))
            among = edges[edges["product_id"].isin(scope) & edges["on_price_of"].isin(scope)]
            for either_sign in (False, True):
                graphs[F, f, either_sign] = substitutes.graph_edges(among, either_sign=either_sign)
    return graphs


def _reason(n_pairs: int, n_weeks: int, min_weeks: int) -> str:
    if not n_pairs:
        return "not identified: no category has two products."
    if n_weeks < min_weeks:
        return f"not identified: {n_weeks} weeks of history, needs {min_weeks}."
    return "not identified: no pair has enough sales and price movement for its category's number of prices."
