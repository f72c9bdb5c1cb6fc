"""A lab with a triggered experiment, played day by day: event files arrive, the plan grows, the shops follow it."""

from datetime import date, timedelta
from pathlib import Path

import pandas as pd

from pricelab_dagster import runner
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

START, HORIZON, DURATION, BLACKOUT = date(2024, 4, 1), date(2024, 4, 14), 6, 1
NAME, KIND = "rain", "rain"
CONFIG = (
    tiny_lab.CONFIG
    + """\
events:
  source: data/events/*.csv
  columns: {event_id: id, product_id: sku, occurred_on: day, kind: kind}
"""
)
EXPERIMENT = tiny_lab.experiment(
    f"kind: triggered, start: {START}, horizon: {HORIZON}, duration: {DURATION}, blackout: {BLACKOUT}, event: {KIND}",
    "category in ('bread', 'fruit', 'milk')",
)
N_SCOPE = 48


def write(root: Path, *, experiment: str = EXPERIMENT, through: date = tiny_lab.EVE) -> Path:
    """Write the lab with the sales up to a day and no event file yet."""
    tiny_lab.write_lab(root, {NAME: experiment}, config=CONFIG, through=through)
    (root / "data" / "events").mkdir()
    return root


def event(number: int, sku: str, day: date, kind: str = KIND) -> dict[str, object]:
    """Return one event."""
    return {"id": f"e{number}", "sku": sku, "day": day, "kind": kind}


def deliver(root: Path, name: str, events: list[dict[str, object]]) -> None:
    """Write one event file."""
    columns = ["id", "sku", "day", "kind"]
    pd.DataFrame(events, columns=columns).to_csv(root / "data" / "events" / f"{name}.csv", index=False)


def run(root: Path) -> None:
    """Read the sources and run what is due, as `pricelab run` does."""
    work = runner.Runner(root, lambda step: None)
    try:
        tiny_lab.succeeded([work.refresh()])
        due, _ = runner.due(Workbench.open(root), [], force=False)
        tiny_lab.succeeded([*work.experiments(due), work.publish()])
    finally:
        work.close()


def follow(root: Path, *, through: date) -> None:
    """Write the sales up to a day, at the prices of the plan as it stands."""
    plan = Workbench.open(root).lake.read("experiment.price_plan", NAME).to_pandas()
    tiny_lab.write_sales(root, tiny_lab.follow(tiny_lab.world().sales, plan), through=through)


def play(root: Path) -> None:
    """Three weeks: events on time and late, twice, unknown and outside, then the sales to the end."""
    write(root)
    run(root)
    scope = drawn(root)["product_id"].tolist()
    first = [event(k, scope[k], START + timedelta(days=k % 3)) for k in range(16)]
    deliver(root, "week1", [*first, first[0], event(90, "nowhere", START), event(91, scope[40], START, "snow")])
    run(root)
    follow(root, through=date(2024, 4, 7))
    second = [event(k, scope[k], date(2024, 4, 8) + timedelta(days=k % 4)) for k in range(16, 36)]
    late = [event(92, scope[36], date(2024, 4, 3)), event(93, scope[37], START - timedelta(days=1))]
    again = [first[1], event(94, scope[0], date(2024, 4, 9))]
    deliver(root, "week2", [*second, *late, *again])
    run(root)
    follow(root, through=tiny_lab.AS_OF)
    run(root)


def drawn(root: Path) -> pd.DataFrame:
    """Return the arms drawn in advance, sorted by product."""
    return Workbench.open(root).lake.read("experiment.drawn_arms", NAME).to_pandas()


if __name__ == "__main__":
    import sys

    play(Path(sys.argv[1]))
