"""Runs of the command: the same jobs as in the web UI, in this process, on the lab's instance."""

import logging
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pricelab_dagster import audit
from pricelab_dagster.instance import open_instance
from pricelab_dagster.workbench import POWER, Workbench

if TYPE_CHECKING:
    import dagster as dg

Progress = Callable[[str], None]

ENDED_EARLY = "Its process ended before the run did. Run it again; what was written before is still there."


class RunError(Exception):
    """A run that failed where the work cannot go on without it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run of one job, on one experiment or on the lab, ended; `message` is one line when it failed."""

    job: str
    experiment_id: str | None
    run_id: str
    succeeded: bool
    message: str


def require(outcomes: Sequence[Outcome]) -> None:
    """Raise RunError with the message of the first run that failed."""
    for outcome in outcomes:
        if not outcome.succeeded:
            raise RunError(f"{outcome.experiment_id or outcome.job} failed. {outcome.message}")


def waves(bench: Workbench, ids: Sequence[str]) -> list[list[str]]:
    """Return experiments by start, in groups: one that still learns how to be designed is not with what it hears."""
    experiments = {name: bench.experiment(name) for name in ids}
    windows = {name: bench.window(one) for name, one in experiments.items()}
    found: list[list[str]] = [[]]
    for name in sorted(ids, key=lambda name: (windows[name].start, name)):
        learns = not (bench.is_frozen(experiments[name]) and bench.lake.exists(POWER, name))
        if learns and any(windows[one].end < windows[name].start for one in found[-1]):
            found.append([])
        found[-1].append(name)
    return found


class Runner:
    """Runs jobs on a lab's instance, one after the other.

    Parameters
    ----------
    root : the lab folder.
    report : called with a line before each run.
    workers : processes for experiments; they start at once, so that their imports overlap with other work.
    """

    def __init__(self, root: Path, report: Progress, *, workers: int = 1) -> None:
        self._pool = None
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=(root,))
            for _ in range(workers):
                self._pool.submit(_warm_up)
        # a step that is skipped for a planned experiment would warn once for each check behind it
        logging.getLogger("dagster._core.execution.plan.active").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pricelab_dagster.definitions import defs

            self._instance = open_instance(root)
            self._definitions: dg.Definitions = defs()
        self._root, self._report = root, report

    def refresh(self) -> Outcome:
        """Read the sources anew."""
        self._report("reading the sources")
        return self._run("refresh", None)

    def plan(self, name: str) -> Outcome:
        """Judge new events of an experiment and extend its price plan, without estimates."""
        self._report(f"{name}, price plan")
        return self._run("plan", name)

    def experiments(self, ids: Sequence[str]) -> list[Outcome]:
        """Run experiments, several at a time; one that fails does not stop the others. Outcomes in the order of `ids`.

        An experiment waits for those that ended before its start: what they tell of carryover helps to choose its
        design, and the order of runs must not decide what is known.
        """
        known = set(self._instance.get_dynamic_partitions("experiment"))
        self._instance.add_dynamic_partitions("experiment", [name for name in ids if name not in known])
        groups = waves(Workbench.open(self._root), ids)
        at_once = self._in_turn if self._pool is None or len(ids) == 1 else self._at_once
        outcomes = {str(one.experiment_id): one for group in groups for one in at_once(group)}
        return [outcomes[name] for name in ids]

    def _in_turn(self, ids: Sequence[str]) -> list[Outcome]:
        return [self._named(name) for name in ids]

    def _at_once(self, ids: Sequence[str]) -> list[Outcome]:
        assert self._pool is not None
        try:
            futures = {name: self._pool.submit(_run_in_worker, name) for name in ids}
        except BrokenProcessPool:
            return [Outcome("experiment", name, "", False, ENDED_EARLY) for name in ids]
        outcomes = []
        for name, future in futures.items():
            self._report(name)
            try:
                outcomes.append(future.result())
            except BrokenProcessPool:
                outcomes.append(Outcome("experiment", name, "", False, ENDED_EARLY))
        return outcomes

    def publish(self) -> Outcome:
        """Build the marts and the warehouse from the experiments that succeeded."""
        self._report("building the warehouse")
        return self._run("publish", None)

    def close(self) -> None:
        """Release the instance and the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._instance.dispose()

    def _named(self, name: str) -> Outcome:
        self._report(name)
        return self._run("experiment", name)

    def _run(self, job: str, partition: str | None) -> Outcome:
        import dagster as dg

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self._definitions.resolve_job_def(job).execute_in_process(
                instance=self._instance,
                partition_key=partition,
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        failures = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_FAILURE]
        message = _reason(failures[0]) if failures else ""
        outcome = Outcome(job, partition, result.run_id, result.success, message)
        audit.append(self._root, "run", job=job, experiment=partition, run_id=result.run_id, succeeded=result.success)
        return outcome


_worker: Runner | None = None


def _start_worker(root: Path) -> None:
    global _worker
    _worker = Runner(root, lambda step: None)


def _warm_up() -> None:
    """Import what the steps import, so that the first experiment does not wait for it."""
    from pricelab_dagster import checks, frames, graphs  # noqa: F401 - imported for its effect


def _run_in_worker(name: str) -> Outcome:
    assert _worker is not None
    return _worker._run("experiment", name)


def due(bench: Workbench, ids: Sequence[str], *, force: bool) -> tuple[list[str], list[str]]:
    """Return the experiments to run, and those that are concluded and computed, which only `force` runs again."""
    wanted = list(ids) or list(bench.lab.experiments)
    final = [name for name in wanted if not force and bench.is_final(bench.experiment(name))]
    return [name for name in wanted if name not in final], final


def _reason(event: "dg.DagsterEvent") -> str:
    data = event.step_failure_data
    metadata = data.user_failure_data
    if metadata is not None and metadata.description:
        return f"{event.step_key}: {metadata.description}"
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key}: {error.message.strip().splitlines()[0] if error else 'failed'}"
