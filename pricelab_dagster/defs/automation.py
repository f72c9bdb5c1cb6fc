"""What runs by itself: new and changed experiments, the daily refresh, and the marts behind them.

The sensors look every 30 seconds; the environment variable PRICELAB_SENSOR_SECONDS gives another number.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path

import dagster as dg

from pricelab_dagster.defs.lake_assets import asset_key
from pricelab_dagster.defs.partitions import EXPERIMENTS
from pricelab_dagster.defs.resources import LabResource, lab_schedule
from pricelab_dagster.defs.sql_models import PUBLISHED
from pricelab_dagster.engine import EngineError
from pricelab_dagster.lab import LabError
from pricelab_dagster.lab.sources import CONFIG_FILE
from pricelab_dagster.models import models
from pricelab_dagster.tables import TABLES
from pricelab_dagster.triggering import TRIGGERS
from pricelab_dagster.workbench import ASSIGNMENTS, EVENTS, Workbench

_SENSOR_SECONDS = int(os.environ.get("PRICELAB_SENSOR_SECONDS", "30"))
_LAB_TABLES = [name for name in TABLES if not TABLES[name].partitioned and not name.startswith("marts.")]
_EXPERIMENT_TABLES = [name for name in TABLES if TABLES[name].partitioned]
_EVENT_TABLES = [EVENTS, "intermediate.int_data_quality"]
_DESIGN_TABLES = [f"experiment.{name}" for name in ("drawn_arms", "triggers", "assignments", "price_plan")]
_MARTS = [name for name in TABLES if name.startswith("marts.")]
_PUBLISHED = [*sorted(PUBLISHED), *_MARTS]

refresh = dg.define_asset_job(
    "refresh",
    selection=dg.AssetSelection.assets(*map(asset_key, _LAB_TABLES)),
    description="Read the sources anew: sales, products, events and incumbent prices of the whole lab.",
)
experiment = dg.define_asset_job(
    "experiment",
    selection=dg.AssetSelection.assets(*map(asset_key, _EXPERIMENT_TABLES)),
    description="One experiment from its features to its effects; a planned one stops after its price plan.",
)
publish = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.assets(*map(asset_key, _PUBLISHED), dg.AssetKey("warehouse")),
    description="Count the data anew, build the marts and swap in the warehouse, from the experiments that succeeded.",
)


plan = dg.define_asset_job(
    "plan",
    selection=dg.AssetSelection.assets(*map(asset_key, [EVENTS, *_DESIGN_TABLES])),
    description="The design half alone, once features and clusters are there: events, assignment and price plan.",
)
trigger = dg.define_asset_job(
    "trigger",
    selection=dg.AssetSelection.assets(*map(asset_key, [*_EVENT_TABLES, *_EXPERIMENT_TABLES])),
    description="New outside events: read them, start what they trigger, extend the price plan, run the experiment.",
)


@dg.sensor(
    jobs=[refresh, plan, experiment],
    minimum_interval_seconds=_SENSOR_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds new experiment files as partitions and runs what each experiment's present state asks for.",
)
def experiments(context: dg.SensorEvaluationContext, lab: LabResource) -> dg.SensorResult | dg.SkipReason:
    """Adds each new experiment file as a partition and requests the runs that bring every experiment up to date.

    A run is requested once for each state of an experiment: its design, and while it runs each new last date in sales.
    Before the start a plan made from shelf prices follows them, with the arms as they were drawn. An experiment with a
    run under way is looked at once that is over. Broken files are reported and hold back no other.
    """
    try:
        bench = Workbench.open(Path(lab.root))
    except LabError as error:
        return dg.SkipReason(str(error))
    for broken in bench.lab.broken.values():
        context.log.error(str(broken))
    known = set(context.instance.get_dynamic_partitions("experiment"))
    new = [name for name in bench.lab.experiments if name not in known]
    written = (bench.lab.root / CONFIG_FILE).stat().st_mtime_ns
    requests = [dg.RunRequest(run_key=f"first refresh:{written}", job_name=refresh.name)] if bench.as_of is None else []
    if bench.as_of is not None:
        busy = _busy(context.instance)
        due = {name: key for name, key in due_runs(bench).items() if name not in busy}
        requests = [
            dg.RunRequest(run_key=key, job_name=experiment.name, partition_key=name) for name, key in due.items()
        ]
        requests += [
            dg.RunRequest(run_key=f"{name}:plan:{bench.as_of}", job_name=plan.name, partition_key=name)
            for name, one in bench.lab.experiments.items()
            if name not in due and name not in busy and bench.has_stale_plan(one)
        ]
    return dg.SensorResult(
        run_requests=requests, dynamic_partitions_requests=[EXPERIMENTS.build_add_request(new)] if new else []
    )


@dg.sensor(
    job=trigger,
    minimum_interval_seconds=_SENSOR_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Watches the events source; an event that a triggered experiment has not judged yet runs it.",
)
def events(context: dg.SensorEvaluationContext, lab: LabResource) -> dg.SensorResult | dg.SkipReason:
    """Requests a run of each triggered experiment that an outside event concerns and that has not judged it yet.

    The set of events seen is the table `experiment.triggers` itself: files that come late or out of order are not
    skipped, and an event that was judged never asks again, whatever became of the tick or of the run. A first run is
    left to the sensor `experiments`.
    """
    try:
        bench = Workbench.open(Path(lab.root))
        keys = event_runs(bench)
    except LabError as error:
        return dg.SkipReason(str(error))
    except EngineError as error:
        return dg.SkipReason(f"The events cannot be read. {error}")
    if not keys:
        return dg.SkipReason("No event that a triggered experiment has not judged.")
    return dg.SensorResult([dg.RunRequest(run_key=key, partition_key=name) for name, key in keys.items()])


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Return the experiments that a run works on or waits for: their tables are half old and half new."""
    status = dg.DagsterRunStatus
    under_way = [status.QUEUED, status.NOT_STARTED, status.STARTING, status.STARTED, status.CANCELING]
    runs = instance.get_runs(dg.RunsFilter(statuses=under_way))
    return {name for run in runs if (name := run.tags.get("dagster/partition")) is not None}


