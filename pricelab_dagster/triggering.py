"""What outside events do to a triggered experiment: which start treatment or a ghost, and why the others start nothing.

An event that has been judged keeps its verdict, because the price plan was handed out with it; the table of verdicts
is therefore also the record of which events were seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster.lab import CONTROL, Experiment, Grain, Triggered
from pricelab_dagster.tables import TABLES

TRIGGERS = "experiment.triggers"
STARTED, GHOST, DUPLICATE, LATE = "started", "ghost", "duplicate", "late"
UNKNOWN_PRODUCT, OUTSIDE_WINDOW, INSIDE_RUNNING = "unknown_product", "outside_window", "inside_running"
STARTS = (STARTED, GHOST)
MAX_ROWS = 2  # one duplicate says enough: files that repeat all events would otherwise grow the table every day
STATUSES = {
    STARTED: "the event starts the window of a treated unit",
    GHOST: "the same for a control unit, at the control price: what treated units are compared with",
    DUPLICATE: "the event comes again, or with another date after it counted, or the product had one that day",
    UNKNOWN_PRODUCT: "the lab has no such product",
    OUTSIDE_WINDOW: "before the start, after the horizon, or after a stop",
    INSIDE_RUNNING: "the unit was triggered before: the first trigger alone counts",
    LATE: "when the event came, its first period was in sales already",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One outside event of the kind that triggers, and in how many rows of the source it stands, up to two."""

    event_id: str
    product_id: str
    occurred_on: date
    n_rows: int

    @property
    def key(self) -> tuple[str, str, date]:
        """What makes it this event."""
        return self.event_id, self.product_id, self.occurred_on


@dataclass(frozen=True, slots=True)
class Rules:
    """When an event of an experiment counts, and for how long it sets prices.

    Attributes
    ----------
    design
        With the first and last date of an event that counts.
    grain
        The length of a period.
    end
        Last period of the experiment: the planned one, or a stop.
    as_of
        Last date in sales: a first period up to it was sold at prices that are past changing.
    """

    design: Triggered
    grain: Grain
    end: date
    as_of: date

    @classmethod
    def of(cls, experiment: Experiment, grain: Grain, *, as_of: date) -> "Rules":
        """Return the rules of a triggered experiment."""
        design = experiment.design
        if design.kind != "triggered":
            raise ValueError(f"design.kind == {design.kind!r}, must be 'triggered'. Others start by the calendar.")
        return cls(design, grain, experiment.end(grain), as_of)

    def window(self, occurred_on: date) -> tuple[date, date]:
        """Return the first and last period of a unit with an event on `occurred_on`, up to a stop."""
        last = self.design.last_period(occurred_on, self.grain)
        return self.design.first_period(occurred_on, self.grain), min(last, self.end)


def events_of(staged: pa.Table, kind: str, known_products: Iterable[str], scope: Iterable[str]) -> list[Event]:
    """Return the events that concern an experiment, in the order in which they occurred.

    Those of its kind on a product of its scope, or on a product that the lab does not know at all.

    Parameters
    ----------
    staged : staging.stg_events.
    known_products : every product of the lab.
    """
    inside, known = set(scope), set(known_products)
    found = [
        Event(row["event_id"], row["product_id"], row["occurred_on"], min(row["n_rows"], MAX_ROWS))
        for row in staged.filter(pc.equal(staged["kind"], kind)).to_pylist()
        if row["product_id"] in inside or row["product_id"] not in known
    ]
    return sorted(found, key=lambda event: (event.occurred_on, event.event_id, event.product_id))


def unseen(events: list[Event], stored: pa.Table) -> list[Event]:
    """Return the events, or further copies of them, that `stored` has no row for yet; `n_rows` counts the new rows."""
    counts = _counts(stored)
    return [
        Event(*event.key, n_rows=event.n_rows - counts.get(event.key, 0))
        for event in events
        if event.n_rows > counts.get(event.key, 0)
    ]


def has_started(stored: pa.Table) -> bool:
    """Return whether an event has started a unit, as treatment or as a ghost."""
    return bool(pc.any(pc.is_in(stored["status"], value_set=pa.array(STARTS))).as_py())


def judge(experiment_id: str, events: list[Event], stored: pa.Table, arms: pa.Table, rules: Rules) -> pa.Table:
    """Return `stored` with a row for each event that it has no row for yet.

    A further copy of an event is a `duplicate`, and so are a second date of an event and a second event of a product
    on one day. Of a unit the first event that starts it counts, whichever of its products it touches: later ones are
    `inside_running`. An event is `late` when its first period is in sales already, whatever arm was drawn.

    Parameters
    ----------
    events : in the order in which they occurred.
    arms : experiment.drawn_arms, drawn before any event.
    """
    drawn = {row["product_id"]: (row["unit_id"], row["arm"]) for row in arms.to_pylist()}
    rows = stored.to_pylist()
    seen = set(_counts(stored))
    touched = {(row["event_id"], row["product_id"]) for row in rows if row["status"] in (*STARTS, INSIDE_RUNNING)}
    days = {(row["product_id"], row["occurred_on"]) for row in rows if row["status"] != DUPLICATE}
    running = {drawn[row["product_id"]][0] for row in rows if row["status"] in STARTS}
    for event in unseen(events, stored):
        product, day = event.product_id, event.occurred_on
        unit, arm = drawn.get(product, (None, None))
        n_copies = event.n_rows
        if event.key not in seen:
            status = DUPLICATE
            if (event.event_id, product) not in touched and (product, day) not in days:
                status = _status(unit, arm, day, running, rules)
            first, last = rules.window(day) if status in STARTS else (None, None)
            rows.append(_row(experiment_id, event, arm, status, first, last))
            if status in (*STARTS, INSIDE_RUNNING):
                touched.add((event.event_id, product))
            if status != DUPLICATE:
                days.add((product, day))
            n_copies -= 1
        rows += [_row(experiment_id, event, arm, DUPLICATE) for _ in range(n_copies)]
    return pa.Table.from_pylist(rows, schema=TABLES[TRIGGERS].schema)


def _status(unit: str | None, arm: str | None, day: date, running: set[str], rules: Rules) -> str:
    """Return what an event that was never seen does; a unit that it starts is added to `running`."""
    if arm is None or unit is None:
        return UNKNOWN_PRODUCT
    inside = rules.design.start <= day <= rules.design.horizon
    if not inside or rules.window(day)[0] > rules.end:
        return OUTSIDE_WINDOW
    if unit in running:
        return INSIDE_RUNNING
    if rules.window(day)[0] <= rules.as_of:
        return LATE
    running.add(unit)
    return GHOST if arm == CONTROL else STARTED


def _row(
    experiment_id: str, event: Event, arm: str | None, status: str, start: date | None = None, end: date | None = None
) -> dict[str, object]:
    return {
        "experiment_id": experiment_id,
        "event_id": event.event_id,
        "product_id": event.product_id,
        "occurred_on": event.occurred_on,
        "arm": arm,
        "start": start,
        "end": end,
        "status": status,
    }


def _counts(stored: pa.Table) -> dict[tuple[str, str, date], int]:
    counts: dict[tuple[str, str, date], int] = {}
    for row in stored.select(["event_id", "product_id", "occurred_on"]).to_pylist():
        key = (row["event_id"], row["product_id"], row["occurred_on"])
        counts[key] = counts.get(key, 0) + 1
    return counts
