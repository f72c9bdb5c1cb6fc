"""The diagnostics of one experiment: which checks apply to it, on which of its tables."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pricelab_dagster.drawing import CONTROL
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import affinity, diagnostics
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.panel import Panel, Trimmed


def run(
    experiment: Experiment,
    panel: Panel,
    trimmed: list[Trimmed],
    *,
    X: pd.DataFrame,
    plan: pd.DataFrame,
    days: pd.DataFrame,
    effects: pd.DataFrame,
    drawn_as_of: str,
    rng: np.random.Generator,
) -> list[Diagnostic]:
    """Return the checks of an experiment, in a fixed order.

    Parameters
    ----------
    X : attributes of the products (N rows).
    plan : experiment.price_plan of the experiment.
    days : int_product_days of its products since the start.
    effects : experiment.effects of the experiment.
    drawn_as_of : last date in sales when the assignment was made.
    """
    found = [_plan_kept(plan, days), diagnostics.one_price(plan), _drawn_in_time(experiment, drawn_as_of)]
    if panel.kind == "random_days":
        found += list(_random_days(panel, trimmed[0]))
    else:
        found += list(_between_products(panel, trimmed[0], X, rng))
    headline = effects[(effects["estimator"] == "hpte") & (effects["metric"] == experiment.metrics[0])]
    share = headline.loc[headline["scale"] == "relative", "two_arm_share"]
    if len(share) and np.isfinite(share.iloc[0]):
        found.append(diagnostics.two_arm_share(float(share.iloc[0])))
    return found


def _between_products(
    panel: Panel, primary: Trimmed, X: pd.DataFrame, rng: np.random.Generator
) -> Iterator[Diagnostic]:
    W = panel.sequence
    if len(np.unique(W[np.isfinite(W)])) < 2:
        return
    yield diagnostics.covariate_balance(affinity.encode(X)[0], W, units=panel.unit_id, rng=rng)
    if np.isfinite(primary.placebo).all(axis=1).sum() > len(np.unique(W)):
        yield diagnostics.pre_trend(primary.placebo[:, ::-1], W, panel.unit_id)
    yield diagnostics.missing_by_arm(~np.isfinite(primary.first_difference), W)


def _random_days(panel: Panel, primary: Trimmed) -> Iterator[Diagnostic]:
    yield diagnostics.carryover(primary.residual, panel.arm, panel.in_analysis, units=panel.unit_id)
    if panel.grain == "day":
        yield diagnostics.cell_balance(panel.arm, panel.date, in_analysis=panel.analysed(primary.residual))


def _drawn_in_time(experiment: Experiment, drawn_as_of: str) -> Diagnostic:
    """Return whether the arms were fixed before the start; an assignment that was imported later cannot be."""
    name, nothing = "drawn_before_start", float("nan")
    if drawn_as_of < experiment.start.isoformat():
        message = f"The arms were fixed with sales through {drawn_as_of}, before the start on {experiment.start}."
        return Diagnostic(name, "passed", nothing, nothing, nothing, message)
    message = (
        f"The arms were fixed with sales through {drawn_as_of}, after the start on {experiment.start}: the effect "
        "means something only if the prices followed the same arms; see price_compliance."
    )
    return Diagnostic(name, "informational", nothing, nothing, nothing, message)


def _plan_kept(plan: pd.DataFrame, days: pd.DataFrame) -> Diagnostic:
    both = plan.merge(days[days["is_sold"]], on=["product_id", "date"], suffixes=("", "_charged"))
    return diagnostics.price_compliance(
        both["price"].to_numpy(dtype=float),
        both["price_charged"].to_numpy(dtype=float),
        arm=(both["arm"] != CONTROL).to_numpy(dtype=float),
        product_id=both["product_id"].to_numpy(),
        date=both["date"].to_numpy().astype("datetime64[D]"),
    )
