from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest

from pricelab_dagster.engine import Engine
from pricelab_dagster.models import models
from pricelab_dagster.tables import TABLES

Run = Callable[..., pa.Table]
Check = Callable[[pa.Table, str], None]

UNIONS = sorted(name for name in models() if name.startswith("marts.fct_"))


@pytest.mark.parametrize("name", UNIONS)
def test_a_fact_carries_every_column_and_row_of_its_table(name: str) -> None:
    (upstream,) = models()[name].upstream_tables
    schema = TABLES[upstream].schema
    filled = {
        pa.string(): ["x", "y"],
        pa.date32(): [date(2024, 1, 1), date(2024, 1, 2)],
        pa.float64(): [1.5, None],
        pa.int64(): [1, 2],
        pa.bool_(): [True, False],
    }
    rows = pa.table({field.name: pa.array(filled[field.type], field.type) for field in schema})
    states = pa.table({"experiment_id": ["x", "y"], "status": ["running", "concluded"]})
    given = {upstream: rows} | ({"source.experiments": states} if name == "marts.fct_price_plan" else {})
    found = Engine().sql(models()[name].query, tables=given)
    assert found.to_pylist() == rows.to_pylist()
    assert found.schema.names == TABLES[name].schema.names


def test_the_plan_of_a_retired_experiment_is_not_in_force(run: Run, check: Check) -> None:
    found = run(
        "marts.fct_price_plan",
        {
            "experiment.price_plan": "experiment_id | product_id\nold | a\nmilk | a\nmilk | b",
            "source.experiments": "experiment_id | status\nold | retired\nmilk | planned",
        },
    )
    check(found, "experiment_id | product_id\nmilk | a\nmilk | b")


def test_experiments_are_counted_and_those_without_results_stay(run: Run, check: Check) -> None:
    found = run(
        "marts.dim_experiments",
        {
            "source.experiments": """
                experiment_id | title | owner | design     | status  | start      | end
                milk          | Milk  | me    | crossover  | running | 2024-01-04 | 2024-01-06
                old           | Old   |       | time_bound | retired | 2023-01-04 | 2023-01-06
                next          | Next  | you   | time_bound | planned | 2025-01-04 | 2025-01-06
            """,
            "experiment.assignments": """
                experiment_id | product_id | date       | unit_id | in_analysis
                milk          | a          | 2024-01-04 | u       | true
                milk          | a          | 2024-01-05 | u       | false
                milk          | b          | 2024-01-04 | u       | true
                milk          | c          | 2024-01-04 | c       | true
                old           | a          | 2023-01-04 | a       | false
            """,
            "experiment.effects": "experiment_id | metric\nold | units\nold | revenue",
        },
    )
    check(
        found,
        """
        experiment_id | title | owner | design     | status  | as_of      | start      | end
        milk          | Milk  | me    | crossover  | running | 2024-01-10 | 2024-01-04 | 2024-01-06
        old           | Old   |       | time_bound | retired | 2024-01-10 | 2023-01-04 | 2023-01-06
        next          | Next  | you   | time_bound | planned | 2024-01-10 | 2025-01-04 | 2025-01-06
        """,
    )
    check(
        found,
        """
        experiment_id | n_products | n_units | n_cells | n_in_analysis | has_effects
        milk          | 3          | 2       | 4       | 3             | false
        old           | 1          | 1       | 1       | 0             | true
        next          | 0          | 0       | 0       | 0             | false
        """,
    )


def test_before_any_sales_there_is_no_as_of_date(run: Run, check: Check) -> None:
    experiments = "experiment_id | title | start | end\nnext | Next | 2025-01-04 | 2025-01-06"
    found = run("marts.dim_experiments", {"source.experiments": experiments}, as_of=None)
    check(found, "experiment_id | as_of\nnext |")


def test_products_carry_what_they_sold_over_the_whole_calendar(run: Run, check: Check) -> None:
    found = run(
        "marts.dim_products",
        {
            "staging.stg_products": "product_id | category | brand\na | MILK | x\nz | BREAD |",
            "staging.stg_sales": """
                product_id | date       | units | revenue
                a          | 2024-01-05 | 2     | 6
                a          | 2024-01-01 | 1     | 4
            """,
        },
    )
    check(
        found,
        """
        product_id | category | brand | first_sold | last_sold  | units | revenue | active_days
        a          | MILK     | x     | 2024-01-01 | 2024-01-05 | 3     | 10      | 2
        z          | BREAD    |       |            |            | 0     | 0       | 0
        """,
    )
