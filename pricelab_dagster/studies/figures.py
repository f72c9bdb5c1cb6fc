"""What a study says of an estimator: how often its interval holds the truth, how far off it is, how honest the SE."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


class Bounded(NamedTuple):
    """A figure of the study with its interval."""

    value: float
    lower: float
    upper: float


def proportion(hits: int, n: int, *, confidence: float = CONFIDENCE) -> Bounded:
    """Return a share with its exact binomial interval (Clopper and Pearson)."""
    found = stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
    return Bounded(hits / n, float(found.low), float(found.high))


def bias(error: ArrayLike, chance: ArrayLike, *, confidence: float = CONFIDENCE) -> Bounded:
    """Return the mean error, freed from the luck of the draws, with its Monte Carlo interval.

    Parameters
    ----------
    error : (R,) effect less truth.
    chance : (R,) a contrast of the same arms on untreated sales, whose mean over draws is zero by design. What the
        error has in common with it is luck and taken out by regression, as a control variate.

    References
    ----------
    Glasserman, Monte Carlo Methods in Financial Engineering (2003), section 4.1.
    """
    y, x = np.asarray(error, dtype=float), np.asarray(chance, dtype=float)
    if len(y) < 4:
        return Bounded(float(y.mean()), np.nan, np.nan)
    deviation = x - x.mean()
    spread = float(deviation @ deviation)
    slope = float(deviation @ y) / spread if spread > 0 else 0.0
    value = float(y.mean() - slope * x.mean())
    rest = y - value - slope * x
    variance = float(rest @ rest) / (len(y) - 2)
    leverage = 1 / len(y) + (x.mean() ** 2 / spread if spread > 0 else 0.0)
    half = float(stats.t(len(y) - 2).ppf(0.5 + confidence / 2)) * float(np.sqrt(variance * leverage))
    return Bounded(value, value - half, value + half)


def se_over_sd(se: ArrayLike, error: ArrayLike, *, confidence: float = CONFIDENCE) -> Bounded:
    """Return the mean standard error over the standard deviation of the errors, with the interval of the latter."""
    y = np.asarray(error, dtype=float)
    if len(y) < 2:
        return Bounded(np.nan, np.nan, np.nan)
    ratio, freedom = float(np.asarray(se, dtype=float).mean()) / float(y.std(ddof=1)), len(y) - 1
    tail = (1 - confidence) / 2
    low, high = (float(np.sqrt(stats.chi2(freedom).ppf(q) / freedom)) for q in (tail, 1 - tail))
    return Bounded(ratio, ratio * low, ratio * high)


def mean(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Bounded:
    """Return a mean over draws with its t interval."""
    y = np.asarray(values, dtype=float)
    if len(y) < 2:
        return Bounded(float(y.mean()), np.nan, np.nan)
    half = float(stats.t(len(y) - 1).ppf(0.5 + confidence / 2) * y.std(ddof=1) / np.sqrt(len(y)))
    return Bounded(float(y.mean()), float(y.mean()) - half, float(y.mean()) + half)


def compare(statistic: Callable[..., float], *errors: NDArray[Any], confidence: float = CONFIDENCE) -> Bounded:
    """Return a statistic of several estimators' errors (R,) on the same draws, with its percentile bootstrap interval.

    Draws are resampled whole, so that what the estimators share cancels. Fewer than 20 draws have no interval.
    """
    value, n = statistic(*errors), len(errors[0])
    if n < 20:
        return Bounded(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    picked = rng.integers(n, size=(RESAMPLES, n))
    spread = [statistic(*(one[rows] for one in errors)) for rows in picked]
    tail = (1 - confidence) / 2
    low, high = np.quantile(spread, [tail, 1 - tail])
    return Bounded(value, float(low), float(high))
