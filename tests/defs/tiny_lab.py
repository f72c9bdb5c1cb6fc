"""A lab small enough to run whole in seconds: 64 products in four categories, sold from 2024 on."""

import fcntl
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

FIRST, EVE, AS_OF = date(2024, 1, 1), date(2024, 3, 31), date(2024, 4, 25)
CATEGORIES = ("bread", "fruit", "milk", "tea")
N_PRODUCTS = 64
MULTIPLIER = 0.8
ELASTICITY = -2.0
N_TREES, N_REPLICATES = 20, 50
SMALL = f"analysis: {{forest: {{n_trees: {N_TREES}}}, bootstrap: {{n_replicates: {N_REPLICATES}}}}}\n"

CONFIG = """\
sales:
  source: data/sales.csv
  columns: {product_id: sku, date: day, units: units, price: "spend / nullif(units, 0)", cost: cost}
products:
  source: data/products.csv
  columns: {product_id: sku, category: category}
  attributes: [size, brand]
prices:
  incumbent:
    source: data/incumbent.parquet
    columns: {product_id: sku, date: day, price: price}
time_zone: Europe/Berlin
schedule: {cron: "30 4 * * 1"}
"""


def experiment(
    design: str, where: str, *, multiplier: float = MULTIPLIER, metrics: str = "units, revenue", more: str = ""
) -> str:
    """Return an experiment file; `more` holds further top-level keys."""
    return (
        f'design: {{{design}}}\nscope: {{where: "{where}"}}\ntreatment: {{price_multiplier: {multiplier}}}\n'
        f"metrics: [{metrics}]\n{SMALL}{more}"
    )


EXPERIMENTS = {
    "cut": experiment(
        "kind: time_bound, start: 2024-04-01, duration: 14",
        "category in ('bread', 'milk') and brand = 'own'",
        metrics="units, revenue, profit",
        more="title: A fifth cheaper\nowner: bakery@example.com\n",
    ),
    "days": experiment(
        "kind: random_days, start: 2024-04-01, duration: 14", "category in ('bread', 'milk') and brand = 'other'"
    ),
    "going": experiment("kind: time_bound, start: 2024-04-22, duration: 14", "category = 'fruit'").replace(
        "analysis: {", "analysis: {detrend: {method: auto}, "
    ),
    "later": experiment("kind: time_bound, start: 2024-05-06, duration: 14", "category = 'milk'"),
    "phases": experiment("kind: crossover, start: 2024-04-08, phase: 7, phases: 2, blackout: 2", "category = 'fruit'"),
    "stopped": experiment(
        "kind: time_bound, start: 2024-04-01, duration: 21, stop: 2024-04-10, stop_reason: out of tea",
        "category = 'tea'",
    ),
}
CONCLUDED = ("cut", "days", "phases", "stopped")


@dataclass(frozen=True)
class World:
    """What the shops would sell without experiments: one row per product and day, and the products."""

    sales: pd.DataFrame
    products: pd.DataFrame

    @property
    def incumbent(self) -> pd.DataFrame:
        """The prices of the running policy."""
        return self.sales[["sku", "day", "price"]]


