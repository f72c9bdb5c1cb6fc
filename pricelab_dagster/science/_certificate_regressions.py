"""Cross effects of a category from all weeks and from parts of them, as sums with their score in each period."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import _edge_statistics as statistics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

N_OWN_STEPS = 3
"""Each step leaves about a fifth of the last one's own slope."""
CAP_QUANTILE = 0.999
"""Demand above it is cut. The graph's lower cut takes 2 to 3 % more off sums of effects."""
COLLINEAR = 1e-2
"""Prices that moved as one in a part of the weeks share their effect: directions below this part of the widest."""
LEAST_FREE = 0.25
"""Bound for what the fit leaves of a period: one that decides a coefficient nearly alone says little of its error."""


@dataclass(frozen=True, slots=True)
class Regression:
    """Coefficients of each of F parts of the periods, and what is needed for the error of their sums.

    Attributes
    ----------
    part
        (T,) which part a period belongs to.
    effect
        (F, K, n) effect of log price k on the relative demand of j.
    solver
        (T, K) rows of the least-squares solution of the period's part.
    error
        (n, T) residuals as if their period had been left out of the fit.
    """

    part: IntArray
    effect: FloatArray
    solver: FloatArray
    error: FloatArray

    def total(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """Return sum over parts of weights (F, K, n) times effects, and its score in each period (T,)."""
        score = np.empty(len(self.part))
        for f, weight in enumerate(weights):
            inside = self.part == f
            score[inside] = np.einsum("tj,jt->t", self.solver[inside] @ weight, self.error[:, inside])
        return float(np.sum(weights * self.effect)), score


@dataclass(frozen=True, slots=True)
class Category:
    """One category's candidate pairs and regressions.

    Attributes
    ----------
    members
        (p,) positions of its products in scope.
    known
        (p, p) whether the effect of price i on demand j is identified.
    series
        (p,) the price series of a product, -1 where its price does not enter.
    answers
        (p,) the row of a product among those whose demand answers, -1 for thin demand.
    n_shared
        (K,) products of each series, those out of scope among them.
    own_elasticity
        Of the products whose price series is their own alone.
    regressions
        By the number of parts; a number is absent where parts are too short for the category's prices.
    """

    members: IntArray
    known: BoolArray
    series: IntArray
    answers: IntArray
    n_shared: IntArray
    own_elasticity: FloatArray
    regressions: dict[int, Regression]

    def spread(self, weight: FloatArray) -> FloatArray:
        """Return weights of pairs (p, p) as weights of coefficients (K, n); an effect belongs to its series once."""
        i, j = np.nonzero(self.known)
        out = np.zeros((len(self.n_shared), int((self.answers >= 0).sum())))
        np.add.at(out, (self.series[i], self.answers[j]), weight[i, j] / self.n_shared[self.series[i]])
        return out

    def own(self) -> FloatArray:
        """Return (K, n), one where demand answers to a price that is the product's own alone."""
        out = np.zeros((len(self.n_shared), int((self.answers >= 0).sum())))
        both = (self.series >= 0) & (self.answers >= 0)
        alone = both & np.isin(self.series, np.flatnonzero(self.n_shared == 1))
        out[self.series[alone], self.answers[alone]] = 1.0
        return out


def parts(n_weeks: int, n_parts: int, season: int) -> IntArray:
    """Return the part (T,) of each period, whole weeks in one piece."""
    starts = np.arange(1, n_parts) * n_weeks // n_parts
    return np.repeat(np.searchsorted(starts, np.arange(n_weeks), side="right"), season)


def category(
    members: IntArray,
    units: FloatArray,
    price: FloatArray,
    *,
    season: int,
    min_weeks: int,
    min_units: float,
    min_price_sd: float,
    inside: BoolArray,
    levels: tuple[int, ...],
) -> Category:
    """Return the regressions of one category, as `substitutes.category_edges` takes them, on each number of parts.

    Units and prices are of all products of the category; `inside` (P,) are those in scope, at the positions `members`:
    all prices enter, and the demand of these answers.
    """
    X = statistics.detrend(np.log(price), season)
    sells = units.mean(axis=1) >= min_units
    enters = np.flatnonzero(sells & (X.std(axis=1) >= min_price_sd))
    first, code = np.unique(statistics.same_series(X[enters]), return_inverse=True)
    series = np.full(len(X), -1)
    series[enters] = code
    series, counted = series[inside], sells & inside
    answers = np.where(sells[inside], np.cumsum(sells[inside]) - 1, -1)
    known = (series >= 0)[:, None] & sells[inside] & (series[:, None] != series)
    n_shared = np.bincount(code, minlength=len(first))
    pooled = np.stack([X[enters[code == s]].mean(axis=0) for s in range(len(first))]) if len(first) else X[:0]
    found = Category(members, known, series, answers, n_shared, np.empty(0), {})
    if not len(first) or not counted.any():
        return found
    own = found.own()
    plain, slope = _at_usual_price(units[counted], np.log(price[counted]), pooled, own, season)
    Y = statistics.detrend(_relative(plain), season)
    n_weeks = X.shape[1] // season
    for n_parts in levels:
        least = n_weeks // n_parts
        needed = min_weeks if n_parts == 1 else 0
        if not statistics.category_reason(least * season, least, len(first), needed, season):
            part = parts(n_weeks, n_parts, season)
            found.regressions[n_parts] = _regression(Y, pooled, part, season, min_price_sd)
    return replace(found, known=known & (1 in found.regressions), own_elasticity=slope[own.any(axis=0)])


def _relative(Y: FloatArray) -> FloatArray:
    """Return demand (n, T) in parts of its mean, capped."""
    share = Y / Y.mean(axis=1, keepdims=True)
    return np.asarray(np.minimum(share, np.quantile(share, CAP_QUANTILE, axis=1, keepdims=True)))


def _at_usual_price(
    Y: FloatArray, log_price: FloatArray, X: FloatArray, own: FloatArray, season: int
) -> tuple[FloatArray, FloatArray]:
    """Return demand (n, T) divided by what its own price made of it, and the own elasticities (n,) that this took.

    Demand falls faster at low prices than a line does. A line through it leaves a part of the answer to movements that
    the category's prices have in common, and the other prices take it for theirs. A price that is not the product's
    alone is left in.
    """
    A, plain, elasticity = np.linalg.pinv(X.T), Y, np.zeros(len(Y))
    moved = log_price - log_price.mean(axis=1, keepdims=True)
    for _ in range(N_OWN_STEPS):
        elasticity += (statistics.detrend(_relative(plain), season) @ A.T * own.T).sum(axis=1)
        plain = Y / np.exp(elasticity[:, None] * moved)
    return plain, elasticity


def _regression(Y: FloatArray, X: FloatArray, part: IntArray, season: int, min_price_sd: float) -> Regression:
    """Return coefficients by part, of series whose weekdays and slow movement are gone already.

    A price that does not move in a part has no effect there: 0 is less wrong than what noise would make of it.
    """
    n_parts, n_periods = int(part.max()) + 1, Y.shape[1]
    effect, solver, error = np.empty((n_parts, len(X), len(Y))), np.empty((n_periods, len(X))), np.empty_like(Y)
    for f in range(n_parts):
        inside = part == f
        moves = X[:, inside].std(axis=1) >= min_price_sd
        A = np.zeros((len(X), int(inside.sum())))
        A[moves] = np.linalg.pinv(X[moves][:, inside].T, rcond=COLLINEAR)
        effect[f] = A @ Y[:, inside].T
        taken = np.einsum("kt,kt->t", A, X[:, inside]) + statistics.spent(season) + season / n_periods
        solver[inside] = A.T
        error[:, inside] = (Y[:, inside] - effect[f].T @ X[:, inside]) / np.maximum(1 - taken, LEAST_FREE)
    return Regression(part, effect, solver, error)
