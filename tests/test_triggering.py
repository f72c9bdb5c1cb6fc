from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from itertools import permutations
from typing import Any

import pyarrow as pa
import pytest

from pricelab_dagster.lab import Experiment, Grain
from pricelab_dagster.lake import shape
from pricelab_dagster.tables import TABLES
from pricelab_dagster.triggering import TRIGGERS, Event, Rules, events_of, judge, unseen

Make = Callable[..., Experiment]

KIND = "rain"
DESIGN = {"kind": "triggered", "duration": 5, "horizon": "2024-01-21", "event": KIND}
EVE = date(2024, 1, 7)  # of the start on Monday, the eighth
ARMS = {"a": "treatment", "b": "control", "c": "treatment", "d": "control"}
NOTHING = TABLES[TRIGGERS].schema.empty_table()


def day(number: int) -> date:
    return date(2024, 1, 1) + timedelta(days=number - 1)


@pytest.fixture
def rules(make_experiment: Make) -> Callable[..., Rules]:
    def make(*, as_of: date = EVE, grain: Grain = "day", **design: Any) -> Rules:
        return Rules.of(make_experiment("time_bound", design={"blackout": 0} | DESIGN | design), grain, as_of=as_of)

    return make


def arms(units: dict[str, str] | None = None) -> pa.Table:
    """The drawn arms; `units` names the unit of each product, by default the product."""
    rows = [
        {"experiment_id": "milk", "product_id": product, "unit_id": (units or {}).get(product, product), "arm": arm}
        for product, arm in ARMS.items()
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["experiment.drawn_arms"].schema)


def happened(text: str) -> list[Event]:
    """Events from `id product day [copies]`, in the order in which `events_of` gives them."""
    found = []
    for line in text.strip().splitlines():
        name, product, number, *copies = line.split()
        found.append(Event(name, product, day(int(number)), int(copies[0]) if copies else 1))
    return sorted(found, key=lambda event: (event.occurred_on, event.event_id, event.product_id))


def judged(text: str, rules: Rules, stored: pa.Table = NOTHING, units: dict[str, str] | None = None) -> pa.Table:
    """The verdicts as the lake stores them."""
    return shape(TRIGGERS, judge("milk", happened(text), stored, arms(units), rules))


def verdicts(rows: pa.Table) -> list[tuple[str, str, str]]:
    """Event, product and status."""
    return [(row["event_id"], row["product_id"], row["status"]) for row in rows.to_pylist()]


def statuses(rows: pa.Table) -> dict[str, str]:
    """Status by event, for events with one row."""
    return {event: status for event, _, status in verdicts(rows)}


def of(rows: pa.Table, event_id: str) -> dict[str, Any]:
    (row,) = [row for row in rows.to_pylist() if row["event_id"] == event_id]
    return row


def test_a_treated_product_starts_the_day_after_and_a_control_product_as_a_ghost(rules: Callable) -> None:
    rows = judged("e1 a 10\ne2 b 11", rules())
    treated, ghost = of(rows, "e1"), of(rows, "e2")
    assert (treated["status"], treated["arm"], treated["start"], treated["end"]) == (
        "started",
        "treatment",
        day(11),
        day(15),
    )
    assert (ghost["status"], ghost["arm"], ghost["start"], ghost["end"]) == ("ghost", "control", day(12), day(16))
    assert set(rows["experiment_id"].to_pylist()) == {"milk"}


@pytest.mark.parametrize(
    ("number", "as_of", "status"),
    [
        (7, 7, "outside_window"),  # the day before the start
        (8, 7, "started"),  # the start itself
        (21, 7, "started"),  # the horizon itself
        (22, 7, "outside_window"),  # the day after it
        (10, 10, "started"),  # its first period, the eleventh, is not sold yet
        (10, 11, "late"),  # its first period is sold
        (7, 20, "outside_window"),  # late as well, but it never counted
    ],
)
def test_a_status_by_the_day_of_the_event_and_the_last_date_in_sales(
    rules: Callable, number: int, as_of: int, status: str
) -> None:
    row = of(judged(f"e a {number}", rules(as_of=day(as_of))), "e")
    assert row["status"] == status
    assert (row["start"] is None) == (row["end"] is None) == (status != "started")


