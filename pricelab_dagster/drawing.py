"""The assignment of an experiment, drawn as its file says, as rows of the lake's tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster import scope
from pricelab_dagster.lab import CONTROL, Experiment, Grain, LabError
from pricelab_dagster.science import designs
from pricelab_dagster.tables import TABLES
from pricelab_dagster.triggering import STARTS
from pricelab_dagster.workbench import stage_rng

MIN_MIXED = 8

ORDER, STRATA, CLUSTERS = "draw_order", "draw_strata", "draw_clusters"
"""Names of what is stored beside an assignment, so that its mechanism can be replayed when sizes have moved."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Who is drawn, in the order of the draw: products, the unit of each, and the stratum of each unit.

    Of a mixed assignment `cluster` names the cluster of each product, also where it is broken up; else None.
    """

    product_id: NDArray[np.object_]
    unit_id: NDArray[np.object_]
    stratum: NDArray[np.int64]
    cluster: NDArray[np.object_] | None = None

    @classmethod
    def of(cls, experiment: Experiment, products: pd.DataFrame, clusters: Mapping[str, str]) -> "Frame":
        """Return the frame of an experiment; arguments as for `draw`."""
        size, category = products["units_per_day"].to_numpy(), products["category"].to_numpy(dtype=object)
        ids = products["product_id"].to_numpy(dtype=object)
        if experiment.assignment.by_cluster:
            units = np.array([clusters[product] for product in ids], dtype=object)
            if experiment.assignment.unit == "mixed":
                return cls._mixed(experiment, ids, size, category, units)
            return cls(ids, units, _cluster_strata(units, size, category))
        order = np.lexsort((ids, size, category))
        return cls(ids[order], ids[order], designs.size_strata(category[order], size[order]))

    @classmethod
    def _mixed(
        cls,
        experiment: Experiment,
        ids: NDArray[np.object_],
        size: NDArray[np.float64],
        category: NDArray[np.object_],
        cluster: NDArray[np.object_],
    ) -> "Frame":
        """Return the frame of a mixed assignment: whole clusters first, then the products of those broken up."""
        kept = _kept_whole(experiment, cluster, size)
        whole, apart = np.flatnonzero(kept), np.flatnonzero(~kept)
        apart = apart[np.lexsort((ids[apart], size[apart], category[apart]))]
        strata = _cluster_strata(cluster[whole], size[whole], category[whole])
        others = designs.size_strata(category[apart], size[apart]) + len(ids)
        order = np.r_[whole, apart]
        units = np.r_[cluster[whole], ids[apart]]
        return cls(ids[order], units, np.r_[strata, others], cluster[order])

    @classmethod
    def stored(cls, facts: Mapping[str, Any], units: Mapping[str, str]) -> "Frame | None":
        """Return the frame that was stored beside an assignment, or None where there was none yet."""
        if ORDER not in facts:
            return None
        ids = np.array(facts[ORDER], dtype=object)
        cluster = np.array(facts[CLUSTERS], dtype=object) if CLUSTERS in facts else None
        unit_id = np.array([units[one] for one in ids], dtype=object)
        return cls(ids, unit_id, np.array(facts[STRATA], dtype=np.int64), cluster)

    def facts(self) -> dict[str, object]:
        """Return what to store beside an assignment."""
        facts: dict[str, object] = {ORDER: self.product_id.tolist(), STRATA: self.stratum.tolist()}
        return facts if self.cluster is None else facts | {CLUSTERS: self.cluster.tolist()}


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
    LabError : when the scope is too small for the design, or for the share.
    """
    frame = Frame.of(experiment, products, clusters)
    drawn = draw_from(frame, experiment, grain, rng=rng)
    scope.refuse_lone_units(experiment, len(np.unique(frame.unit_id.astype(str))))
    return drawn


def draw_from(frame: Frame, experiment: Experiment, grain: Grain, *, rng: np.random.Generator) -> designs.Assignment:
    """Return the arms of an experiment, drawn among those of a frame; raises as `draw`."""
    assignment, design, ids = experiment.assignment, experiment.design, frame.product_id
    units = frame.unit_id if assignment.by_cluster else None
    common: dict[str, Any] = {"grain": grain, "units": units, "strata": frame.stratum, "share": assignment.share}
    common |= {"n_arms": len(experiment.arms), "rng": rng}
    try:
        if design.kind == "time_bound":
            return designs.time_bound(ids, design.start, duration=design.duration, blackout=design.blackout, **common)
        if design.kind == "crossover":
            lengths: dict[str, Any] = {"phase": design.phase, "phases": design.phases, "blackout": design.blackout}
            return designs.crossover(ids, design.start, **lengths, **common)
        if design.kind == "random_days":
            lengths = {"duration": design.duration, "block": design.block, "blackout": design.blackout}
            return designs.random_days(ids, design.start, **lengths, balance=design.balance, **common)
        lengths = {"duration": design.duration, "horizon": design.horizon, "blackout": design.blackout}
        return designs.triggered(ids, design.start, **lengths, **common)
    except ValueError as error:
        found, _, rest = str(error).partition(", must be ")
        allowed, _, remedy = rest.partition(". ")
        raise LabError(experiment.file, None, found, allowed or "drawable", remedy or "Change it.") from error