def event_runs(bench: Workbench) -> dict[str, str]:
    """Return by experiment the key of the run that its new events ask for; one key is run once.

    The key names the new events and the verdicts so far, so that a run that failed is asked for again once either has
    changed, and not before.
    """
    waiting = [one for one in bench.lab.experiments.values() if bench.awaits_events(one)]
    if not waiting or bench.lab.config.events is None:
        return {}
    staged = bench.run_model(models()[EVENTS])
    found = {}
    for one in waiting:
        new = sorted(str((*event.key, event.n_rows)) for event in bench.unseen_events(one, staged))
        if new:
            judged = bench.lake.fingerprint(TRIGGERS, one.id)[:16]
            found[one.id] = f"{one.id}:events:{hashlib.sha256(json.dumps(new).encode()).hexdigest()[:16]}:{judged}"
    return found


def due_runs(bench: Workbench) -> dict[str, str]:
    """Return by experiment the key of the run that its present state asks for; one key is run once.

    An experiment is due while its tables do not show its present state. The key names state, verdicts on events, staged
    sales and the designs of the others, so that a run that failed is asked for again once one of these has changed, and
    not before.
    """
    staged = bench.lake.path("staging.stg_sales").stat().st_mtime_ns
    keys = {}
    for name, one in bench.lab.experiments.items():
        if not bench.is_current(one):
            state = f"{one.fingerprint()[:16]}:{bench.window(one).end}:{bench.status(one)}"
            keys[name] = f"{name}:{state}:{staged}:{_around(bench, name)}"
    return keys


def _around(bench: Workbench, name: str) -> str:
    """Return a digest of what else decides whether a run succeeds: its verdicts on events, and who prices what."""
    retired = set(bench.retired())
    known = [other for other in bench.lake.partitions(ASSIGNMENTS) if other != name and other not in retired]
    stored = {other: bench.lake.metadata(ASSIGNMENTS, other) for other in known}
    others = [(other, facts.get("end"), facts.get("design")) for other, facts in stored.items()]
    around = [bench.lake.fingerprint(TRIGGERS, name), others]
    return hashlib.sha256(json.dumps(around, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dg.definitions
def automation() -> dg.Definitions:
    """Return jobs, sensors and the schedule."""
    cron, time_zone = lab_schedule()
    daily = dg.ScheduleDefinition(
        name="daily_refresh",
        job=refresh,
        cron_schedule=cron,
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reads the sources anew; the sensor `experiments` then runs the experiments that are under way. "
        "After days without a daemon the last missed tick is run: one refresh reads all that has come since.",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        marts = dg.AutomationConditionSensorDefinition(
            "publish_marts",
            target=dg.AssetSelection.assets(*map(asset_key, _PUBLISHED), dg.AssetKey("warehouse")),
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=_SENSOR_SECONDS,
            description="Builds marts and warehouse when the experiments that changed have settled.",
        )
    jobs = [refresh, experiment, plan, trigger, publish]
    return dg.Definitions(jobs=jobs, schedules=[daily], sensors=[experiments, events, marts])
