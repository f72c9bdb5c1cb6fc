"""Predictions of a product's mean over the horizon, weekdays levelled out: window mean, smoothing, pooled ridge."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science._panel import FloatArray, Panel, shrunk_scale

WEEKS = (1, 2, 4, 8, 13, 26)
MIN_WEEKS, ORIGIN_STEP_WEEKS, MIN_ORIGINS = 8, 2, 3
# Penalty per training row on standardised features; flat between .01 and .1 in the simulated market.
RIDGE_PENALTY = 0.05
# Products of a category share its level, so a level has one outcome per category and separate horizon, not one per row.
# Thirty pseudo-outcomes keep short histories and few categories no worse than the window mean, and cost long ones .3 %.
CATEGORY_PSEUDO_OUTCOMES = 30.0
SES_ALPHAS = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.4])


def window_weights(T: int, window: int, ends: NDArray[np.int64] | None = None) -> FloatArray:
    """Return weights (T, ends) of one for the `window` periods before each end; without `ends`, before T alone."""
    age = (np.array([T]) if ends is None else ends) - np.arange(T)[:, None]
    return ((age >= 1) & (age <= window)).astype(float)


def window_mean(panel: Panel, window: int) -> FloatArray:
    """Return the mean level (N,) of the last `window` periods."""
    return panel.levels(window_weights(panel.Y.shape[1], window))[:, 0]


def smoothed(panel: Panel, horizon: int, window: int) -> FloatArray:
    """Return the exponentially smoothed level (N,), one constant for all products; the window mean without origins."""
    T = panel.Y.shape[1]
    origins = _origins(panel, horizon)
    if len(origins) < MIN_ORIGINS:
        return window_mean(panel, window)
    sums = _Sums.of(panel)
    error = np.zeros(len(SES_ALPHAS))
    for o in origins:
        scale, usable = sums.scale(o)
        miss = _ahead(panel, sums, o, horizon)[:, None] - panel.levels(_decay(T, o))
        error += np.nansum(np.abs(miss[usable]) / scale[usable, None], axis=0)
    if not error.any():
        return window_mean(panel, window)
    return panel.levels(_decay(T, T)[:, [error.argmin()]])[:, 0]


def ridge(panel: Panel, horizon: int, window: int, log_price: FloatArray | None = None) -> FloatArray:
    """Return the level (N,) of the pooled direct ridge; the window mean where there is too little history to train.

    `log_price` (N, T + horizon) holds the price of every period, that of the horizon as it is planned; nan if unknown.
    """
    T = panel.Y.shape[1]
    origins = _origins(panel, horizon)
    if len(origins) < MIN_ORIGINS:
        return window_mean(panel, window)
    *past_levels, level = panel.levels(window_weights(T, window, np.r_[origins, T])).T
    sums = _Sums.of(panel)
    moves = _moves_of(log_price, len(panel.Y), horizon, window)
    moments: FloatArray | float = 0.0
    for o, past_level in zip(origins, past_levels, strict=True):
        X, scale, usable = sums.features(o)
        X = np.column_stack([X, moves(o)])
        change = _ahead(panel, sums, o, horizon) - past_level
        rows = usable & np.isfinite(change)
        Z = np.column_stack([np.ones(rows.sum()), X[rows], change[rows] / scale[rows]])
        moments = moments + Z.T @ Z
    moments = np.asarray(moments)
    X, scale, usable = sums.features(T)
    X = np.column_stack([X, moves(T)])
    if moments[0, 0] == 0.0:
        return level
    separate_horizons = 1.0 + (origins[0] - origins[-1]) / horizon
    category_penalty = CATEGORY_PSEUDO_OUTCOMES / (len(panel.profile) * separate_horizons)
    penalty = np.full(X.shape[1], RIDGE_PENALTY)
    penalty[len(WEEKS) + 1 : 2 * len(WEEKS) + 2] += category_penalty
    intercept, slopes = _solve(moments / moments[0, 0], penalty)
    return np.where(usable, level + (intercept + X @ slopes) * scale, level)


def _solve(moments: FloatArray, penalty: FloatArray) -> tuple[float, FloatArray]:
    """Return intercept and slopes of the ridge from the mean products of (1, features, target)."""
    mean = moments[0, 1:]
    covariance = moments[1:, 1:] - np.outer(mean, mean)
    variance = np.diag(covariance)[:-1]
    # A feature that never varies carries rounding error only.
    varies = variance > 1e-12 * np.diag(moments)[1:-1]
    sd = np.sqrt(np.where(varies, variance, np.inf))
    correlation = covariance[:-1, :-1] / np.outer(sd, sd)
    slopes = np.linalg.solve(correlation + np.diag(penalty), covariance[:-1, -1] / sd) / sd
    return float(mean[-1] - mean[:-1] @ slopes), slopes


def _moves_of(log_price: FloatArray | None, n_products: int, horizon: int, window: int) -> Callable[[int], FloatArray]:
    """Return the function of an origin that gives how the price of its horizon moves, (N, 2), or (N, 0) without prices.

    The mean log price of the horizon less that of the last `window` periods, and less that of all periods before; 0
    where one of them is not known.
    """
    if log_price is None:
        return lambda origin: np.empty((n_products, 0))
    known = np.isfinite(log_price)
    total, count = _running(np.where(known, log_price, 0.0)), _running(known)

    def mean(start: int, end: int) -> FloatArray:
        n = count[end] - count[start]
        return np.divide(total[end] - total[start], n, out=np.full(n.shape, np.nan), where=n > 0)

    def moves(origin: int) -> FloatArray:
        ahead = mean(origin, origin + horizon)
        back = np.stack([mean(max(0, origin - window), origin), mean(0, origin)], axis=1)
        return np.nan_to_num(ahead[:, None] - back)

    return moves


def _origins(panel: Panel, horizon: int) -> NDArray[np.int64]:
    """Return the ends of past histories that leave MIN_WEEKS before them and the horizon after them, latest first."""
    season = panel.profile.shape[1]
    latest = panel.Y.shape[1] - horizon
    return np.arange(latest, MIN_WEEKS * season - 1, -ORIGIN_STEP_WEEKS * season)


def _decay(T: int, origin: int) -> FloatArray:
    """Return smoothing weights (T, constants) of the periods before `origin`."""
    age = origin - 1 - np.arange(T)[:, None]
    return np.where(age >= 0, SES_ALPHAS * (1.0 - SES_ALPHAS) ** np.maximum(age, 0), 0.0)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Running sums (T + 1, N) of values, of their sizes and of observed periods: any window mean is a difference."""

    value: FloatArray
    size: FloatArray
    count: NDArray[np.int64]
    g: NDArray[np.int64]
    season: int

    @classmethod
    def of(cls, panel: Panel) -> "_Sums":
        value = _running(panel.Y)
        size = value if panel.Y.min() >= 0.0 else _running(np.abs(panel.Y))
        return cls(value, size, _running(panel.observed), panel.g, panel.profile.shape[1])

    def mean(self, start: int, end: int) -> FloatArray:
        """Return means (N,) over the observed periods of [start, end); nan without any."""
        total = self.value[end] - self.value[start]
        n = np.broadcast_to(self.count[end] - self.count[start], total.shape)
        return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)

    def scale(self, origin: int) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return scales (N,) from the periods before `origin`, and who has enough of them."""
        count = np.broadcast_to(self.count[origin], self.size[origin].shape)
        # Half a week, the pseudo-periods of the relative scale; sizes, because a signed mean may be near zero.
        scale = shrunk_scale(self.size[origin], count, self.season / 2.0)
        return scale, (count >= MIN_WEEKS * self.season) & (scale > 0.0)

    def features(self, origin: int) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Return features (N, 14) known at `origin`, scales (N,) and who has enough history; others have no meaning."""
        scale, usable = self.scale(origin)
        everything = self.mean(0, origin)
        windows = [self.mean(max(0, origin - weeks * self.season), origin) for weeks in WEEKS]
        means = np.stack([*windows, everything], axis=1)
        means = np.where(np.isnan(means), everything[:, None], means)
        M = np.divide(means, scale[:, None], out=np.zeros(means.shape), where=usable[:, None])
        n = np.bincount(self.g[usable], minlength=self.g.max() + 1)
        sums = np.stack([np.bincount(self.g, column, len(n)) for column in M.T], axis=1)
        category = (sums / np.maximum(n, 1)[:, None])[self.g]
        return np.concatenate([M - category, category], axis=1), scale, usable


def _ahead(panel: Panel, sums: _Sums, origin: int, horizon: int) -> FloatArray:
    """Return the observed level (N,) of the horizon after `origin`; nan where it has only days without any trade."""
    part = panel.parts(origin, horizon).mean(axis=1)[panel.g]
    return np.divide(sums.mean(origin, origin + horizon), part, out=np.full(part.shape, np.nan), where=part > 0.0)


def _running(values: NDArray) -> NDArray:
    """Return cumulative sums along time with a leading zero, (T + 1, N), so that a period is contiguous."""
    sums = np.zeros((values.shape[1] + 1, len(values)), dtype=np.result_type(values.dtype, np.int64))
    np.cumsum(values.T, axis=0, out=sums[1:])
    return sums
