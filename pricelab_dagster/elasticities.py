"""The own-price elasticity of each arm, and whether its price change pays: rows from effects and their draws."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster.lab import CONTROL, Experiment
from pricelab_dagster.science import elasticity as science
from pricelab_dagster.tables import TABLES

NO_UNITS = "units are not among the metrics of the experiment."


def margin(assignments: pd.DataFrame, days: pd.DataFrame) -> float:
    """Return the margin of the control cells in the analysis: profit over revenue, where a cost is known; nan without.

    Parameters
    ----------
    assignments : experiment.assignments of the experiment.
    days : intermediate.int_product_days of its products, through the last period that may be looked at.
    """
    cells = assignments[(assignments["arm"] == CONTROL) & assignments["in_analysis"]]
    sold = cells.merge(days[days["profit"].notna()], on=["product_id", "date"])
    revenue = float(sold["revenue"].sum())
    return float(sold["profit"].sum()) / revenue if revenue > 0 else np.nan


def rows(
    experiment: Experiment, effects: pd.DataFrame, draws: pd.DataFrame, *, margin: float, so_far: str | None
) -> pa.Table:
    """Return a row per treatment arm, by its headline on the relative scale.

    Parameters
    ----------
    effects : experiment.effects of the experiment.
    draws : experiment.effect_draws of the experiment.
    margin : as `margin` gives it.
    so_far : last period of a running experiment; it enters every reason.
    """
    running = f"running: periods through {so_far} only." if so_far else None
    quoted = effects[effects["is_headline"]]
    found = [
        _row(_by_metric(quoted[quoted["arm"] == arm.name]), draws[draws["arm"] == arm.name], margin, running)
        | {"experiment_id": experiment.id, "arm": arm.name}
        for arm in experiment.arms
    ]
    return pa.Table.from_pylist(found, schema=TABLES["experiment.elasticities"].schema)


def markdown(found: pa.Table) -> str:
    """Return the elasticities as a table for the web UI."""
    lines = ["| arm | elasticity | interval | revenue | profit |", "|---|---|---|---|---|"]
    for row in found.to_pylist():
        known = row["elasticity"] is not None
        cells = [
            f"{row['elasticity']:.2f}" if known else "-",
            f"{row['ci_lower']:.2f} to {row['ci_upper']:.2f}" if row["ci_lower"] is not None else row["reason"],
            row["verdict_revenue"] or "-",
            row["verdict_profit"] or "-",
        ]
        lines.append(f"| {row['arm']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_metric(quoted: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(row["metric"]): {str(name): value for name, value in row.items()} for row in quoted.to_dict("records")}


def _row(
    quoted: dict[str, dict[str, Any]], draws: pd.DataFrame, margin: float, running: str | None
) -> dict[str, object]:
    """Return what stands in the row of one arm, from its headline by metric and its draws by any estimator."""
    if "units" not in quoted:
        return {"n_replicates": 0, "reason": NO_UNITS}
    units, price = quoted["units"], quoted["price"]
    found = _elasticity(units, price, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        price_t = float(np.divide(price["effect"], price["se"]))
    moved = float(price["effect"]) if abs(price_t) >= science.MIN_PRICE_T else np.nan
    both = science.break_even(found, price_change=moved, margin=margin)
    reasons = [found.reason, both.reason if np.isfinite(moved) else None, running]
    numbers = {
        **{name: getattr(found, name) for name in ("elasticity", "se", "ci_lower", "ci_upper")},
        "price_t": price_t,
        "break_even_revenue": both.revenue,
        "break_even_profit": both.profit,
    }
    return {
        **{name: float(value) if np.isfinite(value) else None for name, value in numbers.items()},
        "verdict_revenue": both.verdict_revenue,
        "verdict_profit": both.verdict_profit,
        "n_replicates": found.n_replicates,
        "reason": " ".join(reason for reason in reasons if reason) or None,
    }


def _elasticity(units: dict[str, Any], price: dict[str, Any], draws: pd.DataFrame) -> science.Elasticity:
    """Return the elasticity of one arm from its two headlines, or why there is none."""
    of_headline = draws[(draws["estimator"] == units["estimator"]) & (draws["scale"] == units["scale"])]
    drawn = of_headline.pivot(index="replicate", columns="metric", values="effect").reindex(columns=["units", "price"])
    if not len(drawn):
        reason = f"The headline, {units['estimator']}, has no bootstrap draws in common for units and price."
        return science.Elasticity(np.nan, np.nan, np.nan, np.nan, np.nan, 0, reason)
    for one in (units, price):
        if np.isfinite(one["effect"]) and not np.isfinite(one["se"]):
            reason = f"The effect on {one['metric']} has no standard error: {one['reason']}"
            return science.Elasticity(np.nan, np.nan, np.nan, np.nan, np.nan, 0, reason)
    with np.errstate(divide="ignore", invalid="ignore"):
        # as many standard errors in half an interval as in that of the effects: few units have a t quantile
        quantile = max(float(np.divide(one["ci_upper"] - one["effect"], one["se"])) for one in (units, price))
    return science.elasticity(
        float(units["effect"]),
        float(price["effect"]),
        drawn["units"].to_numpy(dtype=float),
        drawn["price"].to_numpy(dtype=float),
        quantile=quantile if np.isfinite(quantile) and quantile > 0 else science.NORMAL_95,
    )
