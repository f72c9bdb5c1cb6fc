"""A lab with three treatment arms in each of the four designs, in a world with little noise, played to the end."""

import fcntl
import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from pricelab_dagster import runner
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab, triggered_lab

ARMS = {"tenth-off": 0.9, "twentieth-off": 0.95, "twentieth-up": 1.05}
DESIGNS = {
    "switch": ("time_bound, duration: 12", "bread"),
    "phases": ("crossover, phase: 6, blackout: 1", "fruit"),
    "days": ("random_days, duration: 12, balance: none", "milk"),
    "rain": ("triggered, duration: 8, horizon: 2024-04-06, event: rain", "tea"),
}
START, END = date(2024, 4, 1), date(2024, 4, 14)
N_PRODUCTS, N_DAYS, SHARE = 128, 105, 0.75


def _experiment(kind: str, category: str) -> str:
    arms = ", ".join(f"{{name: {name}, price_multiplier: {price}}}" for name, price in ARMS.items())
    text = tiny_lab.experiment(f"start: {START}, kind: {kind}", f"category = '{category}'")
    # of a crossover the share starts treated: by half, each sequence of an arm has five products
    more = f"assignment: {{share: {0.5 if kind.startswith('crossover') else SHARE}}}\n"
    return re.sub(r"treatment: .*", f"treatment: [{arms}]", text) + more


EXPERIMENTS = {name: _experiment(*design) for name, design in DESIGNS.items()}


def world() -> tiny_lab.World:
    """Return products that sell some hundred units a day at one price."""
    rng, one = np.random.default_rng(11), tiny_lab.world(n_products=N_PRODUCTS, n_days=N_DAYS)
    price = one.sales.groupby("sku")["price"].transform("max")
    level = rng.uniform(200, 400, N_PRODUCTS).repeat(N_DAYS)
    return tiny_lab.World(one.sales.assign(price=price, units=rng.poisson(level)), one.products)


def play(root: Path) -> None:
    """Run before the start, deliver an event for each product of `rain`, follow the plans, and run again."""
    one = world()
    tiny_lab.write_lab(root, EXPERIMENTS, config=triggered_lab.CONFIG, one=one, through=tiny_lab.EVE)
    (root / "data" / "events").mkdir()
    work = runner.Runner(root, lambda step: None)
    try:
        tiny_lab.succeeded([work.refresh(), *work.experiments(list(EXPERIMENTS))])
        products = sorted(one.products.loc[one.products["category"] == "tea", "sku"])
        rained = [triggered_lab.event(k, sku, START + timedelta(days=k % 4)) for k, sku in enumerate(products)]
        triggered_lab.deliver(root, "week", rained)
        tiny_lab.succeeded([work.plan("rain")])
        sales = one.sales
        for name in EXPERIMENTS:
            sales = tiny_lab.follow(sales, Workbench.open(root).lake.read("experiment.price_plan", name).to_pandas())
        tiny_lab.write_sales(root, sales, through=END)
        tiny_lab.succeeded([work.refresh(), *work.experiments(list(EXPERIMENTS)), work.publish()])
    finally:
        work.close()


def played_once(base: Path) -> Path:
    """Return the played lab, made by the first process that asks."""
    root = base / "arms_lab"
    with (base / "arms_lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "arms_lab.done").exists():
            root.mkdir()
            play(root)
            (base / "arms_lab.done").touch()
    return root


if __name__ == "__main__":
    import sys

    play(Path(sys.argv[1]))
