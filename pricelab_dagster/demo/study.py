"""The demo study: the demo's experiments with other draws of arms and sales, and how often intervals hold the truth."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster import drawing, frames, graphs, scope, triggering
from pricelab_dagster.demo import data, mailers, play, world
from pricelab_dagster.lab import CONTROL, Experiment
from pricelab_dagster.models import models
from pricelab_dagster.science import panel as science
from pricelab_dagster.studies import figures
from pricelab_dagster.studies.resume import Progress, append
from pricelab_dagster.studies.resume import read as _read
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import EVENTS, FEATURES, Workbench, stage_rng

STUDIED = ("units", "revenue")
HISTORY_MODELS = ("staging.stg_sales", "staging.stg_products", "intermediate.int_product_days")


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same over the draws of one experiment.

    Attributes
    ----------
    products : features of the scope, sorted by product.
    clusters : cluster by product; empty where products are drawn one by one.
    events : staging.stg_events.
    sales : untreated sales of the scope.
    cells : multiplier of each product and day, as if treated.
    truth : planted relative effect by metric.
    """

    experiment: Experiment
    products: pd.DataFrame
    clusters: Mapping[str, str]
    events: pa.Table
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
    append(
        todo,
        _draw_all,
        out=out,
        workers=workers,
        report=report,
        title=lambda seed: f"draw {seed}",
        skip=lambda row: (row["experiment_id"], row["seed"]) in done,
        prepare=_prepare_worker,
    )
    return summary([row for row in _read(out) if row["seed"] <= seeds])


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    """Return coverage and standard errors over the draws, by experiment and metric; both intervals are 95 %."""
    frame = pd.DataFrame(rows)
    frame["covered"] = (frame["ci_lower"] <= frame["truth"]) & (frame["truth"] <= frame["ci_upper"])
    found = []
    for (name, metric), part in frame.groupby(["experiment_id", "metric"], sort=True):
        hits, n = int(part["covered"].sum()), len(part)
        covered = figures.proportion(hits, n)
        found.append(
            {
                "experiment_id": name,
                "metric": metric,
                "draws": n,
                "coverage": covered.value,
                "coverage_lower": covered.lower,
                "coverage_upper": covered.upper,
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
        weeks = mailers.weekly_files(mailers.onsets(untreated.products["product_id"]))
        play.write_mailers(Path(folder) / "lab", weeks)
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
    assignments = _assigned(experiment, setting.products, setting.clusters, setting.events, rng)
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
        through=assignments["date"].max().date(),
        plan=plan,
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
    events = bench.run_model(models()[EVENTS])
    covered = scope.products(bench, experiment, features)
    described = frames.to_pandas(features).sort_values("product_id")
    products = described[described["product_id"].isin(set(covered))].reset_index(drop=True)
    clusters: dict[str, str] = {}
    if experiment.assignment.by_cluster:
        rows = graphs.scope_clusters(bench, experiment, described, covered)
        clusters = scope.cluster_of(rows)
    assignments = _assigned(experiment, products, clusters, events, np.random.default_rng(0))
    multiplier = float(experiment.arms[0].price_multiplier or 1.0)
    cells = world.treated_cells(assignments, untreated.incumbent, {experiment.id: multiplier})
    planted = world.truth(untreated.sales, cells, elasticity)
    return Setting(
        experiment=experiment,
        products=products,
        clusters=clusters,
        events=events,
        sales=untreated.sales[untreated.sales["product_id"].isin(set(covered))],
        cells=cells,
        incumbent=untreated.incumbent[untreated.incumbent["product_id"].isin(set(covered))],
        elasticity=elasticity,
        truth=dict(zip(planted["metric"], planted["truth"], strict=True)),
    )


def _assigned(
    experiment: Experiment,
    products: pd.DataFrame,
    clusters: Mapping[str, str],
    events: pa.Table,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return an assignment drawn anew; of a triggered experiment every event comes in time."""
    drawn = drawing.draw(experiment, "day", products, clusters, rng=rng)
    if experiment.design.kind != "triggered":
        return frames.to_pandas(drawing.assignment_table(drawn, experiment))
    arms = drawing.drawn_arms_table(drawn, experiment)
    scope_ids = arms["product_id"].to_pylist()
    own = triggering.events_of(events, experiment.design.event, scope_ids, scope_ids)
    rules = triggering.Rules.of(experiment, "day", as_of=date.min)
    judged = triggering.judge(experiment.id, own, TABLES[triggering.TRIGGERS].schema.empty_table(), arms, rules)
    return frames.to_pandas(drawing.triggered_assignment(judged, arms, experiment, "day"))


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
