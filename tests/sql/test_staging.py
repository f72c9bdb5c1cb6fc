from collections.abc import Callable

import pyarrow as pa
import pytest

Run = Callable[..., pa.Table]
Check = Callable[[pa.Table, str], None]


def test_sales_of_one_product_and_period_are_added_up(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price | cost
        a          | 2024-01-01 | 2     | 3     | 1
        a          | 2024-01-01 | 6     | 4     | 2
        a          | 2024-01-02 | 0.5   | 8     | 3
        b          | 2024-01-01 | 1     | 0     |
    """
    check(
        run("staging.stg_sales", {"source.sales": sales}),
        """
        product_id | date       | units | revenue | price | cost
        a          | 2024-01-01 | 8     | 30      | 3.75  | 1.75
        a          | 2024-01-02 | 0.5   | 4       | 8     | 3
        b          | 2024-01-01 | 1     | 0       | 0     |
        """,
    )


def test_cost_is_weighted_by_the_units_that_have_one(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price | cost
        a          | 2024-01-01 | 1     | 5     | 2
        a          | 2024-01-01 | 3     | 5     | 4
        a          | 2024-01-01 | 9     | 5     |
    """
    check(
        run("staging.stg_sales", {"source.sales": sales}),
        """
        product_id | units | revenue | cost
        a          | 13    | 65      | 3.5
        """,
    )


@pytest.mark.parametrize(
    "broken",
    [
        "| 2024-01-01 | 1 | 1",
        "a | | 1 | 1",
        "a | 2024-01-01 | | 1",
        "a | 2024-01-01 | nan | 1",
        "a | 2024-01-01 | inf | 1",
        "a | 2024-01-01 | -inf | 1",
        "a | 2024-01-01 | 0 | 1",
        "a | 2024-01-01 | -1 | 1",
        "a | 2024-01-01 | 1 |",
        "a | 2024-01-01 | 1 | nan",
        "a | 2024-01-01 | 1 | inf",
        "a | 2024-01-01 | 1 | -0.01",
    ],
)
def test_sales_that_count_nothing_are_left_out(run: Run, check: Check, broken: str) -> None:
    sales = f"""
        product_id | date | units | price
        a | 2024-01-01 | 2 | 3
        {broken}
    """
    check(
        run("staging.stg_sales", {"source.sales": sales}),
        """
        product_id | date       | units | revenue | price
        a          | 2024-01-01 | 2     | 6       | 3
        """,
    )


def test_week_labels_on_one_weekday_are_kept(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price
        a          | 2024-01-06 | 2     | 3
        a          | 2024-01-13 | 4     | 3
    """
    check(
        run("staging.stg_sales", {"source.sales": sales}, grain="week"),
        """
        product_id | date       | units
        a          | 2024-01-06 | 2
        a          | 2024-01-13 | 4
        """,
    )


def test_days_of_a_week_are_added_up_under_its_monday(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price
        a          | 2024-01-01 | 2     | 3
        a          | 2024-01-07 | 4     | 6
        a          | 2024-01-08 | 1     | 5
        b          | 2024-01-07 | 1     | 1
        b          | 2024-01-14 | 3     | 1
    """
    check(
        run("staging.stg_sales", {"source.sales": sales}, grain="week"),
        """
        product_id | date       | units | revenue | price
        a          | 2024-01-01 | 6     | 30      | 5
        a          | 2024-01-08 | 1     | 5       | 5
        b          | 2024-01-01 | 1     | 1       | 1
        b          | 2024-01-08 | 3     | 3       | 1
        """,
    )


def test_days_stay_days_in_a_daily_lab(run: Run, check: Check) -> None:
    sales = "product_id | date | units | price\na | 2024-01-03 | 1 | 1\na | 2024-01-07 | 1 | 1"
    found = run("staging.stg_sales", {"source.sales": sales})
    check(found, "product_id | date\na | 2024-01-03\na | 2024-01-07")


def test_a_broken_row_does_not_decide_how_weeks_are_labelled(run: Run, check: Check) -> None:
    sales = """
        product_id | date       | units | price
        a          | 2024-01-06 | 2     | 3
        a          | 2024-01-09 | 0     | 3
    """
    check(run("staging.stg_sales", {"source.sales": sales}, grain="week"), "product_id | date\na | 2024-01-06")


def test_products_that_sell_without_a_row_are_of_category_unknown(run: Run, check: Check) -> None:
    found = run(
        "staging.stg_products",
        {
            "source.products": "product_id | category | brand\na | MILK | x\nc | | z",
            "staging.stg_sales": "product_id\na\na\nb",
        },
    )
    check(found, "product_id | category | brand\na | MILK | x\nb | unknown |\nc | unknown | z")
    assert found.schema.names == ["product_id", "category", "brand"]


def test_of_a_repeated_product_the_first_category_in_order_stays(run: Run, check: Check) -> None:
    products = """
        product_id | category | brand
        a          | MILK     | y
        a          | BREAD    | x
        a          |          | z
                   | BREAD    | w
    """
    check(run("staging.stg_products", {"source.products": products}), "product_id | category | brand\na | BREAD | x")


def test_events_without_an_id_are_known_by_product_date_and_kind(run: Run, check: Check) -> None:
    events = """
        event_id | product_id | occurred_on | kind
        7        | a          | 2024-01-01  | rain
                 | a          | 2024-01-02  | rain
                 | a          | 2024-01-02  | rain
                 | b          | 2024-01-02  |
                 |            | 2024-01-02  | rain
        8        | b          |             | rain
    """
    found = run("staging.stg_events", {"source.events": events})
    check(
        found.select(["product_id", "occurred_on", "kind"]),
        "product_id | occurred_on | kind\na | 2024-01-01 | rain\na | 2024-01-02 | rain\nb | 2024-01-02 |",
    )
    assert sorted(found["event_id"].to_pylist()) == ["7", "a|2024-01-02|rain", "b|2024-01-02|"]


def test_incumbent_prices_of_one_day_are_averaged_and_unusable_ones_left_out(run: Run, check: Check) -> None:
    prices = """
        product_id | date       | price
        a          | 2024-01-01 | 2
        a          | 2024-01-01 | 3
        a          | 2024-01-02 | nan
        a          | 2024-01-03 | inf
        a          | 2024-01-04 | -1
        a          | 2024-01-05 |
        a          |            | 1
                   | 2024-01-01 | 1
        b          | 2024-01-01 | 0
    """
    check(
        run("staging.stg_incumbent_prices", {"source.incumbent_prices": prices}),
        "product_id | date | price\na | 2024-01-01 | 2.5\nb | 2024-01-01 | 0",
    )


def test_staged_sales_do_not_depend_on_the_order_of_the_rows(run: Run, check: Check) -> None:
    lines = [f"{product} | 2024-01-0{day} | {units} | 2 | 1" for product in "ab" for day in (1, 2) for units in (1, 4)]
    expected = "\n".join(f"{product} | 2024-01-0{day} | 5 | 10" for product in "ab" for day in (1, 2))
    for ordered in (lines, lines[::-1]):
        sales = "\n".join(["product_id | date | units | price | cost", *ordered])
        found = run("staging.stg_sales", {"source.sales": sales})
        check(found, f"product_id | date | units | revenue\n{expected}")
