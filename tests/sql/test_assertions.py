from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import pytest

from pricelab_dagster.models import FOLDER, assertions

Offending = Callable[..., list[dict[str, object]]]
DAY, NEXT = date(2024, 1, 4), date(2024, 1, 5)


@dataclass(frozen=True)
class Case:
    """Tables on which an assertion passes, and tables on which it must return the rows `found`."""

    good: dict[str, str]
    bad: dict[str, str]
    found: list[dict[str, object]]


COVARIANCE = "experiment.effect_covariance"
DAYS, PLAN, ASSIGNED, EFFECTS = (
    "intermediate.int_product_days",
    "experiment.price_plan",
    "experiment.assignments",
    "experiment.effects",
)
CASES: dict[str, list[Case]] = {
    "assert_sales_are_usable": [
        Case(
            {"staging.stg_sales": "product_id | date | units | revenue | price\na | 2024-01-04 | 2 | 0 | 0"},
            {
                "staging.stg_sales": f"""
                    product_id | date       | units | revenue | price
                    a          | 2024-01-04 | 2     | 4       | 2
                    {line}
                """
            },
            [{"product_id": product_id}],
        )
        for product_id, line in [
            (None, "| 2024-01-04 | 2 | 4 | 2"),
            ("b", "b | | 2 | 4 | 2"),
            ("b", "b | 2024-01-04 | 0 | 0 | 2"),
            ("b", "b | 2024-01-04 | nan | 4 | 2"),
            ("b", "b | 2024-01-04 | inf | 4 | 2"),
            ("b", "b | 2024-01-04 | 2 | 4 | -2"),
            ("b", "b | 2024-01-04 | 2 | 4 | nan"),
            ("b", "b | 2024-01-04 | 2 | inf | 2"),
        ]
    ],
    "assert_one_price_over_all_experiments": [
        Case(
            {
                PLAN: "product_id | date\na | 2024-01-04",
                "source.cells_in_force": "experiment_id | product_id | date\nx | a | 2024-01-05\nx | b | 2024-01-04",
            },
            {
                PLAN: "product_id | date\na | 2024-01-04\na | 2024-01-05",
                "source.cells_in_force": "experiment_id | product_id | date\nx | a | 2024-01-05",
            },
            [{"product_id": "a", "date": NEXT, "also_priced_by": "x"}],
        )
    ],
    "assert_one_plan_row_in_force": [
        Case(
            {"marts.fct_price_plan": "experiment_id | product_id | date\nx | a | 2024-01-04\ny | a | 2024-01-05"},
            {"marts.fct_price_plan": "experiment_id | product_id | date\nx | a | 2024-01-04\ny | a | 2024-01-04"},
            [{"product_id": "a", "date": DAY, "n_prices": 2}],
        )
    ],
    "assert_sales_survive_zero_filling": [
        Case(
            {DAYS: "units\n2\n0\n0.5", "staging.stg_sales": "units\n2.5"},
            {DAYS: f"units\n{units}", "staging.stg_sales": "units\n2.5"},
            [{"units_by_day": units, "units_sold": 2.5}],
        )
        for units in (2.4, 2.6)
    ],
    "assert_one_row_per_product_and_period": [
        Case(
            {DAYS: "product_id | date\na | 2024-01-04\na | 2024-01-05\nb | 2024-01-04"},
            {DAYS: "product_id | date\na | 2024-01-04\na | 2024-01-04\nb | 2024-01-04"},
            [{"product_id": "a", "date": DAY, "n_rows": 2}],
        )
    ],
    "assert_calendar_has_no_gaps": [
        Case(
            {DAYS: "product_id | date\na | 2024-01-04\na | 2024-01-05\nb | 2024-01-04\nb | 2024-01-05"},
            {DAYS: "product_id | date\na | 2024-01-04\na | 2024-01-05\nb | 2024-01-04"},
            [{"product_id": "b", "n_periods": 1, "n_calendar": 2}],
        ),
        Case(
            {DAYS: "product_id | date\na | 2024-01-04"},
            {DAYS: "product_id | date\na | 2024-01-04\na | 2024-01-06"},
            [{"product_id": "a", "n_periods": 2, "n_calendar": 3}],
        ),
    ],
    "assert_features_before_start": [
        Case(
            {"intermediate.int_product_features": f"product_id | first_sold | last_sold\na | {good[0]} | {good[1]}"},
            {"intermediate.int_product_features": f"product_id | first_sold | last_sold\na | {bad[0]} | {bad[1]}"},
            [{"product_id": "a"}],
        )
        for good, bad in [
            (("2024-01-01", "2024-01-03"), ("2024-01-01", "2024-01-04")),
            (("2024-01-03", "2024-01-03"), ("2024-01-03", "2024-01-02")),
        ]
    ],
    "assert_edges_have_a_value_or_a_reason": [
        Case(
            {
                "spillover.substitute_edges": """
                    product_id | on_price_of | effect | reason
                    a          | b           | 0.5    |
                    b          | a           |        | not identified: thin demand
                """
            },
            {"spillover.substitute_edges": f"product_id | on_price_of | effect\na | b | 0.5\n{line}"},
            [{"product_id": "b"}],
        )
        for line in ("b | a |", "b | b | 0.5")
    ],
    "assert_one_cluster_per_product": [
        Case(
            {"spillover.product_clusters": "product_id | cluster_id\na | a\nb | a"},
            {"spillover.product_clusters": "product_id | cluster_id\na | a\nb | a\nb | b"},
            [{"product_id": "b", "n_clusters": 2}],
        )
    ],
    "assert_one_arm_per_product_and_period": [
        Case(
            {ASSIGNED: "product_id | date | arm\na | 2024-01-04 | control\na | 2024-01-05 | treatment"},
            {ASSIGNED: "product_id | date | arm\na | 2024-01-04 | control\na | 2024-01-04 | treatment"},
            [{"product_id": "a", "date": DAY, "n_arms": 2}],
        )
    ],
    "assert_units_move_together": [
        Case(
            {
                ASSIGNED: """
                    product_id | date       | arm       | unit_id
                    a          | 2024-01-04 | control   | u
                    b          | 2024-01-04 | control   | u
                    a          | 2024-01-05 | treatment | u
                    c          | 2024-01-04 | treatment | c
                """
            },
            {
                ASSIGNED: """
                    product_id | date       | arm       | unit_id
                    a          | 2024-01-04 | control   | u
                    b          | 2024-01-04 | treatment | u
                """
            },
            [{"unit_id": "u", "date": DAY, "n_arms": 2}],
        )
    ],
    "assert_assignments_inside_window": [
        Case(
            {ASSIGNED: "product_id | date\na | 2024-01-04\na | 2024-01-06"},
            {ASSIGNED: f"product_id | date\na | 2024-01-04\na | {day}"},
            [{"product_id": "a", "date": date.fromisoformat(day)}],
        )
        for day in ("2024-01-03", "2024-01-07")
    ],
    "assert_probabilities_are_open": [
        Case(
            {ASSIGNED: "product_id | probability\na | 0.5\nb |"},
            {ASSIGNED: f"product_id | probability\na | 0.5\nb | {probability}"},
            [{"product_id": "b"}],
        )
        for probability in ("0", "1", "-0.1", "nan")
    ],
    "assert_plan_follows_assignments": [
        Case(
            {PLAN: cell, ASSIGNED: cell},
            {PLAN: planned, ASSIGNED: assigned},
            [{"product_id": "a", "date": DAY, "planned_arm": arms[0], "assigned_arm": arms[1]}],
        )
        for cell in ["product_id | date | arm\na | 2024-01-04 | treatment"]
        for planned, assigned, arms in [
            (cell, "product_id | date | arm\na | 2024-01-04 | control", ("treatment", "control")),
            (cell, "", ("treatment", None)),
            ("", cell, (None, "treatment")),
        ]
    ],
    "assert_one_price_per_product_and_period": [
        Case(
            {PLAN: "product_id | date | price\na | 2024-01-04 | 1\na | 2024-01-05 | 2"},
            {PLAN: "product_id | date | price\na | 2024-01-04 | 1\na | 2024-01-04 | 2"},
            [{"product_id": "a", "date": DAY, "n_prices": 2}],
        )
    ],
    "assert_prices_are_positive": [
        Case(
            {PLAN: "product_id | date | price\na | 2024-01-04 | 0.01\na | 2024-01-05 |"},
            {PLAN: f"product_id | date | price\na | 2024-01-04 | 1\na | 2024-01-05 | {price}"},
            [{"product_id": "a", "date": NEXT}],
        )
        for price in ("0", "-1", "nan", "inf")
    ],
    "assert_residuals_add_up": [
        Case(
            {
                "experiment.detrended_sales": """
                    product_id | metric | observed | predicted | residual
                    a          | units  | 3        | 1         | 2
                    b          | price  |          | 1         |
                """
            },
            {"experiment.detrended_sales": f"product_id | metric | observed | predicted | residual\n{line}"},
            [{"product_id": "a", "metric": "units"}],
        )
        for line in ("a | units | 3 | 1 | 2.1", "a | units | 3 | 1 |", "a | units | | 1 | 0", "a | units | 3 | | 0")
    ],
    "assert_intervals_hold_their_effect": [
        Case(
            {
                EFFECTS: """
                    metric  | effect | ci_lower | ci_upper | reason
                    units   | 0.1    | 0.1      | 0.2      |
                    revenue |        |          |          | no treated product
                    price   | 0.1    |          |          | too few replicates
                """
            },
            {EFFECTS: f"metric | effect | ci_lower | ci_upper | reason\n{line}"},
            [{"metric": "units"}],
        )
        for line in (
            "units | 0.3 | 0.1 | 0.2 |",
            "units | 0.0 | 0.1 | 0.2 |",
            "units | 0.3 | | 0.2 |",
            "units | nan | 0.1 | 0.2 |",
            "units | | 0.1 | 0.2 |",
        )
    ],
    "assert_variances_are_squared_errors": [
        Case(
            {
                COVARIANCE: """
                    scale    | estimator | arm | metric | other_metric | covariance
                    relative | hpte      | t   | units  | units        | 0.04
                    relative | hpte      | t   | price  | units        | -9
                    relative | hajek     | t   | units  | units        | 0.09
                """,
                EFFECTS: """
                    scale    | estimator | arm | metric | se
                    relative | hpte      | t   | units  | 0.2
                    relative | hpte      | t   | price  | 0.3
                    relative | hajek     | t   | units  |
                    relative | ancova    | t   | units  | 0.5
                """,
            },
            {
                COVARIANCE: "scale | estimator | arm | metric | other_metric | covariance\n"
                f"relative | hpte | t | units | units | {covariance}",
                EFFECTS: f"scale | estimator | arm | metric | se\nrelative | hpte | t | units | {se}",
            },
            [{"estimator": "hpte", "metric": "units"}],
        )
        for covariance, se in (("0.0400001", "0.2"), ("0.0399999", "0.2"), ("", "0.2"), ("nan", "0.2"), ("1e-14", "0"))
    ],
    "assert_one_headline_per_metric": [
        Case(
            {EFFECTS: "metric | arm | is_headline\nunits | t | true\nunits | t | false\nprice | t | true"},
            {EFFECTS: f"metric | arm | is_headline\nunits | t | {first}\nunits | t | {first}\nprice | t | true"},
            [{"metric": "units", "arm": "t", "n_headlines": n}],
        )
        for first, n in (("true", 2), ("false", 0))
    ],
}


