"""Between the lake's tables and the graph of substitutes: edges by category, and clusters of a scope."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster.frames import attributes, to_pandas
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import clusters, substitutes
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import EDGES, Workbench

MAX_CLUSTER_SIZE = 12
EDGE_SCHEMA = pa.schema(
    [field for field in TABLES[EDGES].schema if field.name not in ("experiment_id", "q_value", "shrunk_effect")]
)


def categories(features: pd.DataFrame, scope: Sequence[str]) -> list[str]:
    """Return the sorted categories of the scope's products."""
    return sorted(set(features.loc[features["product_id"].isin(set(scope)), "category"]))


def history(bench: Workbench, experiment: Experiment, features: pd.DataFrame) -> pa.Table:
    """Return product, category, period, units and price of some products before the start."""
    query = """
        select days.product_id, wanted.category, days.date, days.units, days.price
        from intermediate.int_product_days as days
        inner join source.products as wanted on days.product_id = wanted.product_id
        where days.date < cast($start as date) and days.date >= cast($history_start as date)
        order by days.product_id, days.date
    """
    wanted = pa.table({name: pa.array(features[name], pa.string()) for name in ("product_id", "category")})
    tables = {
        "intermediate.int_product_days": bench.table("intermediate.int_product_days"),
        "source.products": wanted,
    }
    return bench.engine.sql(query, tables=tables, parameters=bench.parameters(experiment))


def category_edges(rows: pa.Table, *, season: int) -> pa.Table:
    """Return the edges of one category from its rows, sorted by product and period."""
    product_id, units, price = _grids(rows)
    found = substitutes.category_edges(product_id, units, price, season=season).frame()
    return pa.Table.from_pandas(found, preserve_index=False).select(EDGE_SCHEMA.names)


def finish_edges(edges: pa.Table, features: pd.DataFrame) -> pa.Table:
    """Return the edges of all categories with scaled z, q-value and shrunk effect."""
    product_id = features["product_id"].to_numpy(dtype=object)
    described = attributes(features, product_id).set_index(product_id).drop(columns="category")
    return pa.Table.from_pandas(substitutes.finish_edges(to_pandas(edges), described), preserve_index=False)


def placebo(rows: pa.Table, edges: pa.Table, *, season: int, rng: np.random.Generator) -> substitutes.Placebo:
    """Return how often pairs of different categories, which cannot be substitutes, look like edges."""
    product_id, units, price = _grids(rows)
    category = dict(zip(rows["product_id"].to_pylist(), rows["category"].to_pylist(), strict=True))
    labels = np.array([category[product] for product in product_id], dtype=object)
    return substitutes.placebo_rate(product_id, units, price, labels, scale=_null_scale(edges), season=season, rng=rng)


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
    """Return the graph of substitutes from `history` rows, category by category."""
    kernel = partial(category_edges, season=7 // bench.days_per_period)
    return finish_edges(bench.engine.by_group(rows, "category", kernel, schema=EDGE_SCHEMA), features)


def scope_clusters(
    bench: Workbench, experiment: Experiment, features: pd.DataFrame, scope: Sequence[str], *, seed: int = 0
) -> pa.Table:
    """Return the clusters of a scope from the history alone, without the lake."""
    inside = features[features["category"].isin(set(categories(features, scope)))]
    edges = edges_of(bench, history(bench, experiment, inside), inside)
    return cluster(edges, scope, max_size=MAX_CLUSTER_SIZE, seed=seed)


def cluster(edges: pa.Table, scope: Sequence[str], *, max_size: int, seed: int) -> pa.Table:
    """Return the cluster of each product of the scope; a cluster is named after its first product."""
    members = set(scope)
    frame = to_pandas(edges)
    frame = frame[frame["product_id"].isin(members) & frame["on_price_of"].isin(members)]
    graph = substitutes.graph_edges(frame)
    labels = clusters.partition(
        graph.edges, weights=graph.weights, nodes=list(scope), max_size=max_size, rng=np.random.default_rng(seed)
    )
    frame = pd.DataFrame({"product_id": list(scope), "label": labels})
    named = frame.groupby("label")["product_id"].transform("min")
    return pa.table({"product_id": pa.array(scope, pa.string()), "cluster_id": pa.array(named, pa.string())})


def _grids(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frame = to_pandas(rows)
    units = frame.pivot(index="product_id", columns="date", values="units")
    price = frame.pivot(index="product_id", columns="date", values="price")
    # a price of 0 has no logarithm; a product that never had another has a price that does not move
    price = price.where(price > 0).ffill(axis=1).bfill(axis=1).fillna(1.0)
    return units.index.to_numpy(dtype=object), units.to_numpy(dtype=float), price.to_numpy(dtype=float)
