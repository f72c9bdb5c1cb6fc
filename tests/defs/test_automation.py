import os
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime

import dagster as dg
import pytest

from pricelab_dagster.defs.automation import automation, due_runs, experiments
from pricelab_dagster.defs.conditions import publish_when_settled
from pricelab_dagster.defs.resources import LabResource
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONCLUDED, EXPERIMENTS


def tick(root, instance):
    """Evaluates the sensor as the daemon would, and adds the partitions that it asks for."""
    context = dg.build_sensor_context(instance=instance, resources={"lab": LabResource(root=str(root))})
    found = experiments(context)
    if isinstance(found, dg.SensorResult):
        for request in found.dynamic_partitions_requests or ():
            instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return found


def keys(result):
    return {request.partition_key: request.run_key for request in result.run_requests}


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def new_experiment(root, name="extra"):
    (root / "experiments" / f"{name}.yaml").write_text(EXPERIMENTS["later"].replace("'milk'", "'tea'"))


def test_first_tick_asks_for_the_sources_and_adds_partitions(tmp_path, instance):
    root = tiny_lab.write_lab(tmp_path / "lab", EXPERIMENTS, one=tiny_lab.world(n_products=8, n_days=20))
    found = tick(root, instance)
    assert [(one.job_name, one.partition_key) for one in found.run_requests] == [("refresh", None)]
    assert set(instance.get_dynamic_partitions("experiment")) == set(EXPERIMENTS)
    assert tick(root, instance).run_requests[0].run_key == found.run_requests[0].run_key


def test_new_file_becomes_a_partition_and_one_run(copied, instance):
    tick(copied, instance)
    new_experiment(copied)
    found = tick(copied, instance)
    assert [list(request.partition_keys) for request in found.dynamic_partitions_requests] == [["extra"]]
    requested = {one.partition_key: one.job_name for one in found.run_requests}
    assert requested["extra"] == "experiment"
    again = tick(copied, instance)
    assert not again.dynamic_partitions_requests
    assert keys(again) == keys(found)


def test_what_is_up_to_date_is_left_alone(played, instance):
    assert keys(tick(played, instance)) == {}


def test_before_the_start_a_plan_of_shelf_prices_follows_the_shelf(tmp_path, instance, runner):
    start = "kind: time_bound, start: 2024-04-01, duration: 14"
    text = tiny_lab.experiment(start, "category = 'milk'")
    config = tiny_lab.CONFIG[: tiny_lab.CONFIG.index("prices:")] + "time_zone: UTC\n"
    one = tiny_lab.world()
    root = tiny_lab.write_lab(tmp_path / "lab", {"soon": text}, config=config, one=one, through=date(2024, 3, 20))
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments(["soon"])])
    assert keys(tick(root, instance)) == {}
    bench = Workbench.open(root)
    before = bench.lake.read("experiment.price_plan", "soon").to_pandas()
    dearer = one.sales.assign(price=one.sales["price"].where(one.sales["day"] <= date(2024, 3, 20), 99.0))
    tiny_lab.write_sales(root, dearer, through=date(2024, 3, 21))
    tiny_lab.succeeded([work.refresh()])
    found = tick(root, instance).run_requests
    assert [(one.job_name, one.partition_key) for one in found] == [("plan", "soon")]
    tiny_lab.succeeded([work.plan("soon")])
    after = Workbench.open(root).lake.read("experiment.price_plan", "soon").to_pandas()
    assert (after["incumbent_price"] == 99.0).all()
    assert not (before["incumbent_price"] == 99.0).any()
    assert before["arm"].equals(after["arm"])
    assert keys(tick(root, instance)) == {}
    tiny_lab.write_sales(root, dearer, through=date(2024, 4, 2))
    tiny_lab.succeeded([work.refresh()])
    assert [one.job_name for one in tick(root, instance).run_requests] == ["experiment"]
    tiny_lab.succeeded(work.experiments(["soon"]))
    frozen = Workbench.open(root).lake.read("experiment.price_plan", "soon").to_pandas()
    assert frozen.equals(after)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("cut", "experiment.effects"),
        ("days", "experiment.spillover_effects"),
        ("days", "experiment.after_effects"),
        ("going", "experiment.diagnostics"),
        ("later", "experiment.price_plan"),
    ],
)
def test_what_a_failed_run_left_missing_is_asked_for_once_per_state_of_the_sales(copied, instance, name, table):
    bench = Workbench.open(copied)
    bench.lake.path(table, name).unlink()
    found = keys(tick(copied, instance))
    assert list(found) == [name]
    assert keys(tick(copied, instance)) == found
    staged = bench.lake.path("staging.stg_sales")
    os.utime(staged, ns=(0, staged.stat().st_mtime_ns + 1))
    again = keys(tick(copied, instance))
    assert list(again) == [name]
    assert again != found


