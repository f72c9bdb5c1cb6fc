"""The world of the demo: it answers price plans with sales and knows the effects that it planted.

Symbols: i product, t day, Y0 the sales with no experiment, p the price in force over the incumbent price, e_i the own
elasticity of a product, m = p ** e_i the demand in force over Y0, s_i the scale of a product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom, poisson

from pricelab_dagster.science.detrend import product_scale

FloatArray = NDArray[np.float64]

METRICS: Final = ("units", "revenue", "price")
ELASTICITY_RANGE: Final = (-2.5, -1.5)
"""A cut of a tenth then sells 17 to 30 per cent more: large beside the noise of two months, as shops see it."""

SAME_PRICE: Final = 1e-6
"""Dollars by which a recorded price may differ from the incumbent's whole cents and still be that price."""


def draw_elasticities(product_ids: Sequence[str], *, rng: np.random.Generator) -> pd.Series:
    """Return the planted own elasticity of each product, by product_id.

    The draw depends on the set of products alone, not on their order.

    Examples
    --------
    >>> drawn = draw_elasticities(["b", "a"], rng=np.random.default_rng(0))
    >>> drawn.index.tolist(), drawn.between(-2.5, -1.5).all()
    (['a', 'b'], np.True_)
    """
    ids = pd.Index(sorted(set(product_ids)), name="product_id")
    return pd.Series(rng.uniform(*ELASTICITY_RANGE, len(ids)), index=ids, name="elasticity")


