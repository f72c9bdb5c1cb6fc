"""A panel of pre-period values with its categories and weekday profiles, as the forecasts use it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Panel:
    """N products over T past periods.

    Attributes
    ----------
    Y
        Values (N, T), zero where missing.
    observed
        Boolean (N, T), or (1, T) of True where nothing is missing.
    g
        Category codes (N,).
    profile
        (categories, season): the part of each phase of the week, mean 1. Period t has phase t mod season.
    """

    Y: FloatArray
    observed: NDArray[np.bool_]
    g: NDArray[np.int64]
    profile: FloatArray

    @classmethod
    def of(cls, history: ArrayLike, groups: ArrayLike | None, season: int) -> "Panel":
        """Return the checked panel; nan in `history` is missing."""
        Y = matrix("history", history)
        if season < 1:
            raise ValueError(f"season == {season}, must be 1 or more. Give the periods of a week: 7 by day, 1 by week.")
        labels = np.zeros(len(Y)) if groups is None else np.asarray(groups)
        if labels.shape != (len(Y),):
            raise ValueError(f"groups.shape == {labels.shape}, must be ({len(Y)},). Give one category per product.")
        g = pd.factorize(labels)[0]
        if (g < 0).any():
            raise ValueError(f"groups has {(g < 0).sum()} missing labels, must have none. Give them a category.")
        missing = np.isnan(Y)
        observed = ~missing if missing.any() else np.ones((1, Y.shape[1]), dtype=bool)
        Y = np.where(missing, 0.0, Y) if missing.any() else Y
        if not np.isfinite(Y).all():
            raise ValueError("history has infinite values, must have none. Give nan where a value is missing.")
        return cls(Y, observed, g, _profiles(Y, observed, g, season))

    def parts(self, start: int, n_periods: int) -> FloatArray:
        """Return the profile of periods start, start + 1, ... by category, (categories, n_periods)."""
        return self.profile[:, np.arange(start, start + n_periods) % self.profile.shape[1]]

    def levels(self, weights: FloatArray, *, by_phase: bool = True) -> FloatArray:
        """Return weighted mean levels (N, K) for the columns of `weights` (T, K), weekdays levelled out.

        sum_t w Y / sum_t w p with p the profile (1 without `by_phase`) over the observed t; nan where that is empty.
        """
        T = self.Y.shape[1]
        p = self.parts(0, T) if by_phase else np.ones((len(self.profile), T))
        mass = (p @ weights)[self.g] if len(self.observed) == 1 else (self.observed * p[self.g]) @ weights
        return np.divide(self.Y @ weights, mass, out=np.full(mass.shape, np.nan), where=mass > 0.0)


def matrix(name: str, values: ArrayLike) -> FloatArray:
    """Return values as a float matrix of at least one product and period, or refuse them."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}.shape == {array.shape}, must be (N, T), not empty. Give one row per product.")
    return array


def shrunk_scale(total: FloatArray, count: NDArray[np.int64], k: float) -> FloatArray:
    """Return s_i = (sum_t Y + k Ybar) / (T_i + 2 k), Ybar the mean of all observed cells; nan where T_i = 0."""
    mean = total.sum() / max(count.sum(), 1)
    return np.where(count > 0, (total + k * mean) / (count + 2.0 * k), np.nan)


def _profiles(Y: FloatArray, observed: NDArray[np.bool_], g: NDArray[np.int64], season: int) -> FloatArray:
    """Return weekday profiles (categories, season): each category's, shrunk to that of all, shrunk to flat."""
    n_groups = g.max() + 1
    flat = np.ones(season)
    if season == 1:
        return np.ones((n_groups, 1))
    # Each product counts alike, whatever its size: the profile serves the relative scale.
    count = np.broadcast_to(observed.sum(axis=1), len(Y))
    size = np.divide(np.abs(Y).sum(axis=1), count, out=np.zeros(len(Y)), where=count > 0)
    Z = np.divide(Y, size[:, None], out=np.zeros(Y.shape), where=size[:, None] > 0.0)
    seen = np.broadcast_to(observed, Y.shape)
    sums = np.stack([Z[g == a].sum(axis=0) for a in range(n_groups)])
    counts = np.stack([seen[g == a].sum(axis=0) for a in range(n_groups)])
    pooled = _shrunk(*_weekly_profile(sums.sum(axis=0), counts.sum(axis=0), season), target=flat)
    own = [_shrunk(*_weekly_profile(sums[a], counts[a], season), target=pooled) for a in range(n_groups)]
    profile = np.maximum(np.stack(own), 0.0)
    return profile / profile.mean(axis=1, keepdims=True)


def _weekly_profile(total: FloatArray, count: NDArray[np.int64], season: int) -> tuple[FloatArray, FloatArray]:
    """Return a profile (season,) of mean 1 over the complete weeks and its sampling variance; nan where undefined."""
    T = len(total)
    n_weeks = T // season
    recent = slice(T - n_weeks * season, T)
    by_week = count[recent].reshape(n_weeks, season)
    complete = (by_week > 0).all(axis=1)
    weeks = (total[recent].reshape(n_weeks, season)[complete]) / by_week[complete]
    undefined = np.full(season, np.nan)
    if len(weeks) < 2 or weeks.mean() == 0.0:
        return undefined, undefined
    p = weeks.mean(axis=0) / weeks.mean()
    noise = weeks - weeks.mean(axis=1, keepdims=True) * p
    variance = (noise**2).sum(axis=0) / (len(weeks) * (len(weeks) - 1)) / weeks.mean() ** 2
    shift = T % season
    return np.roll(p, shift), np.roll(variance, shift)


def _shrunk(p: FloatArray, variance: FloatArray, *, target: FloatArray) -> FloatArray:
    """Return the positive-part shrinkage of p to the target, by the part of their distance that noise explains."""
    if np.isnan(p).any():
        return target
    distance = ((p - target) ** 2).sum()
    part = max(0.0, 1.0 - variance.sum() / distance) if distance > 0.0 else 0.0
    return target + part * (p - target)
