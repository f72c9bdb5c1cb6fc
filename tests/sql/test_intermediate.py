from collections.abc import Callable

import pyarrow as pa
import pytest

Run = Callable[..., pa.Table]
Check = Callable[[pa.Table, str], None]
Read = Callable[[str, str], pa.Table]

DAYS = """
    product_id | date       | units | revenue | price | cost | profit | is_sold
    a          | 2024-01-01 | 0     | 0       | 4     | 1    | 0      | false
    a          | 2024-01-02 | 2     | 8       | 4     | 1    | 6      | true
    a          | 2024-01-03 | 0     | 0       | 5     | 1    | 0      | false
    a          | 2024-01-04 | 9     | 18      | 2     | 1    | 9      | true
    b          | 2024-01-01 | 4     | 4       | 1     |      |        | true
    b          | 2024-01-02 | 0     | 0       | 1     |      |        | false
    b          | 2024-01-03 | 2     | 6       | 3     |      |        | true
    b          | 2024-01-04 | 1     | 3       | 3     |      |        | true
    c          | 2024-01-01 | 0     | 0       | 7     |      |        | false
    c          | 2024-01-02 | 0     | 0       | 7     |      |        | false
    c          | 2024-01-03 | 0     | 0       | 7     |      |        | false
    c          | 2024-01-04 | 1     | 7       | 7     |      |        | true
"""
PRODUCTS = "product_id | category | brand\na | MILK | x\nb | BREAD | y\nc | BREAD | z"