@pytest.mark.parametrize("product", ["b", "c"])
def test_an_event_is_late_whatever_arm_was_drawn(rules: Callable, product: str) -> None:
    row = of(judged(f"e {product} 10", rules(as_of=day(14))), "e")
    assert (row["status"], row["arm"]) == ("late", ARMS[product])


def test_a_product_outside_the_scope_has_no_arm(rules: Callable) -> None:
    row = of(judged("e nowhere 10", rules()), "e")
    assert (row["status"], row["arm"]) == ("unknown_product", None)


def test_a_second_event_of_a_product_starts_nothing_also_after_its_window(rules: Callable) -> None:
    rows = judged("e1 a 8\ne2 a 10\ne3 a 20", rules())
    assert statuses(rows) == {"e1": "started", "e2": "inside_running", "e3": "inside_running"}


def test_a_late_event_leaves_the_product_to_its_next_one(rules: Callable) -> None:
    rows = judged("e1 a 8\ne2 a 12", rules(as_of=day(12)))
    assert statuses(rows) == {"e1": "late", "e2": "started"}
    assert of(rows, "e2")["start"] == day(13)


def test_an_event_outside_the_window_leaves_the_product_to_its_next_one(rules: Callable) -> None:
    assert statuses(judged("e1 a 5\ne2 a 9", rules())) == {"e1": "outside_window", "e2": "started"}


def test_copies_of_an_event_in_one_file_count_once(rules: Callable) -> None:
    rows = judged("e1 a 10 3\ne2 b 10 2", rules())
    assert Counter(verdicts(rows)) == {
        ("e1", "a", "started"): 1,
        ("e1", "a", "duplicate"): 2,
        ("e2", "b", "ghost"): 1,
        ("e2", "b", "duplicate"): 1,
    }


def test_a_further_copy_in_a_later_file_is_one_more_duplicate(rules: Callable) -> None:
    first = judged("e1 a 10 2", rules())
    both = judged("e1 a 10 3", rules(as_of=day(12)), first)
    assert Counter(status for _, _, status in verdicts(both)) == {"started": 1, "duplicate": 2}
    assert of(both.filter(pa.compute.equal(both["status"], "started")), "e1")["start"] == day(11)


def test_a_second_date_of_an_event_is_a_duplicate_of_the_first(rules: Callable) -> None:
    in_one_file = judged("e1 a 12\ne1 a 10", rules())
    assert [(row["occurred_on"], row["status"]) for row in in_one_file.to_pylist()] == [
        (day(10), "started"),
        (day(12), "duplicate"),
    ]
    first = judged("e1 a 12", rules())
    both = judged("e1 a 12\ne1 a 10", rules(), first)
    assert [(row["occurred_on"], row["status"]) for row in both.to_pylist()] == [
        (day(10), "duplicate"),
        (day(12), "started"),
    ]


def test_a_second_event_of_a_product_on_one_day_is_a_duplicate(rules: Callable) -> None:
    assert statuses(judged("e1 a 10\ne2 a 10", rules())) == {"e1": "started", "e2": "duplicate"}
    # on another product the same day is an event of its own
    assert statuses(judged("e1 a 10\ne2 c 10", rules())) == {"e1": "started", "e2": "started"}


def test_an_event_on_the_second_date_of_another_one_is_judged_on_its_own(rules: Callable) -> None:
    rows = judged("e1 a 10\ne1 a 11\ne2 a 11", rules())
    assert [(event, status) for event, _, status in verdicts(rows)] == [
        ("e1", "started"),
        ("e1", "duplicate"),
        ("e2", "inside_running"),
    ]


