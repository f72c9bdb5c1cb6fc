from collections.abc import Callable

import pyarrow as pa
import pytest

Run = Callable[..., pa.Table]
Check = Callable[[pa.Table, str], None]

ASSIGNED = """
    experiment_id | product_id | date       | arm
    milk          | a          | 2024-01-04 | treatment
    milk          | a          | 2024-01-05 | control
    milk          | b          | 2024-01-04 | control
    milk          | b          | 2024-01-05 | treatment
"""
DAYS = """
    product_id | date       | price | cost | is_sold
    a          | 2024-01-02 | 2     | 1.5  | true
    a          | 2024-01-03 | 4     | 1    | true
    a          | 2024-01-04 | 99    | 99   | true
    b          | 2024-01-03 | 10    |      | true
    b          | 2024-01-04 | 99    | 99   | true
"""
POLICIES = "arm | price_multiplier\ntreatment | 0.9\ncontrol | 1"
TABLES = {
    "experiment.assignments": ASSIGNED,
    "intermediate.int_product_days": DAYS,
    "source.policies": POLICIES,
}
ONE_CELL = "experiment_id | product_id | date | arm\nmilk | a | 2024-01-04 | treatment"


def test_without_a_source_the_last_shelf_price_before_the_start_is_the_incumbent(run: Run, check: Check) -> None:
    check(
        run("experiment.price_plan", TABLES),
        """
        experiment_id | product_id | date       | incumbent_price | price | multiplier | arm       | note
        milk          | a          | 2024-01-04 | 4               | 3.6   | 0.9        | treatment |
        milk          | a          | 2024-01-05 | 4               | 4     | 1          | control   |
        milk          | b          | 2024-01-04 | 10              | 10    | 1          | control   |
        milk          | b          | 2024-01-05 | 10              | 9     | 0.9        | treatment |
        """,
    )


def test_the_incumbent_source_holds_from_its_date_on(run: Run, check: Check) -> None:
    incumbent = """
        product_id | date       | price
        a          | 2024-01-01 | 6
        a          | 2024-01-05 | 8
        b          | 2024-01-05 | 20
    """
    check(
        run("experiment.price_plan", TABLES | {"staging.stg_incumbent_prices": incumbent}, has_incumbent=True),
        """
        product_id | date       | incumbent_price | price | multiplier | note
        a          | 2024-01-04 | 6               | 5.4   | 0.9        |
        a          | 2024-01-05 | 8               | 8     | 1          |
        b          | 2024-01-04 |                 |       |            | no incumbent price is known
        b          | 2024-01-05 | 20              | 18    | 0.9        |
        """,
    )


@pytest.mark.parametrize(
    ("multiplier", "guard", "price", "note"),
    [
        (0.9, {}, 3.6, None),
        (0.9, {"max_change": 0.1}, 3.6, None),
        (0.5, {"max_change": 0.1}, 3.6, "guard: maximum change"),
        (1.5, {"max_change": 0.1}, 4.4, "guard: maximum change"),
        (0.5, {"floor": 2.5}, 2.5, "guard: floor"),
        (0.5, {"floor": 2.0}, 2.0, None),
        (2.0, {"ceiling": 5.0}, 5.0, "guard: ceiling"),
        (0.25, {"min_margin": 0.2}, 1.25, "guard: minimum margin"),
        (0.4, {"min_margin": 0.2}, 1.6, None),
        (0.5, {"max_change": 0.1, "floor": 3.8}, 3.8, "guard: floor"),
        (0.5, {"max_change": 0.5, "ceiling": 1.0}, 1.0, "guard: ceiling"),
        (0.5, {"floor": 4.0}, 4.0, "guard: back to the incumbent price"),
        (1.0, {"floor": 4.0}, 4.0, None),
        (0.8333, {}, 3.33, None),
        (0.8333, {"decimals": 1}, 3.3, None),
        (0.8333, {"decimals": 0}, 3.0, None),
        (1.1, {"decimals": 0}, 4.0, None),
        (1.13, {"max_change": 0.13}, 4.52, None),
        (1.0, {"ceiling": 3.0}, 3.0, "guard: ceiling"),
        (0.5, {"max_change": 0.14, "decimals": 1}, 3.5, "guard: maximum change"),
        (1.5, {"ceiling": 4.47, "decimals": 1}, 4.4, "guard: ceiling"),
    ],
)
def test_the_guard_bounds_the_wanted_price_and_says_so(
    run: Run, multiplier: float, guard: dict[str, float], price: float, note: str | None
) -> None:
    tables = TABLES | {
        "experiment.assignments": ONE_CELL,
        "source.policies": f"arm | price_multiplier\ntreatment | {multiplier}",
    }
    row = run("experiment.price_plan", tables, **guard).to_pylist()[0]
    assert (row["price"], row["note"]) == (pytest.approx(price, abs=1e-12), note)
    assert row["multiplier"] == pytest.approx(price / 4, abs=1e-12)


