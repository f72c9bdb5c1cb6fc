"""Several processes at one lake, some killed: `python crowd.py FOLDER` prints what each scene saw as JSON.

A script of its own, because only a process without threads may fork safely.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pricelab_dagster import audit, engine
from pricelab_dagster.lake import Lake
from pricelab_dagster.tables import TABLES

FORK = multiprocessing.get_context("fork")
PLAN = "experiment.price_plan"
N_ROWS, N_PARTITIONS, N_WRITERS, N_READERS, MIN_READS = 200, 50, 4, 2, 6
N_SWAPS, N_KILLS, N_LINES = 10, 6, 200
DEADLINE = 20  # seconds that a scene may wait for another process
HALF_OR_MIXED = """
    select experiment_id from read_parquet('{glob}')
    group by experiment_id having count(*) <> {n} or count(distinct arm) <> 1
"""


def rows(experiment_id: str, arm: str, n: int = N_ROWS) -> pa.Table:
    columns = {
        "experiment_id": pa.array([experiment_id] * n),
        "product_id": pa.array([f"p{i:06d}" for i in range(n)]),
        "date": pa.array([date(2024, 1, 1)] * n),
        "arm": pa.array([arm] * n),
    }
    schema = TABLES[PLAN].schema
    return pa.table({field.name: columns.get(field.name, pa.nulls(n, field.type)) for field in schema})


@contextmanager
def processes(works: list[Callable[[], None]]) -> Iterator[list[Any]]:
    """Fork one process for each piece of work; none outlives the scene."""
    started = [FORK.Process(target=work) for work in works]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
            process.join()


def read_until(stop: Any, results: Any, counts: Any, reader: int, read: Callable[[], bool]) -> None:
    """Read until told to stop; report the reads that failed or saw something half."""
    failures = []
    while not stop.is_set():
        try:
            if not read():
                failures.append("half or mixed")
        except Exception as error:  # noqa: BLE001 - whatever a reader meets is what the scene is about
            failures.append(repr(error))
        counts[reader] += 1
    results.put(failures)


def beside_readers(read: Callable[[], bool], write: Callable[[Callable[[], bool]], list[int]]) -> dict[str, Any]:
    """Write beside readers, until `write` is told that each has read often enough to have met a writer."""
    stop, results, counts = FORK.Event(), FORK.Queue(), FORK.Array("i", N_READERS)
    with processes([partial(read_until, stop, results, counts, reader, read) for reader in range(N_READERS)]):
        until = time.monotonic() + DEADLINE
        wrote = write(lambda: min(counts[:]) >= MIN_READS or time.monotonic() > until)
        reads = counts[:]
        stop.set()
        failures = [failure for _ in range(N_READERS) for failure in results.get(timeout=DEADLINE)]
    return {"wrote": wrote, "reads": reads, "failed_reads": len(failures), "examples": failures[:3]}


def writers_and_readers(folder: Path) -> dict[str, Any]:
    lake = Lake(folder / "lake")
    names = [f"e{number:02d}" for number in range(N_PARTITIONS)]
    glob = lake.root / "experiment" / "price_plan" / "*.parquet"
    query = HALF_OR_MIXED.format(glob=glob, n=N_ROWS)

    def write(arm: str, enough: Callable[[], bool]) -> None:
        order = random.Random(arm)
        while True:
            for name in order.sample(names, len(names)):
                lake.write(PLAN, rows(name, arm), name, metadata={"arm": arm})
            if enough():
                break
        lake.write(PLAN, rows(arm, arm), arm, metadata={"arm": arm})

    def read() -> bool:
        with engine.connect(":memory:") as connection:
            broken = connection.sql(query).to_arrow_table().num_rows
        return not broken and lake.read(PLAN).num_rows % N_ROWS == 0

    def write_all(enough: Callable[[], bool]) -> list[int]:
        with processes([partial(write, f"w{number}", enough) for number in range(N_WRITERS)]) as started:
            for process in started:
                process.join()
        return [process.exitcode for process in started]

    lake.write(PLAN, rows(names[0], "first"), names[0])
    found = beside_readers(read, write_all)
    stored = {name: set(lake.read(PLAN, name)["arm"].to_pylist()) for name in lake.partitions(PLAN)}
    facts = {name: {lake.metadata(PLAN, name)["arm"]} for name in lake.partitions(PLAN)}
    return found | {
        "partitions": len(stored),
        "whole": stored == facts,
        "own": [sorted(stored[f"w{number}"]) for number in range(N_WRITERS)],
        "left": [path.name for path in folder.rglob("*.writing")],
    }


def paused(ready: Any, write: Callable[[], object]) -> None:
    """Write, but stop for good when half of the file stands on the disk."""

    def half(table: pa.Table, where: Path, **options: Any) -> None:
        write_table(table, where, **options)
        os.truncate(where, where.stat().st_size // 2)
        ready.set()
        time.sleep(DEADLINE)

    write_table, pq.write_table = pq.write_table, half
    write()


def killed_in_the_middle(folder: Path) -> dict[str, Any]:
    lake = Lake(folder / "lake")
    lake.write(PLAN, rows("milk", "old"), "milk")
    ready = FORK.Event()
    with processes([lambda: paused(ready, lambda: lake.write(PLAN, rows("milk", "new"), "milk"))]) as (writer,):
        assert ready.wait(DEADLINE)
        swept_while_writing = lake.sweep()
        os.kill(writer.pid, signal.SIGKILL)
    after = lake.read(PLAN)["arm"].unique().to_pylist()
    parquet = [path.name for path in folder.rglob("*.parquet")]
    swept = [path.name for path in lake.sweep()]
    left = [path.name for path in lake.path(PLAN, "milk").parent.iterdir()]
    lake.write(PLAN, rows("milk", "newer"), "milk")
    return {
        "swept_while_writing": len(swept_while_writing),
        "after": after,
        "parquet": parquet,
        "swept": swept,
        "left": left,
        "rewritten": lake.read(PLAN)["arm"].unique().to_pylist(),
    }


def killed_at_any_moment(folder: Path) -> dict[str, Any]:
    lake = Lake(folder / "lake")
    large = {arm: rows("milk", arm, 20_000) for arm in ("even", "odd")}
    lake.write(PLAN, large["even"], "milk")
    moments = random.Random(1)
    seen = []

    def write_on() -> None:
        while True:
            for table in large.values():
                lake.write(PLAN, table, "milk")

    for _ in range(N_KILLS):
        with processes([write_on]) as (writer,):
            time.sleep(moments.uniform(0.02, 0.15))
            os.kill(writer.pid, signal.SIGKILL)
        found = lake.read(PLAN)
        seen.append([found.num_rows, len(found["arm"].unique())])
        lake.sweep()
    return {"seen": seen, "left": [path.name for path in lake.path(PLAN, "milk").parent.iterdir()]}


def swaps_and_readers(folder: Path) -> dict[str, Any]:
    lake, path = Lake(folder / "lake"), folder / "warehouse.duckdb"
    view = lake.path(PLAN, "milk")
    lake.write(PLAN, rows("milk", "old"), "milk")

    def publish(number: int) -> None:
        marts = {"marts.fct_price_plan": rows("milk", f"swap{number}")}
        lake.publish_database(
            path, lambda temporary: engine.write_database(temporary, tables=marts, views={PLAN: [view]})
        )

    def read() -> bool:
        query = "select count(*) as n, count(distinct arm) as arms, (select count(*) from {}) as v from {}"
        found = engine.query_database(path, query.format(PLAN, "marts.fct_price_plan"), lake_files=[view])
        return found.to_pylist() == [{"n": N_ROWS, "arms": 1, "v": N_ROWS}]

    def swap(enough: Callable[[], bool]) -> list[int]:
        number = 0
        while number < N_SWAPS or not enough():
            publish(number)
            number += 1
        return [number]

    publish(-1)
    found = beside_readers(read, swap)
    query = "select distinct arm from marts.fct_price_plan"
    return found | {
        "arm": engine.query_database(path, query, lake_files=[]).to_pylist(),
        "left": sorted(one.name for one in folder.iterdir()),
    }


def killed_while_building(folder: Path) -> dict[str, Any]:
    lake, path = Lake(folder / "lake"), folder / "warehouse.duckdb"
    lake.root.mkdir(parents=True)
    ready = FORK.Event()

    def publish(arm: str, after: Callable[[], None] = lambda: None) -> None:
        def build(temporary: Path) -> None:
            engine.write_database(temporary, tables={"marts.t": rows("milk", arm)}, views={})
            after()

        lake.publish_database(path, build)

    def stop_there() -> None:
        ready.set()
        time.sleep(DEADLINE)

    def arms() -> list[str]:
        return engine.query_database(path, "select distinct arm from marts.t", lake_files=[])["arm"].to_pylist()

    publish("old")
    with processes([lambda: publish("new", stop_there)]) as (writer,):
        assert ready.wait(DEADLINE)
        during = arms()
        os.kill(writer.pid, signal.SIGKILL)
    after = arms()
    publish("newer")
    return {
        "during": during,
        "after": after,
        "rebuilt": arms(),
        "left": sorted(one.name for one in folder.iterdir()),
    }


def appenders(folder: Path) -> dict[str, Any]:
    together = FORK.Barrier(2)

    def append(name: str) -> None:
        together.wait(DEADLINE)
        for number in range(N_LINES):
            audit.append(folder, "run", writer=name, number=number)

    with processes([partial(append, name) for name in ("one", "other")]) as started:
        for process in started:
            process.join()
    lines = [json.loads(line) for line in (folder / "audit" / "log.jsonl").read_text().splitlines()]
    numbers = {name: [line["number"] for line in lines if line["writer"] == name] for name in ("one", "other")}
    return {"broken": audit.broken_lines(folder), "numbers": numbers}


SCENES = (
    writers_and_readers,
    killed_in_the_middle,
    killed_at_any_moment,
    swaps_and_readers,
    killed_while_building,
    appenders,
)


def main() -> None:
    report: dict[str, Any] = {}
    for scene in SCENES:
        folder = Path(sys.argv[1]) / scene.__name__
        folder.mkdir()
        try:
            report[scene.__name__] = scene(folder)
        except Exception:  # noqa: BLE001 - the other scenes go on; the test shows the traceback
            report[scene.__name__] = {"error": traceback.format_exc()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
