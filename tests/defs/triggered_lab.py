"""A lab with a triggered experiment, played day by day: event files arrive, the plan grows, the shops follow it."""

import fcntl
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
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
STAGES = ("drawn", "week1", "week2", "end")
WEEK1 = date(2024, 4, 7)  # last date in sales at week2


def write(root: Path, *, experiment: str = EXPERIMENT, config: str = CONFIG, through: date = tiny_lab.EVE) -> Path:
    """Write the lab with the sales up to a day and no event file yet."""
    tiny_lab.write_lab(root, {NAME: experiment}, config=config, through=through)
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


def play(root: Path, keep: Callable[[str], object] = lambda stage: None, *, config: str = CONFIG) -> None:
    """Three weeks: events on time and late, twice, unknown and outside, then the sales to the end.

    `keep` is called with the name of each of STAGES when it is reached.
    """
    write(root, config=config)
    run(root)
    keep("drawn")
    scope = drawn(root)["product_id"].tolist()
    first = [event(k, scope[k], START + timedelta(days=k % 3)) for k in range(16)]
    deliver(root, "week1", [*first, first[0], event(90, "nowhere", START), event(91, scope[40], START, "snow")])
    run(root)
    keep("week1")
    follow(root, through=WEEK1)
    second = [event(k, scope[k], date(2024, 4, 8) + timedelta(days=k % 4)) for k in range(16, 36)]
    late = [event(92, scope[36], date(2024, 4, 3)), event(93, scope[37], START - timedelta(days=1))]
    again = [first[1], event(94, scope[0], date(2024, 4, 9))]
    deliver(root, "week2", [*second, *late, *again])
    run(root)
    keep("week2")
    follow(root, through=tiny_lab.AS_OF)
    run(root)
    keep("end")


def played_once(base: Path) -> Path:
    """Return a folder with the played lab at each of STAGES, made by the first process that asks."""
    root = base / "triggered_lab"
    with (base / "triggered_lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "triggered_lab.done").exists():
            (root / "lab").mkdir(parents=True)
            play(root / "lab", lambda stage: shutil.copytree(root / "lab", root / stage))
            (base / "triggered_lab.done").touch()
    return root


def pairs(root: Path) -> Path:
    """Write a lab of 24 products of which each even one and the next are strong substitutes, drawn by cluster."""
    rng = np.random.default_rng(5)
    n, n_days = 24, 230
    moved = np.exp(rng.normal(0, 0.2, (n, n_days // 7 + 1))).repeat(7, axis=1)[:, :n_days]
    units = rng.poisson(rng.uniform(60, 120, n)[:, None] * moved**-2.0 * moved[np.arange(n) ^ 1] ** 1.5)
    one = tiny_lab.world(n_products=n, n_days=n_days)
    one.products["category"] = np.array(["a", "b", "c"])[np.arange(n) // 8]
    one.sales["units"], one.sales["price"] = units.ravel(), (3 * moved).round(2).ravel()
    last = one.sales["day"].max()
    design = f"kind: triggered, start: {last + timedelta(days=1)}, horizon: {last + timedelta(days=9)}, duration: 4"
    text = tiny_lab.experiment(f"{design}, event: {KIND}", "units_per_day > 0", more="assignment: {unit: cluster}\n")
    tiny_lab.write_lab(root, {NAME: text}, config=CONFIG, one=one, through=date.max)
    (root / "data" / "events").mkdir()
    return root


def drawn(root: Path) -> pd.DataFrame:
    """Return the arms drawn in advance, sorted by product."""
    return Workbench.open(root).lake.read("experiment.drawn_arms", NAME).to_pandas()


if __name__ == "__main__":
    import sys

    play(Path(sys.argv[1]))
