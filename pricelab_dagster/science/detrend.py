"""First differences: what a product would have sold without the experiment, and how far from it the truth came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._levels import ridge, smoothed, window_mean, window_weights
from pricelab_dagster.science._panel import FloatArray, Panel, matrix, shrunk_scale

Method = Literal["pooled_ridge", "mean", "ses", "none", "auto"]

MIN_PLACEBO_WEEKS = 4
PSEUDO_PERIODS = {"day": 3.5, "week": 0.5}
CANDIDATES: tuple[Method, ...] = ("mean", "ses", "pooled_ridge")


@dataclass(frozen=True, slots=True)
class Choice:
    """The forecast that `auto` takes.

    Attributes
    ----------
    method
        One of the candidates.
    placebo_error
        By candidate, the mean absolute placebo difference in parts of the product's scale; nan without a window.
    reason
        Why nothing could be compared, or None.
    """

    method: Method
    placebo_error: Mapping[Method, float]
    reason: str | None


def forecast(
    history: ArrayLike,
    horizon: int,
    *,
    groups: ArrayLike | None = None,
    season: int = 7,
    method: Method = "pooled_ridge",
    window: int = 28,
    prices: ArrayLike | None = None,
    planned: ArrayLike | None = None,
) -> FloatArray:
    """Return the predicted untreated values of each product over the next `horizon` periods, (N, horizon).

    Estimand: E[Y_it | pre-period] for the periods after the history, without treatment. Assumes that what moved the
    panel before goes on moving it alike: a break, or a season that the history has not seen, goes into the first
    difference of treated and control products alike and costs precision; where it hits the arms unlike, it biases.

    A method predicts the mean over the horizon; the path is that mean times the weekday profile of the product's
    category, mean 1 over a full week, shrunk to the profile of all products and that one to flat.

    - `pooled_ridge`: one ridge regression for all products. Features are the product's means over its last 1, 2, 4, 8,
      13, 26 weeks and all pre-period, as deviations from its category's, and the category's means; target the mean over
      the horizon minus that of the last `window` periods, so that little evidence leaves the window mean; rows are
      products at rolling origins two weeks apart. Every row is divided by the product's scale at its own origin, shrunk
      as in `product_scale`: no target leaks into it and size plays no part. Category means are penalised more the fewer
      categories and separate horizons there are. With prices, two more features: the mean log price of the horizon less
      that of the last `window` periods, and less that of all before, so that a promotion that ends or a price that has
      moved is not taken for a trend. With fewer than 3 origins that leave 8 weeks before them, i.e. less than `horizon`
      and 12 weeks of history, it is `mean`; so it is for each product observed for less than 8 weeks.
    - `mean`: mean of the last `window` periods, weekdays levelled out.
    - `ses`: simple exponential smoothing of each product, one smoothing constant for all with the least absolute error
      at the same origins; `mean` where those are too few.
    - `none`: plain mean of the last `window` periods and a flat path, that is the raw difference.
    - `auto`: the one of `pooled_ridge`, `mean` and `ses` that `choose` finds on this history.

    Parameters
    ----------
    history
        Values (N, T0), one row per product, last column the eve of the horizon; nan where not on sale yet. Multiplied
        by a number, it gives the forecast multiplied by that number.
    horizon
        Periods to predict.
    groups
        Category labels (N,); None for one category.
    season
        Periods of a week: 7 by day, 1 by week. The first column has phase 0.
    method
        As above.
    window
        Periods of the window mean; more than T0 means all.
    prices, planned
        Positive prices (N, T0) of the history and (N, horizon) that were planned for the horizon without treatment;
        both or neither, nan where not known. Planned means fixed before the horizon: prices that follow its sales would
        take a part of the effect with them. Only `pooled_ridge` looks at them.

    Returns
    -------
    Float array (N, horizon) in the unit of `history`; nan for a product without observed periods to predict from.

    Raises
    ------
    ValueError
        If a shape, label, length or the method is out of its range, or the history has infinite values.

    References
    ----------
    Hoerl and Kennard (1970), Ridge regression, Technometrics 12. Marcellino, Stock and Watson (2006), A comparison of
    direct and iterated multistep AR methods, Journal of Econometrics 135. James and Stein (1961), for the profiles.

    Examples
    --------
    >>> import numpy as np
    >>> forecast(np.tile([1.0, 1, 1, 1, 1, 4, 5], (3, 4)), 7, method="mean")[0].round(6)
    array([1., 1., 1., 1., 1., 4., 5.])
    """
    _check_at_least_one(horizon=horizon, window=window)
    panel = Panel.of(history, groups, season)
    log_price = _log_prices(prices, planned, panel.Y.shape, horizon)
    if method == "auto":
        method = choose(history, horizon, groups=groups, season=season, window=window, prices=prices).method
    T = panel.Y.shape[1]
    if method == "pooled_ridge":
        level = ridge(panel, horizon, window, log_price)
    elif method == "ses":
        level = smoothed(panel, horizon, window)
    elif method == "mean":
        level = window_mean(panel, window)
    elif method == "none":
        return np.repeat(panel.levels(window_weights(T, window), by_phase=False), horizon, axis=1)
    else:
        raise ValueError(f"method == {method!r}, must be pooled_ridge, mean, ses, none or auto. Give one of these.")
    return level[:, None] * panel.parts(T, horizon)[panel.g]


def placebo(
    history: ArrayLike,
    horizon: int,
    *,
    n_windows: int = 4,
    groups: ArrayLike | None = None,
    season: int = 7,
    method: Method = "pooled_ridge",
    window: int = 28,
    prices: ArrayLike | None = None,
) -> FloatArray:
    """Return placebo first differences (N, n_windows): observed minus predicted means of windows before the experiment.

    Estimand: zero. The windows have `horizon` periods each, do not overlap and come latest first; each is predicted as
    by `forecast` from the periods before it alone. Their spread is the noise that the experiment will meet, a slope
    over them a pre-trend. Needs four weeks of observations of a product before the window: nan without them, or where
    the window itself has missing values. `auto` is chosen once, on the whole history, as for the experiment.

    Parameters and errors as in `forecast`; `n_windows` must be 1 or more. `prices` (N, T0) serve the windows too, as
    if they had been planned.

    Examples
    --------
    >>> import numpy as np
    >>> placebo(np.ones((2, 60)), 14, n_windows=3)
    array([[ 0.,  0., nan],
           [ 0.,  0., nan]])
    """
    _check_at_least_one(horizon=horizon, n_windows=n_windows)
    Y = matrix("history", history)
    P = None if prices is None else np.asarray(prices, dtype=float)
    if method == "auto":
        method = choose(history, horizon, groups=groups, season=season, window=window, prices=prices).method
    differences = np.full((len(Y), n_windows), np.nan)
    for j in range(n_windows):
        origin = Y.shape[1] - (j + 1) * horizon
        if origin < MIN_PLACEBO_WEEKS * season:
            break
        past, end = Y[:, :origin], origin + horizon
        known = {} if P is None else {"prices": P[:, :origin], "planned": P[:, origin:end]}
        predicted = forecast(past, horizon, groups=groups, season=season, method=method, window=window, **known)
        D = (Y[:, origin:end] - predicted).mean(axis=1)
        enough = (~np.isnan(past)).sum(axis=1) >= MIN_PLACEBO_WEEKS * season
        differences[:, j] = np.where(enough, D, np.nan)
    return differences


def choose(
    history: ArrayLike,
    horizon: int,
    *,
    groups: ArrayLike | None = None,
    season: int = 7,
    window: int = 28,
    prices: ArrayLike | None = None,
) -> Choice:
    """Return which of `pooled_ridge`, `mean` and `ses` predicts this history best, with the error of each.

    The error is the mean absolute placebo difference over windows and products, each divided by the product's scale
    and taken about its window's mean, because shocks to all products cancel between the arms. It looks at the history
    alone, before any outcome. A tie, as where the history is too short to train on, goes to `mean`; so does a history
    without room for a placebo, with the reason. The least of several errors is itself a little too small.

    Parameters and errors as in `placebo`.

    References
    ----------
    Tashman (2000), Out-of-sample tests of forecasting accuracy, International Journal of Forecasting 16, on rolling
    origins.

    Examples
    --------
    >>> import numpy as np
    >>> choose(np.ones((3, 70)), 14).placebo_error
    {'mean': 0.0, 'ses': 0.0, 'pooled_ridge': 0.0}
    """
    grain: Literal["day", "week"] = "week" if season == 1 else "day"
    scale = product_scale(np.abs(np.asarray(history, dtype=float)), grain=grain)[:, None]
    errors: dict[Method, float] = {}
    for method in CANDIDATES:
        D = placebo(history, horizon, groups=groups, season=season, method=method, window=window, prices=prices)
        Z = np.divide(D, scale, out=np.full(D.shape, np.nan), where=scale > 0.0)
        Z = Z[:, ~np.isnan(Z).all(axis=0)]
        errors[method] = float(np.nanmean(np.abs(Z - np.nanmean(Z, axis=0)))) if Z.size else np.nan
    if np.isnan(errors["mean"]):
        return Choice("mean", errors, "no window before the start has four weeks before it to predict it from")
    return Choice(min(CANDIDATES, key=errors.__getitem__), errors, None)


def first_difference(observed: ArrayLike, predicted: ArrayLike, in_analysis: ArrayLike) -> FloatArray:
    """Return D_i (N,), the mean of observed minus predicted over the periods in analysis.

    Parameters
    ----------
    observed, predicted
        Values (N, T) of the experiment's periods.
    in_analysis
        Boolean (N, T), or (T,) for all products.

    Returns
    -------
    Float array (N,) in the unit of the values; nan for a product without a period in analysis, or with a missing value
    in one: a mean over other periods than those of its peers is not comparable.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> first_difference([[9.0, 5.0, 7.0]], [[1.0, 1.0, 1.0]], [False, True, True])
    array([5.])
    """
    R, used = _cells(np.asarray(observed, dtype=float) - np.asarray(predicted, dtype=float), in_analysis)
    return _cell_mean(R, used)


def phase_contrast(residual: ArrayLike, phase_index: ArrayLike, in_analysis: ArrayLike) -> FloatArray:
    """Return D_i (N,) of a crossover: the mean residual over odd phases minus that over even phases.

    Expectation: the effect for a unit that starts treated, minus the effect for one that starts as control, and beside
    it the change between phases that both share. So the difference between the sequences is twice the effect.

    Parameters
    ----------
    residual
        Observed minus predicted (N, T).
    phase_index
        Number of the phase of each period (T,), counted from 1.
    in_analysis
        Boolean (N, T), or (T,) for all products.

    Returns
    -------
    Float array (N,); nan for a product without analysed periods in both kinds of phases or with a missing value in one.

    Raises
    ------
    ValueError
        If shapes do not fit or phases are not counted from 1.

    Examples
    --------
    >>> phase_contrast([[5.0, 7.0, 1.0, 3.0]], [1, 1, 2, 2], [True] * 4)
    array([4.])
    """
    R, used = _cells(residual, in_analysis)
    phase = np.asarray(phase_index)
    if phase.shape != R.shape[1:]:
        raise ValueError(f"phase_index.shape == {phase.shape}, must be {R.shape[1:]}. Give one phase per period.")
    if phase.min(initial=1) != 1:
        raise ValueError(f"min(phase_index) == {phase.min()}, must be 1. Count the phases from 1, the first is odd.")
    odd = phase % 2 == 1
    return _cell_mean(R, used & odd) - _cell_mean(R, used & ~odd)


def within_contrast(residual: ArrayLike, arm: ArrayLike, in_analysis: ArrayLike) -> FloatArray:
    """Return D_i (N,) of random days: the slope of a product's residuals on its arm, over its periods in analysis.

    D_i = sum_t (W_it - Wbar_i) R_it / sum_t (W_it - Wbar_i)^2: with arms 0 and 1 the mean residual of the treated
    periods minus that of the others.

    Parameters
    ----------
    residual
        Observed minus predicted (N, T).
    arm
        W (N, T), 0 or 1.
    in_analysis
        Boolean (N, T), or (T,) for all products.

    Returns
    -------
    Float array (N,); nan for a product whose arm does not vary over its analysed periods or with a missing value there.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> within_contrast([[5.0, 1.0, 3.0]], [[1, 0, 0]], [True] * 3)
    array([3.])
    """
    R, used = _cells(residual, in_analysis)
    W = np.asarray(arm, dtype=float)
    if W.shape != R.shape:
        raise ValueError(f"arm.shape == {W.shape}, must be {R.shape}. Give one arm per cell.")
    centred = np.where(used, W - _cell_mean(W, used)[:, None], 0.0)
    spread = (centred**2).sum(axis=1)
    total = np.where(used, centred * R, 0.0).sum(axis=1)
    varies = np.where(used, W, -np.inf).max(axis=1) > np.where(used, W, np.inf).min(axis=1)
    return np.divide(total, spread, out=np.full(len(R), np.nan), where=varies)


def product_scale(history: ArrayLike, *, grain: Literal["day", "week"] = "day") -> FloatArray:
    """Return the scale s_i (N,) by which values are divided on the relative scale.

    s_i = (sum_t Y_it + k Ybar) / (T_i + 2 k) over the T_i observed pre-periods of the product, Ybar the mean over all
    observed cells, k = 3.5 by day and 0.5 by week: about a week of pseudo-data keeps products that hardly sell from
    dominating. For signed metrics give the history of revenue.

    Returns
    -------
    Float array (N,) in the unit of `history` (N, T0); nan for a product without observed periods.

    Raises
    ------
    ValueError
        If `history` is not (N, T0), is empty, or the grain is unknown.

    Examples
    --------
    >>> product_scale([[1.0, 1.0], [3.0, 3.0]], grain="week")
    array([1.        , 2.33333333])
    """
    Y = matrix("history", history)
    if grain not in PSEUDO_PERIODS:
        raise ValueError(f"grain == {grain!r}, must be 'day' or 'week'. Give the grain of the sales data.")
    return shrunk_scale(np.nansum(Y, axis=1), (~np.isnan(Y)).sum(axis=1), PSEUDO_PERIODS[grain])


def _log_prices(
    prices: ArrayLike | None, planned: ArrayLike | None, shape: tuple[int, ...], horizon: int
) -> FloatArray | None:
    """Return the log prices (N, T0 + horizon) of history and horizon, nan where unknown; None without prices."""
    if prices is None and planned is None:
        return None
    if prices is None or planned is None:
        raise ValueError("one of prices, planned == None, must be both or neither. Give the prices of both.")
    parts = [matrix(name, values) for name, values in (("prices", prices), ("planned", planned))]
    for name, part, n_periods in zip(("prices", "planned"), parts, (shape[1], horizon), strict=True):
        if part.shape != (shape[0], n_periods):
            raise ValueError(f"{name}.shape == {part.shape}, must be {(shape[0], n_periods)}. Give a price per cell.")
        if (part <= 0.0).any() or np.isinf(part).any():
            raise ValueError(f"{name} has values that are not positive and finite. Give nan where it is not known.")
    return np.log(np.concatenate(parts, axis=1))


def _cells(residual: ArrayLike, in_analysis: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    R = matrix("residual", residual)
    used = np.asarray(in_analysis, dtype=bool)
    if used.shape not in (R.shape, R.shape[1:]):
        raise ValueError(
            f"in_analysis.shape == {used.shape}, must be {R.shape} or {R.shape[1:]}. Give a flag per cell."
        )
    return R, np.broadcast_to(used, R.shape)


def _cell_mean(values: FloatArray, used: NDArray[np.bool_]) -> FloatArray:
    n = used.sum(axis=1)
    return np.divide(np.where(used, values, 0.0).sum(axis=1), n, out=np.full(len(n), np.nan), where=n > 0)


def _check_at_least_one(**lengths: int) -> None:
    for name, value in lengths.items():
        if value < 1:
            raise ValueError(f"{name} == {value}, must be 1 or more. Give it in periods.")
