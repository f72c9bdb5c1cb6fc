"""HPTE steps 1 and 2 over the panel of one experiment: forecasts, first differences, and the filter's verdict."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import detrend, outliers
from pricelab_dagster.science._experiment import SIGNED_METRICS, BoolArray, FloatArray, Panel, Trimmed

SCALES = ("relative", "level")


def forecasts(
    panel: Panel, *, method: detrend.Method = "pooled_ridge", window: int | None = 28
) -> dict[str, FloatArray]:
    """Return by metric the predicted values (N, T) of the experiment's periods, from history and planned prices alone.

    `window` None uses the whole history. Products without history get nan.
    """
    options: dict[str, Any] = {"groups": panel.category, "season": panel.season, "method": method}
    return {
        metric: _by_cohort(panel, history, detrend.forecast, panel.arm.shape[1], window, options)
        for metric, history in panel.history.items()
    }


def trimmed(
    panel: Panel,
    predicted: Mapping[str, FloatArray],
    *,
    trim: str = "auto",
    c: float = 5.0,
    method: detrend.Method = "pooled_ridge",
    window: int | None = 28,
) -> list[Trimmed]:
    """Return the first differences of each metric and scale with the outlier filter's verdict.

    `trim` is auto (drop on the relative scale, winsorise on the level scale), trim, winsorize or none.
    """
    found = []
    options: dict[str, Any] = {"groups": panel.category, "season": panel.season, "method": method}
    for metric, observed in panel.observed.items():
        history = panel.history[metric]
        placebo = _by_cohort(panel, history, detrend.placebo, observed.shape[1], window, options)
        for scale in SCALES:
            s = _scale(panel, metric, scale)
            with np.errstate(invalid="ignore", divide="ignore"):
                residual = (observed - predicted[metric]) / s[:, None]
                D = contrast(panel, residual)
                verdict = _verdict(D, groups(panel), s, rule=filter_rule(trim, scale), c=c)
                found.append(
                    Trimmed(metric, scale, D, placebo / s[:, None], s, *verdict, residual, observed / s[:, None])
                )
    return found


def contrast(panel: Panel, residual: FloatArray) -> FloatArray:
    """Return each product's first difference (N,), as the design contrasts the residuals (N, T).

    time_bound, triggered: mean over the analysed periods. crossover: odd minus even phases. random_days: treated minus
    control periods within the product.
    """
    analysed = panel.analysed(residual)
    if panel.kind == "crossover":
        return detrend.phase_contrast(residual, panel.phase, analysed)
    if panel.kind == "random_days":
        return detrend.within_contrast(residual, panel.treated, analysed)
    return detrend.first_difference(residual, np.zeros_like(residual), analysed)


def groups(panel: Panel) -> NDArray[Any]:
    """Return the groups (N,) in which outliers are ranked: arms or sequences; one group for random days."""
    if panel.kind == "random_days":
        return np.zeros(len(panel.product_id))
    if panel.kind == "crossover":
        return np.where(panel.sequence > 0, 1.0, -1.0) * panel.drawn_arm
    return np.nan_to_num(panel.sequence, nan=-1.0)


def filter_rule(trim: str, scale: str) -> str:
    """Return trim, winsorize or none for a scale; auto trims relative values and winsorises levels."""
    return {"relative": "trim", "level": "winsorize"}[scale] if trim == "auto" else trim


def mean(values: FloatArray, used: BoolArray) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.where(used, values, 0.0).sum(axis=1) / used.sum(axis=1)


def _scale(panel: Panel, metric: str, scale: str) -> FloatArray:
    if scale == "level":
        return np.ones(len(panel.product_id))
    s = detrend.product_scale(panel.history[SIGNED_METRICS.get(metric, metric)], grain=panel.grain)
    return np.where(s > 0, s, np.nan)


def _by_cohort(
    panel: Panel,
    history: FloatArray,
    predict: Callable[..., FloatArray],
    horizon: int,
    window: int | None,
    options: dict[str, Any],
) -> FloatArray:
    """Return what `predict` gives for each product from the history up to the eve of its own start."""
    parts = []
    for rows, eve in panel.cohorts():
        past = history[:, :eve]
        known = _prices(panel, eve, planned=predict is detrend.forecast)
        parts.append((rows, predict(past, horizon, window=_window(past, window), **known, **options)[rows]))
    found = np.empty((len(history), parts[0][1].shape[1]))
    for rows, part in parts:
        found[rows] = part
    return found


def _prices(panel: Panel, eve: int, *, planned: bool) -> dict[str, FloatArray]:
    """Return the prices of the history up to a start, and those planned after it; nothing where they are not known."""
    before = panel.history.get("price")
    if before is None or panel.incumbent is None:
        return {}
    known = {"prices": before[:, :eve], **({"planned": panel.incumbent} if planned else {})}
    return {name: np.where(prices > 0, prices, np.nan) for name, prices in known.items()}


def _window(history: FloatArray, window: int | None) -> int:
    return history.shape[1] if window is None else min(window, history.shape[1])


def _verdict(
    D: FloatArray, group: NDArray[Any], s: FloatArray, *, rule: str, c: float
) -> tuple[BoolArray, NDArray[np.object_]]:
    finite = np.isfinite(D)
    inside = outliers.keep_mask(D, group, c=c if rule != "none" else 0.0)
    reason = np.full(len(D), None, dtype=object)
    reason[~np.isfinite(s)] = "no sales before the start: no scale"
    reason[np.isfinite(s) & ~finite] = "no first difference: no history, or no period in the analysis"
    if rule == "winsorize":
        reason[finite & ~inside] = "outlier: set to the nearest kept first difference"
        return finite, reason
    reason[finite & ~inside] = "outlier: dropped"
    return inside, reason
