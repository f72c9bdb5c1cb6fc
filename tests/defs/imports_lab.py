"""A lab of assignments that were drawn elsewhere, prices that the guard puts back, and odd sizes, played to the end."""

import fcntl
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from pricelab_dagster import runner
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

START, DURATION, PHASE, BLACKOUT = date(2024, 4, 1), 14, 7, 2
STEPS = (3, 6, 9)  # days after the start on which a quarter of the products of `stairs` switch each
SOON = date(2024, 4, 22)  # three days before the last date in sales
GUARDED_MULTIPLIER = 0.93


def _imported(design: str, category: str, name: str) -> str:
    return tiny_lab.experiment(design, f"category = '{category}'", more=f"assignment: {{source: data/{name}.csv}}\n")


EXPERIMENTS = {
    "endings": tiny_lab.experiment(
        f"kind: time_bound, start: {START}, duration: {DURATION}",
        "category = 'tea'",
        multiplier=GUARDED_MULTIPLIER,
        more="guard: {endings: [0.49, 0.99]}\n",
    ),
    # seven products: five of one category and one each of two others
    "odd": tiny_lab.experiment("kind: crossover, start: 2024-05-06, phase: 3, blackout: 1", "SCOPE").replace(
        'where: "SCOPE"', "products: ['0000', '0004', '0008', '0012', '0016', '0001', '0002']"
    ),
    "oneway": _imported(
        f"kind: crossover, start: {START}, phase: {PHASE}, phases: 2, blackout: {BLACKOUT}", "fruit", "oneway"
    ),
    "soon": _imported(f"kind: time_bound, start: {SOON}, duration: {DURATION}", "bread", "soon"),
    "stairs": _imported(f"kind: time_bound, start: {START}, duration: {DURATION}", "milk", "stairs"),
    # one day of history
    "young": tiny_lab.experiment("kind: time_bound, start: 2024-01-02, duration: 5", "category = 'tea'"),
}


def world() -> tiny_lab.World:
    """Return the tiny world with prices that end in 49 or 99 cents, and no promotions."""
    one = tiny_lab.world()
    base = np.floor(one.sales.groupby("sku")["price"].transform("max") * 2) / 2 - 0.01
    return tiny_lab.World(one.sales.assign(price=base.round(2)), one.products)


def of(category: str) -> list[str]:
    """Return the products of a category."""
    return [
        f"{number:04d}" for number in range(tiny_lab.N_PRODUCTS) if number % 4 == tiny_lab.CATEGORIES.index(category)
    ]


def drawn(products: list[str], start: date, arm: Callable[[int, int], str]) -> pd.DataFrame:
    """Return an assignment file: `arm` of the number of a product and of a day."""
    rows = [
        (product, start + timedelta(days=day), arm(number, day))
        for number, product in enumerate(products)
        for day in range(DURATION)
    ]
    return pd.DataFrame(rows, columns=["product_id", "date", "arm"])


def stair(number: int, day: int) -> str:
    """Return the arm of `stairs`: the first quarter is never treated."""
    step = number % (len(STEPS) + 1)
    return "treatment" if step and day >= STEPS[step - 1] else "control"


def write(root: Path) -> Path:
    """Write the lab with the sales up to the eve of the start."""
    tiny_lab.write_lab(root, EXPERIMENTS, one=world(), through=tiny_lab.EVE)
    files = {
        "oneway": drawn(
            of("fruit"),
            START,
            lambda _, day: "blackout" if day % PHASE < BLACKOUT else "treatment" if day < PHASE else "control",
        ),
        "stairs": drawn(of("milk"), START, stair),
        "soon": drawn(of("bread"), SOON, lambda number, day: stair(number, day - PHASE)),
    }
    for name, rows in files.items():
        rows.to_csv(root / "data" / f"{name}.csv", index=False)
    return root


def play(root: Path) -> None:
    """Run the experiments before their start, let the sales follow their plans, and run them again."""
    write(root)
    work = runner.Runner(root, lambda step: None)
    try:
        tiny_lab.succeeded([work.refresh(), *work.experiments(list(EXPERIMENTS))])
        sales = world().sales
        for name in EXPERIMENTS:
            sales = tiny_lab.follow(sales, Workbench.open(root).lake.read("experiment.price_plan", name).to_pandas())
        tiny_lab.write_sales(root, sales, through=tiny_lab.AS_OF)
        tiny_lab.succeeded([work.refresh()])
        due, _ = runner.due(Workbench.open(root), [], force=False)
        tiny_lab.succeeded([*work.experiments(due), work.publish()])
    finally:
        work.close()


def played_once(base: Path) -> Path:
    """Return the played lab, made by the first process that asks."""
    root = base / "imports_lab"
    with (base / "imports_lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "imports_lab.done").exists():
            root.mkdir()
            play(root)
            (base / "imports_lab.done").touch()
    return root


if __name__ == "__main__":
    import sys

    play(Path(sys.argv[1]))
