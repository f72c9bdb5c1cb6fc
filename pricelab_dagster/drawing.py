"""The assignment of an experiment: drawn as its file says, or imported, as rows of the lake's table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.lab import Experiment, Grain, LabError
from pricelab_dagster.science import designs

CONTROL, BLACKOUT = "control", "blackout"


def draw(
    experiment: Experiment,
    grain: Grain,
    products: pd.DataFrame,
    clusters: Mapping[str, str],
    *,
    rng: np.random.Generator,
) -> designs.Assignment:
    """Return the arms of an experiment, drawn as its file says.

    Parameters
    ----------
    products : product_id, category and units_per_day of the scope, one row each.
    clusters : cluster by product, read when the unit is the cluster.

    Raises
    ------
    LabError : when the scope is too small for the design.
    """
    assignment, design = experiment.assignment, experiment.design
    size = products["units_per_day"].to_numpy()
    if assignment.unit == "cluster":
        units = np.array([clusters[product] for product in products["product_id"]], dtype=object)
        strata = _cluster_strata(units, size)
    else:
        order = np.lexsort((products["product_id"], size, products["category"]))
        products, size, units = products.iloc[order], size[order], None
        strata = designs.size_strata(products["category"].to_numpy(), size)
    common: dict[str, Any] = {"grain": grain, "units": units, "strata": strata, "share": assignment.share, "rng": rng}
    ids = products["product_id"].to_numpy()
    try:
        if design.kind == "time_bound":
            return designs.time_bound(ids, design.start, duration=design.duration, blackout=design.blackout, **common)
        if design.kind == "crossover":
            lengths: dict[str, Any] = {"phase": design.phase, "phases": design.phases, "blackout": design.blackout}
            return designs.crossover(ids, design.start, **lengths, **common)
        if design.kind == "random_days":
            lengths = {"duration": design.duration, "block": design.block, "blackout": design.blackout}
            return designs.random_days(ids, design.start, **lengths, balance=design.balance, **common)
    except ValueError as error:
        found, _, rest = str(error).partition(", must be ")
        allowed, _, remedy = rest.partition(". ")
        raise LabError(experiment.file, None, found, allowed or "drawable", remedy or "Change it.") from error
    raise LabError(
        experiment.file, "design.kind", design.kind, "a design that is drawn by the calendar", "Use another."
    )


def assignment_table(drawn: designs.Assignment, experiment: Experiment) -> pa.Table:
    """Return the assignment as rows of product and period, up to a stop; arm 1 carries the treatment arm's name."""
    days = drawn.date.astype("datetime64[D]")
    days = days[days <= np.datetime64(experiment.design.stop)] if experiment.design.stop else days
    n, t = len(drawn.product_id), len(days)
    names = np.array([CONTROL, *(arm.name for arm in experiment.arms)], dtype=object)
    return pa.table(
        {
            "experiment_id": pa.array([experiment.id] * (n * t), pa.string()),
            "product_id": pa.array(np.repeat(drawn.product_id, t), pa.string()),
            "date": pa.array(np.tile(days, n)),
            "arm": pa.array(names[drawn.arm[:, :t]].ravel(), pa.string()),
            "in_analysis": pa.array(drawn.in_analysis[:, :t].ravel()),
            "probability": pa.array(drawn.probability[:, :t].ravel()),
            "unit_id": pa.array(np.repeat(drawn.unit_id, t), pa.string()),
        }
    )


def imported_assignment(
    rows: pd.DataFrame, experiment: Experiment, scope: Sequence[str], *, period_days: int = 1
) -> pa.Table:
    """Return an assignment that was drawn elsewhere; a blackout row carries the arm of the product's next counted day.

    Raises
    ------
    LabError : when a cell is empty, an arm has another name, no product is in the scope, or a blackout has no day after
        it. Rows of products outside the scope are left out; the caller counts them.
    """
    names = {CONTROL, BLACKOUT, *(arm.name for arm in experiment.arms)}
    allowed = f"product_id, date and an arm among {', '.join(sorted(names))} in every row"
    empty = rows[["product_id", "date", "arm"]].isna().any(axis=1)
    if empty.any():
        found = f"{int(empty.sum())} rows with an empty cell"
        raise LabError(experiment.file, "assignment.source", found, allowed, "Fill or remove these rows.")
    unknown = sorted(set(rows["arm"]) - names)
    if unknown:
        raise LabError(experiment.file, "assignment.source", unknown[0], allowed, "Rename the arm in that file.")
    rows = rows[rows["product_id"].isin(set(scope))].sort_values(["product_id", "date"])
    if rows.empty:
        allowed = "a file with products of the scope"
        raise LabError(experiment.file, "assignment.source", "no product in scope", allowed, "Widen the scope.")
    in_analysis = (rows["arm"] != BLACKOUT).to_numpy()
    arm = rows["arm"].where(in_analysis).groupby(rows["product_id"]).bfill()
    if arm.isna().any():
        product = rows["product_id"][arm.isna()].iloc[0]
        allowed = f"closed by a counted day after each blackout, and product {product} ends in one"
        raise LabError(experiment.file, "assignment.source", BLACKOUT, allowed, "Add the day that follows it.")
    _check_follows_design(experiment, rows.assign(arm=arm), period_days)
    return pa.table(
        {
            "experiment_id": pa.array([experiment.id] * len(rows), pa.string()),
            "product_id": pa.array(rows["product_id"], pa.string()),
            "date": pa.array(rows["date"], pa.date32()),
            "arm": pa.array(arm, pa.string()),
            "in_analysis": pa.array(in_analysis),
            "probability": pa.nulls(len(rows), pa.float64()),
            "unit_id": pa.array(rows["product_id"], pa.string()),
        }
    )


def _check_follows_design(experiment: Experiment, rows: pd.DataFrame, period_days: int) -> None:
    """Refuse arms that change where the declared design keeps them, or stay where it swaps them."""
    design = experiment.design
    if design.kind not in ("time_bound", "crossover"):
        return
    phase = np.zeros(len(rows), dtype=int)
    if design.kind == "crossover":
        phase = (rows["date"] - pd.Timestamp(design.start)).dt.days.to_numpy() // period_days // design.phase
    swapped = (rows["arm"] != CONTROL).to_numpy() ^ (phase % 2 == 1)
    mixed = pd.Series(swapped).groupby(rows["product_id"].to_numpy()).nunique() > 1
    if mixed.any():
        rule = "one arm throughout" if design.kind == "time_bound" else f"swapped after each {design.phase} periods"
        found = f"the arms of {int(mixed.sum())} products, such as {mixed.index[mixed][0]}"
        remedy = "Correct that file, or declare design.kind: random_days."
        raise LabError(experiment.file, "assignment.source", found, f"as {design.kind} has them: {rule}", remedy)


def _cluster_strata(units: NDArray[np.object_], size: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return strata (N,) that pair clusters of like size, counted in products, then in demand."""
    labels, row, counts = np.unique(units.astype(str), return_inverse=True, return_counts=True)
    demand = np.bincount(row, weights=size, minlength=len(labels))
    rank = np.empty(len(labels))
    rank[np.lexsort((demand, counts))] = np.arange(len(labels))
    return designs.paired_strata(rank)[row]
