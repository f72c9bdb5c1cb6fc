from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pricelab_dagster.collisions import Claim, claim, refuse, sentences
from pricelab_dagster.lab import LabError
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import ASSIGNMENTS, PLAN, Workbench
from tests.defs import tiny_lab

START = date(2024, 4, 1)
FILES = {
    "first": tiny_lab.experiment("kind: time_bound, start: 2024-04-01, duration: 14", "category = 'milk'"),
    "second": tiny_lab.experiment("kind: time_bound, start: 2024-04-08, duration: 14", "category = 'milk'"),
    "storm": tiny_lab.experiment(
        "kind: triggered, start: 2024-04-01, duration: 3, horizon: 2024-04-10, event: storm", "category = 'milk'"
    ),
}
CONFIG = (
    tiny_lab.CONFIG
    + "events: {source: data/*.none, columns: {product_id: sku, occurred_on: day, kind: kind, event_id: id}}\n"
)


def day(number: int) -> date:
    return START + timedelta(days=number)


def of(name: str, products: Sequence[str], first: int, last: int) -> Claim:
    return Claim(name, frozenset(products), day(first), day(last))


def rows(name: str, cells: Mapping[str, Sequence[int]]) -> pa.Table:
    """An assignment with the days of each product, counted from the start."""
    found = [
        {"experiment_id": name, "product_id": product, "date": day(number), "arm": "control", "in_analysis": True}
        for product, numbers in cells.items()
        for number in numbers
    ]
    return pa.Table.from_pylist(found, schema=TABLES[ASSIGNMENTS].schema)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    world = tiny_lab.world(n_products=4, n_days=10)
    return Workbench.open(tiny_lab.write_lab(tmp_path / "lab", FILES, config=CONFIG, one=world))


def stored(bench: Workbench, name: str, cells: Mapping[str, Sequence[int]]) -> None:
    """Write an assignment as a run would."""
    days = [number for numbers in cells.values() for number in numbers]
    facts = {"start": day(min(days)), "end": day(max(days))}
    bench.lake.write(ASSIGNMENTS, rows(name, cells), name, metadata=facts)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (of("b", "yz", 0, 9), None),
        (of("b", "xy", 10, 19), None),
        (of("b", "xy", 9, 19), "a and b both price product x on 2024-04-10"),
        (of("b", "wxyz", 3, 4), "a and b both price product w and 1 more on 2024-04-04"),
    ],
    ids=["other products", "the day after", "one day", "inside"],
)
def test_two_claims_meet_where_products_and_days_do(other: Claim, said: str | None) -> None:
    one = of("a", "wx", 0, 9)
    assert one.sentence(other) == said
    back = other.sentence(one)
    assert back == (said and said.replace("a and b", "b and a"))


def test_each_pair_is_named_once() -> None:
    claims = {name: of(name, "x", 0, 9) for name in "abc"} | {"d": of("d", "y", 0, 9)}
    assert [said[:7] for said in sentences(claims)] == ["a and b", "a and c", "b and c"]


def test_a_triggered_experiment_claims_its_scope_until_the_last_unit_could_end(bench: Workbench) -> None:
    found = claim(bench, bench.experiment("storm"), ["x", "y"])
    assert (found.products, found.first, found.last) == ({"x", "y"}, START, date(2024, 4, 13))


def test_a_cell_that_another_experiment_prices_is_refused_naming_both(bench: Workbench) -> None:
    stored(bench, "first", {"x": range(14), "y": range(14)})
    with pytest.raises(LabError) as failure:
        refuse(bench, bench.experiment("second"), rows("second", {"y": range(7, 21), "z": range(7, 21)}))
    assert str(failure.value) == (
        "experiments/second.yaml: second and first both price product y on 2024-04-08, and 6 cells more, must be "
        "apart: a product has one price. Narrow the scope of second or of first, or move one of them."
    )


@pytest.mark.parametrize(
    "cells",
    [{"x": range(14, 20)}, {"z": range(14)}, {"x": range(-5, 0)}, {}],
    ids=["after", "other product", "before", "nothing yet"],
)
def test_cells_apart_are_taken(bench: Workbench, cells: Mapping[str, Sequence[int]]) -> None:
    stored(bench, "first", {"x": range(14), "y": range(14)})
    refuse(bench, bench.experiment("second"), rows("second", cells))


def test_windows_that_overlap_do_not_collide_where_cells_do_not(bench: Workbench) -> None:
    """Triggered units hold a few days each: other products, and other days of the same product, stay free."""
    stored(bench, "storm", {"x": range(2, 5), "y": range(9, 12)})
    refuse(bench, bench.experiment("first"), rows("first", {"x": range(5, 9), "y": range(9)}))
    with pytest.raises(LabError, match="first and storm both price product x on 2024-04-05, and 0 cells more"):
        refuse(bench, bench.experiment("first"), rows("first", {"x": range(4, 9), "y": range(9)}))


def test_an_experiment_does_not_collide_with_itself(bench: Workbench) -> None:
    stored(bench, "first", {"x": range(14)})
    refuse(bench, bench.experiment("first"), rows("first", {"x": range(14)}))


def test_the_products_of_a_retired_experiment_are_free(bench: Workbench) -> None:
    stored(bench, "gone", {"x": range(14)})
    assert bench.retired() == ["gone"]
    refuse(bench, bench.experiment("second"), rows("second", {"x": range(7, 21)}))


def test_an_experiment_whose_file_is_broken_keeps_its_products(bench: Workbench) -> None:
    stored(bench, "first", {"x": range(14)})
    (bench.lab.root / "experiments" / "first.yaml").write_text("design: {kind: sometimes}\n")
    again = Workbench.open(bench.lab.root)
    assert list(again.lab.broken) == ["first"]
    with pytest.raises(LabError, match="second and first both price"):
        refuse(again, again.experiment("second"), rows("second", {"x": range(7, 21)}))


def test_cells_after_a_stop_are_free_before_the_stopped_experiment_has_run_again(bench: Workbench) -> None:
    stored(bench, "first", {"x": range(14)})
    path = bench.lab.root / "experiments" / "first.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 14, stop: 2024-04-07"))
    again = Workbench.open(bench.lab.root)
    refuse(again, again.experiment("second"), rows("second", {"x": range(7, 21)}))
    with pytest.raises(LabError, match="second and first both price product x on 2024-04-07, and 0 cells more"):
        refuse(again, again.experiment("second"), rows("second", {"x": range(6, 21)}))


def test_the_plan_is_judged_against_the_same_cells(bench: Workbench) -> None:
    stored(bench, "first", {"x": range(14)})
    stored(bench, "gone", {"y": range(14)})
    path = bench.lab.root / "experiments" / "first.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 14, stop: 2024-04-07"))
    again = Workbench.open(bench.lab.root)
    plan = [{"product_id": product, "date": day(number)} for product in "xy" for number in (6, 7)]
    rows_of_plan = pa.Table.from_pylist(plan, schema=TABLES[PLAN].schema)
    failed = again.failed_assertions(PLAN, rows_of_plan, again.experiment("second"))
    (offending,) = [rows for one, rows in failed if one.name == "assert_one_price_over_all_experiments"]
    assert offending.to_pylist() == [{"product_id": "x", "date": day(6), "also_priced_by": "first"}]
