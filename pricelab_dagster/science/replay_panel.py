"""What a replay needs of an experiment's panel: the values that draws leave alone, and the windows before the start."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pricelab_dagster.science import affinity, detrend, outliers, placebo
from pricelab_dagster.science import panel as science
from pricelab_dagster.science._experiment import SIGNED_METRICS, BoolArray, FloatArray, Panel, Trimmed
from pricelab_dagster.science._replay import Fixed, gain

LEAF_TREES = 48
"""Trees of a window before the start: an eighth of a second for six windows, and an SE as short as with 200."""
PRODUCTS_NEEDED = 0.5


def fixed(
    panel: Panel,
    metrics: list[Trimmed],
    one: Trimmed,
    leaves: affinity.Leaves | None,
    *,
    arm: int = 1,
    clustered: bool = False,
    trim: str = "auto",
    c: float = 5.0,
) -> Fixed:
    """Return what stays as it is when the arms of an experiment are drawn again, for one metric and treatment arm.

    The estimate under the arms in force is then that of `panel.estimates`: hpte, or hajek where clusters are assigned,
    relative to the untreated mean on the relative scale. Values are there for the products of all arms.

    Parameters
    ----------
    metrics : all metrics, for what divides a signed one.
    one : the metric.
    leaves : as for `panel.estimates`; without effect where clusters are assigned.
    arm : which of several treatment arms stands against control.
    clustered : whether the unit is the cluster.
    trim, c : as for `panel.trimmed`.
    """
    used = panel.analysed(one.residual)
    outcome = next(
        (m.outcome for m in metrics if (m.metric, m.scale) == (SIGNED_METRICS.get(one.metric), "relative")), one.outcome
    )
    counted = panel.against(arm).analysed(one.outcome) if panel.kind == "random_days" else panel.analysed(one.outcome)
    relative: dict[str, Any] = {"outcome": _mean(outcome, counted), "exposure": _exposure(panel, one, counted)}
    return Fixed(
        value=np.where(used, one.residual, np.nan) if panel.kind == "random_days" else one.first_difference,
        unit_id=panel.unit_id,
        trim=science.filter_rule(trim, one.scale),
        trim_c=c,
        **_form(panel, leaves, clustered),
        **(relative if one.scale == "relative" else {}),
    )


def arm_in_force(panel: Panel, arm: int = 1) -> FloatArray:
    """Return W of one treatment arm: (N,) its sequence, or cells (N, T) on random days; nan in another arm."""
    against = panel.against(arm)
    return against.arm if panel.kind == "random_days" else against.sequence


def without_arm(values: Fixed, W: FloatArray, effect: float) -> Fixed:
    """Return the values less a constant effect on the products or cells that W treats."""
    return replace(values, value=values.value - effect * gain(W, values.factor))


def own_history(
    panel: Panel,
    primary: Trimmed,
    X: pd.DataFrame | None,
    *,
    clustered: bool = False,
    n_windows: int = 6,
    trim: str = "auto",
    c: float = 5.0,
    method: detrend.Method = "pooled_ridge",
    window: int | None = 28,
    n_trees: int = LEAF_TREES,
    min_leaf: int = 4,
    rng: np.random.Generator,
) -> list[Fixed]:
    """Return windows of the experiment's length before its start as values to replay the arms on, latest first.

    Each is forecast from what lies before it alone, on the scale of what lies before it, and has its own leaves. A
    triggered experiment, in event time, takes its stored placebo first differences instead, blackouts included. As many
    windows as have values for half of the products, up to `n_windows`: none where the history is too short.

    Parameters
    ----------
    primary : relative first differences of the metric to test.
    X : attributes; None: one leaf.
    """
    if panel.kind == "triggered":
        values = list(primary.placebo.T)
    else:
        values = _windows(panel, primary, n_windows, method, window)
    rule, found = science.filter_rule(trim, primary.scale), []
    for value in values[:n_windows]:
        target = _mean(value, np.isfinite(value)) if value.ndim == 2 else value
        if np.isfinite(target).mean() < PRODUCTS_NEEDED:
            continue
        leaves = None
        if X is not None and not clustered:
            inside = outliers.keep_mask(target, np.zeros(len(target)), c=c if rule == "trim" else 0.0)
            target = np.where(inside, target, np.nan)
            leaves = affinity.fit_leaves(X, target, n_trees=n_trees, min_leaf=min_leaf, rng=rng)
        found.append(Fixed(value, panel.unit_id, trim=rule, trim_c=c, **_form(panel, leaves, clustered)))
    return found


def _windows(
    panel: Panel, primary: Trimmed, n_windows: int, method: detrend.Method, window: int | None
) -> list[FloatArray]:
    """Return the values of windows before a start by the calendar, as the design contrasts the residuals."""
    history, horizon, before = panel.history[primary.metric], panel.arm.shape[1], panel.history.get("price")
    residuals = placebo.residuals(
        history,
        horizon,
        n_windows=n_windows,
        groups=panel.category,
        season=panel.season,
        method=method,
        window=history.shape[1] if window is None else window,
        prices=None if before is None or panel.incumbent is None else np.where(before > 0, before, np.nan),
    )
    values = []
    for j, residual in enumerate(residuals, 1):
        past = panel.history[SIGNED_METRICS.get(primary.metric, primary.metric)][:, : history.shape[1] - j * horizon]
        s = detrend.product_scale(past, grain=panel.grain) if primary.scale == "relative" else np.ones(len(past))
        scaled = residual / np.where(s > 0, s, np.nan)[:, None]
        whole = np.isfinite(scaled).all(axis=1)
        scaled = np.where(whole[:, None], scaled, np.nan)
        cells = panel.kind == "random_days"
        values.append(np.where(panel.analysed(scaled), scaled, np.nan) if cells else science.contrast(panel, scaled))
    return values


def _form(panel: Panel, leaves: affinity.Leaves | None, clustered: bool) -> dict[str, Any]:
    """Return how the design's headline compares: leaves or none, blocks, probabilities, and the effect's factor."""
    options: dict[str, Any] = {"leaves": None if clustered else leaves, "within": panel.block}
    if panel.kind == "crossover":
        options["factor"] = 0.5
    if clustered and panel.kind in ("time_bound", "crossover"):
        first = np.argmax(np.isfinite(panel.arm), axis=1)
        options["probability"] = panel.probability[np.arange(len(first)), first]
    return options


def _exposure(panel: Panel, one: Trimmed, counted: BoolArray) -> FloatArray:
    """Return the mean treatment (2, N) over counted periods for W = 0 and W = 1: none for a signed metric."""
    n = len(panel.product_id)
    if one.metric in SIGNED_METRICS:
        return np.zeros((2, n))
    if panel.kind != "crossover":
        return np.repeat([[0.0], [1.0]], n, axis=1)
    odd = _mean(np.broadcast_to(panel.phase % 2 == 1, counted.shape).astype(float), counted)
    return np.nan_to_num(np.stack([1.0 - odd, odd]))


def _mean(values: FloatArray, used: BoolArray) -> FloatArray:
    count = used.sum(axis=1)
    total = np.where(used, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
