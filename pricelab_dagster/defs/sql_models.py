"""The SQL models as assets: one file is one table, its dependencies parsed from the SQL."""

import dagster as dg

from pricelab_dagster.defs.conditions import publish_when_settled
from pricelab_dagster.defs.lake_assets import GROUPS, Output, Stage, experiment_asset, lab_asset, shared_output
from pricelab_dagster.models import Model, models
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import PLAN, Workbench

KINDS = ("sql", "duckdb", "parquet")
BEFORE_START = frozenset({"intermediate.int_product_features"})


def _partitioned(model: Model) -> dg.AssetsDefinition:
    group = "design" if model.name.startswith("experiment.") else GROUPS[model.name.split(".")[0]]

    @experiment_asset(model.name, reads=model.upstream_tables, group=group, kinds=KINDS, description=model.description)
    def asset(stage: Stage) -> Output:
        bench, experiment = stage.bench, stage.experiment
        if model.name == PLAN and (frozen := bench.frozen_plan(experiment)) is not None:
            return Output(frozen, metadata={"frozen": True})
        if model.name not in BEFORE_START:
            return Output(bench.run_model(model, experiment))
        key = bench.shared_key(experiment, reads=model.upstream_tables)
        return shared_output(stage, model.name, key, lambda: bench.run_model(model, experiment))

    return asset


def _unpartitioned(model: Model) -> dg.AssetsDefinition:
    def compute(bench: Workbench) -> Output:
        return Output(bench.run_model(model))

    return lab_asset(
        model.name,
        reads=model.upstream_tables,
        description=model.description,
        compute=compute,
        kinds=KINDS,
        automation_condition=publish_when_settled() if model.name.startswith("marts.") else None,
    )


@dg.definitions
def sql_models() -> dg.Definitions:
    """Return one asset for each model of dbt_like_sql."""
    assets = [
        _partitioned(model) if TABLES[model.name].partitioned else _unpartitioned(model) for model in models().values()
    ]
    return dg.Definitions(assets=assets)
