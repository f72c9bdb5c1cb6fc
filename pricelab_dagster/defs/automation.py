"""What runs by itself: new and changed experiments, the daily refresh, and the marts behind them."""

import os
import warnings
from pathlib import Path

import dagster as dg

from pricelab_dagster.defs.lake_assets import asset_key
from pricelab_dagster.defs.partitions import EXPERIMENTS
from pricelab_dagster.defs.resources import LabResource
from pricelab_dagster.lab import LabError
from pricelab_dagster.lab.config import Schedule
from pricelab_dagster.lab.sources import CONFIG_FILE
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench

_LAB_TABLES = [name for name in TABLES if not TABLES[name].partitioned and not name.startswith("marts.")]
_EXPERIMENT_TABLES = [name for name in TABLES if TABLES[name].partitioned]
_MARTS = [name for name in TABLES if name.startswith("marts.")]

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
    selection=dg.AssetSelection.assets(*map(asset_key, _MARTS), dg.AssetKey("warehouse")),
    description="Build the marts and swap in the warehouse, from the experiments that succeeded.",
)


@dg.sensor(
    jobs=[refresh, experiment],
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds new experiment files as partitions and runs what each experiment's present state asks for.",
)
def experiments(context: dg.SensorEvaluationContext, lab: LabResource) -> dg.SensorResult | dg.SkipReason:
    """Adds each new experiment file as a partition and requests the runs that bring every experiment up to date.

    A run is requested once for each state of an experiment: its design, and while it runs each new last date in sales.
    Broken files are reported and hold back no other.
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
        requests = [
            dg.RunRequest(run_key=key, job_name=experiment.name, partition_key=name)
            for name, key in due_runs(bench).items()
        ]
    return dg.SensorResult(
        run_requests=requests, dynamic_partitions_requests=[EXPERIMENTS.build_add_request(new)] if new else []
    )


def due_runs(bench: Workbench) -> dict[str, str]:
    """Return by experiment the key of the run that its present state asks for; one key is run once.

    An experiment is due while its tables do not show its present state. The key names state and staged sales, so that
    a run that failed is asked for again once the design or the sales have changed, and not before.
    """
    staged = bench.lake.path("staging.stg_sales").stat().st_mtime_ns
    return {
        name: f"{name}:{one.fingerprint()[:16]}:{bench.window(one).end}:{bench.status(one)}:{staged}"
        for name, one in bench.lab.experiments.items()
        if not bench.is_current(one)
    }


def _lab_schedule() -> tuple[str, str]:
    """Return cron and time zone of the lab that PRICELAB_HOME names, the defaults without one."""
    try:
        config = Workbench.open(Path(os.environ["PRICELAB_HOME"])).lab.config
    except (KeyError, LabError):
        return Schedule().cron, "UTC"
    return config.schedule.cron, config.time_zone


@dg.definitions
def automation() -> dg.Definitions:
    """Return jobs, sensors and the schedule."""
    cron, time_zone = _lab_schedule()
    daily = dg.ScheduleDefinition(
        name="daily_refresh",
        job=refresh,
        cron_schedule=cron,
        execution_timezone=time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reads the sources anew; the sensor `experiments` then runs the experiments that are under way.",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        marts = dg.AutomationConditionSensorDefinition(
            "publish_marts",
            target=dg.AssetSelection.assets(*map(asset_key, _MARTS), dg.AssetKey("warehouse")),
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Builds marts and warehouse when the experiments that changed have settled.",
        )
    return dg.Definitions(jobs=[refresh, experiment, publish], schedules=[daily], sensors=[experiments, marts])