def assignment_table(drawn: designs.Assignment, experiment: Experiment) -> pa.Table:
    """Return the assignment as rows of product and period, up to a stop; arms carry the names of the file."""
    days = drawn.date.astype("datetime64[D]")
    days = days[days <= np.datetime64(experiment.design.stop)] if experiment.design.stop else days
    n, t = len(drawn.product_id), len(days)
    names = _arm_names(experiment)
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


def drawn_arms_table(drawn: designs.Assignment, experiment: Experiment) -> pa.Table:
    """Return the arms that were drawn for the units of a triggered experiment, before any event, as rows of product."""
    names = _arm_names(experiment)
    return pa.table(
        {
            "experiment_id": pa.array([experiment.id] * len(drawn.product_id), pa.string()),
            "product_id": pa.array(drawn.product_id, pa.string()),
            "unit_id": pa.array(drawn.unit_id, pa.string()),
            "arm": pa.array(names[drawn.drawn], pa.string()),
            "probability": pa.array(drawn.probability[:, 0]),
        }
    )


def triggered_assignment(triggers: pa.Table, arms: pa.Table, experiment: Experiment, grain: Grain) -> pa.Table:
    """Return the assignment of the units that were triggered so far, each in its own window, up to a stop.

    Products whose unit had no trigger have no row: the incumbent price holds.

    Parameters
    ----------
    triggers, arms : experiment.triggers and experiment.drawn_arms.
    """
    started = {row["product_id"]: (row["start"], row["end"]) for row in triggers.to_pylist() if row["status"] in STARTS}
    drawn = arms.to_pylist()
    window = {row["unit_id"]: started[row["product_id"]] for row in drawn if row["product_id"] in started}
    step, last = timedelta(days=7 if grain == "week" else 1), experiment.end(grain)
    rows = []
    for row in drawn:
        if row["unit_id"] not in window:
            continue
        first, planned = window[row["unit_id"]]
        for period in range((min(planned, last) - first) // step + 1):
            in_analysis = period >= experiment.design.blackout
            rows.append({**row, "date": first + period * step, "in_analysis": in_analysis})
    return pa.Table.from_pylist(rows, schema=TABLES["experiment.assignments"].schema)


def _arm_names(experiment: Experiment) -> NDArray[np.object_]:
    return np.array([CONTROL, *(arm.name for arm in experiment.arms)], dtype=object)


def _kept_whole(experiment: Experiment, cluster: NDArray[np.object_], size: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whose cluster stays whole in a mixed assignment (N,): one, by a coin, of each pair of like clusters.

    Raises
    ------
    LabError : with fewer clusters than a comparison of two halves needs.
    """
    names, row, counts = np.unique(cluster.astype(str), return_inverse=True, return_counts=True)
    if len(names) < MIN_MIXED:
        found, allowed = f"assignment.unit == mixed over {len(names)} clusters", f"over {MIN_MIXED} or more"
        raise LabError(experiment.file, None, found, allowed, "Widen the scope, or assign by cluster.")
    rank = np.empty(len(names))
    rank[np.lexsort((np.bincount(row, weights=size), counts))] = np.arange(len(names))
    rng = stage_rng(experiment.assignment.seed, experiment.id, "halves")
    drawn = designs.time_bound(names, experiment.start, duration=1, strata=designs.paired_strata(rank), rng=rng)
    return np.asarray(drawn.arm[:, 0] == 1)[row]


def _cluster_strata(
    units: NDArray[np.object_], size: NDArray[np.float64], category: NDArray[np.object_]
) -> NDArray[np.int64]:
    """Return strata (N,) that pair clusters of like size, counted in products, then in demand, across categories."""
    labels, first, row, counts = np.unique(
        units.astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    demand = np.bincount(row, weights=size, minlength=len(labels))
    rank = np.empty(len(labels))
    rank[np.lexsort((demand, counts))] = np.arange(len(labels))
    return designs.paired_strata(rank, category=category[first])[row]
