"""Spillover: the graph of substitutes and its clusters, both learned before the experiment starts."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster import scope
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset, shared_output
from pricelab_dagster.tables import TABLES

FEATURES, EDGES, CLUSTERS = (
    "intermediate.int_product_features",
    "spillover.substitute_edges",
    "spillover.product_clusters",
)


@experiment_asset(EDGES, reads=["intermediate.int_product_days", FEATURES], group="spillover")
def substitute_edges(stage: Stage) -> Output:
    """One row per ordered pair of products of a category: what the price of one does to the demand for the other.

    Estimated on the history before the start, over the categories that the experiment touches; pairs that the history
    does not identify say why.
    """
    from pricelab_dagster import frames, graphs

    bench, experiment = stage.bench, stage.experiment
    features = frames.to_pandas(stage.read(FEATURES))
    touched = graphs.categories(features, scope.products(bench, experiment, stage.read(FEATURES)))
    key = bench.shared_key(experiment, reads=[FEATURES], scope=touched)

    inside = features[features["category"].isin(set(touched))]
    rows = graphs.history(bench, experiment, inside)
    season = 7 // bench.days_per_period

    output = shared_output(stage, EDGES, key, lambda: graphs.edges_of(bench, rows, inside))
    placebo = graphs.placebo(rows, output.rows, season=season, rng=np.random.default_rng(int(key[:8], 16)))
    identified = pc.sum(pc.is_valid(output.rows["effect"])).as_py() or 0
    metadata = {"identified": identified, "placebo_rate": placebo.rate, "placebo_pairs": placebo.n_pairs}
    return Output(output.rows, output.facts, {**output.metadata, **metadata})


@experiment_asset(CLUSTERS, reads=[EDGES, FEATURES], group="spillover")
def product_clusters(stage: Stage) -> Output:
    """One row per product of the scope: the cluster of dense substitutes that would be assigned en masse."""
    from pricelab_dagster import frames, graphs

    bench, experiment = stage.bench, stage.experiment
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    key = bench.shared_key(experiment, reads=[EDGES], scope=covered)
    output = shared_output(
        stage,
        CLUSTERS,
        key,
        lambda: graphs.cluster(stage.read(EDGES), covered, max_size=graphs.MAX_CLUSTER_SIZE, seed=int(key[:8], 16)),
    )
    sizes = frames.to_pandas(output.rows)["cluster_id"].value_counts()
    metadata = {"clusters": len(sizes), "largest_cluster": int(sizes.max()), "alone": int((sizes == 1).sum())}
    return Output(output.rows, output.facts, {**output.metadata, **metadata})


@experiment_asset(
    "experiment.spillover_effects",
    reads=["experiment.effects", EDGES, "experiment.assignments"],
    group="effects",
    after_start=True,
)
def spillover_effects(stage: Stage) -> Output:
    """One row per metric, scale and component: direct, spillover and total effect, or why they are not identified."""
    reason = "not identified: exposure weighting is not part of this version; assign by cluster to prevent spillover"
    effects = stage.read("experiment.effects").to_pylist()
    keys = sorted({(row["metric"], row["scale"]) for row in effects})
    rows = [
        {
            "experiment_id": stage.experiment.id,
            "metric": metric,
            "scale": scale,
            "component": component,
            "estimator": "exposure_hajek",
            "reason": reason,
        }
        for metric, scale in keys
        for component in ("direct", "spillover", "total")
    ]
    schema = TABLES["experiment.spillover_effects"].schema
    return Output(pa.Table.from_pylist(rows, schema=schema), metadata={"reason": reason})
