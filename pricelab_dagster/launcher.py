"""How the daemon learns that a run has lost its process: each run holds a lock that dies with it.

Dagster's own launcher cannot tell: after a power cut its runs would count as started for ever, keep their places in the
queue, and hold back every other run of their experiment.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

FOLDER = "running"
GRACE_SECONDS = 60  # a run counts as started a moment before it takes its lock
_held: dict[str, IO[str]] = {}


class LabRunLauncher(DefaultRunLauncher):
    """Launches runs as Dagster does by default, and finds those whose process is gone."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether lost runs are found: yes."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a started run is there, also of one that the command runs."""
        path = lock_path(Path(os.environ["DAGSTER_HOME"]), run.run_id)
        if is_held(path) or (not path.exists() and self._seconds_since_start(run) < GRACE_SECONDS):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        path.unlink(missing_ok=True)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The process of the run is gone.")

    def _seconds_since_start(self, run: DagsterRun) -> float:
        record = self._instance.get_run_record_by_id(run.run_id)
        started = record.start_time if record is not None else None
        return 0.0 if started is None else time.time() - started


def lock_path(home: Path, run_id: str) -> Path:
    """Return the file that a run holds while it works; `home` is the instance's folder."""
    return home / FOLDER / run_id


def hold(home: Path, run_id: str) -> None:
    """Take the lock of a run; the end of the process frees it, whatever ends it. Locks of ended processes are swept."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another run may sweep at the same time
            # a younger one may be about to be locked
            if not is_held(path) and time.time() - path.stat().st_mtime > GRACE_SECONDS:
                path.unlink()
    if run_id not in _held:
        _held[run_id] = lock_path(home, run_id).open("w")
        fcntl.flock(_held[run_id], fcntl.LOCK_EX)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock."""
    try:
        with path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