def test_an_id_that_recurs_after_an_event_that_did_not_count_is_judged_on_its_own(rules: Callable) -> None:
    """A campaign that names all of its days alike must not lose the first one that counts."""
    rows = judged("campaign a 5\ncampaign a 10\ncampaign a 11", rules())
    assert [status for _, _, status in verdicts(rows)] == ["outside_window", "started", "duplicate"]


def test_one_event_may_touch_several_products(rules: Callable) -> None:
    assert verdicts(judged("e a 10\ne b 10", rules())) == [("e", "a", "started"), ("e", "b", "ghost")]


def test_products_of_a_cluster_start_together_at_its_first_event(rules: Callable) -> None:
    units = {"a": "one", "c": "one", "b": "other", "d": "other"}
    rows = judged("e1 c 10\ne2 a 11\ne3 d 12\ne4 b 12", rules(), units=units)
    assert statuses(rows) == {"e1": "started", "e2": "inside_running", "e3": "ghost", "e4": "inside_running"}
    # also when the second product of the cluster is touched in a later file
    first = judged("e1 c 10", rules(), units=units)
    assert statuses(judged("e1 c 10\ne2 a 11", rules(), first, units)) == {"e1": "started", "e2": "inside_running"}


WEEKLY = {"duration": 3, "horizon": "2024-02-04"}


@pytest.mark.parametrize(
    ("number", "start", "end"), [(8, 15, 29), (14, 15, 29), (15, 22, 36)], ids=["monday", "sunday", "next monday"]
)
def test_by_week_a_product_starts_with_the_week_after(rules: Callable, number: int, start: int, end: int) -> None:
    row = of(judged(f"e a {number}", rules(grain="week", **WEEKLY)), "e")
    assert (row["status"], row["start"], row["end"]) == ("started", day(start), day(end))


def test_by_week_an_event_is_late_once_its_first_week_is_in_sales(rules: Callable) -> None:
    weekly = {"grain": "week", **WEEKLY}
    assert statuses(judged("e a 10", rules(as_of=day(8), **weekly))) == {"e": "started"}
    assert statuses(judged("e a 10", rules(as_of=day(15), **weekly))) == {"e": "late"}


def test_a_stop_cuts_windows_and_refuses_events_whose_first_period_lies_after_it(rules: Callable) -> None:
    rows = judged("e1 a 10\ne2 b 11\ne3 c 12", rules(stop="2024-01-12", stop_reason="recall"))
    assert (of(rows, "e1")["start"], of(rows, "e1")["end"]) == (day(11), day(12))
    assert (of(rows, "e2")["start"], of(rows, "e2")["end"]) == (day(12), day(12))
    assert statuses(rows) == {"e1": "started", "e2": "ghost", "e3": "outside_window"}


def test_a_stop_leaves_verdicts_from_before_it(rules: Callable) -> None:
    first = judged("e1 a 10", rules())
    assert judged("e1 a 10", rules(stop="2024-01-12", stop_reason="recall"), first) == first


EVERYTHING = """
    e1 a 10 2
    e2 a 12
    e3 b 10
    e3 b 11
    e4 nowhere 9
    e5 c 3
    e6 c 20
    e7 d 10
    e8 d 10
"""


def test_judging_twice_gives_the_same_rows(rules: Callable) -> None:
    once = judged(EVERYTHING, rules())
    assert judged(EVERYTHING, rules(), once) == once
    assert judged(EVERYTHING, rules(as_of=day(25)), once) == once
    expected = {
        "started": 2,
        "ghost": 2,
        "duplicate": 3,
        "inside_running": 1,
        "unknown_product": 1,
        "outside_window": 1,
    }
    assert Counter(status for _, _, status in verdicts(once)) == expected


def test_every_row_of_every_file_has_one_verdict(rules: Callable) -> None:
    rows = judged(EVERYTHING, rules())
    assert rows.num_rows == sum(event.n_rows for event in happened(EVERYTHING))


