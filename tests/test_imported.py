from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster import imported
from pricelab_dagster.engine import Engine
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.lake import shape
from pricelab_dagster.models import assertions

Make = Callable[..., Experiment]

START = date(2024, 1, 8)
LETTERS = {"t": "treatment", "c": "control", "-": "blackout"}
SCOPE = ["a", "b", "c", "d", "e"]
PLAIN = {"blackout": 0}


def day(number: int) -> date:
    return START + timedelta(days=number)


def rows(text: str, *, first: int = 0, letters: Mapping[str, str] = LETTERS) -> pd.DataFrame:
    """One row per product and day from lines of `product days`: t treatment, c control, - blackout, . no row.

    The first letter stands for the day `first` after the start.
    """
    found = [
        (product, day(first + number), letters[letter])
        for product, days in (line.split() for line in text.strip().splitlines())
        for number, letter in enumerate(days)
        if letter != "."
    ]
    frame = pd.DataFrame(found, columns=["product_id", "date", "arm"])
    return frame.assign(date=pd.to_datetime(frame["date"]))


def read(text: str, experiment: Experiment, scope: Sequence[str] = SCOPE, **options: Any) -> imported.Imported:
    return imported.read(rows(text), experiment, scope, **options)


def cells(found: imported.Imported, column: str) -> dict[str, list[Any]]:
    """A column by product, in the order of the days."""
    frame = shape("experiment.assignments", found.rows).to_pandas()
    return {str(product): part[column].tolist() for product, part in frame.groupby("product_id")}


def analysed(found: imported.Imported) -> list[str]:
    """Products with a cell in the analysis."""
    return [product for product, flags in cells(found, "in_analysis").items() if any(flags)]


@pytest.fixture
def time_bound(make_experiment: Make) -> Experiment:
    return make_experiment("time_bound", design=PLAIN | {"duration": 4})


@pytest.fixture
def crossover(make_experiment: Make) -> Experiment:
    return make_experiment("crossover", design={"phase": 2, "blackout": 0})


@pytest.fixture
def random_days(make_experiment: Make) -> Experiment:
    return make_experiment("random_days", design=PLAIN | {"duration": 6})


FOLLOWS = {
    "time_bound": "a tttt\nb cccc\nc tttt\nd cccc",
    "crossover": "a ttcc\nb cctt\nc ttcc\nd cctt",
    "random_days": "a tcctct\nb ctctct\nc tttccc\nd ccttct",
}


@pytest.mark.parametrize("kind", FOLLOWS)
def test_arms_that_follow_the_design_are_taken_as_they_stand(request: Any, kind: str) -> None:
    experiment = request.getfixturevalue(kind)
    found = read(FOLLOWS[kind], experiment)
    assert (found.deviations, found.is_staggered) == ((), False)
    assert (found.n_outside_scope, found.n_outside_window) == (0, 0)
    given = rows(FOLLOWS[kind]).sort_values(["product_id", "date"])
    table = shape("experiment.assignments", found.rows)
    assert table["arm"].to_pylist() == given["arm"].tolist()
    assert table["date"].to_pylist() == given["date"].dt.date.tolist()
    assert all(table["in_analysis"].to_pylist())
    assert table["probability"].null_count == table.num_rows
    assert table["unit_id"] == table["product_id"]
    assert set(table["experiment_id"].to_pylist()) == {"milk"}


@pytest.mark.parametrize("kind", FOLLOWS)
def test_what_was_read_passes_the_assertions_of_its_table(request: Any, kind: str) -> None:
    experiment = request.getfixturevalue(kind)
    table = shape("experiment.assignments", read(FOLLOWS[kind], experiment).rows)
    parameters = {"start": experiment.start, "end": experiment.end("day")}
    judged = [one for one in assertions() if one.dependencies == ("experiment.assignments",)]
    assert len(judged) == 4
    for one in judged:
        found = Engine().sql(one.query, tables={"experiment.assignments": table}, parameters=parameters)
        assert found.num_rows == 0, one.name


def test_a_blackout_carries_the_arm_of_the_next_counted_day(random_days: Experiment) -> None:
    found = read("a -t--c\nb cc\nc tctc\nd ctct", random_days)
    assert cells(found, "arm")["a"] == ["treatment"] * 2 + ["control"] * 3
    assert cells(found, "in_analysis")["a"] == [False, True, False, False, True]
    assert cells(found, "arm")["b"] == ["control"] * 2
    assert [len(days) for days in cells(found, "date").values()] == [5, 2, 4, 4]


def test_the_order_of_rows_and_of_the_scope_does_not_matter(random_days: Experiment) -> None:
    given = rows("a -t--c\nb ccct\nc tctc\nd ctct")
    shuffled = given.sample(frac=1, random_state=2)
    assert not shuffled.equals(given)
    assert imported.read(shuffled, random_days, SCOPE[::-1]) == imported.read(given, random_days, SCOPE)


