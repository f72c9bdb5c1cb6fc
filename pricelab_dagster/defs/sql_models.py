"""The SQL models as assets: one file is one table, its dependencies parsed from the SQL."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster.defs.conditions import fresh_by_schedule, publish_when_settled
from pricelab_dagster.defs.lake_assets import GROUPS, Output, Stage, experiment_asset, lab_asset, shared_output
from pricelab_dagster.defs.resources import lab_schedule
from pricelab_dagster.models import Model, models
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import ASSIGNMENTS, MADE_FROM, PLAN, Workbench

KINDS = ("sql", "duckdb", "parquet")
SALES = "staging.stg_sales"
BEFORE_START = frozenset({"intermediate.int_product_features"})
AFTER_START = frozenset({"experiment.effect_covariance"})
# it counts what triggers did, which is known only once the experiments have run
PUBLISHED = frozenset({"intermediate.int_data_quality"})


def _partitioned(model: Model) -> dg.AssetsDefinition:
    late = model.name in AFTER_START
    own = "effects" if late else "design"

    @experiment_asset(
        model.name,
        reads=model.upstream_tables,
        group=own if model.name.startswith("experiment.") else GROUPS[model.name.split(".")[0]],
        after_start=late,
        kinds=KINDS,
        description=model.description,
    )
    def asset(stage: Stage) -> Output:
        bench, experiment = stage.bench, stage.experiment
        if model.name == PLAN:
            return _plan(stage, model)
        if model.name not in BEFORE_START:
            return Output(bench.run_model(model, experiment))
        key = bench.shared_key(experiment, reads=model.upstream_tables)
        return shared_output(stage, model.name, key, lambda: bench.run_model(model, experiment))

    return asset


def _plan(stage: Stage, model: Model) -> Output:
    """Return the price plan: rows that were handed out stay, those of triggers since then are added."""
    bench, experiment = stage.bench, stage.experiment
    frozen = bench.frozen_plan(experiment)
    if frozen is None or experiment.design.kind == "triggered":
        rows = bench.run_model(model, experiment)
        rows = rows if frozen is None else _extended(frozen, rows)
    else:
        rows = frozen
    notes = rows.filter(pc.is_valid(rows["note"])).group_by(["note"]).aggregate([([], "count_all")])
    by_note = dict(sorted(zip(notes["note"].to_pylist(), notes["count_all"].to_pylist(), strict=True)))
    incumbent = "prices.incumbent" if bench.lab.config.prices else "the last shelf price before the start"
    metadata = {"frozen": frozen is not None, "incumbent": incumbent, "cells_by_note": by_note}
    facts = {"as_of": str(bench.as_of), MADE_FROM: bench.lake.fingerprint(ASSIGNMENTS, experiment.id)}
    return Output(rows, facts=facts, metadata=metadata)


def _extended(frozen: pa.Table, rows: pa.Table) -> pa.Table:
    known = set(zip(frozen["product_id"].to_pylist(), frozen["date"].to_pylist(), strict=True))
    cells = zip(rows["product_id"].to_pylist(), rows["date"].to_pylist(), strict=True)
    new = rows.filter(pa.array([cell not in known for cell in cells], pa.bool_()))
    return pa.concat_tables([frozen, new.select(frozen.schema.names).cast(frozen.schema)])


def _unpartitioned(model: Model) -> dg.AssetsDefinition:
    def compute(bench: Workbench) -> Output:
        return Output(bench.run_model(model))

    is_published = model.name in PUBLISHED or model.name.startswith("marts.")
    return lab_asset(
        model.name,
        reads=model.upstream_tables,
        description=model.description,
        compute=compute,
        kinds=KINDS,
        automation_condition=publish_when_settled() if is_published else None,
        freshness_policy=fresh_by_schedule(*lab_schedule()) if model.name == SALES else None,
    )


@dg.definitions
def sql_models() -> dg.Definitions:
    """Return one asset for each model of dbt_like_sql."""
    assets = [
        _partitioned(model) if TABLES[model.name].partitioned else _unpartitioned(model) for model in models().values()
    ]
    return dg.Definitions(assets=assets)