def test_a_verdict_stays_when_its_event_disappears(rules: Callable) -> None:
    once = judged(EVERYTHING, rules())
    assert judged("e7 d 10", rules(as_of=day(12)), once) == once
    without = judged("e7 d 10\ne9 a 14", rules(as_of=day(12)), once)
    assert without.num_rows == once.num_rows + 1
    assert of(without, "e9")["status"] == "inside_running"


def test_a_late_event_stays_late(rules: Callable) -> None:
    late = judged("e a 10", rules(as_of=day(14)))
    assert statuses(late) == {"e": "late"}
    assert judged("e a 10", rules(as_of=EVE), late) == late


def test_an_event_on_time_stays_started_when_it_is_judged_again_later(rules: Callable) -> None:
    started = judged("e a 10", rules(as_of=day(10)))
    assert judged("e a 10", rules(as_of=day(20)), started) == started


def test_the_order_of_files_that_come_together_does_not_matter(rules: Callable) -> None:
    kinds = {"event_id": pa.string(), "product_id": pa.string(), "occurred_on": pa.date32(), "kind": pa.string()}
    schema = pa.schema([*kinds.items(), ("n_rows", pa.int64())])
    rows = [
        {"event_id": event.event_id, "product_id": event.product_id, "occurred_on": event.occurred_on, "kind": KIND}
        | {"n_rows": event.n_rows}
        for event in happened("e1 a 12\ne2 a 10\ne3 b 9\ne4 c 10 2")
    ]
    found = set()
    for order in permutations(rows):
        events = events_of(pa.Table.from_pylist(list(order), schema=schema), KIND, ARMS, ARMS)
        found.add(str(judge("milk", events, NOTHING, arms(), rules()).to_pylist()))
    assert len(found) == 1


def test_files_that_come_one_after_the_other_lose_nothing_and_double_nothing(rules: Callable) -> None:
    """Products of which one event was delivered come out alike in any order of the files, on time."""
    lines = ["e1 a 12", "e2 b 10", "e3 c 9", "e4 nowhere 9", "e5 d 3"]
    found = set()
    for order in permutations(lines):
        stored = NOTHING
        for n_files in range(1, len(order) + 1):
            stored = judged("\n".join(order[:n_files]), rules(), stored)
        found.add(str(stored.to_pylist()))
    assert len(found) == 1


def test_unseen_are_events_and_copies_without_a_verdict(rules: Callable) -> None:
    stored = judged("e1 a 10 2\ne2 b 10", rules())
    assert unseen(happened("e1 a 10 2\ne2 b 10"), stored) == []
    assert unseen(happened("e1 a 10"), stored) == []
    assert unseen(happened("e1 a 10 3\ne2 b 11\ne3 c 10"), stored) == happened("e1 a 10\ne2 b 11\ne3 c 10")
    assert unseen(happened("e1 a 10 2"), NOTHING) == happened("e1 a 10 2")


def test_the_events_of_an_experiment_are_those_of_its_kind_on_its_products_or_on_unknown_ones() -> None:
    schema = TABLES["staging.stg_events"].schema
    rows = [
        {"event_id": name, "product_id": product, "occurred_on": day(10), "kind": kind, "n_rows": 1}
        for name, product, kind in [
            ("in scope", "a", KIND),
            ("other kind", "a", "snow"),
            ("known, not in scope", "z", KIND),
            ("unknown", "nowhere", KIND),
            ("no kind", "a", None),
        ]
    ]
    found = events_of(pa.Table.from_pylist(rows, schema=schema), KIND, [*ARMS, "z"], ARMS)
    assert [event.event_id for event in found] == ["in scope", "unknown"]


def test_rules_are_those_of_a_triggered_design(make_experiment: Make) -> None:
    with pytest.raises(ValueError, match=r"design\.kind == 'crossover', must be 'triggered'\. Others start by"):
        Rules.of(make_experiment("crossover"), "day", as_of=EVE)
