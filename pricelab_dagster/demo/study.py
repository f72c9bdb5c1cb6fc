"""The demo study: the demo's experiments with other draws of arms and sales, and how often intervals hold the truth."""

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from pricelab_dagster import drawing, frames, graphs, scope
from pricelab_dagster.demo import data, play, world
from pricelab_dagster.lab import CONTROL, Experiment
from pricelab_dagster.models import models
from pricelab_dagster.science import panel as science
from pricelab_dagster.workbench import FEATURES, Workbench, stage_rng

STUDIED = ("units", "revenue")
HISTORY_MODELS = ("staging.stg_sales", "staging.stg_products", "intermediate.int_product_days")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same over the draws of one experiment.

    Attributes
    ----------
    products : features of the scope, sorted by product.
    clusters : cluster by product; empty where products are drawn one by one.
    sales : untreated sales of the scope.
    cells : multiplier of each product and day, as if treated.
    truth : planted relative effect by metric.
    """

    experiment: Experiment
    products: pd.DataFrame
    clusters: Mapping[str, str]
    sales: pd.DataFrame
    cells: pd.DataFrame
    incumbent: pd.DataFrame
    elasticity: pd.Series
    truth: Mapping[str, float]


def run(seeds: int, *, workers: int, out: Path, report: Progress) -> pa.Table:
    """Return one row per experiment and metric: coverage with its interval, truth, mean effect, SE and SD.

    Draws that `out` already holds are not repeated; each finished draw is added to it at once.
    """
    done = {(row["experiment_id"], row["seed"]) for row in _read(out)}
    names = sorted(path.stem for path in (data.LAB / "experiments").glob("*.yaml"))
    todo = [seed for seed in range(1, seeds + 1) if any((name, seed) not in done for name in names)]
    report(f"{seeds - len(todo)} of {seeds} draws are there already")
    out.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_prepare_worker) as pool, out.open("a") as handle:
        futures = {pool.submit(_draw_all, seed): seed for seed in todo}
        for future in as_completed(futures):
            rows = [row for row in future.result() if (row["experiment_id"], row["seed"]) not in done]
            handle.writelines(json.dumps(row) + "\n" for row in rows)
            handle.flush()
            report(f"draw {futures[future]}")
    return summary([row for row in _read(out) if row["seed"] <= seeds])


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    """Return coverage and standard errors over the draws, by experiment and metric; both intervals are 95 %."""
    frame = pd.DataFrame(rows)
    frame["covered"] = (frame["ci_lower"] <= frame["truth"]) & (frame["truth"] <= frame["ci_upper"])
    found = []
    for (name, metric), part in frame.groupby(["experiment_id", "metric"], sort=True):
        hits, n = int(part["covered"].sum()), len(part)
        bounds = stats.binomtest(hits, n).proportion_ci(method="exact")
        found.append(
            {
                "experiment_id": name,
                "metric": metric,
                "draws": n,
                "coverage": hits / n,
                "coverage_lower": float(bounds.low),
                "coverage_upper": float(bounds.high),
                "mean_truth": float(part["truth"].mean()),
                "mean_effect": float(part["effect"].mean()),
                "median_se": float(part["se"].median()),
                "sd_of_effects": float(part["effect"].std()),
            }
        )
    return pa.Table.from_pylist(found)


def settings() -> Iterator[Setting]:
    """Yield what the draws of each experiment share, from the untreated world."""
    untreated = data.load(data.FIRST_START)
    elasticity = world.draw_elasticities(
        untreated.products["product_id"].tolist(), rng=np.random.default_rng(play.WORLD_SEED)
    )
    with tempfile.TemporaryDirectory() as folder:
        play.write_untreated(Path(folder) / "lab", untreated)
        bench = Workbench.open(Path(folder) / "lab")
        for name in HISTORY_MODELS:
            bench = bench.with_table(name, bench.run_model(models()[name]))
        for experiment in bench.lab.experiments.values():
            yield _setting(bench, experiment, untreated, elasticity)


def draw(setting: Setting, seed: int) -> list[dict[str, Any]]:
    """Return effect, interval and truth of one draw of arms and sales, by metric."""
    experiment = setting.experiment.model_copy(
        update={"assignment": setting.experiment.assignment.model_copy(update={"seed": seed})}
    )
    rng = stage_rng(seed, experiment.id, "assignments")
    drawn = drawing.draw(experiment, "day", setting.products, setting.clusters, rng=rng)
    assignments = frames.to_pandas(drawing.assignment_table(drawn, experiment))
    plan = assignments.merge(setting.cells.drop(columns="in_analysis"), on=["experiment_id", "product_id", "date"])
    plan = plan.merge(setting.incumbent.rename(columns={"price": "incumbent_price"}), on=["product_id", "date"])
    factor = plan["multiplier"].where(plan["arm"] != CONTROL, 1.0)
    plan["price"] = plan["incumbent_price"] * factor
    planting = stage_rng(seed, experiment.id, "planting")
    sales = world.plant(setting.sales, plan, setting.elasticity, rng=planting)
    panel = frames.panel(
        experiment,
        "day",
        assignments,
        _filled(sales, setting.products),
        setting.products,
        through=drawn.date[-1].item(),
    )
    predicted = science.forecasts(panel, method=experiment.analysis.detrend.method)
    trimmed = science.trimmed(panel, predicted)
    forest = experiment.analysis.forest
    leaves = science.fit_leaves(
        panel,
        frames.attributes(setting.products, panel.product_id),
        trimmed[0],
        n_trees=forest.n_trees,
        min_leaf=forest.min_leaf,
        rng=stage_rng(seed, experiment.id, "affinity"),
    )
    quoted = science.headline(unit=experiment.assignment.unit, kind=panel.kind, imported=False)
    wanted = [one for one in trimmed if one.scale == "relative" and one.metric in STUDIED]
    found = science.estimates(
        panel,
        wanted,
        leaves,
        n_replicates=experiment.analysis.bootstrap.n_replicates,
        estimators=(quoted,),
        rng=stage_rng(seed, experiment.id, "bootstrap"),
    )
    return [
        {
            "experiment_id": experiment.id,
            "seed": seed,
            "metric": metric,
            "truth": setting.truth[metric],
            **{name: getattr(effect, name) for name in ("effect", "se", "ci_lower", "ci_upper")},
        }
        for metric, _, _, effect in found
    ]


def _setting(
    bench: Workbench, experiment: Experiment, untreated: data.UntreatedWorld, elasticity: pd.Series
) -> Setting:
    features = bench.run_model(models()[FEATURES], experiment)
    covered = scope.products(bench, experiment, features)
    described = frames.to_pandas(features).sort_values("product_id")
    products = described[described["product_id"].isin(set(covered))].reset_index(drop=True)
    clusters: dict[str, str] = {}
    if experiment.assignment.unit == "cluster":
        rows = graphs.scope_clusters(bench, experiment, described, covered)
        clusters = dict(zip(rows["product_id"].to_pylist(), rows["cluster_id"].to_pylist(), strict=True))
    drawn = drawing.draw(experiment, "day", products, clusters, rng=np.random.default_rng(0))
    assignments = frames.to_pandas(drawing.assignment_table(drawn, experiment))
    multiplier = float(experiment.arms[0].price_multiplier or 1.0)
    cells = world.treated_cells(assignments, untreated.incumbent, {experiment.id: multiplier})
    planted = world.truth(untreated.sales, cells, elasticity)
    return Setting(
        experiment=experiment,
        products=products,
        clusters=clusters,
        sales=untreated.sales[untreated.sales["product_id"].isin(set(covered))],
        cells=cells,
        incumbent=untreated.incumbent[untreated.incumbent["product_id"].isin(set(covered))],
        elasticity=elasticity,
        truth=dict(zip(planted["metric"], planted["truth"], strict=True)),
    )


def _filled(sales: pd.DataFrame, products: pd.DataFrame) -> pd.DataFrame:
    """Return the sales with a row for each product and calendar day, as `int_product_days` has them."""
    calendar = pd.date_range("2017-01-01", sales["date"].max())
    index = pd.MultiIndex.from_product([products["product_id"], calendar], names=["product_id", "date"])
    filled = sales.set_index(["product_id", "date"]).reindex(index)
    carried = filled["price"].groupby(level="product_id")
    sold = filled["units"].notna()
    units = filled["units"].fillna(0.0)
    price = carried.ffill().groupby(level="product_id").bfill()
    revenue = units * price
    return pd.DataFrame({"units": units, "revenue": revenue, "price": price, "is_sold": sold}).reset_index()


_settings: list[Setting] = []


def _prepare_worker() -> None:
    _settings.extend(settings())


def _draw_all(seed: int) -> list[dict[str, Any]]:
    return [row for setting in _settings for row in draw(setting, seed)]


def _read(out: Path) -> list[dict[str, Any]]:
    """Return the finished draws; a line that an interruption cut short is left out and drawn again."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
