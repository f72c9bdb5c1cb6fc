"""The design of an experiment: which events started it, and which product is in which arm when."""

import pyarrow as pa

from pricelab_dagster import scope
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.tables import TABLES

FEATURES, CLUSTERS = "intermediate.int_product_features", "spillover.product_clusters"


@experiment_asset("experiment.triggers", reads=["staging.stg_events"], group="design")
def triggers(stage: Stage) -> Output:
    """One row per outside event that concerns the experiment, and what it did.

    Empty for designs that start by the calendar.
    """
    reason = f"{stage.experiment.design.kind} starts by the calendar: no event triggers it"
    return Output(
        TABLES["experiment.triggers"].schema.empty_table(), facts={"reason": reason}, metadata={"reason": reason}
    )


@experiment_asset("experiment.assignments", reads=[FEATURES, CLUSTERS, "experiment.triggers"], group="design")
def assignments(stage: Stage) -> Output:
    """One row per product and period: the arm in force, with the exact probability of treatment.

    Drawn before the start from the experiment's seed, and frozen from the start on.
    """
    from pricelab_dagster import drawing, frames

    bench, experiment = stage.bench, stage.experiment
    facts = bench.facts(experiment)
    if bench.is_frozen(experiment):
        stored = bench.lake.metadata("experiment.assignments", experiment.id)
        rows = bench.frozen_assignment(experiment)
        return Output(rows, facts={**stored, **facts}, metadata={"mechanism": str(stored["mechanism"]), "frozen": True})
    features = stage.read(FEATURES)
    covered = scope.products(bench, experiment, features)
    outside = 0
    if experiment.assignment.source is not None:
        given = frames.to_pandas(bench.imported_rows(experiment))
        rows = drawing.imported_assignment(given, experiment, covered, period_days=bench.days_per_period)
        mechanism = f"imported from {experiment.assignment.source}"
        outside = len(given) - rows.num_rows
    else:
        products = frames.to_pandas(features)
        products = products[products["product_id"].isin(set(covered))].sort_values("product_id")
        clusters = dict(
            zip(*(stage.read(CLUSTERS)[name].to_pylist() for name in ("product_id", "cluster_id")), strict=True)
        )
        drawn = drawing.draw(experiment, bench.grain, products, clusters, rng=stage.rng("assignments"))
        rows, mechanism = drawing.assignment_table(drawn, experiment), drawn.mechanism
    metadata = {"mechanism": mechanism, "products": len(covered), "seed": experiment.assignment.seed, "frozen": False}
    metadata |= {"imported_rows_outside_scope": outside} if outside else {}
    facts |= {"mechanism": mechanism, "drawn_as_of": str(bench.as_of)}
    return Output(rows, facts=facts, metadata={**metadata, "cells_by_arm": _by_arm(rows)})


def _by_arm(rows: pa.Table) -> dict[str, int]:
    counted = rows.group_by(["arm"]).aggregate([([], "count_all")])
    return dict(sorted(zip(counted["arm"].to_pylist(), counted["count_all"].to_pylist(), strict=True)))
