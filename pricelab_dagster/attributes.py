"""The lab's attributes of products: the types that can be compared, and how dates and decimals become numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from pricelab_dagster.lab import LabError
from pricelab_dagster.lab.sources import CONFIG_FILE

KEY = "products.attributes"
AS_DAYS = ", days since 1970"
N_LISTED = 3
SECONDS_OF_A_DAY = 86_400


def refuse_unusable(products: pa.Table, names: Sequence[str]) -> None:
    """Refuse attributes that products cannot be compared by, before anything is drawn on them.

    Parameters
    ----------
    products : rows with `product_id` and the attributes.
    names : the attributes.

    Raises
    ------
    LabError : for the first attribute that is neither numeric, boolean, text nor a date, or holds infinite values.
    """
    for name in names:
        column = products[name]
        if not _is_usable(column.type):
            allowed = f"columns of numbers, booleans, text or dates, and this one is {column.type}"
            remedy = "Convert it in products.query, or leave it out."
            raise LabError(CONFIG_FILE, KEY, name, allowed, remedy)
        infinite = _infinite(column)
        found = [str(product) for product in products["product_id"].filter(infinite).to_pylist()]
        if found:
            allowed = f"finite or empty, and {len(found)} of {products.num_rows} products have an infinite value there"
            remedy = f"Leave it empty for {', '.join(sorted(found)[:N_LISTED])}" + (
                "." if len(found) <= N_LISTED else f" and {len(found) - N_LISTED} others."
            )
            raise LabError(CONFIG_FILE, KEY, name, allowed, remedy)


def as_numbers(known: pd.DataFrame) -> pd.DataFrame:
    """Return decimals as doubles, and dates and timestamps as days since 1970, which their new names say.

    Examples
    --------
    >>> as_numbers(pd.DataFrame({"launched": pd.to_datetime(["1970-01-11", None])})).to_dict("list")
    {'launched, days since 1970': [10.0, nan]}
    """
    columns = {}
    for name, column in known.items():
        if pd.api.types.is_datetime64_any_dtype(column):
            naive = column.dt.tz_localize(None) if isinstance(column.dtype, pd.DatetimeTZDtype) else column
            days = naive.to_numpy().astype("datetime64[us]") - np.datetime64(0, "us")
            columns[f"{name}{AS_DAYS}"] = pd.Series(days / np.timedelta64(1, "D"), known.index)
        elif pd.api.types.infer_dtype(column, skipna=True) == "decimal":
            columns[str(name)] = column.astype(float)
        else:
            columns[str(name)] = column
    return pd.DataFrame(columns, index=known.index)


def as_dates(X: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that `as_numbers` made of dates as dates again, under their own names."""
    days = [str(name) for name in X.columns if str(name).endswith(AS_DAYS)]
    seconds = {name: np.round(X[name].to_numpy(dtype=float) * SECONDS_OF_A_DAY) for name in days}
    # not as nanoseconds, in which the year 9999 has no place
    dates = {
        name: np.where(np.isnan(of), np.datetime64("NaT"), np.nan_to_num(of).astype("datetime64[s]"))
        for name, of in seconds.items()
    }
    return X.assign(**dates).rename(columns={name: name.removesuffix(AS_DAYS) for name in days})


def _is_usable(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_usable(kind.value_type)
    checks = (
        *(types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null),
        *(types.is_string, types.is_large_string, types.is_date, types.is_timestamp),
    )
    return any(check(kind) for check in checks)


def _infinite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return which values are infinite; of dates those that DuckDB writes for `infinity`."""
    if types.is_floating(column.type):
        return pc.is_inf(column)
    if types.is_date(column.type) or types.is_timestamp(column.type):
        number = column.cast({32: pa.int32(), 64: pa.int64()}[column.type.bit_width])
        largest = 2 ** (column.type.bit_width - 1) - 1
        return pc.is_in(number, value_set=pa.array([-largest, largest], number.type))
    return pa.chunked_array([pa.array([False] * len(column))])
