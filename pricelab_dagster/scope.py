"""The products that an experiment covers, by what was known of them before its start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pricelab_dagster.engine import EngineError
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.workbench import FEATURES, Workbench, stage_rng

MIN_OF_A_SIDE = 2
"""Units that a share must be expected to treat, and to leave as control: half of the fewest that a design draws."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The products drawn from a scope, sorted, and the probability with which each of them was."""

    products: list[str]
    inclusion_probability: float


def products(bench: Workbench, experiment: Experiment, features: pa.Table) -> list[str]:
    """Return the sorted products of a scope, by its `where` or its list, before any sample is drawn.

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
    return found


def sample(
    experiment: Experiment,
    covered: Sequence[str],
    clusters: Mapping[str, str],
    *,
    rng: np.random.Generator | None = None,
) -> Sample:
    """Return the sample of a scope: each unit, product or cluster, has the same probability to be in it.

    `clusters` names the cluster of each product; it is read when clusters are sampled. `rng` draws another sample than
    the experiment's own.
    """
    wanted = experiment.scope.sample
    if wanted.share == 1.0:
        return Sample(list(covered), 1.0)
    unit_of = {product: clusters[product] if wanted.unit == "cluster" else product for product in covered}
    units = sorted(set(unit_of.values()))
    size = max(1, round(wanted.share * len(units)))
    rng = rng or stage_rng(wanted.seed, experiment.id, "sample")
    drawn = set(rng.choice(units, size=size, replace=False).tolist())
    return Sample(sorted(product for product in covered if unit_of[product] in drawn), size / len(units))


def refuse_lone_units(experiment: Experiment, n_units: int) -> None:
    """Refuse a share by which one side has no unit, or one alone, which shows no noise of its own.

    Raises
    ------
    LabError : when less than two of the units are expected in a side. On random days all units are in both.
    """
    share = experiment.assignment.share
    least = n_units * min(share, 1 - share)
    if experiment.design.kind == "random_days" or least >= MIN_OF_A_SIDE:
        return
    allowed = f"such that {MIN_OF_A_SIDE} or more of the {n_units} units are treated, and control; it gives {least:.2g}"
    remedy = "Widen the scope, or give a share nearer to 0.5."
    raise LabError(experiment.file, "assignment.share", share, allowed, remedy)


def units_of_smallest_arm(experiment: Experiment, n_units: int) -> float:
    """Return how many units the draw is expected to have in the arm, or sequence of a crossover, that has fewest."""
    share, n_arms = experiment.assignment.share, max(len(experiment.arms), 1)
    if experiment.design.kind == "random_days":
        return float(n_units)
    if experiment.design.kind == "crossover":
        return n_units / n_arms * min(share, 1 - share)
    return n_units * min(share / n_arms, 1 - share)


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


def cluster_of(rows: pa.Table) -> dict[str, str]:
    """Return the cluster of each product from spillover.product_clusters."""
    return dict(zip(rows["product_id"].to_pylist(), rows["cluster_id"].to_pylist(), strict=True))
