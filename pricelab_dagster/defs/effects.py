"""HPTE steps 3 and 4: second differences with bootstrap intervals, and the checks that stand beside them."""

import dagster as dg
import pyarrow as pa

from pricelab_dagster.defs.affinity import LEAVES
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, FEATURES, PLAN, TRIMMED
from pricelab_dagster.lifecycle import Status

EFFECTS, DRAWS = "experiment.effects", "experiment.effect_draws"


@experiment_asset(
    EFFECTS,
    reads=[LEAVES, TRIMMED, DETRENDED, ASSIGNMENTS, FEATURES, DAYS, PLAN],
    group="effects",
    after_start=True,
    beside={
        DRAWS: "One row per metric, scale, estimator, arm and bootstrap replicate: the estimate under that draw. One "
        "draw serves all, so that any function of several effects has its joint interval from these rows."
    },
)
def effects(stage: Stage) -> Output:
    """One row per metric, scale, estimator and arm: the effect with its interval, or why there is none.

    One bootstrap draw over assignment units serves all metrics. Of a running experiment the rows cover the periods so
    far and say so.
    """
    from pricelab_dagster import estimating, frames

    bench, experiment = stage.bench, stage.experiment
    one = frames.load_panel(bench, experiment)
    reason = bench.lake.metadata(LEAVES, experiment.id).get("reason")
    trimmed = frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED))
    leaves = frames.read_leaves(stage.read(LEAVES), one, str(reason) if reason else None)
    doses = frames.doses(experiment, frames.to_pandas(stage.read(PLAN)))
    X = frames.attributes(frames.to_pandas(stage.read(FEATURES)), one.product_id)
    rng = stage.rng("bootstrap")
    found = list(estimating.estimates(experiment, one, trimmed, leaves, doses=doses, X=X, rng=rng))
    running = bench.status(experiment) is Status.RUNNING
    rows = frames.effects_table(
        experiment,
        found,
        quoted=estimating.headlines(experiment, found),
        so_far=one.through if running else None,
    )
    return Output(
        rows,
        facts={"through": bench.through(experiment).isoformat()},
        metadata={"headline": _headline(rows), "through": one.through},
        beside={DRAWS: frames.draws_table(experiment, found)},
    )


@experiment_asset(
    "experiment.diagnostics",
    reads=[EFFECTS, DRAWS, TRIMMED, DETRENDED, ASSIGNMENTS, "experiment.drawn_arms", FEATURES, DAYS, PLAN],
    group="effects",
    after_start=True,
)
def diagnostics(stage: Stage) -> Output:
    """One row per check: passed, failed or informational, with the finding in a sentence.

    A failed check stands beside the effect and never blocks it.
    """
    from pricelab_dagster import checks, frames

    one = frames.load_panel(stage.bench, stage.experiment)
    found = checks.run(
        stage.experiment,
        one,
        frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED)),
        X=frames.attributes(frames.to_pandas(stage.read(FEATURES)), one.product_id),
        plan=frames.to_pandas(stage.read(PLAN)),
        days=frames.to_pandas(
            stage.bench.days(
                list(one.product_id), since=stage.experiment.start, through=stage.bench.through(stage.experiment)
            )
        ),
        effects=frames.to_pandas(stage.read(EFFECTS)),
        facts=stage.bench.lake.metadata(ASSIGNMENTS, stage.experiment.id),
        arms=frames.to_pandas(stage.read("experiment.drawn_arms")),
        draws=frames.to_pandas(stage.read(DRAWS)),
        rng=stage.rng("diagnostics"),
    )
    failed = [check.check_name for check in found if check.status == "failed"]
    return Output(frames.diagnostics_table(stage.experiment, found), metadata={"failed": ", ".join(failed) or "none"})


def _headline(rows: pa.Table) -> dg.MarkdownMetadataValue:
    lines = ["| arm | metric | effect | interval |", "|---|---|---|---|"]
    for row in rows.to_pylist():
        if row["is_headline"]:
            known = row["effect"] is not None
            effect = f"{row['effect']:+.1%}" if known else "-"
            interval = f"{row['ci_lower']:+.1%} to {row['ci_upper']:+.1%}" if known else row["reason"]
            lines.append(f"| {row['arm']} | {row['metric']} | {effect} | {interval} |")
    return dg.MetadataValue.md("\n".join(lines))