def test_a_blackout_does_not_borrow_the_arm_of_another_product(random_days: Experiment) -> None:
    with pytest.raises(LabError, match=r"assignment\.source == 'blackout'.*product a ends in one"):
        read("a t-\nb cc\nc tc\nd ct", random_days)


def test_products_outside_the_scope_are_left_out_and_counted(time_bound: Experiment) -> None:
    found = read("a tttt\nb cccc\nc tttt\nd cccc\nx tttt\ny cc", time_bound)
    assert (found.n_outside_scope, found.n_outside_window) == (6, 0)
    assert list(cells(found, "arm")) == ["a", "b", "c", "d"]
    assert found.deviations == ()
    with pytest.raises(LabError, match=r"no product in scope.*Widen the scope"):
        read("a tttt\nb cccc", time_bound, ["x"])


def test_rows_outside_the_window_are_left_out_and_counted(time_bound: Experiment) -> None:
    given = rows("a ctttttt\nb ccccccc\nc ttttttt\nd ccccccc", first=-1)
    found = imported.read(given, time_bound, SCOPE)
    assert found.n_outside_window == 4 * 3  # the day before and two after, of four products
    assert {len(days) for days in cells(found, "date").values()} == {4}
    assert found.deviations == ("12 rows lie outside 2024-01-08 to 2024-01-11 and are left out",)
    with pytest.raises(LabError, match=r"no date in the window.*from 2024-01-08 to 2024-01-11.*Correct design\.start"):
        imported.read(rows("a tttt", first=30), time_bound, SCOPE)


def test_a_stop_ends_the_window(make_experiment: Make) -> None:
    stop = {"duration": 4, "stop": "2024-01-09", "stop_reason": "recall"}
    found = read(FOLLOWS["time_bound"], make_experiment("time_bound", design=PLAIN | stop))
    assert {len(days) for days in cells(found, "date").values()} == {2}
    assert found.n_outside_window == 8


@pytest.mark.parametrize("column", ["product_id", "date", "arm"])
def test_an_empty_cell_is_refused(time_bound: Experiment, column: str) -> None:
    given = rows(FOLLOWS["time_bound"])
    given.loc[3, column] = None
    with pytest.raises(LabError, match=r"1 rows with an empty cell.*blackout, control, treatment in every row"):
        imported.read(given, time_bound, SCOPE)


def test_an_arm_with_another_name_is_refused_with_those_allowed(time_bound: Experiment) -> None:
    given = rows(FOLLOWS["time_bound"], letters=LETTERS | {"t": "treated"})
    with pytest.raises(LabError, match=r"'treated'.*blackout, control, treatment"):
        imported.read(given, time_bound, SCOPE)


def test_arms_may_be_named_in_the_file_of_the_experiment(make_experiment: Make) -> None:
    arms = [{"name": "cheaper", "price_multiplier": 0.9}, {"name": "dearer", "price_multiplier": 1.1}]
    experiment = make_experiment("time_bound", design=PLAIN | {"duration": 2}, treatment=arms)
    letters = {"l": "cheaper", "m": "dearer", "c": "control"}
    found = imported.read(rows("a ll\nb mm\nc cc\nd cc", letters=letters), experiment, SCOPE)
    assert [arm[0] for arm in cells(found, "arm").values()] == ["cheaper", "dearer", "control", "control"]
    with pytest.raises(LabError, match="'treatment'"):
        imported.read(rows("a tt"), experiment, SCOPE)


