"""Between the lake's tables and the graph of substitutes: edges by category, and clusters of a scope."""

from collections.abc import Sequence
from functools import partial
from typing import TypedDict, Unpack

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pricelab_dagster.frames import attributes, to_pandas
from pricelab_dagster.lab import Clusters, Experiment
from pricelab_dagster.science import clusters, substitutes
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import EDGES, Workbench

EDGE_SCHEMA = pa.schema(
    [field for field in TABLES[EDGES].schema if field.name not in ("experiment_id", "q_value", "shrunk_effect")]
)


class Floors(TypedDict, total=False):
    """What a product's history must hold: mean units in a period, and standard deviation of the log price."""

    min_units: float
    min_price_sd: float


def by_class(bench: Workbench, features: pd.DataFrame) -> pd.DataFrame:
    """Return the features with the fine class, inside which substitutes are looked for, in the place of the category.

    A product without a class is alone in one of its own.
    """
    within = bench.lab.config.substitutes.within
    if within == "category":
        return features
    found, alone = features[within], "only " + features["product_id"]
    return features.assign(category=found.astype(str).where(found.notna(), alone))


def categories(features: pd.DataFrame, scope: Sequence[str]) -> list[str]:
    """Return the sorted classes of the scope's products."""
    return sorted(set(features.loc[features["product_id"].isin(set(scope)), "category"]))


def settings(bench: Workbench) -> dict[str, object]:
    """Return what the lab sets otherwise than by default about substitutes."""
    return bench.lab.config.substitutes.model_dump(exclude_defaults=True)


def floors(bench: Workbench) -> Floors:
    """Return the floors of sales and price movement."""
    found = bench.lab.config.substitutes
    return {"min_units": found.min_units, "min_price_sd": found.min_price_sd}


def history(bench: Workbench, experiment: Experiment, features: pd.DataFrame) -> pa.Table:
    """Return product, category, period, units and price of some products before the start.

    All of it: `analysis.pre_periods` bounds what an effect is forecast from, not what a graph is learned from.
    """
    query = """
        select days.product_id, wanted.category, days.date, days.units, days.price
        from intermediate.int_product_days as days
        inner join source.products as wanted on days.product_id = wanted.product_id
        where days.date < cast($start as date)
        order by days.product_id, days.date
    """
    wanted = pa.table({name: pa.array(features[name], pa.string()) for name in ("product_id", "category")})
    tables = {
        "intermediate.int_product_days": bench.table("intermediate.int_product_days"),
        "source.products": wanted,
    }
    return bench.engine.sql(query, tables=tables, parameters=bench.parameters(experiment))


def category_edges(rows: pa.Table, *, season: int, **floors: Unpack[Floors]) -> pa.Table:
    """Return the edges of one class from its rows, sorted by product and period."""
    product_id, units, price, _ = grids(rows)
    found = substitutes.category_edges(product_id, units, price, season=season, **floors).frame()
    return pa.Table.from_pandas(found, preserve_index=False).select(EDGE_SCHEMA.names)


def finish_edges(edges: pa.Table, features: pd.DataFrame) -> pa.Table:
    """Return the edges of all categories with scaled z, q-value and shrunk effect."""
    product_id = features["product_id"].to_numpy(dtype=object)
    described = attributes(features, product_id).set_index(product_id).drop(columns="category")
    return pa.Table.from_pandas(substitutes.finish_edges(to_pandas(edges), described), preserve_index=False)


def placebo(
    rows: pa.Table, edges: pa.Table, *, season: int, rng: np.random.Generator, **floors: Unpack[Floors]
) -> substitutes.Placebo:
    """Return how often pairs of different classes, which cannot be substitutes, look like edges."""
    product_id, units, price, labels = grids(rows)
    scale = _null_scale(edges)
    return substitutes.placebo_rate(product_id, units, price, labels, scale=scale, season=season, rng=rng, **floors)