def test_every_product_has_every_period_and_prices_are_carried(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | revenue | price | cost
        a          | 2024-01-02 | 2     | 6       | 3     | 1
        a          | 2024-01-04 | 1     | 5       | 5     |
        b          | 2024-01-01 | 4     | 4       | 1     |
        b          | 2024-01-05 | 1     | 2       | 2     | 0.5
    """
    check(
        run("intermediate.int_product_days", {"staging.stg_sales": sales}),
        """
        product_id | date       | units | revenue | price | cost | profit | is_sold
        a          | 2024-01-01 | 0     | 0       | 3     | 1    | 0      | false
        a          | 2024-01-02 | 2     | 6       | 3     | 1    | 4      | true
        a          | 2024-01-03 | 0     | 0       | 3     | 1    | 0      | false
        a          | 2024-01-04 | 1     | 5       | 5     | 1    | 4      | true
        a          | 2024-01-05 | 0     | 0       | 5     | 1    | 0      | false
        b          | 2024-01-01 | 4     | 4       | 1     | 0.5  | 2      | true
        b          | 2024-01-02 | 0     | 0       | 1     | 0.5  | 0      | false
        b          | 2024-01-03 | 0     | 0       | 1     | 0.5  | 0      | false
        b          | 2024-01-04 | 0     | 0       | 1     | 0.5  | 0      | false
        b          | 2024-01-05 | 1     | 2       | 2     | 0.5  | 1.5    | true
        """,
    )


def test_without_cost_there_is_no_profit(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | revenue | price | cost
        a          | 2024-01-01 | 2     | 6       | 3     |
        a          | 2024-01-02 | 2     | 6       | 3     |
    """
    found = run("intermediate.int_product_days", {"staging.stg_sales": sales})
    check(found, "date | cost | profit\n2024-01-01 | |\n2024-01-02 | |")


@pytest.mark.parametrize(
    ("grain", "dates"),
    [
        ("week", ["2024-01-06", "2024-01-13", "2024-01-20"]),
        ("day", [f"2024-01-{day:02d}" for day in range(6, 21)]),
    ],
)
def test_the_calendar_steps_by_the_grain_from_the_first_label(run: Run, grain: str, dates: list[str]) -> None:
    sales = "product_id | date | units | revenue | price\na | 2024-01-06 | 1 | 1 | 1\na | 2024-01-20 | 1 | 1 | 1"
    found = run("intermediate.int_product_days", {"staging.stg_sales": sales}, grain=grain)
    assert [day.isoformat() for day in sorted(found["date"].to_pylist())] == dates


def test_the_calendar_spans_a_leap_day_and_a_change_of_the_clocks(run: Run) -> None:
    sales = "product_id | date | units | revenue | price\na | 2024-02-28 | 1 | 1 | 1\na | 2024-04-01 | 1 | 1 | 1"
    found = run("intermediate.int_product_days", {"staging.stg_sales": sales})
    assert found.num_rows == len(set(found["date"].to_pylist())) == 34


def test_features_see_nothing_from_the_start_on(run: Run, check: Check) -> None:
    tables = {"intermediate.int_product_days": DAYS, "staging.stg_products": PRODUCTS}
    found = run("intermediate.int_product_features", tables)
    check(
        found,
        """
        experiment_id | product_id | category | brand | units_per_day | revenue_per_day | base_price | last_price
        milk          | a          | MILK     | x     | 1             | 4               | 4          | 5
        milk          | b          | BREAD    | y     | 2             | 3.3333333333333335 | 1.6666666666666667 | 3
        """,
    )
    check(
        found,
        """
        product_id | min_price | max_price | active_days | history_periods | first_sold | last_sold
        a          | 4         | 4         | 1           | 2               | 2024-01-02 | 2024-01-02
        b          | 1         | 3         | 2           | 3               | 2024-01-01 | 2024-01-03
        """,
    )
    from_the_start_on = DAYS.replace("9     | 18      | 2 ", "1e6   | 1e9     | 1e3 ")
    assert from_the_start_on != DAYS
    tables["intermediate.int_product_days"] = from_the_start_on
    assert run("intermediate.int_product_features", tables).sort_by("product_id") == found.sort_by("product_id")


def test_features_of_a_weekly_lab_are_still_per_day(run: Run, check: Check) -> None:
    days = """
        product_id | date       | units | revenue | price | is_sold
        a          | 2024-01-01 | 14    | 28      | 2     | true
        a          | 2024-01-08 | 0     | 0       | 2     | false
        a          | 2024-01-15 | 7     | 7       | 1     | true
    """
    found = run(
        "intermediate.int_product_features",
        {"intermediate.int_product_days": days, "staging.stg_products": PRODUCTS},
        days_per_period=7,
        start="2024-01-15",
    )
    check(found, "product_id | units_per_day | revenue_per_day | history_periods\na | 1 | 2 | 2")


def test_a_shorter_history_leaves_earlier_periods_out(run: Run, check: Check) -> None:
    tables = {"intermediate.int_product_days": DAYS, "staging.stg_products": PRODUCTS}
    found = run("intermediate.int_product_features", tables, history_start="2024-01-03")
    check(found, "product_id | units_per_day | base_price | first_sold\nb | 2 | 3 | 2024-01-03")


BROKEN_SALES = """
    product_id | date       | units | price
    a          | 2024-01-01 | 1     | 1
    a          | 2024-01-01 | 1     | 0
               |            |       |
    a          |            |       |
    a          | 2024-01-01 |       |
    a          | 2024-01-01 | inf   |
    a          | 2024-01-01 | nan   | 1
    a          | 2024-01-01 | 0     |
    a          | 2024-01-01 | -3    | 1
    a          | 2024-01-01 | 0     | 1
    a          | 2024-01-01 | 1     |
    a          | 2024-01-01 | 1     | nan
    a          | 2024-01-01 | 1     | -inf
    a          | 2024-01-01 | 1     | -1
    d          | 2024-01-01 | 1     | 2
"""


def test_data_quality_counts_each_row_of_the_sales_under_one_rule(run: Run, check: Check) -> None:
    found = run("intermediate.int_data_quality", {"source.sales": BROKEN_SALES})
    sales = found.filter(pa.compute.equal(found["source"], "sales"))
    check(
        sales,
        """
        rule                       | rows_found | rows_kept | action
        product is missing         | 1          | 0         | left out
        date is missing            | 1          | 0         | left out
        units are missing          | 1          | 0         | left out
        units are not finite       | 2          | 0         | left out
        units are zero or negative | 3          | 0         | left out
        price is missing           | 1          | 0         | left out
        price is not finite        | 2          | 0         | left out
        price is negative          | 1          | 0         | left out
        week is not complete       | 0          | 0         | left out
        cost is not finite         | 0          | 0         | cost ignored
        all rows                   | 15         | 3         | added up by product and period
        """,
    )


def test_half_weeks_are_counted_and_left_out(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price
        a          | 2024-01-04 | 9     | 1
        a          | 2024-01-08 | 1     | 1
        a          | 2024-01-14 | 2     | 1
        a          | 2024-01-15 | 4     | 1
    """
    rows = run("intermediate.int_data_quality", {"source.sales": sales}, grain="week").to_pylist()
    found = {row["rule"]: (row["rows_found"], row["rows_kept"]) for row in rows if row["source"] == "sales"}
    assert found["week is not complete"] == (2, 0)
    assert found["all rows"] == (4, 2)
    check(run("staging.stg_sales", {"source.sales": sales}, grain="week"), "date | units\n2024-01-08 | 3")


def test_a_cost_that_is_not_finite_is_counted_and_ignored(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price | cost
        a          | 2024-01-01 | 2     | 3     | 1
        a          | 2024-01-01 | 2     | 3     | inf
        b          | 2024-01-01 | 1     | 3     | nan
    """
    rows = run("intermediate.int_data_quality", {"source.sales": sales}).to_pylist()
    found = next(row for row in rows if row["rule"] == "cost is not finite")
    assert (found["rows_found"], found["rows_kept"]) == (2, 2)
    check(run("staging.stg_sales", {"source.sales": sales}), "product_id | units | cost\na | 4 | 1\nb | 1 |")


def test_data_quality_reconciles_with_itself_and_with_the_staged_sales(run: Run, check: Check, table: Read) -> None:
    rows = run("intermediate.int_data_quality", {"source.sales": BROKEN_SALES}).to_pylist()
    every = next(row for row in rows if row["rule"] == "all rows")
    left_out = sum(row["rows_found"] for row in rows if row["source"] == "sales" and row["action"] == "left out")
    assert left_out + every["rows_kept"] == every["rows_found"] == table("source.sales", BROKEN_SALES).num_rows
    kept = run("staging.stg_sales", {"source.sales": BROKEN_SALES})
    check(kept, "product_id | units\na | 2\nd | 1")


def test_data_quality_of_the_other_sources(run: Run, check: Check) -> None:
    found = run(
        "intermediate.int_data_quality",
        {
            "source.products": "product_id | category\na | X\na | Y\na | Z\nb | X\nb | Y\nc | X\n | X\n | Y",
            "source.events": "product_id | occurred_on\na | 2024-01-01\n | 2024-01-01\na |\n |",
            "source.incumbent_prices": """
                product_id | date       | price
                a          | 2024-01-01 | 1
                           | 2024-01-01 | 1
                a          |            | 1
                a          | 2024-01-01 |
                a          | 2024-01-01 | -1
                a          | 2024-01-01 | nan
                a          | 2024-01-01 | inf
            """,
            "staging.stg_sales": "product_id\na\nc\nc\nx\nx\ny",
            "staging.stg_products": "product_id\na\nc",
            "staging.stg_events": """
                event_id | product_id | n_rows
                1        | a          | 1
                2        | a          | 3
                3        | c          | 2
                4        | nowhere    | 1
            """,
            "experiment.triggers": """
                event_id | product_id | status
                1        | a          | started
                5        | c          | ghost
                2        | a          | inside_running
                2        | a          | duplicate
                2        | a          | duplicate
                4        | nowhere    | unknown_product
                6        | c          | late
            """,
        },
    )
    check(
        found.filter(pa.compute.not_equal(found["source"], "sales")),
        """
        source           | rows_found | rows_kept | rule
        products         | 5 | 2 | product stands more than once
        products         | 2 | 0 | product is missing
        products         | 2 | 2 | product sells but is not in products
        events           | 3 | 0 | product or date is missing
        events           | 1 | 0 | kind is missing
        events           | 5 | 2 | event stands more than once
        events           | 1 | 0 | event names a product that neither sells nor is in products
        events           | 1 | 1 | trigger is started
        events           | 1 | 1 | trigger is ghost
        events           | 2 | 0 | trigger is duplicate
        events           | 1 | 0 | trigger is unknown_product
        events           | 0 | 0 | trigger is outside_window
        events           | 1 | 0 | trigger is inside_running
        events           | 1 | 0 | trigger is late
        incumbent prices | 6 | 0 | product, date or price is missing, or price is negative or not finite
        """,
    )


def test_data_quality_of_a_lab_without_rows_finds_nothing(run: Run) -> None:
    rows = run("intermediate.int_data_quality", {}).to_pylist()
    assert len(rows) == 26
    assert {(row["rows_found"], row["rows_kept"]) for row in rows} == {(0, 0)}
