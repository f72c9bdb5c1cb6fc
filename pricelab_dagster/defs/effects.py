"""HPTE steps 3 and 4: second differences with bootstrap intervals, and the checks that stand beside them."""

import math
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from pricelab_dagster.defs.affinity import LEAVES
from pricelab_dagster.defs.lake_assets import Output, Stage, asset_key, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, FEATURES, PLAN, TRIMMED
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.verdicts import CHECKS
from pricelab_dagster.workbench import FOLLOWED_BY, FOLLOWING

if TYPE_CHECKING:
    from pricelab_dagster.science.diagnostics import Diagnostic

EFFECTS, DRAWS, ARMS = "experiment.effects", "experiment.effect_draws", "experiment.drawn_arms"
DIAGNOSTICS, NOT_ASKED = "experiment.diagnostics", "does not apply to this design"


@experiment_asset(
    EFFECTS,
    reads=[LEAVES, TRIMMED, DETRENDED, ASSIGNMENTS, ARMS, FEATURES, DAYS, PLAN],
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
    from pricelab_dagster import estimating, frames, replaying

    bench, experiment = stage.bench, stage.experiment
    one = frames.load_panel(bench, experiment)
    reason = bench.lake.metadata(LEAVES, experiment.id).get("reason")
    trimmed = frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED))
    leaves = frames.read_leaves(stage.read(LEAVES), one, str(reason) if reason else None)
    doses = frames.doses(experiment, frames.to_pandas(stage.read(PLAN)))
    features = frames.to_pandas(stage.read(FEATURES))
    X = frames.attributes(features, one.product_id)
    rng = stage.rng("bootstrap")
    found = list(estimating.estimates(experiment, one, trimmed, leaves, doses=doses, X=X, rng=rng))
    frame = replaying.frame_of(experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), _drawn_beside(stage))
    found += replaying.randomization_rows(experiment, one, trimmed, leaves, found, frame=frame, rng=stage.rng("replay"))
    running = bench.status(experiment) is Status.RUNNING
    rows = frames.effects_table(
        experiment,
        found,
        quoted=estimating.headlines(experiment, found),
        so_far=one.through if running else None,
        one_leaf=leaves.is_single,
    )
    return Output(
        rows,
        facts={"through": bench.through(experiment).isoformat(), FOLLOWED_BY: list(FOLLOWING)},
        metadata={"headline": _headline(rows), "through": one.through},
        beside={DRAWS: frames.draws_table(experiment, found)},
    )


@experiment_asset(
    DIAGNOSTICS,
    reads=[EFFECTS, DRAWS, TRIMMED, DETRENDED, ASSIGNMENTS, ARMS, FEATURES, DAYS, PLAN],
    group="effects",
    after_start=True,
    verdicts=CHECKS,
)
def diagnostics(stage: Stage) -> Output:
    """One row per check: passed, failed or informational, with the finding in a sentence.

    A failed check stands beside the effect and never blocks it.
    """
    from pricelab_dagster import checks, disturbing, frames, replaying

    one, facts = frames.load_panel(stage.bench, stage.experiment), _drawn_beside(stage)
    features = frames.to_pandas(stage.read(FEATURES))
    found = checks.run(
        stage.experiment,
        one,
        frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED)),
        X=frames.attributes(features, one.product_id),
        plan=frames.to_pandas(stage.read(PLAN)),
        days=frames.to_pandas(
            stage.bench.days(
                list(one.product_id), since=stage.experiment.start, through=stage.bench.through(stage.experiment)
            )
        ),
        effects=frames.to_pandas(stage.read(EFFECTS)),
        facts=facts,
        arms=frames.to_pandas(stage.read(ARMS)),
        draws=frames.to_pandas(stage.read(DRAWS)),
        frame=replaying.frame_of(stage.experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), facts),
        others=disturbing.neighbours(stage.bench, stage.experiment, stage.read(FEATURES)),
        rng=stage.rng("diagnostics"),
    )
    failed = [check.check_name for check in found if check.status == "failed"]
    return Output(
        frames.diagnostics_table(stage.experiment, found),
        metadata={"failed": ", ".join(failed) or "none"},
        checks=_verdicts(found),
    )


def _drawn_beside(stage: Stage) -> dict[str, object]:
    return stage.bench.lake.metadata(ASSIGNMENTS, stage.experiment.id)


def _verdicts(found: "list[Diagnostic]") -> list[dg.AssetCheckResult]:
    """Return a result for every check, also for those that the design does not ask."""
    by_name = {check.check_name: check for check in found}
    unknown = sorted(by_name.keys() - CHECKS.keys())
    if unknown:
        raise ValueError(f"check {unknown[0]!r} is not in verdicts.CHECKS. Add it there with what it asks.")
    return [_verdict(name, by_name.get(name)) for name in CHECKS]


def _verdict(name: str, check: "Diagnostic | None") -> dg.AssetCheckResult:
    """Return a result that only a failed check does not pass, as a warning.

    What informs, and what does not apply, differs from a pass by the metadata `status` and the description.
    """
    status, message = (NOT_ASKED, NOT_ASKED) if check is None else (check.status, check.message)
    numbers = {} if check is None else {key: getattr(check, key) for key in ("value", "threshold", "p_value")}
    known = {key: float(number) for key, number in numbers.items() if math.isfinite(number)}
    return dg.AssetCheckResult(
        passed=status != "failed",
        asset_key=asset_key(DIAGNOSTICS),
        check_name=name,
        severity=dg.AssetCheckSeverity.WARN,
        description=message if check is None else f"{status}: {message}",
        metadata={"status": status, "message": message, **known},
    )


def _headline(rows: pa.Table) -> dg.MarkdownMetadataValue:
    lines = ["| arm | metric | effect | interval |", "|---|---|---|---|"]
    for row in rows.to_pylist():
        if row["is_headline"]:
            effect = "-" if row["effect"] is None else f"{row['effect']:+.1%}"
            bounded = row["ci_lower"] is not None
            interval = f"{row['ci_lower']:+.1%} to {row['ci_upper']:+.1%}" if bounded else row["reason"]
            lines.append(f"| {row['arm']} | {row['metric']} | {effect} | {interval} |")
    return dg.MetadataValue.md("\n".join(lines))
