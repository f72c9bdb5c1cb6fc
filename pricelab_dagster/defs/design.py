"""The design of an experiment: which events started it, and which product is in which arm when."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from pricelab_dagster import collisions, scope, triggering
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import MADE_FROM

FEATURES, CLUSTERS = "intermediate.int_product_features", "spillover.product_clusters"
ARMS, TRIGGERS, ASSIGNMENTS = "experiment.drawn_arms", "experiment.triggers", "experiment.assignments"
EVENTS, PRODUCTS = "staging.stg_events", "staging.stg_products"


@experiment_asset(ARMS, reads=[FEATURES, CLUSTERS], group="design")
def drawn_arms(stage: Stage) -> Output:
    """One row per product of a triggered experiment: the arm drawn for its unit before any event.

    Frozen from the start on. Empty for designs that start by the calendar, whose arms stand in the assignments.
    """
    from pricelab_dagster import drawing

    bench, experiment = stage.bench, stage.experiment
    if experiment.design.kind != "triggered" or experiment.assignment.source is not None:
        reason = _by_calendar(stage)
        return Output(TABLES[ARMS].schema.empty_table(), facts={"reason": reason}, metadata={"reason": reason})
    if bench.is_frozen(experiment) and bench.lake.exists(ARMS, experiment.id):
        facts = bench.lake.metadata(ARMS, experiment.id)
        return Output(stage.read(ARMS), facts=facts, metadata={"frozen": True})
    drawn, facts = _draw(stage)
    told = {name: facts[name] for name in ("mechanism", "drawn_as_of", "inclusion_probability")}
    return Output(drawing.drawn_arms_table(drawn, experiment), facts=facts, metadata={**told, "frozen": False})


@experiment_asset(TRIGGERS, reads=[EVENTS, PRODUCTS, ARMS], group="design")
def triggers(stage: Stage) -> Output:
    """One row per outside event that concerns the experiment, and what it did.

    A verdict stays: the price plan was handed out with it. Empty for designs that start by the calendar.
    """
    bench, experiment = stage.bench, stage.experiment
    if experiment.design.kind != "triggered" or experiment.assignment.source is not None:
        reason = _by_calendar(stage)
        return Output(TABLES[TRIGGERS].schema.empty_table(), facts={"reason": reason}, metadata={"reason": reason})
    arms = stage.read(ARMS)
    known = stage.read(PRODUCTS)["product_id"].to_pylist()
    concerned = triggering.events_of(stage.read(EVENTS), experiment.design.event, known, arms["product_id"].to_pylist())
    stored = bench.seen_events(experiment) if bench.is_frozen(experiment) else TABLES[TRIGGERS].schema.empty_table()
    assert bench.as_of is not None, "the arms are drawn from staged sales"
    rules = triggering.Rules.of(experiment, bench.grain, as_of=bench.as_of)
    rows = triggering.judge(experiment.id, concerned, stored, arms, rules)
    return Output(rows, metadata={"new": rows.num_rows - stored.num_rows, "by_status": _counts(rows, "status")})


@experiment_asset(ASSIGNMENTS, reads=[FEATURES, CLUSTERS, ARMS, TRIGGERS, EVENTS], group="design")
def assignments(stage: Stage) -> Output:
    """One row per product and period: the arm in force, with the exact probability of treatment.

    Drawn before the start from the experiment's seed, and frozen from the start on. Of a triggered experiment the rows
    are those of the units that were triggered so far, each in its own window.
    """
    from pricelab_dagster import pictures, picturing

    bench, experiment = stage.bench, stage.experiment
    facts = bench.facts(experiment)
    frozen = bench.is_frozen(experiment) and bench.lake.exists(ASSIGNMENTS, experiment.id)
    if frozen:
        facts = {**bench.lake.metadata(ASSIGNMENTS, experiment.id), **facts}
        rows = bench.frozen_assignment(experiment)
    if experiment.assignment.source is not None:
        if not frozen:
            rows, found = _imported(stage)
            facts |= found
    elif experiment.design.kind == "triggered":
        from pricelab_dagster import drawing

        drawn = bench.lake.metadata(ARMS, experiment.id)
        rows = drawing.triggered_assignment(stage.read(TRIGGERS), stage.read(ARMS), experiment, bench.grain)
        facts |= drawn
    elif not frozen:
        from pricelab_dagster import drawing

        drawn, found = _draw(stage)
        rows = drawing.assignment_table(drawn, experiment)
        facts |= found
    collisions.refuse(bench, experiment, rows)
    first = min(rows["date"].to_pylist(), default=None)
    facts["first_assigned"] = None if first is None else first.isoformat()
    facts["frozen"] = frozen or (bench.as_of is not None and experiment.start <= bench.as_of)
    facts[MADE_FROM] = bench.lake.fingerprint(TRIGGERS, experiment.id)
    picture = picturing.design_of(experiment, rows, bench.grain)
    return Output(
        rows,
        facts=facts,
        metadata={**_described(stage, rows, facts), "picture": dg.MetadataValue.md(pictures.markdown(picture))},
        then=lambda: picturing.write(bench.lab.root, experiment.id, picture),
    )


def _draw(stage: Stage) -> tuple[Any, dict[str, object]]:
    """Return the drawn arms, and what is stored beside them: mechanism, sample, strata and as-of date."""
    from pricelab_dagster import drawing, frames

    bench, experiment = stage.bench, stage.experiment
    clusters = scope.cluster_of(stage.read(CLUSTERS))
    sample = scope.sample(experiment, scope.products(bench, experiment, stage.read(FEATURES)), clusters)
    products = frames.to_pandas(stage.read(FEATURES))
    products = products[products["product_id"].isin(set(sample.products))].sort_values("product_id")
    frame = drawing.Frame.of(experiment, products, clusters)
    drawn = drawing.draw_from(frame, experiment, bench.grain, rng=stage.rng("assignments"))
    facts: dict[str, object] = {"mechanism": drawn.mechanism, "drawn_as_of": str(bench.as_of), **frame.facts()}
    return drawn, facts | {"inclusion_probability": sample.inclusion_probability}


def _imported(stage: Stage) -> tuple[pa.Table, dict[str, object]]:
    """Return an assignment that was drawn elsewhere, and how it departs from the declared design."""
    from pricelab_dagster import frames, imported

    bench, experiment = stage.bench, stage.experiment
    given = frames.to_pandas(bench.imported_rows(experiment))
    clusters = scope.cluster_of(stage.read(CLUSTERS))
    sample = scope.sample(experiment, scope.products(bench, experiment, stage.read(FEATURES)), clusters)
    events = _event_dates(frames.to_pandas(stage.read(EVENTS)), experiment)
    found = imported.read(given, experiment, sample.products, grain=bench.grain, events=events)
    facts: dict[str, object] = {
        "mechanism": f"imported from {experiment.assignment.source}",
        "drawn_as_of": str(bench.as_of),
        "inclusion_probability": sample.inclusion_probability,
        "deviations": list(found.deviations),
        "is_staggered": found.is_staggered,
        "rows_outside_scope": found.n_outside_scope,
        "rows_outside_window": found.n_outside_window,
    }
    return found.rows, facts


def _event_dates(events: pd.DataFrame, experiment: Any) -> dict[str, list[Any]]:
    if experiment.design.kind != "triggered":
        return {}
    own = events[events["kind"] == experiment.design.event]
    return own.groupby("product_id")["occurred_on"].agg(lambda days: [day.date() for day in days]).to_dict()


def _described(stage: Stage, rows: pa.Table, facts: Mapping[str, object]) -> dict[str, Any]:
    """Return what a person needs to judge an assignment: the mechanism and the counts."""
    told = {name: facts[name] for name in ("mechanism", "inclusion_probability", "rows_outside_scope") if name in facts}
    deviations = facts.get("deviations")
    return {
        **told,
        "products": len(set(rows["product_id"].to_pylist())),
        "seed": stage.experiment.assignment.seed,
        "frozen": facts["frozen"],
        "cells_by_arm": _counts(rows, "arm"),
        "deviations": "; ".join(map(str, deviations)) if isinstance(deviations, list) and deviations else "none",
    }


def _by_calendar(stage: Stage) -> str:
    if stage.experiment.assignment.source is not None:
        return "the assignment is imported: no event triggers it here"
    return f"{stage.experiment.design.kind} starts by the calendar: no event triggers it"


def _counts(rows: pa.Table, column: str) -> dict[str, int]:
    counted = rows.group_by([column]).aggregate([([], "count_all")])
    return dict(sorted(zip(counted[column].to_pylist(), counted["count_all"].to_pylist(), strict=True)))
