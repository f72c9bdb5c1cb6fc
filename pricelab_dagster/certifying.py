"""The certificate of an experiment before its launch: predicted spillover bias and precision of each way to assign."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster import frontier_plot, graphs
from pricelab_dagster.lab import CONTROL, Experiment
from pricelab_dagster.science import certificate, designs, detrend
from pricelab_dagster.tables import TABLES

TABLE = "spillover.certificate"
CAPS, FEWEST = (4, 8, 12, 24), 4
NO_CHANGE = "not identified: no price changes, so nothing spills over."
TOO_THIN = "not identified: fewer than four products sell enough for their demand to answer to prices."
NO_WINDOW = "not identified: the history has no room for a window of the experiment's length with four weeks before it."


def multiplier(plan: pd.DataFrame, experiment: Experiment) -> float:
    """Return the geometric mean of the planned multipliers over the treated cells; of several arms the furthest one."""
    found = []
    for arm in experiment.arms:
        cells = plan.loc[(plan["arm"] == arm.name) & (plan["arm"] != CONTROL), "multiplier"].dropna()
        if len(cells):
            found.append(float(np.exp(np.log(cells[cells > 0]).mean())))
    return max(found, key=lambda one: abs(np.log(one)), default=1.0)


def choices(
    rows: pa.Table,
    *,
    horizon: int,
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
    rows : `graphs.history` of the products of the scope, with their fine class as category.
    horizon, season : periods of the experiment and of a week.
    price_multiplier : treated over control price.
    """
    every = graphs.grids(rows)
    sells = every[1].mean(axis=1) >= floors.get("min_units", 1.0)
    product_id, units, price, label = (part[sells] for part in every)
    if abs(np.log(price_multiplier)) < 1e-9:
        return [], certificate.Recommendation(None, NO_CHANGE)
    if units.shape[1] < horizon + 4 * season:
        return [], certificate.Recommendation(None, NO_WINDOW)
    if sells.sum() < FEWEST:
        return [], certificate.Recommendation(None, TOO_THIN)
    known = certificate.evidence(product_id, units, price, label, season=season, **floors)
    past, last = units[:, :-horizon], units[:, -horizon:]
    predicted = detrend.forecast(past, horizon, groups=label, season=season)
    change = detrend.first_difference(last, predicted, np.ones(last.shape, dtype=bool))
    s = detrend.product_scale(past, grain="day" if season > 1 else "week")
    D = np.where(s > 0, change / np.where(s > 0, s, 1.0), np.nan)
    size = units.mean(axis=1)
    order = np.lexsort((product_id, size, label))
    strata = np.empty(len(size), dtype=np.int64)
    strata[order] = designs.size_strata(label[order], size[order])
    found = certificate.frontier(known, D, caps=CAPS, strata=strata, multiplier=price_multiplier, rng=rng)
    advice = certificate.recommend(found)
    if sells.all():
        return list(found), advice
    rest = f"All of this is of the {int(sells.sum())} of {len(sells)} products that sell enough to be judged."
    return list(found), replace(advice, sentence=f"{advice.sentence} {rest}")


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
                "is_planned": _is_planned(experiment, one),
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
            label=_label(one, planned=_is_planned(experiment, one)),
            se=one.se,
            bias=abs(one.bias),
            low=abs(one.bias) - (one.ci_upper - one.ci_lower) / 2,
            high=abs(one.bias) + (one.ci_upper - one.ci_lower) / 2,
            chosen=one is advice.choice,
        )
        for one in found
        if np.isfinite(one.bias)
    ]
    if not points:
        return None
    return frontier_plot.draw(f"{experiment.title}: by product or by cluster", advice.sentence, points)


def name_of(one: certificate.Choice) -> str:
    """Return the name of a choice: product, or clusters with their cap, which sort by it."""
    return "product" if one.max_size is None else f"clusters of {one.max_size:02d}"


def _label(one: certificate.Choice, *, planned: bool) -> str:
    what = "by product" if one.max_size is None else f"clusters of {one.max_size}"
    return f"{what}, as planned" if planned else what


def _is_planned(experiment: Experiment, one: certificate.Choice) -> bool:
    wanted = experiment.assignment
    planned = wanted.clusters.max_size if wanted.by_cluster else None
    return wanted.unit != "mixed" and one.max_size == planned