def test_every_assertion_has_a_case_that_must_fail() -> None:
    files = {path.stem for path in (FOLDER / "tests").glob("*.sql")}
    assert files == set(CASES) == {one.name for one in assertions()}
    assert all(case.found for cases in CASES.values() for case in cases)


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_assertion_passes_what_is_right(offending: Offending, name: str) -> None:
    for case in CASES[name]:
        assert offending(name, case.good) == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_assertion_returns_the_rows_that_are_wrong(offending: Offending, name: str) -> None:
    for case in CASES[name]:
        found = offending(name, case.bad)
        assert len(found) == len(case.found), case.bad
        for row, expected in zip(found, case.found, strict=True):
            assert row == row | expected


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_assertion_passes_tables_without_rows(offending: Offending, name: str) -> None:
    assert offending(name, {}) == []


def test_a_calendar_of_weeks_has_no_gaps_at_steps_of_seven_days(offending: Offending) -> None:
    weeks = {DAYS: "product_id | date\na | 2024-01-06\na | 2024-01-13"}
    assert offending("assert_calendar_has_no_gaps", weeks, days_per_period=7) == []
    missing = {DAYS: "product_id | date\na | 2024-01-06\na | 2024-01-20"}
    assert offending("assert_calendar_has_no_gaps", missing, days_per_period=7) == [
        {"product_id": "a", "n_periods": 2, "n_calendar": 3}
    ]
