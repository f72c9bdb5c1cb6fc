"""The lab that `pricelab new` writes: a small simulated market, one finished experiment and one that is planned."""

from datetime import date
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from pricelab_dagster import drawing, frames, scope
from pricelab_dagster.lab import Experiment, LabError, write_schemas
from pricelab_dagster.models import models
from pricelab_dagster.science import market
from pricelab_dagster.workbench import FEATURES, Workbench

SEED = 20240101
N_PRODUCTS, N_HISTORY, N_WINDOW = 240, 300, 42
FINISHED = "a-tenth-cheaper"
MULTIPLIER = 0.9
START = date(2024, 10, 28)


def write(directory: Path) -> None:
    """Write a commented lab into a new or empty folder.

    Raises
    ------
    LabError : when the folder holds something already; nothing is written then.
    """
    refuse_used(directory)
    simulated = market.simulate(
        scenario="base",
        n_products=N_PRODUCTS,
        n_history=N_HISTORY,
        n_window=N_WINDOW,
        start=START,
        treatment_multiplier=MULTIPLIER,
        rng=np.random.default_rng(SEED),
    )
    untreated = np.zeros((N_PRODUCTS, N_WINDOW), dtype=np.int8)
    _write_files(directory)
    write_data(directory, simulated, untreated)
    bench = Workbench.open(directory)
    drawn = draw(bench, bench.experiment(FINISHED))
    arm = pd.DataFrame(drawn.arm, index=drawn.product_id).reindex(simulated.product_id, fill_value=0)
    write_data(directory, simulated, arm.to_numpy())


def refuse_used(directory: Path) -> None:
    """Refuse a folder that holds something already.

    Raises
    ------
    LabError : naming the folder.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise LabError(str(directory), None, "there is something already", "a new or empty folder", "Choose another.")


def _write_files(directory: Path) -> None:
    shipped = files("pricelab_dagster") / "template_lab"
    (directory / "data").mkdir(parents=True)
    (directory / "experiments").mkdir()
    for name in ("pricelab.yaml", "experiments/a-tenth-cheaper.yaml", "experiments/next-crossover.yaml", ".gitignore"):
        source = shipped.joinpath("gitignore" if name == ".gitignore" else name)
        (directory / name).write_text(source.read_text())
    (directory / ".schema").mkdir()
    write_schemas(directory / ".schema")


def write_data(directory: Path, simulated: market.Market, arm: np.ndarray, *, through: date | None = None) -> None:
    """Write sales under `arm` (N, n_window), the products, and the prices of the running policy, to the cent.

    `through` is the last day that has been sold; None: the last of the market.
    """
    sales, products = simulated.to_frames(simulated.observe(arm))
    incumbent = simulated.incumbent_price.round(2)
    n, t = incumbent.shape
    prices = pd.DataFrame(
        {
            "product_id": np.repeat(simulated.product_id, t),
            "date": np.tile(simulated.date, n),
            "price": incumbent.ravel(),
        }
    )
    multiplier = np.ones((n, t))
    multiplier[:, simulated.n_history :] = np.where(arm > 0, simulated.treatment_multiplier, 1.0)
    # half a cent goes up, as in the price plan
    charged = prices.assign(price=(np.floor(incumbent * multiplier * 100 + 0.5) / 100).ravel())
    sales = sales.drop(columns="price").merge(charged, on=["product_id", "date"])
    if through is not None:
        sales = sales[pd.to_datetime(sales["date"]) <= pd.Timestamp(through)]
    data = directory / "data"
    sales.to_csv(data / "sales.csv", index=False)
    products.to_csv(data / "products.csv", index=False, float_format="%.4f")
    prices.to_parquet(data / "incumbent_prices.parquet", index=False)


def draw(bench: Workbench, experiment: Experiment) -> drawing.designs.Assignment:
    """Return the assignment of products that a run will draw, from tables computed in memory."""
    staged = bench
    for name in ("staging.stg_sales", "staging.stg_products", "intermediate.int_product_days", FEATURES):
        rows = staged.run_model(models()[name], experiment if name == FEATURES else None)
        staged = staged.with_table(name, rows)
    features = staged.in_memory[FEATURES]
    products = frames.to_pandas(features)
    products = products[products["product_id"].isin(set(scope.products(bench, experiment, features)))]
    return drawing.draw(
        experiment, bench.grain, products.sort_values("product_id"), {}, rng=bench.rng(experiment, "assignments")
    )