@pytest.mark.parametrize(
    ("multiplier", "endings", "guard", "price", "note"),
    [
        (0.9, [0.99], {}, 3.99, "guard: price ending"),
        (0.9, [0.49, 0.99], {}, 3.49, "guard: price ending"),
        (0.8725, [0.49], {}, 3.49, None),
        (0.8, [0.99], {}, 2.99, "guard: price ending"),
        (0.9, [0.99], {"max_change": 0.1, "ceiling": 3.9}, 3.6, "guard: no allowed ending within the bounds"),
        (0.5, [0.99], {"max_change": 0.2}, 3.99, "guard: maximum change"),
        (0.95, [0.0], {}, 4.0, "guard: back to the incumbent price"),
        (0.1, [0.99], {}, 0.99, "guard: price ending"),
        (0.99, [0.49, 0.99], {}, 3.99, "guard: price ending"),
        (1.01, [0.49, 0.99], {}, 4.49, "guard: price ending"),
        (0.99, [0.09], {}, 3.09, "guard: price ending"),
        (1.0, [0.99], {}, 4.0, None),
    ],
)
def test_a_price_that_the_policy_moves_takes_the_nearest_allowed_ending(
    run: Run, multiplier: float, endings: list[float], guard: dict[str, float], price: float, note: str | None
) -> None:
    tables = TABLES | {
        "experiment.assignments": ONE_CELL,
        "source.policies": f"arm | price_multiplier\ntreatment | {multiplier}",
        "source.endings": "ending\n" + "\n".join(map(str, endings)),
    }
    row = run("experiment.price_plan", tables, **guard).to_pylist()[0]
    assert (row["price"], row["note"]) == (pytest.approx(price, abs=1e-12), note)


def test_shelf_prices_of_another_experiments_treatment_are_no_incumbent(run: Run) -> None:
    elsewhere = """
        experiment_id | product_id | date       | arm
        older         | a          | 2024-01-03 | treatment
        older         | b          | 2024-01-03 | control
    """
    rows = run("experiment.price_plan", TABLES | {"source.cells_ever": elsewhere}).to_pylist()
    assert {row["product_id"]: row["incumbent_price"] for row in rows} == {"a": 2.0, "b": 10.0}


def test_a_price_carried_over_days_without_sales_is_no_incumbent(run: Run) -> None:
    """It may be the one of a treatment that ended before these days."""
    carried = """
        product_id | date       | price | is_sold
        a          | 2024-01-01 | 4     | true
        a          | 2024-01-02 | 3     | true
        a          | 2024-01-03 | 3     | false
    """
    elsewhere = "experiment_id | product_id | date | arm\nolder | a | 2024-01-02 | treatment"
    tables = {"experiment.assignments": ONE_CELL, "intermediate.int_product_days": carried, "source.policies": POLICIES}
    (row,) = run("experiment.price_plan", tables | {"source.cells_ever": elsewhere}).to_pylist()
    assert (row["incumbent_price"], row["price"]) == (4.0, 3.6)


def test_a_price_of_zero_is_never_planned(run: Run) -> None:
    given_away = "product_id | date | price | is_sold\na | 2024-01-03 | 0 | true"
    tables = {"experiment.assignments": ONE_CELL, "source.policies": POLICIES}
    (row,) = run("experiment.price_plan", tables | {"intermediate.int_product_days": given_away}).to_pylist()
    assert (row["price"], row["note"]) == (None, "no incumbent price is known")
    cents = "product_id | date | price | is_sold\na | 2024-01-03 | 0.01 | true"
    tables["source.policies"] = "arm | price_multiplier\ntreatment | 0.4"
    (row,) = run("experiment.price_plan", tables | {"intermediate.int_product_days": cents}).to_pylist()
    assert (row["price"], row["multiplier"], row["note"]) == (None, None, "the price would be zero")


def test_a_product_that_starts_later_keeps_its_shelf_price_until_then(run: Run) -> None:
    own = "experiment_id | product_id | date | arm\nmilk | a | 2024-01-05 | treatment"
    (row,) = run("experiment.price_plan", TABLES | {"experiment.assignments": own}).to_pylist()
    assert row["incumbent_price"] == 99.0


def test_without_a_cost_the_margin_binds_nothing(run: Run, check: Check) -> None:
    found = run("experiment.price_plan", TABLES, min_margin=0.75)
    check(
        found,
        """
        product_id | date       | price | note
        a          | 2024-01-04 | 4     | guard: back to the incumbent price
        a          | 2024-01-05 | 4     |
        b          | 2024-01-04 | 10    |
        b          | 2024-01-05 | 9     |
        """,
    )


def test_an_arm_with_a_table_of_prices_charges_them(run: Run, check: Check) -> None:
    prices = """
        arm       | product_id | date       | price
        treatment | a          | 2024-01-04 | 3.5
        treatment | a          | 2024-01-05 | 1
        treatment | b          |            | 7
    """
    policies = "arm | price_multiplier\ntreatment |\ncontrol | 1"
    check(
        run("experiment.price_plan", TABLES | {"source.policies": policies, "source.policy_prices": prices}),
        """
        product_id | date       | price | multiplier | arm
        a          | 2024-01-04 | 3.5   | 0.875      | treatment
        a          | 2024-01-05 | 4     | 1          | control
        b          | 2024-01-04 | 10    | 1          | control
        b          | 2024-01-05 | 7     | 0.7        | treatment
        """,
    )


GUARDS: list[dict[str, float]] = [{}, {"floor": 1.0}, {"ceiling": 50.0}, {"max_change": 0.2}, {"min_margin": 0.1}]


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_no_guard_invents_a_price_that_is_set_elsewhere(run: Run, guard: dict[str, float]) -> None:
    tables = TABLES | {"experiment.assignments": ONE_CELL, "source.policies": "arm | price_multiplier\ntreatment |"}
    row = run("experiment.price_plan", tables, **guard).to_pylist()[0]
    assert (row["incumbent_price"], row["price"], row["multiplier"]) == (4, None, None)
    assert row["note"] == "prices of this arm are set elsewhere"


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_no_guard_invents_a_price_without_an_incumbent(run: Run, guard: dict[str, float]) -> None:
    row = run("experiment.price_plan", TABLES | {"experiment.assignments": ONE_CELL}, has_incumbent=True, **guard)
    found = row.to_pylist()[0]
    assert (found["incumbent_price"], found["price"], found["multiplier"]) == (None, None, None)
    assert found["note"] == "no incumbent price is known"