def _null_scale(edges: pa.Table) -> float:
    """Return what the z of finished edges was divided by, from the pairs that are known in both directions."""
    frame = to_pandas(edges)
    t = (frame["effect"] / frame["se"]).set_axis(pd.MultiIndex.from_frame(frame[["product_id", "on_price_of"]]))
    back = t.swaplevel().reindex(t.index).to_numpy(dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (t.to_numpy(dtype=float) + back) / np.sqrt(2) / frame["z"].to_numpy(dtype=float)
    known = ratio[np.isfinite(ratio)]
    return float(np.median(known)) if len(known) else 1.0


def edges_of(bench: Workbench, rows: pa.Table, features: pd.DataFrame) -> pa.Table:
    """Return the graph of substitutes from `history` rows, class by class."""
    kernel = partial(category_edges, season=7 // bench.days_per_period, **floors(bench))
    return finish_edges(bench.engine.by_group(rows, "category", kernel, schema=EDGE_SCHEMA), features)


def scope_clusters(
    bench: Workbench, experiment: Experiment, features: pd.DataFrame, scope: Sequence[str], *, seed: int = 0
) -> pa.Table:
    """Return the clusters of a scope from the history alone, without the lake."""
    classed = by_class(bench, features)
    inside = classed[classed["category"].isin(set(categories(classed, scope)))]
    edges = edges_of(bench, history(bench, experiment, inside), inside)
    wanted = experiment.assignment.clusters
    return cluster(edges, scope, wanted, seed=seed)


def weeks(edges: pa.Table) -> float:
    """Return the weeks of history of the class that has fewest, over pairs with an effect; nan without any."""
    known = edges.filter(pc.is_valid(edges["effect"]))["history_weeks"]
    return float(pc.min(known).as_py()) if len(known) else float("nan")


def drift(edges: pa.Table, before: pa.Table) -> dict[str, float | int]:
    """Return how a graph differs from an earlier one over the pairs that both identify.

    `pairs` in common, the `correlation` of their effects, how many pairs are bound in both (`kept`), in the new one
    alone (`new`) and in the old one alone (`gone`).
    """
    key = ["product_id", "on_price_of"]
    new, old = (frame[frame["effect"].notna()].set_index(key) for frame in map(to_pandas, (edges, before)))
    common = new.index.intersection(old.index)
    effects = [frame.loc[common, "effect"].to_numpy(dtype=float) for frame in (new, old)]
    bound = [
        set(map(tuple, substitutes.graph_edges(frame.loc[common].reset_index()).edges.tolist())) for frame in (new, old)
    ]
    varied = len(common) > 1 and all(np.ptp(values) > 0 for values in effects)
    return {
        "pairs": len(common),
        "correlation": float(np.corrcoef(*effects)[0, 1]) if varied else float("nan"),
        "kept": len(bound[0] & bound[1]),
        "new": len(bound[0] - bound[1]),
        "gone": len(bound[1] - bound[0]),
    }


def cluster(edges: pa.Table, scope: Sequence[str], wanted: Clusters, *, seed: int) -> pa.Table:
    """Return the cluster of each product of the scope; a cluster is named after its first product."""
    members = set(scope)
    frame = to_pandas(edges)
    frame = frame[frame["product_id"].isin(members) & frame["on_price_of"].isin(members)]
    graph = substitutes.graph_edges(frame, either_sign=wanted.edges == "either_sign")
    labels = clusters.partition(
        graph.edges,
        weights=graph.weights,
        nodes=list(scope),
        method=wanted.method,
        max_size=wanted.max_size,
        rng=np.random.default_rng(seed),
    )
    frame = pd.DataFrame({"product_id": list(scope), "label": labels})
    named = frame.groupby("label")["product_id"].transform("min")
    return pa.table({"product_id": pa.array(scope, pa.string()), "cluster_id": pa.array(named, pa.string())})


def grids(rows: pa.Table) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64], NDArray[np.object_]]:
    """Return the sorted products (N,), their units and prices (N, T) and their classes (N,) from `history` rows."""
    frame = to_pandas(rows)
    units = frame.pivot(index="product_id", columns="date", values="units")
    price = frame.pivot(index="product_id", columns="date", values="price")
    # a price of 0 has no logarithm; a product that never had another has a price that does not move
    price = price.where(price > 0).ffill(axis=1).bfill(axis=1).fillna(1.0)
    label = frame.groupby("product_id")["category"].first().reindex(units.index)
    ids, labels = units.index.to_numpy(dtype=object), label.to_numpy(dtype=object)
    return ids, units.to_numpy(dtype=float), price.to_numpy(dtype=float), labels
