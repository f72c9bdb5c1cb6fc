"""The lab that the assets work on."""

import os
from pathlib import Path

import dagster as dg

from pricelab_dagster import launcher
from pricelab_dagster.lab import LabError
from pricelab_dagster.lab.config import Schedule
from pricelab_dagster.workbench import Workbench


class LabResource(dg.ConfigurableResource):
    """A lab folder: `root` is its path, by default the environment variable PRICELAB_HOME."""

    root: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Show the daemon, while a run works on the lab, that its process is there."""
        home = os.environ.get("DAGSTER_HOME")
        if home is not None and context.run is not None:
            launcher.hold(Path(home), context.run.run_id)

    def open(self) -> Workbench:
        """Return the lab, read anew: a changed file counts from the next step on.

        Raises
        ------
        dagster.Failure : with the one-line error of a wrong lab; it is not retried.
        """
        try:
            return Workbench.open(Path(self.root))
        except LabError as error:
            raise dg.Failure(str(error), allow_retries=False) from error


def lab_schedule() -> tuple[str, str]:
    """Return cron and time zone of the lab that PRICELAB_HOME names, the defaults without one."""
    try:
        config = Workbench.open(Path(os.environ["PRICELAB_HOME"])).lab.config
    except (KeyError, LabError):
        return Schedule().cron, "UTC"
    return config.schedule.cron, config.time_zone


@dg.definitions
def resources() -> dg.Definitions:
    """Return the lab resource under the name `lab`."""
    return dg.Definitions(
        resources={"lab": LabResource(root=dg.EnvVar("PRICELAB_HOME"))}, executor=dg.in_process_executor
    )