def test_effects_that_nothing_was_corrected_from_since_are_asked_for_again(copied, instance):
    """A run wrote new effects, and failed before it corrected them for spillover."""
    lake, table = Workbench.open(copied).lake, "experiment.effects"
    facts, rows = lake.metadata(table, "cut"), lake.read(table, "cut")
    lake.write(table, rows, "cut", metadata=facts)
    assert keys(tick(copied, instance)) == {}
    lake.write(table, rows.slice(1), "cut", metadata=facts)
    assert list(keys(tick(copied, instance))) == ["cut"]


def test_new_last_date_runs_the_running_experiment_once_more(copied, instance, runner):
    assert keys(tick(copied, instance)) == {}
    tiny_lab.write_sales(copied, tiny_lab.world(n_days=118).sales)
    tiny_lab.succeeded([runner(copied).refresh()])
    assert list(keys(tick(copied, instance))) == ["going"]


def test_changed_design_of_a_planned_experiment_runs_again(copied, instance):
    path = copied / "experiments" / "later.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 21"))
    assert list(keys(tick(copied, instance))) == ["later"]


def test_stop_of_a_running_experiment_runs_it_to_its_stop(copied, instance):
    path = copied / "experiments" / "going.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 14, stop: 2024-04-24"))
    assert list(keys(tick(copied, instance))) == ["going"]


def test_broken_file_is_reported_and_holds_back_no_other(copied, instance):
    new_experiment(copied)
    (copied / "experiments" / "bad.yaml").write_text("design: {kind: crossover}\n")
    context = dg.build_sensor_context(instance=instance, resources={"lab": LabResource(root=str(copied))})
    said = []
    context.log.error = said.append
    found = experiments(context)
    assert len(said) == 1
    assert said[0].startswith("experiments/bad.yaml: design.start is missing")
    assert set(keys(found)) == {"extra"}
    assert "bad" not in found.dynamic_partitions_requests[0].partition_keys


def test_broken_lab_skips_the_tick_and_says_why(copied, instance):
    (copied / "pricelab.yaml").write_text("sales: {}\n")
    found = tick(copied, instance)
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message.startswith("pricelab.yaml: sales.columns is missing")


def test_the_command_runs_at_least_what_is_due(copied):
    from pricelab_dagster.runner import due

    new_experiment(copied)
    bench = Workbench.open(copied)
    assert set(due_runs(bench)) == {"extra"}
    assert due(bench, [], force=False) == (["extra", "going", "later"], sorted(CONCLUDED))


def schedule_of(root, monkeypatch):
    monkeypatch.setenv("PRICELAB_HOME", str(root))
    (found,) = automation.load_fn().schedules
    return found


def test_schedule_takes_cron_and_time_zone_from_the_lab(played, monkeypatch):
    found = schedule_of(played, monkeypatch)
    assert (found.cron_schedule, found.execution_timezone) == ("30 4 * * 1", "Europe/Berlin")
    assert found.default_status is dg.DefaultScheduleStatus.RUNNING


def test_schedule_asks_for_a_refresh(played, monkeypatch, instance):
    found = schedule_of(played, monkeypatch)
    moment = datetime(2024, 4, 22, 2, 30, tzinfo=UTC)
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=moment) as context:
        data = found.evaluate_tick(context)
    assert len(data.run_requests) == 1
    assert found.job_name == "refresh"


def test_schedule_without_a_lab_has_the_defaults(tmp_path, monkeypatch):
    found = schedule_of(tmp_path, monkeypatch)
    assert (found.cron_schedule, found.execution_timezone) == ("0 5 * * *", "UTC")


