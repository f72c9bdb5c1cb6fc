"""A real daemon on a real lab: experiment and events arrive while it runs, and it is killed in the middle of a run."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pandas as pd
import pytest
from dagster._core.storage.tags import SCHEDULED_EXECUTION_TIME_TAG

from pricelab_dagster import launcher
from pricelab_dagster.instance import open_instance
from pricelab_dagster.runner import Runner
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.triggered_lab import NAME
from tests.faults import daemon_lab
from tests.faults.daemon_lab import Daemon, judged, settle, until

pytestmark = pytest.mark.daemon

TIMEOUT = 480  # seconds for all of one story, far above the two minutes that it takes alone on two cores
DESIGN = ("experiment.drawn_arms", "experiment.triggers", "experiment.assignments", "experiment.price_plan")
LAUNCHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
MINUTE = 60


class Story(NamedTuple):
    """A lab after its story, the run that was killed, all that were killed with it, and the files delivered."""

    root: Path
    killed: str
    lost: frozenset[str]
    files: dict[str, list[dict[str, Any]]]

    @property
    def instance(self) -> dg.DagsterInstance:
        return open_instance(self.root)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opening an instance changes in the process is undone."""
    for name in ("PRICELAB_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The experiment appears, then three event files; in the middle of the run for the second one all is killed."""
    root = daemon_lab.write(tmp_path_factory.mktemp("daemon") / "lab")
    deadline = time.monotonic() + TIMEOUT

    def wait(probe: Any, what: str) -> Any:
        return until(probe, deadline - time.monotonic(), what)

    daemon = Daemon(root)
    try:
        wait(lambda: (root / "lake" / "staging" / "stg_sales.parquet").exists(), "the sources are read")
        daemon_lab.add_experiment(root)
        wait(lambda: Workbench.open(root).lake.exists("experiment.price_plan", NAME), "the experiment is planned")
        products = Workbench.open(root).lake.read("experiment.drawn_arms", NAME)["product_id"].to_pylist()
        files = daemon_lab.files(products)
        instance = open_instance(root)
        daemon_lab.deliver(root, "one", files["one"])
        wait(lambda: judged(root, "one", products), "the first file is judged")
        settle(instance, deadline - time.monotonic())
        daemon_lab.deliver(root, "two", files["two"])
        started = dg.RunsFilter(job_name="trigger", statuses=[dg.DagsterRunStatus.STARTED])
        (run,) = wait(lambda: instance.get_runs(started), "a run for the second file")
        daemon.kill()
        lost = {one.run_id: one.status for one in instance.get_runs(dg.RunsFilter(statuses=LAUNCHED))}
        assert lost[run.run_id] is dg.DagsterRunStatus.STARTED, "it was killed in the middle"
        daemon = Daemon(root)
        wait(lambda: judged(root, "two", products), "the second file is judged")
        daemon_lab.deliver(root, "three", files["three"])
        wait(lambda: judged(root, "three", products), "the third file is judged")
        settle(instance, deadline - time.monotonic())
    finally:
        daemon.stop()
    return Story(root, run.run_id, frozenset(lost), files)


@pytest.fixture(scope="module")
def undisturbed(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files, run by the command, one after the other and without a kill."""
    root = daemon_lab.write(tmp_path_factory.mktemp("undisturbed") / "lab")
    daemon_lab.add_experiment(root)
    work = Runner(root, lambda step: None)
    try:
        tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
        for name, events in story.files.items():
            daemon_lab.deliver(root, name, events)
            tiny_lab.succeeded([work.plan(NAME)])
        tiny_lab.succeeded([work.publish()])
    finally:
        work.close()
    return root


def read(root: Path, table: str) -> pd.DataFrame:
    return Workbench.open(root).lake.read(table, NAME).to_pandas()


def test_the_killed_run_is_a_failure_and_nothing_is_left_in_progress(story: Story) -> None:
    instance = story.instance
    runs = instance.get_runs()
    assert {run.status for run in runs if run.run_id not in story.lost} == {dg.DagsterRunStatus.SUCCESS}
    assert {run.status for run in runs if run.run_id in story.lost} == {dg.DagsterRunStatus.FAILURE}
    again = [run for run in runs if run.parent_run_id == story.killed]
    assert [run.tags.get("dagster/retry_number") for run in again] == ["1"]
    locks = list((story.root / ".dagster" / launcher.FOLDER).iterdir())
    assert not any(launcher.is_held(path) for path in locks)


def test_the_partition_was_added_once(story: Story) -> None:
    assert story.instance.get_dynamic_partitions("experiment") == [NAME]


def test_every_row_of_every_file_has_one_verdict(story: Story) -> None:
    given = Counter(str(event["id"]) for events in story.files.values() for event in events)
    rows = read(story.root, "experiment.triggers")
    assert rows["event_id"].value_counts().to_dict() == given
    assert (rows[rows["status"] != "duplicate"]["event_id"].value_counts() == 1).all()
    counted = rows["status"].value_counts()
    assert counted["started"] + counted["ghost"] == 14
    others = {"duplicate": 3, "unknown_product": 1, "late": 1, "inside_running": 1}
    assert counted.drop(["started", "ghost"]).to_dict() == others


@pytest.mark.parametrize("table", DESIGN)
def test_the_end_is_that_of_the_same_files_without_a_kill(story: Story, undisturbed: Path, table: str) -> None:
    pd.testing.assert_frame_equal(read(story.root, table), read(undisturbed, table), check_exact=True)
    fingerprints = [Workbench.open(root).lake.fingerprint(table, NAME) for root in (story.root, undisturbed)]
    assert fingerprints[0] == fingerprints[1]


def test_the_plan_prices_each_cell_once(story: Story) -> None:
    plan = read(story.root, "experiment.price_plan")
    assert len(plan) == 14 * 6
    assert not plan.duplicated(["product_id", "date"]).any()
    assert plan["price"].notna().all()


def test_marts_and_counts_show_the_last_file(story: Story, undisturbed: Path) -> None:
    """They are built by themselves once the experiment has settled."""
    for table in ("marts.fct_price_plan", "marts.dim_experiments", "intermediate.int_data_quality"):
        lakes = [Workbench.open(root).lake for root in (story.root, undisturbed)]
        assert lakes[0].fingerprint(table) == lakes[1].fingerprint(table), table


def test_nothing_half_written_is_left(story: Story) -> None:
    assert not list((story.root / "lake").rglob("*.writing"))


@pytest.fixture
def minutely(tmp_path: Path) -> Iterator[Path]:
    root = daemon_lab.write(tmp_path / "lab")
    config = (root / "pricelab.yaml").read_text()
    (root / "pricelab.yaml").write_text(config.replace('cron: "30 4 * * 1"', 'cron: "* * * * *"'))
    assert "* * * * *" in (root / "pricelab.yaml").read_text()
    return root


def test_a_tick_of_the_schedule_that_fell_into_an_outage_is_made_up_for(minutely: Path) -> None:
    """One refresh of a minute in which no daemon ran."""
    daemon = Daemon(minutely)
    try:
        until(lambda: (minutely / "lake" / "staging" / "stg_sales.parquet").exists(), TIMEOUT, "the sources are read")
        instance = open_instance(minutely)
        until(lambda: "daily_refresh" in {one.name for one in instance.all_instigator_state()}, MINUTE, "the schedule")
        daemon.kill()
        missed = (int(time.time()) // MINUTE + 1) * MINUTE
        time.sleep(missed + 1 - time.time())
        daemon = Daemon(minutely)

        def made_up() -> list[dg.DagsterRun]:
            runs = instance.get_runs(dg.RunsFilter(job_name="refresh"))
            return [run for run in runs if _minute_of(run) == missed]

        (run,) = until(made_up, TIMEOUT, "a run for the missed minute")
        until(lambda: instance.get_run_by_id(run.run_id).is_success, TIMEOUT, "the refresh")
    finally:
        daemon.stop()


def _minute_of(run: dg.DagsterRun) -> float | None:
    tag = run.tags.get(SCHEDULED_EXECUTION_TIME_TAG)
    return None if tag is None else pd.Timestamp(tag).timestamp()
