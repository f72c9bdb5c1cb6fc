"""The products that an experiment covers, by what was known of them before its start."""

import pyarrow as pa

from pricelab_dagster.engine import EngineError
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.workbench import FEATURES, Workbench, stage_rng


def products(bench: Workbench, experiment: Experiment, features: pa.Table) -> list[str]:
    """Return the sorted products that an experiment covers, by its `where`, its list, or its imported assignment.

    Raises
    ------
    LabError : when the scope is empty, or names products that have no history before the start.
    """
    if experiment.scope.where:
        found = matching(bench, experiment, features)
    else:
        known = set(features["product_id"].to_pylist())
        found = sorted(set(experiment.scope.products or ()))
        missing = [product for product in found if product not in known]
        if missing:
            allowed = f"products with sales before {experiment.start}"
            remedy = f"Remove the {len(missing)} without history, or start later."
            raise LabError(experiment.file, "scope.products", missing[:3], allowed, remedy)
    if not found:
        allowed = "true for at least one product"
        raise LabError(experiment.file, "scope.where", experiment.scope.where, allowed, "Widen the scope.")
    sample = experiment.scope.sample
    if sample.share == 1.0:
        return found
    rng = stage_rng(sample.seed, experiment.id, "sample")
    return sorted(rng.choice(found, size=max(1, round(sample.share * len(found))), replace=False).tolist())


def matching(bench: Workbench, experiment: Experiment, features: pa.Table) -> list[str]:
    """Return the sorted products for which `scope.where` holds.

    Raises
    ------
    LabError : when the condition does not bind to the features' columns.
    """
    condition = experiment.scope.where
    query = f"select product_id, ({condition}) as inside from intermediate.int_product_features"
    columns = ", ".join(name for name in features.schema.names if name != "experiment_id")
    allowed = "an SQL condition over what is known of products before the start"
    try:
        rows = bench.engine.sql(query, tables={FEATURES: features})
    except EngineError as error:
        remedy = f"{error} The columns are {columns}."
        raise LabError(experiment.file, "scope.where", condition, allowed, remedy) from error
    if not pa.types.is_boolean(rows.schema.field("inside").type):
        remedy = f"It gives {rows.schema.field('inside').type}; compare it with a value."
        raise LabError(experiment.file, "scope.where", condition, allowed, remedy)
    return sorted(rows.filter(rows["inside"])["product_id"].to_pylist())