def settling():
    """One experiment table under one mart, as in the flow."""

    @dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="experiment"))
    def effects() -> None: ...

    @dg.asset(deps=[effects], automation_condition=publish_when_settled())
    def mart() -> None: ...

    return effects, mart


def evaluate(instance, cursor=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dg.evaluate_automation_conditions(defs=list(settling()), instance=instance, cursor=cursor)


def materialise(instance, *, partition=None, mart=False):
    effects, one = settling()
    selection = [one] if mart else [effects]
    assert dg.materialize([effects, one], selection=selection, instance=instance, partition_key=partition).success


def test_marts_are_built_once_after_each_change(instance):
    instance.add_dynamic_partitions("experiment", ["a", "b"])
    watching = evaluate(instance)
    assert watching.total_requested == 0
    materialise(instance, partition="a")
    changed = evaluate(instance, watching.cursor)
    assert changed.total_requested == 1
    asked = evaluate(instance, changed.cursor)
    assert asked.total_requested == 0
    materialise(instance, mart=True)
    built = evaluate(instance, asked.cursor)
    assert built.total_requested == 0
    materialise(instance, partition="b")
    assert evaluate(instance, built.cursor).total_requested == 1


def test_a_change_while_a_mart_is_being_built_builds_it_again(instance):
    """It may have been read before the change and written after it, all of that between two looks."""
    instance.add_dynamic_partitions("experiment", ["a", "b"])
    watching = evaluate(instance)
    materialise(instance, partition="a")
    asked = evaluate(instance, watching.cursor)
    assert asked.total_requested == 1
    materialise(instance, partition="b")
    materialise(instance, mart=True)
    assert evaluate(instance, asked.cursor).total_requested == 1


def test_wiped_mart_is_built_again(instance):
    instance.add_dynamic_partitions("experiment", ["a"])
    materialise(instance, mart=True)
    watching = evaluate(instance)
    _, mart = settling()
    instance.wipe_assets([mart.key])
    assert evaluate(instance, watching.cursor).total_requested == 1


def test_marts_wait_while_an_experiment_is_being_written(instance):
    instance.add_dynamic_partitions("experiment", ["a", "b"])
    first = evaluate(instance)
    materialise(instance, mart=True)
    second = evaluate(instance, first.cursor)
    materialise(instance, partition="a")
    effects, mart = settling()
    job = dg.Definitions(assets=[effects, mart], jobs=[dg.define_asset_job("one", selection=[effects])])
    run = instance.create_run_for_job(
        job.resolve_job_def("one"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "b"},
        asset_selection=frozenset({effects.key}),
    )
    log_planned(instance, run, effects.key)
    busy = evaluate(instance, second.cursor)
    assert busy.total_requested == 0
    instance.report_run_canceled(run)
    assert evaluate(instance, busy.cursor).total_requested == 1


def log_planned(instance, run, key):
    from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

    planned = AssetMaterializationPlannedData(key, partition="b")
    event = DagsterEvent.build_asset_materialization_planned_event(run.job_name, key.path[-1], planned)
    instance.report_dagster_event(event, run.run_id)


def test_marts_warehouse_and_data_quality_carry_the_condition(definitions):
    graph = definitions.resolve_asset_graph()
    carried = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    marts = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).group_name == "marts"}
    assert carried == marts | {"intermediate/int_data_quality"}
    labels = {graph.get(dg.AssetKey(["warehouse"])).automation_condition.get_label()}
    assert labels == {"publish_when_settled"}


@pytest.mark.parametrize("lab", ["unset", "missing", "broken"])
def test_definitions_load_whatever_the_lab(tmp_path, lab):
    """In a fresh process, since the schedule reads the lab as the code location loads."""
    environment = {name: value for name, value in os.environ.items() if name != "PRICELAB_HOME"}
    if lab != "unset":
        environment["PRICELAB_HOME"] = str(tmp_path / "lab")
    if lab == "broken":
        (tmp_path / "lab").mkdir()
        (tmp_path / "lab" / "pricelab.yaml").write_text("sales: [")
    code = "from pricelab_dagster.definitions import defs; defs().get_repository_def().get_all_jobs()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_code_location_does_not_import_the_slow_libraries():
    code = (
        "import sys; from pricelab_dagster.definitions import defs; defs();"
        "print(sorted({'econml', 'sklearn', 'numba', 'igraph'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
