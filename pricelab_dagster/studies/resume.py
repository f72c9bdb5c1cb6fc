"""Studies that may be interrupted: finished draws stand in a file, one JSON object a line, and are not drawn again."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
Progress = Callable[[str], None]
Job = TypeVar("Job")


def read(out: Path) -> list[Row]:
    """Return the finished draws; a line that an interruption cut short is left out and drawn again."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append(
    jobs: Sequence[Job],
    work: Callable[[Job], list[Row]],
    *,
    out: Path,
    workers: int,
    report: Progress,
    title: Callable[[Job], str],
    skip: Callable[[Row], bool] = lambda row: False,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Do the jobs in `workers` processes and add the rows of each to `out` as soon as it is done.

    Parameters
    ----------
    work : called in a process that was spawned, so it and the job must pickle.
    title : what `report` says of a job that is done.
    skip : rows that `out` has already.
    prepare : called once in each process.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(out)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=prepare) as pool, out.open("a") as handle:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            handle.writelines(json.dumps(row) + "\n" for row in future.result() if not skip(row))
            handle.flush()
            report(title(futures[future]))


def _end_last_line(out: Path) -> None:
    """Close a line that was cut short, so that it does not swallow the next one."""
    if out.exists() and out.stat().st_size and not out.read_bytes().endswith(b"\n"):
        with out.open("a") as handle:
            handle.write("\n")