BREAKS = {
    "time_bound": ("e tttc", "one arm throughout, or treatment from a day on"),
    "crossover": ("e ttct", "arms swapped after each 2 periods"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_product_that_contradicts_the_design_keeps_its_prices_and_leaves_the_analysis(
    request: Any, kind: str
) -> None:
    line, rule = BREAKS[kind]
    found = read(f"{FOLLOWS[kind]}\n{line}", request.getfixturevalue(kind))
    assert found.deviations == (f"1 products (e) do not follow {kind} ({rule}) and are left out of the analysis",)
    assert analysed(found) == ["a", "b", "c", "d"]
    assert cells(found, "arm")["e"] == [LETTERS[letter] for letter in line.split()[1]]


@pytest.mark.parametrize("kind", ["time_bound", "crossover"])
def test_a_product_with_two_treatment_arms_contradicts_the_design(make_experiment: Make, kind: str) -> None:
    arms = [{"name": name, "price_multiplier": price} for name, price in (("cheaper", 0.9), ("dearer", 1.1))]
    design = PLAIN | ({"duration": 4} if kind == "time_bound" else {"phase": 1, "phases": 4})
    experiment = make_experiment(kind, design=design, treatment=arms)
    letters = {"l": "cheaper", "m": "dearer", "c": "control"}
    text = (
        "a llll\nb cccc\nc mmmm\nd cccc\ne llmm" if kind == "time_bound" else "a lclc\nb clcl\nc mcmc\nd cmcm\ne lcmc"
    )
    found = imported.read(rows(text, letters=letters), experiment, SCOPE)
    assert analysed(found) == ["a", "b", "c", "d"]
    assert found.deviations[0].startswith(f"1 products (e) do not follow {kind}")


@pytest.mark.parametrize("kind", BREAKS)
def test_fewer_than_four_products_that_follow_are_refused(request: Any, kind: str) -> None:
    line, rule = BREAKS[kind]
    three = "\n".join(FOLLOWS[kind].splitlines()[:3])
    with pytest.raises(LabError) as failure:
        read(f"{three}\n{line}", request.getfixturevalue(kind))
    said = str(failure.value)
    assert said.startswith("experiments/milk.yaml: assignment.source has 3 products that follow the design and 1 ")
    assert f"products (e) that do not, must be 4 or more as {kind} has them: {rule}." in said
    assert said.endswith("Correct that file, or declare design.kind: random_days.")


def test_four_products_are_the_fewest_of_any_design(random_days: Experiment) -> None:
    with pytest.raises(LabError, match=r"3 products that follow the design, must be 4 or more as random_days has them"):
        read("a tc\nb ct\nc tc", random_days)


def test_products_without_some_periods_are_reported(time_bound: Experiment) -> None:
    found = read(FOLLOWS["time_bound"] + "\ne t.tt", time_bound)
    assert found.deviations == ("1 products (e) have fewer than 4 periods",)
    assert analysed(found) == SCOPE


def test_blackouts_that_are_elsewhere_than_declared_are_reported(make_experiment: Make) -> None:
    design = {"phase": 3, "phases": 2, "blackout": 1}
    experiment = make_experiment("crossover", design=design)
    follows = "a -tt-cc\nb -cc-tt\nc -tt-cc\nd -cc-tt"
    assert read(follows, experiment).deviations == ()
    found = read(follows.replace("a -tt-cc", "a ttt--c"), experiment)
    expected = "2 cells are blacked out otherwise than design.blackout == 1 has them"
    assert found.deviations == (expected,)


def test_many_products_are_named_by_three_of_them(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", design=PLAIN | {"duration": 2})
    broken = [f"z{number}" for number in range(5)]
    found = read("a tt\nb cc\nc tt\nd cc\n" + "\n".join(f"{one} tc" for one in broken), experiment, [*SCOPE, *broken])
    assert found.deviations[0].startswith("5 products, such as z0, z1, z2 do not follow time_bound")


def test_treatment_from_a_later_day_on_is_staggered(time_bound: Experiment) -> None:
    found = read("a cttt\nb cccc\nc ccct\nd cccc", time_bound)
    assert found.is_staggered
    assert found.deviations == ()
    assert analysed(found) == ["a", "b", "c", "d"]
    assert not read(FOLLOWS["time_bound"], time_bound).is_staggered
    # a product that leaves treatment again is no late starter
    assert not read(FOLLOWS["time_bound"] + "\ne cttc", time_bound).is_staggered


def test_an_arm_that_changes_inside_a_block_is_reported(make_experiment: Make) -> None:
    experiment = make_experiment("random_days", design=PLAIN | {"duration": 4, "block": 2})
    assert read("a ttcc\nb cctt\nc tttt\nd cccc", experiment).deviations == ()
    found = read("a tctc\nb cctt\nc tttt\nd cccc", experiment)
    assert found.deviations == ("1 products (a) change arm inside a block of 2",)
    assert analysed(found) == ["a", "b", "c", "d"]


def test_weekdays_that_are_not_balanced_are_reported(make_experiment: Make) -> None:
    experiment = make_experiment("random_days", design=PLAIN | {"duration": 14, "balance": "day_of_week"})
    balanced = "a tctctctctctctc\nb ctctctctctctct\nc tttttttccccccc\nd ccccccc" + "t" * 7
    assert read(balanced, experiment).deviations == ()
    found = read(balanced.replace("a tctctctctctctc", "a ttctctctctctcc"), experiment)
    assert found.deviations == ("1 products (a) do not have each weekday once in each arm per fortnight",)


def test_one_sequence_of_a_crossover_is_taken(crossover: Experiment) -> None:
    found = read("a ttcc\nb ttcc\nc ttcc\nd ttcc", crossover)
    assert (found.deviations, analysed(found)) == ((), ["a", "b", "c", "d"])


TRIGGERED = {"kind": "triggered", "duration": 3, "horizon": "2024-01-14", "event": "rain", "blackout": 1}
OWN = {"a": 1, "b": 2, "c": 0, "d": 3}  # day of the event, counted from the start
FOLLOWED = "a ..-tt\nb ...-cc\nc .-tt\nd ....-cc"


def rained(days: Mapping[str, int]) -> dict[str, list[date]]:
    return {product: [day(number)] for product, number in days.items()}


@pytest.fixture
def triggered(make_experiment: Make) -> Experiment:
    return make_experiment("time_bound", design=TRIGGERED)


def test_triggered_products_start_the_day_after_their_own_event(triggered: Experiment) -> None:
    found = read(FOLLOWED, triggered, events=rained(OWN))
    assert found.deviations == ()
    assert analysed(found) == ["a", "b", "c", "d"]
    assert cells(found, "date")["a"] == [day(2), day(3), day(4)]
    # any of its events may have started a product
    several = rained(OWN) | {"a": [day(0), day(1), day(5)]}
    assert read(FOLLOWED, triggered, events=several).deviations == ()


@pytest.mark.parametrize(
    ("line", "event"),
    [("e .-ttt", 1), ("e -tt", 0), ("e ..-tc", 1), ("e ..-t.t", 1)],
    ids=["before", "on the day", "changes", "gap"],
)
def test_a_product_that_does_not_follow_its_event_leaves_the_analysis(
    triggered: Experiment, line: str, event: int
) -> None:
    found = read(f"{FOLLOWED}\n{line}", triggered, events=rained(OWN | {"e": event}))
    said = (
        "1 products (e) do not follow triggered (one arm from the period after an event of the product, without gaps)"
    )
    assert said in " ".join(found.deviations)
    assert analysed(found) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("without", "arm"), [(("b", "d"), "control"), (("b",), "control"), (("a", "c"), "treated")])
def test_an_arm_that_had_no_event_is_no_comparison(triggered: Experiment, without: tuple[str, ...], arm: str) -> None:
    events = rained({product: number for product, number in OWN.items() if product not in without})
    with pytest.raises(LabError) as failure:
        read(FOLLOWED, triggered, events=events)
    assert str(failure.value) == (
        f"experiments/milk.yaml: assignment.source has {len(without)} products ({', '.join(without)}), {arm}, that had "
        "no event 'rain', must be of triggered products alone: a triggered product may be compared with no other. "
        "Give each control product its own event (a ghost trigger), or declare design.kind: time_bound."
    )


def test_without_any_event_no_product_is_triggered(triggered: Experiment) -> None:
    with pytest.raises(
        LabError, match=r"0 products that follow the design and 4 products, such as a, b, c that do not"
    ):
        read(FOLLOWED, triggered)


def test_by_week_events_start_the_next_week(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", design=TRIGGERED | {"duration": 2, "horizon": "2024-02-04"})
    weeks = {"a": (7, "treatment"), "b": (7, "control"), "c": (14, "treatment"), "d": (14, "control")}
    given = pd.DataFrame(
        [
            (product, day(first + 7 * week), "blackout" if week == 0 else arm)
            for product, (first, arm) in weeks.items()
            for week in range(2)
        ],
        columns=["product_id", "date", "arm"],
    )
    given["date"] = pd.to_datetime(given["date"])
    events = rained({"a": 0, "b": 6, "c": 7, "d": 13})
    assert imported.read(given, experiment, SCOPE, grain="week", events=events).deviations == ()
    late = imported.read(given, experiment, SCOPE, grain="week", events=events | {"e": [day(3)]})
    assert late.deviations == ()
    with pytest.raises(LabError, match="0 products that follow"):
        imported.read(given, experiment, SCOPE, grain="week", events=rained(dict.fromkeys("abcd", 20)))


def test_dates_between_the_weeks_are_refused(make_experiment: Make) -> None:
    """A row on a Wednesday would meet no period of the sales and drop out in silence."""
    experiment = make_experiment("time_bound", design=PLAIN | {"duration": 2})
    given = pd.DataFrame(
        [
            (product, day(7 * week), "treatment" if product in "ac" else "control")
            for product in "abcd"
            for week in (0, 1)
        ],
        columns=["product_id", "date", "arm"],
    )
    given["date"] = pd.to_datetime(given["date"])
    assert imported.read(given, experiment, SCOPE, grain="week").deviations == ()
    given.loc[given["product_id"] == "b", "date"] += np.timedelta64(2, "D")
    with pytest.raises(LabError, match=r"source == 2024-01-10, must be the label of a week, such as 2024-01-08"):
        imported.read(given, experiment, SCOPE, grain="week")


def test_the_table_has_the_types_of_the_lake(time_bound: Experiment) -> None:
    table = read(FOLLOWS["time_bound"], time_bound).rows
    types = {field.name: field.type for field in table.schema}
    assert (types["date"], types["in_analysis"], types["probability"]) == (pa.date32(), pa.bool_(), pa.float64())