def world(*, n_products: int = N_PRODUCTS, n_days: int = 116, seed: int = 1) -> World:
    """Return products with a level and a price of their own, weekly promotions, and noise in the units."""
    rng = np.random.default_rng(seed)
    number = np.arange(n_products)
    products = pd.DataFrame(
        {
            "sku": [f"{one:04d}" for one in number],
            "category": np.array(CATEGORIES)[number % len(CATEGORIES)],
            "size": rng.integers(1, 9, n_products),
            "brand": np.where(number // len(CATEGORIES) % 2, "other", "own"),
        }
    )
    days = [FIRST + timedelta(days=day) for day in range(n_days)]
    base = rng.uniform(2, 6, n_products).round(2)
    depth = np.where(rng.random((n_products, n_days // 7 + 1)) < 0.2, 0.8, 1.0).repeat(7, axis=1)[:, :n_days]
    price = (base[:, None] * depth).round(2)
    units = rng.poisson(rng.uniform(8, 30, n_products)[:, None] * depth**ELASTICITY) + 1
    sales = pd.DataFrame(
        {
            "sku": np.repeat(products["sku"].to_numpy(), n_days),
            "day": np.tile(np.array(days, dtype=object), n_products),
            "units": units.ravel(),
            "price": price.ravel(),
            "cost": np.repeat((0.5 * base).round(2), n_days),
        }
    )
    return World(sales, products)


def follow(sales: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Return the sales when the shops charge the prices of a plan and demand answers with ELASTICITY."""
    planned = plan.rename(columns={"product_id": "sku", "date": "day", "price": "planned"})[["sku", "day", "planned"]]
    both = sales.merge(planned, on=["sku", "day"], how="left")
    ratio = (both["planned"] / both["price"]).fillna(1.0)
    units = (both["units"] * ratio**ELASTICITY).round()
    return both.assign(units=units, price=both["planned"].fillna(both["price"])).drop(columns="planned")


def write_sales(root: Path, sales: pd.DataFrame, *, through: date = date.max) -> None:
    """Write what was sold up to and with a day as data/sales.csv."""
    known = sales[sales["day"] <= through]
    spend = (known["units"] * known["price"]).round(2)
    (root / "data").mkdir(parents=True, exist_ok=True)
    known.assign(spend=spend).drop(columns="price").to_csv(root / "data" / "sales.csv", index=False)


def write_lab(
    root: Path, experiments: dict[str, str], *, config: str = CONFIG, one: World | None = None, through: date = AS_OF
) -> Path:
    """Write a lab with the sales of a world up to a day, and return its folder."""
    one = one or world()
    write_sales(root, one.sales, through=through)
    one.products.to_csv(root / "data" / "products.csv", index=False)
    one.incumbent.to_parquet(root / "data" / "incumbent.parquet", index=False)
    (root / "pricelab.yaml").write_text(config)
    (root / "experiments").mkdir()
    for name, text in experiments.items():
        (root / "experiments" / f"{name}.yaml").write_text(text)
    return root


def play(root: Path) -> None:
    """Run the experiments of a lab before their start, let the sales follow their plans, and run them again."""
    from pricelab_dagster import runner
    from pricelab_dagster.workbench import Workbench

    one = world()
    write_lab(root, EXPERIMENTS, one=one, through=EVE)
    work = runner.Runner(root, lambda step: None)
    try:
        succeeded([work.refresh(), *work.experiments(list(EXPERIMENTS))])
        sales = one.sales
        for name in EXPERIMENTS:
            sales = follow(sales, Workbench.open(root).lake.read("experiment.price_plan", name).to_pandas())
        write_sales(root, sales, through=AS_OF)
        succeeded([work.refresh(), *work.experiments(list(EXPERIMENTS)), work.publish()])
    finally:
        work.close()


def succeeded(outcomes: Iterable) -> None:
    """Fail with the message of the first run that failed."""
    for outcome in outcomes:
        assert outcome.succeeded, outcome


def played_once(base: Path) -> Path:
    """Return a played lab under `base`, made by the first process that asks."""
    root = base / "played_lab"
    with (base / "played_lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "played_lab.done").exists():
            root.mkdir()
            play(root)
            (base / "played_lab.done").touch()
    return root


def shared_base(base_of_worker: Path) -> Path:
    """Return the folder that all test processes of one run share."""
    return base_of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else base_of_worker


def tree(root: Path, *, under: str = "**/*") -> dict[str, str]:
    """Return the hash of every file of a folder by its relative path."""
    files = sorted(path for path in root.glob(under) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lake(root: Path) -> dict[str, str]:
    """Return the hash of every file of a lab's lake."""
    return tree(root / "lake")
