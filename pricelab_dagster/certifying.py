"""The certificate of an experiment before its launch: predicted spillover bias and precision of each way to assign."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster import frontier_plot, graphs
from pricelab_dagster.lab import CONTROL, Experiment, Policy
from pricelab_dagster.science import certificate, designs, detrend
from pricelab_dagster.tables import TABLES

FloatArray = NDArray[np.float64]

TABLE = "spillover.certificate"
CAPS, FEWEST = (4, 8, 12, 24), 4
WINDOWS, WEEKS_BEFORE, WITH_A_VALUE = 6, 4, 0.5
"""Untreated windows, latest first; weeks before each; and the part of the products that must have a value in it."""
NO_CHANGE = "not identified: no price changes, so nothing spills over."
NO_PLAN = "not identified: no price is planned yet, and the file states none as a multiplier of the incumbent price."
TOO_THIN = "not identified: fewer than four products sell enough for their demand to answer to prices."
NO_WINDOW = "not identified: the history has no room for a window of the experiment's length with four weeks before it."
TOO_YOUNG = "not identified: no window before the start in which half of the products sold before and all through."


def multiplier(plan: pd.DataFrame, experiment: Experiment) -> float:
    """Return treated over control price: geometric means over planned cells, of several arms the furthest from 1.

    Where nothing is planned yet, as before the first event of a triggered experiment, that of the file's policies
    before their guard; nan where these are tables of prices.
    """
    control = _mean_log(plan, CONTROL, experiment.control)
    found = [_mean_log(plan, arm.name, arm) - control for arm in experiment.arms]
    known = [one for one in found if np.isfinite(one)]
    return float(np.exp(max(known, key=abs))) if known else float("nan")


def _mean_log(plan: pd.DataFrame, arm: str, policy: Policy) -> float:
    cells = plan.loc[plan["arm"] == arm, "multiplier"].dropna()
    if (cells > 0).any():
        return float(np.log(cells[cells > 0]).mean())
    return float("nan") if policy.price_multiplier is None else float(np.log(policy.price_multiplier))


def choices(
    rows: pa.Table,
    experiment: Experiment,
    *,
    scope: Sequence[str],
    clusters: Mapping[str, str] | None = None,
    season: int,
    price_multiplier: float,
    floors: graphs.Floors,
    rng: np.random.Generator,
) -> tuple[list[certificate.Choice], certificate.Recommendation]:
    """Return every way to assign beside each other, and the one to take; none with the reason.

    Products below the floor of sales take no part: what their prices and demand do to others is not identified, and
    what the others do says nothing of it.

    Parameters
    ----------
    rows : `graphs.history` of the products of the scope's fine classes, with the class as category.
    experiment : read for its length, share, arms and assignment.
    scope : the products that are assigned; the prices of all others of their classes enter the regressions.
    clusters : cluster of each product, as it would be assigned; None: they are formed here.
    season : periods of a week.
    price_multiplier : treated over control price.
    """
    every = graphs.grids(rows)
    covered = np.isin(every[0].astype(str), np.asarray(scope, dtype=str))
    sells = every[1].mean(axis=1) >= floors.get("min_units", 1.0)
    inside = covered[sells]
    product_id, units, price, label = (part[sells] for part in every)
    room = units.shape[1] - WEEKS_BEFORE * season - experiment.n_periods
    reason = _refused(price_multiplier, room, int(inside.sum()))
    windows = np.empty((0, 0)) if reason else _windows(units[inside], label[inside], experiment.n_periods, season)
    if reason or not len(windows):
        return [], certificate.Recommendation(None, reason or TOO_YOUNG)
    known = certificate.evidence(product_id, units, price, label, scope=inside, season=season, **floors)
    arms, ids = experiment.assignment, product_id[inside]
    found = certificate.frontier(
        known,
        windows,
        caps=CAPS,
        planned=_route(experiment),
        planned_label=None if clusters is None else [clusters[one] for one in ids],
        mixed=arms.unit == "mixed",
        strata=_strata(ids, units[inside].mean(axis=1), label[inside]),
        share=arms.share,
        n_arms=len(experiment.arms),
        multiplier=price_multiplier,
        rng=rng,
    )
    planned = next(one for one in found if is_planned(experiment, one))
    advice = certificate.recommend(found, planned=planned)
    more = _footnotes(experiment, int(inside.sum()), int(covered.sum()))
    return list(found), replace(advice, sentence=" ".join([advice.sentence, *more]))


def _refused(price_multiplier: float, room: int, n_products: int) -> str | None:
    """Return why there is nothing to certify, or None; `room` are the periods left beside one window."""
    if not np.isfinite(price_multiplier):
        return NO_PLAN
    if abs(np.log(price_multiplier)) < 1e-9:
        return NO_CHANGE
    if room < 0:
        return NO_WINDOW
    return TOO_THIN if n_products < FEWEST else None


def _windows(units: FloatArray, label: NDArray[np.object_], horizon: int, season: int) -> FloatArray:
    """Return first differences (K, N) of untreated windows that end where the history does, in parts of the level.

    A product has no value in a window that begins before its first sale.
    """
    known = np.where(np.cumsum(units, axis=1) > 0, units, np.nan)
    found = []
    for end in range(units.shape[1], 0, -horizon)[:WINDOWS]:
        start = end - horizon
        if start < WEEKS_BEFORE * season:
            break
        past, last = known[:, :start], known[:, start:end]
        if np.isfinite(past[:, -1]).mean() < WITH_A_VALUE:
            break
        predicted = detrend.forecast(past, horizon, groups=label, season=season)
        change = detrend.first_difference(last, predicted, np.ones(last.shape, dtype=bool))
        s = detrend.product_scale(past, grain="day" if season > 1 else "week")
        found.append(np.where(s > 0, change / np.where(s > 0, s, 1.0), np.nan))
    kept = [D for D in found if np.isfinite(D).sum() >= max(WITH_A_VALUE * len(D), 2)]
    return np.stack(kept) if kept else np.empty((0, len(units)))


def _strata(ids: NDArray[np.object_], size: FloatArray, label: NDArray[np.object_]) -> NDArray[np.int64]:
    order = np.lexsort((ids, size, label))
    strata = np.empty(len(size), dtype=np.int64)
    strata[order] = designs.size_strata(label[order], size[order])
    return strata


def _footnotes(experiment: Experiment, n_judged: int, n_covered: int) -> list[str]:
    """Return what the figures are of, where that is not the experiment as it stands."""
    notes = []
    if experiment.design.kind != "time_bound":
        notes.append(
            "The standard errors are of a time-bound design of the same length; `pricelab power` compares designs."
        )
    if n_judged < n_covered:
        notes.append(f"All of this is of the {n_judged} of {n_covered} products that sell enough to be judged.")
    return notes


def table(experiment: Experiment, found: Sequence[certificate.Choice], advice: certificate.Recommendation) -> pa.Table:
    """Return the choices as rows of spillover.certificate; one row with the reason where there are none."""
    schema = TABLES[TABLE].schema
    if not found:
        nothing = {"experiment_id": experiment.id, "choice": "product", "reason": advice.sentence}
        return pa.Table.from_pylist([nothing], schema=schema)
    rows = []
    for one in found:
        numbers = ("bias", "ci_lower", "ci_upper", "kept_share", "identified_share", "se", "se_cost", "mde", "rmse")
        values = {name: float(getattr(one, name)) for name in numbers}
        rows.append(
            {
                "experiment_id": experiment.id,
                "choice": name_of(one),
                "max_size": one.max_size,
                "n_units": one.n_units,
                **{name: value if np.isfinite(value) else None for name, value in values.items()},
                "is_planned": is_planned(experiment, one),
                "is_recommended": one is advice.choice,
                "reason": one.reason,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema)


def picture(
    experiment: Experiment, found: Sequence[certificate.Choice], advice: certificate.Recommendation
) -> str | None:
    """Return the frontier as SVG: standard error across, size of the predicted bias upwards; None without biases."""
    points = [
        frontier_plot.Point(
            label=_label(one, planned=is_planned(experiment, one)),
            se=one.se,
            bias=abs(one.bias),
            low=abs(one.bias) - (one.ci_upper - one.ci_lower) / 2,
            high=abs(one.bias) + (one.ci_upper - one.ci_lower) / 2,
            chosen=one is advice.choice,
        )
        for one in found
        if np.isfinite(one.rmse)
    ]
    if not points:
        return None
    return frontier_plot.draw(f"{experiment.title}: by product or by cluster", advice.sentence, points)


def name_of(one: certificate.Choice) -> str:
    """Return the name of a choice: product, or clusters with their cap, which sort by it, and route."""
    if one.max_size is None:
        return "product"
    clusters = _clusters(one.max_size, one.route)
    return f"mixed, {clusters}" if one.assignment == "mixed" else clusters


def clusters_of(experiment: Experiment) -> str:
    """Return the name of the choice by the clusters that an experiment's file describes."""
    route = _route(experiment)
    return _clusters(route.max_size, route.name)


def is_planned(experiment: Experiment, one: certificate.Choice) -> bool:
    """Return whether a choice is how the experiment assigns."""
    unit = experiment.assignment.unit
    return one.assignment == unit and (unit == "product" or name_of(one).endswith(clusters_of(experiment)))


def _route(experiment: Experiment) -> certificate.Route:
    wanted = experiment.assignment.clusters
    return certificate.Route(wanted.max_size, wanted.method, wanted.edges == "either_sign")


def _clusters(max_size: int, route: str) -> str:
    return f"clusters of {max_size:02d}" + (f", {route}" if route else "")


def _label(one: certificate.Choice, *, planned: bool) -> str:
    what = "by product"
    if one.max_size is not None:
        what = ("mixed, " if one.assignment == "mixed" else "") + f"clusters of {one.max_size}"
    if planned:
        return f"{what}, as planned"
    return f"{what}, {one.route}" if one.route else what