def plant(
    untreated: pd.DataFrame, plan: pd.DataFrame, elasticity: pd.Series, *, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the sales of a world that follows a price plan.

    Demand moves by m = (price / incumbent_price) ** e_i on every day of the plan, blackout included, because the
    price is in force there too. For m < 1 each unit stays with probability m, for m > 1 a Poisson number with mean
    (m - 1) Y0 is added; a day with m = 1 keeps its sales exactly. Days that lose all units lose their row.
    Every cell of the plan has its own random number, so sales known up to any day are answered alike.

    Parameters
    ----------
    untreated : DataFrame
        product_id, date, units (whole), price: one row per product and day with sales.
    plan : DataFrame
        experiment_id, product_id, date, incumbent_price, price: one row per product and day of an experiment.
        The random numbers follow experiment, product and day, so the rows may come in any order.
    elasticity : Series
        Own elasticity by product_id.

    Raises
    ------
    ValueError
        If two rows of the plan meet in a product and day, if a planned or incumbent price is missing or not above
        zero, or if a product of the plan has no elasticity.
    """
    _check_plan(plan, elasticity)
    columns = ["experiment_id", "product_id", "date"]
    cells = _with_days(plan).sort_values(columns)[["product_id", "date", "incumbent_price", "price"]]
    planned = cells.rename(columns={"price": "planned_price"}).assign(u=rng.random(len(cells)))
    joined = _with_days(untreated).merge(planned, on=["product_id", "date"], how="left", validate="one_to_one")
    in_plan = joined["planned_price"].notna().to_numpy()
    hit = joined[in_plan]
    p = (hit["planned_price"] / hit["incumbent_price"]).to_numpy()
    m = p ** elasticity.loc[hit["product_id"]].to_numpy()
    at_incumbent = (hit["price"] - hit["incumbent_price"]).abs() < SAME_PRICE
    units = joined["units"].to_numpy(dtype=np.int64, copy=True)
    units[in_plan] = _thin_or_add(hit["units"].to_numpy(), m, hit["u"].to_numpy())
    price = joined["price"].to_numpy(dtype=float, copy=True)
    price[in_plan] = np.where(at_incumbent, hit["planned_price"], hit["price"] * p)
    sales = joined[["product_id", "date"]].assign(units=units, price=price)
    return sales[sales["units"] > 0].sort_values(["product_id", "date"], ignore_index=True)


def treated_cells(
    assignments: pd.DataFrame, incumbent: pd.DataFrame, price_multipliers: Mapping[str, float]
) -> pd.DataFrame:
    """Return each product's price multiplier on each day of its experiment, as if it were treated there.

    Parameters
    ----------
    assignments : DataFrame
        experiment_id, product_id, date, in_analysis.
    incumbent : DataFrame
        product_id, date, price: the running policy's prices.
    price_multipliers : mapping
        The treatment's multiplier of the incumbent price, by experiment_id.

    Returns
    -------
    DataFrame
        experiment_id, product_id, date, in_analysis, multiplier = treated price / incumbent price;
        treated prices are in whole cents, halves rounded away from zero.

    Raises
    ------
    ValueError
        If an experiment has no multiplier, or a product and day no incumbent price.
    """
    unknown = sorted(set(assignments["experiment_id"]) - set(price_multipliers))
    if unknown:
        raise ValueError(f"price_multipliers lacks {unknown[:3]}, must name every experiment. Add their multipliers.")
    cells = assignments[["experiment_id", "product_id", "date", "in_analysis"]]
    cells = _with_days(cells).merge(
        _with_days(incumbent), on=["product_id", "date"], how="left", validate="many_to_one"
    )
    _check_known("incumbent", cells, "price")
    wanted = cells["price"] * cells["experiment_id"].map(dict(price_multipliers))
    treated = _in_cents(wanted.to_numpy(dtype=float))
    return cells.assign(multiplier=treated / cells["price"]).drop(columns="price")


def truth(untreated: pd.DataFrame, cells: pd.DataFrame, elasticity: pd.Series) -> pd.DataFrame:
    """Return the planted relative effect of each experiment on units, revenue and price.

    Estimand: sum (m_it - 1) Y0_it / s_i over sum Y0_it / s_i, both over all products with cells, trimmed or not (of a
    triggered experiment those that were triggered), and their days in analysis; m_it is the multiplier of the metric
    if product i were treated on day t: p ** e_i for units, p ** (1 + e_i) for revenue, p for price. The price of a day
    without sales is the last one observed. s_i comes from the metric's own untreated history before the first day of
    the experiment; products with s_i = 0 are left out.

    Parameters
    ----------
    untreated : DataFrame
        product_id, date, units, price: one row per product and day with sales, from the first day of history on.
    cells : DataFrame
        experiment_id, product_id, date, in_analysis, multiplier, as `treated_cells` gives them, blackout included.
    elasticity : Series
        Own elasticity by product_id.

    Returns
    -------
    DataFrame
        experiment_id, metric, truth: one row per experiment and metric. truth is nan for an experiment whose scope
        sold nothing before it or during it: a relative effect has no meaning there.

    References
    ----------
    METHODS.md, world.truth.
    """
    untreated = _with_days(untreated)
    rows = []
    for experiment_id, own in _with_days(cells).groupby("experiment_id", sort=True):
        p = own[own["in_analysis"]].pivot(index="product_id", columns="date", values="multiplier").sort_index()
        e = elasticity.loc[p.index].to_numpy()[:, None]
        multipliers = {"units": p.to_numpy() ** e, "revenue": p.to_numpy() ** (1 + e), "price": p.to_numpy()}
        calendar = pd.date_range(untreated["date"].min(), own["date"].max())
        past = np.asarray(calendar < own["date"].min())
        analysed = np.asarray(calendar.isin(p.columns))
        panels = _panels(untreated, p.index, calendar)
        for metric in METRICS:
            y0 = panels[metric]
            effect = _relative_effect(y0[:, analysed], multipliers[metric], product_scale(y0[:, past]))
            rows.append((experiment_id, metric, effect))
    return pd.DataFrame(rows, columns=["experiment_id", "metric", "truth"])


def _relative_effect(y0: FloatArray, m: FloatArray, s: FloatArray) -> float:
    """Return sum (m - 1) y0 / s over sum y0 / s; y0 and m (N, T), s (N,); cells whose m is nan count nowhere."""
    weight = np.divide(1.0, s, out=np.zeros_like(s), where=s > 0)[:, None] * np.isfinite(m)
    total = float((weight * y0).sum())
    return float((weight * (np.nan_to_num(m, nan=1.0) - 1) * y0).sum()) / total if total > 0 else float("nan")


def _panels(untreated: pd.DataFrame, product_ids: pd.Index, calendar: pd.DatetimeIndex) -> dict[str, FloatArray]:
    """Return units, revenue and price as (N, T): no sales are 0 units, and the last price observed holds."""
    own = untreated[untreated["product_id"].isin(product_ids)]
    sold, observed = (
        own.pivot(index="product_id", columns="date", values=value).reindex(index=product_ids, columns=calendar)
        for value in ("units", "price")
    )
    units = sold.fillna(0.0).to_numpy(dtype=float)
    price = observed.ffill(axis=1).bfill(axis=1).fillna(0.0).to_numpy(dtype=float)
    return {"units": units, "revenue": units * price, "price": price}


def _thin_or_add(units: FloatArray, m: FloatArray, u: FloatArray) -> NDArray[np.int64]:
    """Return units thinned where m < 1 and added to where m > 1, by the quantile u of the draw; all (M,)."""
    kept = binom.ppf(u, units, np.minimum(m, 1.0))
    added = poisson.ppf(u, np.maximum(m - 1.0, 0.0) * units)
    return np.asarray(np.maximum(kept, 0.0) + np.maximum(added, 0.0)).astype(np.int64)


def _in_cents(dollars: FloatArray) -> FloatArray:
    """Return positive prices in whole cents, rounded as SQL does; numpy rounds halves to the even neighbour."""
    cents = dollars * 100.0
    whole = np.trunc(cents)
    return (whole + (cents - whole >= 0.5)) / 100.0


def _with_days(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with `date` as a timestamp; tables of the lake hold plain dates, which never equal one."""
    return frame.assign(date=pd.to_datetime(frame["date"]))


def _check_plan(plan: pd.DataFrame, elasticity: pd.Series) -> None:
    twice = plan.duplicated(["product_id", "date"])
    if twice.any():
        keys = plan.loc[twice, ["product_id", "date"]].head(3).astype("str").agg(" ".join, axis=1).tolist()
        raise ValueError(
            f"plan: {int(twice.sum())} rows repeat a product and day, such as {keys}; a product has one price a day. "
            "Give experiments disjoint scopes."
        )
    _check_known("plan", plan, "incumbent_price")
    _check_known("plan", plan, "price")
    unknown = sorted(set(plan["product_id"]) - set(elasticity.index))
    if unknown:
        raise ValueError(f"elasticity lacks {len(unknown)} products, such as {unknown[:3]}. Draw one for each product.")


def _check_known(table: str, frame: pd.DataFrame, column: str) -> None:
    bad = ~(frame[column] > 0)
    if bad.any():
        keys = frame.loc[bad, ["product_id", "date"]].head(3).astype("str").agg(" ".join, axis=1).tolist()
        raise ValueError(
            f"{table}.{column}: {int(bad.sum())} values are missing or not above 0, such as {keys}. "
            "Give a price above 0 for every product and day of the experiment."
        )
