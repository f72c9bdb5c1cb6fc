"""Several processes on one lab."""

import multiprocessing
import os
import signal
from pathlib import Path

import dagster as dg

from pricelab_dagster.instance import open_instance
from pricelab_dagster.runner import Runner, waves
from pricelab_dagster.workbench import POWER, Workbench
from tests.defs import tiny_lab

N_OPENERS, N_LABS = 4, 3


def _open(root: str) -> str:
    instance = open_instance(Path(root))
    instance.add_dynamic_partitions("experiment", [str(os.getpid())])
    instance.dispose()
    return str(os.getpid())


def test_processes_that_open_a_new_instance_at_once_all_succeed(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(N_OPENERS) as pool:
        pool.map(os.path.exists, ["/"] * N_OPENERS)
        for lab in range(N_LABS):
            root = tmp_path / f"lab{lab}"
            names = set(pool.map(_open, [str(root)] * N_OPENERS, chunksize=1))
            with dg.DagsterInstance.from_config(str(root / ".dagster")) as instance:
                assert names == set(instance.get_dynamic_partitions("experiment"))


def test_a_killed_worker_is_a_failed_run_and_not_a_traceback(copied, monkeypatch):
    monkeypatch.setattr("pricelab_dagster.runner._run_in_worker", _die)
    work = Runner(copied, lambda step: None, workers=2)
    try:
        outcomes = work.experiments(["going", "later"])
    finally:
        work.close()
    assert [one.succeeded for one in outcomes] == [False, False]
    assert all("Run it again" in one.message for one in outcomes)


def _die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_two_workers_give_the_bytes_of_one(copied):
    before = tiny_lab.lake(copied)
    work = Runner(copied, lambda step: None, workers=2)
    try:
        assert all(one.succeeded for one in work.experiments(["cut", "days"]))
    finally:
        work.close()
    assert tiny_lab.lake(copied) == before


def test_experiments_that_learn_wait_for_those_that_ended_before_they_start(tmp_path):
    tiny_lab.write_lab(tmp_path, tiny_lab.EXPERIMENTS)
    bench = Workbench.open(tmp_path)
    groups = waves(bench, sorted(tiny_lab.EXPERIMENTS))
    assert sorted(name for group in groups for name in group) == sorted(tiny_lab.EXPERIMENTS)
    place = {name: k for k, group in enumerate(groups) for name in group}
    windows = {name: bench.window(bench.experiment(name)) for name in place}
    for one, window in windows.items():
        for other in windows:
            assert place[other] < place[one] or not windows[other].end < window.start
    assert len(groups) > 1
    assert waves(bench, []) == [[]]


def test_experiments_whose_choice_is_kept_wait_for_none(played):
    bench = Workbench.open(played)
    names = bench.lake.partitions(POWER)
    kept = [name for name in names if bench.is_frozen(bench.experiment(name))]
    assert waves(bench, kept) == [sorted(kept, key=lambda name: (bench.experiment(name).start, name))]
    assert "later" in waves(bench, names)[-1]
    assert len(waves(bench, names)) == 2
