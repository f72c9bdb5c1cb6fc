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
        (N,).
    mean_units
        (N,) a period.
    n_periods, season
        Whole weeks of history, in periods, and the periods of a week.
    levels
        Numbers of parts that leave enough weeks to form clusters without one of them.
    identified_share
        Identified part of the candidate pairs, nan without any.
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
    identified_share: float
    own_elasticity: float
    reason: str | None
    _categories: tuple[Category, ...]
    _graphs: dict[tuple[int, int], substitutes.GraphEdges]


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
    """

    label: IntArray
    held_out: dict[int, IntArray]
    max_size: int


def evidence(
    product_id: ArrayLike,
    units: ArrayLike,
    price: ArrayLike,
    category: ArrayLike,
    *,
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
    for a quarter, its halves serve, and without those nothing of it counts as kept inside clusters.

    Parameters
    ----------
    product_id, category
        (N,) labels.
    units, price
        (N, T) demand and positive shelf prices of the whole history; periods before the last whole weeks are dropped.
    season, min_weeks, min_units, min_price_sd
        As for `substitutes.category_edges`; min_weeks also bounds the weeks that form clusters.

    Raises
    ------
    ValueError
        As `substitutes.category_edges`, or if a category is missing.

    References
    ----------
    Chernozhukov et al., "Double/debiased machine learning", Econometrics Journal 21 (2018): cross-fitting.
    """
    ids, Y, P = statistics.checked(np.asarray(product_id), np.asarray(units), np.asarray(price), season, min_units)
    labels = text("category", category, len(ids))
    T = Y.shape[1] // season * season
    Y, P, n_weeks = Y[:, Y.shape[1] - T :], P[:, P.shape[1] - T :], T // season
    levels = tuple(F for F in LEVELS if n_weeks - -(-n_weeks // F) >= min_weeks)
    floors: Any = {"min_weeks": min_weeks, "min_units": min_units, "min_price_sd": min_price_sd}
    members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    found = tuple(
        regressions.category(own, Y[own], P[own], season=season, levels=(1, *levels), **floors) for own in members
    )
    graphs = {}
    for F in (1, *levels):
        part = regressions.parts(n_weeks, F, season)
        for f in range(F):
            kept = part != f if F > 1 else np.full(T, True)
            graphs[F, f] = _graph(ids, Y[:, kept], P[:, kept], members, season, floors)
    n_pairs = sum(len(own) * (len(own) - 1) for own in members)
    n_known = sum(int(one.known.sum()) for one in found)
    slopes = np.concatenate([one.own_elasticity for one in found])
    return Evidence(
        product_id=ids,
        category=labels,
        mean_units=Y.mean(axis=1),
        n_periods=T,
        season=season,
        levels=levels,
        identified_share=n_known / n_pairs if n_pairs else np.nan,
        own_elasticity=float(slopes.mean()) if len(slopes) else 0.0,
        reason=None if n_known else _reason(n_pairs, n_weeks, min_weeks),
        _categories=found,
        _graphs=graphs,
    )


def form_clusters(evidence: Evidence, *, max_size: int, rng: np.random.Generator) -> Clusters:
    """Return the clusters of a history under a cap, and those formed without each half and quarter of it.

    No estimand: labels by `substitutes.graph_edges` and `clusters.partition` with their defaults. All partitions start
    from one seed, so that they differ by their weeks alone.

    Parameters
    ----------
    evidence
        From `evidence`.
    max_size
        Largest cluster, 1 or more.
    rng
        Breaks ties.

    Raises
    ------
    ValueError
        If max_size is below 1.
    """
    seed = int(rng.integers(2**63))

    def labels(graph: substitutes.GraphEdges) -> IntArray:
        if max_size == 1:
            return np.arange(len(evidence.product_id))
        return clusters.partition(
            graph.edges,
            weights=graph.weights,
            nodes=evidence.product_id,
            max_size=max_size,
            rng=np.random.default_rng(seed),
        )

    held_out = {F: np.stack([labels(evidence._graphs[F, f]) for f in range(F)]) for F in evidence.levels}
    return Clusters(labels(evidence._graphs[1, 0]), held_out, max_size)


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
    the logarithm of the weeks that formed the clusters; it is followed to all weeks. Without halves, or without
    quarters, the sum at hand stands, which is too low.
    """
    N = len(evidence.product_id)
    value, score = 0.0, np.zeros(evidence.n_periods)
    for one in evidence._categories:
        usable = [F for F in evidence.levels if F in one.regressions and one.known.any()]
        ahead = {2: -BEYOND, 4: 1.0 + BEYOND} if len(usable) == len(LEVELS) else dict.fromkeys(usable, 1.0)
        for F, factor in ahead.items():
            label = formed.held_out[F][:, one.members]
            inside = (label[:, :, None] == label[:, None, :]).astype(float)
            weights = np.stack([one.spread(same) for same in inside]) * factor / (F * N)
            found = one.regressions[F].total(weights)
            value, score = value + found[0], score + found[1]
    return value, score


def _graph(
    ids: NDArray[np.object_],
    Y: FloatArray,
    P: FloatArray,
    members: list[IntArray],
    season: int,
    floors: Any,
) -> substitutes.GraphEdges:
    found = [substitutes.category_edges(ids[own], Y[own], P[own], season=season, **floors).frame() for own in members]
    return substitutes.graph_edges(substitutes.finish_edges(pd.concat(found, ignore_index=True)))


def _reason(n_pairs: int, n_weeks: int, min_weeks: int) -> str:
    if not n_pairs:
        return "not identified: no category has two products."
    if n_weeks < min_weeks:
        return f"not identified: {n_weeks} weeks of history, needs {min_weeks}."
    return "not identified: no pair has enough sales and price movement for its category's number of prices."
