"""A lab of two dozen products for a real daemon: it is started, watched, killed and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import dagster as dg
import pandas as pd

from pricelab_dagster.instance import prepare_home
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab, triggered_lab
from tests.defs.triggered_lab import NAME, event

Found = TypeVar("Found")

ROOT = Path(__file__).parents[2]
AS_OF = date(2024, 4, 3)  # two days after the start: verdicts are frozen from the first run on
SENSOR_SECONDS = 5
QUIET_SECONDS = 4 * SENSOR_SECONDS  # two looks of each sensor, one of which may come late
IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def files(products: list[str]) -> dict[str, list[dict[str, object]]]:
    """Return three event files: on time and late, repeated in a file and over files, unknown, and a second event."""
    first = [event(k, products[k], AS_OF + timedelta(days=k % 3)) for k in range(6)]
    second = [event(k, products[k], AS_OF + timedelta(days=k % 3)) for k in range(6, 10)]
    third = [event(k, products[k], AS_OF + timedelta(days=1 + k % 3)) for k in range(10, 14)]
    return {
        "one": [*first, first[0], event(90, "nowhere", AS_OF)],
        "two": [*second, first[1], event(91, products[14], date(2024, 4, 1))],
        "three": [*third, second[0], event(92, products[0], AS_OF + timedelta(days=4))],
    }


def write(root: Path) -> Path:
    """Write the lab without its experiment and without event files."""
    world = tiny_lab.world(n_products=24)
    tiny_lab.write_lab(root, {}, config=triggered_lab.CONFIG, one=world, through=AS_OF)
    (root / "data" / "events").mkdir()
    return root


def add_experiment(root: Path) -> None:
    """Add the experiment as a person would: the file appears whole."""
    path = root / "experiments" / f"{NAME}.yaml"
    aside = path.with_suffix(".new")
    aside.write_text(triggered_lab.EXPERIMENT)
    aside.replace(path)


def deliver(root: Path, name: str, events: list[dict[str, object]]) -> None:
    """Let one event file appear whole."""
    path = root / "data" / "events" / f"{name}.csv"
    aside = path.with_suffix(".part")
    pd.DataFrame(events).to_csv(aside, index=False)
    aside.replace(path)


class Daemon:
    """The daemon of a lab in a process group of its own; `log` holds what it says."""

    def __init__(self, root: Path) -> None:
        environment = os.environ | {
            "DAGSTER_HOME": str(prepare_home(root)),
            "PRICELAB_HOME": str(root),
            "PRICELAB_SENSOR_SECONDS": str(SENSOR_SECONDS),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.log = root / "daemon.log"
        with self.log.open("a") as log:
            command = ["dagster-daemon", "run", "-w", "workspace.yaml"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """End the daemon, its code server and its runs at once, as a power cut would."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it as a person would, and whatever of it is left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


def until(probe: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Return what `probe` returns once that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} seconds: {what}")


def settle(instance: dg.DagsterInstance, seconds: float) -> None:
    """Wait until no run has been in progress for as long as the sensors need to ask for the next one."""
    busy = time.monotonic()

    def quiet() -> bool:
        nonlocal busy
        if instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS), limit=1):
            busy = time.monotonic()
        return time.monotonic() - busy > QUIET_SECONDS

    until(quiet, seconds, "the runs are over")


def judged(root: Path, name: str, products: list[str]) -> bool:
    """Return whether every row of an event file, and those of the files before it, has its verdict and its plan."""
    given = files(products)
    names = list(given)[: list(given).index(name) + 1]
    bench = Workbench.open(root)
    if not bench.lake.exists("experiment.price_plan", NAME):
        return False
    return bench.seen_events(bench.experiment(NAME)).num_rows == sum(len(given[one]) for one in names)
