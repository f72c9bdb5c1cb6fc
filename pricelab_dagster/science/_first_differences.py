"""HPTE steps 1 and 2 over the panel of one experiment: forecasts, first differences, and the filter's verdict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import detrend, outliers
from pricelab_dagster.science._experiment import SIGNED_METRICS, BoolArray, FloatArray, Panel, Trimmed

SCALES = ("relative", "level")
Methods = detrend.Method | Mapping[str, detrend.Method]


def choices(panel: Panel, *, window: int | None = 28) -> dict[str, detrend.Choice]:
    """Return by metric the forecast that predicts the history before the first start best, as `detrend.choose` does.

    One for all products, also of a triggered experiment: what is known before the first of them starts.
    """
    _, eve = next(panel.cohorts())
    horizon, known = panel.arm.shape[1], _prices(panel, eve, planned=False)
    options: dict[str, Any] = {"groups": panel.category, "season": panel.season, **known}
    past = {metric: history[:, :eve] for metric, history in panel.history.items()}
    return {
        metric: detrend.choose(history, horizon, window=_window(history, window), **options)
        for metric, history in past.items()
    }


def forecasts(panel: Panel, *, method: Methods = "pooled_ridge", window: int | None = 28) -> dict[str, FloatArray]:
    """Return by metric the predicted values (N, T) of the experiment's periods, from history and planned prices alone.

    `method` is one for all metrics or one by metric; auto is that of `choices`. `window` None uses the whole history.
    Products without history get nan.
    """
    options: dict[str, Any] = {"groups": panel.category, "season": panel.season}
    by_metric, horizon = _methods(panel, method, window), panel.arm.shape[1]
    return {
        metric: _by_cohort(panel, history, detrend.forecast, horizon, window, {**options, "method": by_metric[metric]})
        for metric, history in panel.history.items()
    }


def trimmed(
    panel: Panel,
    predicted: Mapping[str, FloatArray],
    *,
    arms: Sequence[str] = (),
    trim: str = "auto",
    c: float = 5.0,
    method: Methods = "pooled_ridge",
    window: int | None = 28,
) -> list[Trimmed]:
    """Return the first differences of each metric and scale with the outlier filter's verdict.

    `trim` is auto (drop on the relative scale, winsorise on the level scale), trim, winsorize or none. Of several arms
    each is filtered against control, as it is estimated: a product is kept if none of them drops it, and the reason
    names those that do, by their names in `arms` or else as "arm 1" and so on.
    """
    found, compared = [], _compared(panel, arms)
    options: dict[str, Any] = {"groups": panel.category, "season": panel.season}
    by_metric = _methods(panel, method, window)
    for metric, observed in panel.observed.items():
        history, options["method"] = panel.history[metric], by_metric[metric]
        placebo = _by_cohort(panel, history, detrend.placebo, observed.shape[1], window, options)
        for scale in SCALES:
            s = _scale(panel, metric, scale)
            with np.errstate(invalid="ignore", divide="ignore"):
                residual = (observed - predicted[metric]) / s[:, None]
                D, rule = contrast(panel, residual), filter_rule(trim, scale)
                outside = {name: _outside(one, residual, c if rule != "none" else 0.0) for name, one in compared}
                verdict = _verdict(D, outside, s, winsorized=rule == "winsorize", missing=missing_phase(panel))
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


def missing_phase(panel: Panel) -> str | None:
    """Return why a crossover has no contrast of its phases, or None: periods of odd and of even phases must count."""
    if panel.kind != "crossover":
        return None
    phases = np.unique(panel.phase[(panel.in_analysis & np.isfinite(panel.arm)).any(axis=0)])
    if len(np.unique(phases % 2)) == 2:
        return None
    if len(phases) == 0:
        return "no period is counted yet; a crossover needs both phases"
    if phases.tolist() == [1]:
        return "only the first phase has counted periods; a crossover needs both"
    return f"only {'odd' if phases[0] % 2 else 'even'} phases have counted periods; a crossover needs both"


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


def _methods(panel: Panel, method: Methods, window: int | None) -> Mapping[str, detrend.Method]:
    """Return the method of each metric."""
    if isinstance(method, Mapping):
        return method
    if method == "auto":
        return {metric: choice.method for metric, choice in choices(panel, window=window).items()}
    return dict.fromkeys(panel.history, method)


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


def _compared(panel: Panel, arms: Sequence[str]) -> list[tuple[str, Panel]]:
    """Return the panels on which arms in force are estimated, by name; of one arm the panel itself, unnamed."""
    codes = np.unique(panel.arm[panel.arm > 0]).astype(int).tolist()
    if not codes or max(len(codes), len(arms)) < 2:
        return [("", panel)]
    return [(arms[code - 1] if code <= len(arms) else f"arm {code}", panel.against(code)) for code in codes]


def _outside(panel: Panel, residual: FloatArray, c: float) -> BoolArray:
    """Return which products (N,) the filter cuts from the estimate of one arm."""
    D = contrast(panel, residual)
    return np.asarray(np.isfinite(D) & ~outliers.keep_mask(D, groups(panel), c=c))


def _verdict(
    D: FloatArray, outside: Mapping[str, BoolArray], s: FloatArray, *, winsorized: bool, missing: str | None
) -> tuple[BoolArray, NDArray[np.object_]]:
    """Return who is kept and why not; `outside` says by arm whom the filter cuts."""
    finite = np.isfinite(D)
    cut = np.array(list(outside.values())).any(axis=0) & finite
    reason = np.full(len(D), None, dtype=object)
    reason[~np.isfinite(s)] = "no sales before the start: no scale"
    nothing = missing or "no history, or no period in the analysis"
    reason[np.isfinite(s) & ~finite] = f"no first difference: {nothing}"
    what = "set to the nearest kept first difference" if winsorized else "dropped"
    for row in np.flatnonzero(cut):
        names = ", ".join(name for name, rows in outside.items() if name and rows[row])
        reason[row] = f"outlier: {what}" + (f" ({names})" if names else "")
    return finite if winsorized else finite & ~cut, reason
