import re
import shutil
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from pricelab_dagster.defs.automation import due_runs, event_runs, events, experiments
from pricelab_dagster.defs.resources import LabResource
from pricelab_dagster.lab import LabError
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab, triggered_lab
from tests.defs.tiny_lab import ELASTICITY, MULTIPLIER
from tests.defs.triggered_lab import BLACKOUT, DURATION, HORIZON, N_SCOPE, NAME, STAGES, START, WEEK1

SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
CENT = 0.005 + 1e-9  # prices are rounded to cents
DESIGN = ("experiment.drawn_arms", "experiment.triggers", "experiment.assignments", "experiment.price_plan")
OTHERS = {"e90": "unknown_product", "e92": "late", "e93": "outside_window", "e94": "inside_running"}


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The played lab at each of STAGES; read only: take `at` to change one."""
    return triggered_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


@pytest.fixture
def at(stages: Path, tmp_path: Path):
    """Copies the lab as it was at a stage."""

    def copy(stage: str) -> Path:
        return Path(shutil.copytree(stages / stage, tmp_path / stage))

    return copy


def read(root: Path, table: str) -> pd.DataFrame:
    return Workbench.open(root).lake.read(table, NAME if TABLES[table].partitioned else None).to_pandas()


def bytes_of(root: Path, *tables: str) -> dict[str, str]:
    """The fingerprint of tables of the experiment, by default of all of them."""
    bench = Workbench.open(root)
    names = tables or [name for name in TABLES if TABLES[name].partitioned]
    return {name: bench.lake.fingerprint(name, NAME if TABLES[name].partitioned else None) for name in names}


def cells(frame: pd.DataFrame) -> dict[tuple[str, date], dict[str, object]]:
    return {(row["product_id"], row["date"]): row for row in frame.to_dict("records")}


def verdicts(root: Path) -> pd.DataFrame:
    """The verdicts without the further copies of events."""
    rows = read(root, "experiment.triggers")
    return rows[rows["status"] != "duplicate"].set_index("event_id")


def windows(root: Path) -> dict[str, tuple[date, date]]:
    """First and last period by product that an event started."""
    rows = verdicts(root)
    started = rows[rows["status"].isin(["started", "ghost"])]
    return {row.product_id: (row.start, row.end) for row in started.itertuples()}


def test_arms_are_drawn_for_the_whole_scope_before_any_event(stages):
    arms = read(stages / "drawn", "experiment.drawn_arms")
    assert len(arms) == N_SCOPE
    assert arms["arm"].value_counts().to_dict() == {"treatment": N_SCOPE / 2, "control": N_SCOPE / 2}
    assert (arms["probability"] == 0.5).all()
    for table in ("experiment.triggers", "experiment.assignments", "experiment.price_plan"):
        assert read(stages / "drawn", table).empty, table
    assert len({str(bytes_of(stages / stage, "experiment.drawn_arms")) for stage in STAGES}) == 1


def test_events_start_treatment_or_a_ghost_the_day_after_by_the_arm_that_was_drawn(stages):
    arms = read(stages / "end", "experiment.drawn_arms").set_index("product_id")["arm"]
    found = verdicts(stages / "end")
    assert found.loc[list(OTHERS), "status"].to_dict() == OTHERS
    started = found.drop(index=list(OTHERS))
    assert len(started) == 36
    assert (started["arm"] == started["product_id"].map(arms)).all()
    assert (started["status"] == started["arm"].map({"treatment": "started", "control": "ghost"})).all()
    for row in started.itertuples():
        assert row.start == row.occurred_on + timedelta(days=1)
        assert row.end == row.occurred_on + timedelta(days=DURATION)
    assert found.loc["e90", "arm"] is None or pd.isna(found.loc["e90", "arm"])


def test_every_row_of_the_event_files_of_its_kind_has_one_verdict(stages):
    root = stages / "end"
    files = [pd.read_csv(path, dtype=str) for path in sorted((root / "data" / "events").glob("*.csv"))]
    given = pd.concat(files).query("kind == 'rain'")
    rows = read(root, "experiment.triggers")
    assert len(rows) == len(given) == 42
    assert rows["event_id"].value_counts().to_dict() == given["id"].value_counts().to_dict()
    assert not set(rows["event_id"]) & {"e91"}, "an event of another kind is none of its business"


def test_assignments_are_the_windows_of_the_units_that_were_triggered(stages):
    root = stages / "end"
    arms = read(root, "experiment.drawn_arms").set_index("product_id")
    found = cells(read(root, "experiment.assignments"))
    expected = {}
    for product, (first, last) in windows(root).items():
        for number in range((last - first).days + 1):
            drawn = arms.loc[product]
            facts = {"arm": drawn["arm"], "probability": drawn["probability"], "unit_id": drawn["unit_id"]}
            expected[product, first + timedelta(days=number)] = facts | {"in_analysis": number >= BLACKOUT}
    assert set(found) == set(expected)
    for cell, facts in expected.items():
        assert {name: found[cell][name] for name in facts} == facts, cell
    assert max(day for _, day in found) <= HORIZON + timedelta(days=DURATION)


def test_the_plan_charges_the_multiplier_for_treated_and_the_incumbent_price_for_ghosts(stages):
    root = stages / "end"
    plan, assigned = read(root, "experiment.price_plan"), cells(read(root, "experiment.assignments"))
    assert set(cells(plan)) == set(assigned)
    incumbent = tiny_lab.world().incumbent.set_index(["sku", "day"])["price"]
    for cell, row in cells(plan).items():
        assert row["arm"] == assigned[cell]["arm"]
        assert row["incumbent_price"] == incumbent[cell]
        if row["arm"] == "control":
            assert row["price"] == row["incumbent_price"], cell
        else:
            assert abs(row["price"] - MULTIPLIER * row["incumbent_price"]) <= CENT, cell
    assert plan["arm"].value_counts().to_dict() == {"treatment": 20 * DURATION, "control": 16 * DURATION}
    assert plan["note"].isna().all()


@pytest.mark.parametrize("table", ["experiment.triggers", "experiment.assignments", "experiment.price_plan"])
def test_what_was_handed_out_stays_and_new_events_add_to_it(stages, table):
    handed_out = [read(stages / stage, table) for stage in STAGES]
    sizes = [len(rows) for rows in handed_out]
    assert 0 == sizes[0] < sizes[1] < sizes[2] == sizes[3]
    for earlier, later in pairwise(handed_out):
        known = later.merge(earlier.drop_duplicates(), how="inner")
        assert len(known) == len(earlier)


def test_nothing_is_doubled_when_the_same_files_are_run_again(at, runner):
    root = at("week2")
    before = tiny_lab.lake(root)
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME]), work.publish()])
    assert tiny_lab.lake(root) == before


@pytest.mark.parametrize("stage", STAGES)
def test_data_quality_counts_every_verdict(stages, stage):
    quality = read(stages / stage, "intermediate.int_data_quality").query("source == 'events'").set_index("rule")
    counted = read(stages / stage, "experiment.triggers")["status"].value_counts()
    statuses = {*OTHERS.values(), "started", "ghost", "duplicate"}
    assert {f"trigger is {status}" for status in statuses} <= set(quality.index)
    for status in statuses:
        row = quality.loc[f"trigger is {status}"]
        assert row["rows_found"] == counted.get(status, 0), status
        assert row["rows_kept"] == (row["rows_found"] if status in ("started", "ghost") else 0)
    unknown = quality.loc["event names a product that neither sells nor is in products", "rows_found"]
    assert unknown == counted.get("unknown_product", 0)


def test_effects_are_in_event_time_and_near_the_truth(stages):
    rows = read(stages / "end", "experiment.effects")
    assert (
        rows["estimand"]
        .str.contains("event time: mean over the analysed periods after the trigger of each product's unit")
        .all()
    )
    assert rows["estimand"].str.contains("triggered products alone").all()
    quoted = rows[rows["is_headline"]].set_index("metric")
    assert set(quoted.index) == {"units", "revenue", "price"}
    assert set(quoted["estimator"]) == {"hpte"}
    truth = {"units": MULTIPLIER**ELASTICITY - 1, "price": MULTIPLIER - 1}
    for metric, expected in truth.items():
        one = quoted.loc[metric]
        assert abs(one["effect"] - expected) <= SIGMAS * one["se"] + CENT
        assert one["effect"] * expected > 0
    assert (rows["n_treated"] + rows["n_control"] <= 36).all()
    assert not rows["reason"].fillna("").str.contains("running").any()


def test_effects_of_a_running_experiment_cover_the_days_so_far_and_say_so(stages):
    rows = read(stages / "week2", "experiment.effects")
    assert rows["reason"].str.contains(f"running: periods through {WEEK1} only.").all()
    assert (rows["n_treated"] + rows["n_control"] <= 16).all(), "units of the second week start later"
    assert read(stages / "week2", "experiment.detrended_sales")["date"].max() == WEEK1
    lake = Workbench.open(stages / "week2").lake
    assert lake.metadata("experiment.effects", NAME)["through"] == WEEK1.isoformat()
    assert not lake.exists("experiment.effects", "drawn")
    assert not Workbench.open(stages / "week1").lake.exists("experiment.effects", NAME)


def test_diagnostics_stand_beside_the_effects(stages):
    checks = read(stages / "end", "experiment.diagnostics").set_index("check_name")
    assert checks.loc["triggers_by_arm", "message"].startswith("Triggered: 20 of 24 treated (83.3%), 16 of 24")
    assert checks.loc[["price_compliance", "drawn_before_start", "one_price"], "status"].tolist() == ["passed"] * 3


def test_running_estimates_look_no_further_than_the_as_of_date(stages, at, runner):
    """Later sales lie in the source; as-of is moved back by a row filter: the same bytes as without those rows."""
    root = at("week2")
    for name in ("sales.csv", "incumbent.parquet"):
        shutil.copy(stages / "end" / "data" / name, root / "data" / name)
    config = (root / "pricelab.yaml").read_text()
    (root / "pricelab.yaml").write_text(config.replace("sales:\n", f"sales:\n  where: day <= date '{WEEK1}'\n", 1))
    assert pd.read_csv(root / "data" / "sales.csv")["day"].max() == tiny_lab.AS_OF.isoformat()
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
    assert Workbench.open(root).as_of == WEEK1
    assert bytes_of(root) == bytes_of(stages / "week2")


def test_concluded_estimates_look_no_further_than_the_end(stages, at, runner):
    root = at("end")
    end = HORIZON + timedelta(days=DURATION)
    sales = pd.read_csv(root / "data" / "sales.csv", dtype={"sku": str})
    assert sales["day"].max() > end.isoformat()
    sales[sales["day"] <= end.isoformat()].to_csv(root / "data" / "sales.csv", index=False)
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
    assert Workbench.open(root).as_of == end
    for table in bytes_of(root):
        pd.testing.assert_frame_equal(read(root, table), read(stages / "end", table), obj=table, check_exact=True)


def test_events_from_before_the_experiment_was_known_are_all_late(stages, tmp_path, runner):
    root = triggered_lab.write(tmp_path / "lab", through=WEEK1)
    shutil.copy(stages / "week1" / "data" / "events" / "week1.csv", root / "data" / "events")
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME]), work.publish()])
    rows = read(root, "experiment.triggers")
    assert rows["status"].value_counts().to_dict() == {"late": 16, "duplicate": 1, "unknown_product": 1}
    for table in ("experiment.assignments", "experiment.price_plan"):
        assert read(root, table).empty
    assert not Workbench.open(root).lake.exists("experiment.effects", NAME)
    dim = read(root, "marts.dim_experiments").iloc[0]
    assert (dim["status"], dim["n_cells"], dim["has_effects"]) == ("running", 0, False)
    # a product whose event came too late takes part with its next one
    triggered_lab.deliver(root, "next", [triggered_lab.event(50, rows["product_id"].iloc[0], date(2024, 4, 8))])
    tiny_lab.succeeded([work.refresh(), work.plan(NAME)])
    assert verdicts(root).loc["e50", ["start", "end"]].tolist() == [date(2024, 4, 9), date(2024, 4, 14)]
    assert len(read(root, "experiment.price_plan")) == DURATION


def test_a_stop_cuts_windows_and_leaves_what_was_before(stages, at, runner):
    root, stop = at("week2"), date(2024, 4, 12)
    free = [product for product in read(root, "experiment.drawn_arms")["product_id"] if product not in windows(root)]
    path = root / "experiments" / f"{NAME}.yaml"
    text = path.read_text()
    path.write_text(text.replace(f"event: {triggered_lab.KIND}", f"event: rain, stop: {stop}, stop_reason: recall"))
    new = [triggered_lab.event(60, free[2], date(2024, 4, 9)), triggered_lab.event(61, free[3], stop)]
    triggered_lab.deliver(root, "week3", new)
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
    found = verdicts(root)
    assert found.loc["e60", ["start", "end"]].tolist() == [date(2024, 4, 10), stop]
    assert found.loc["e61", "status"] == "outside_window"
    for table in ("experiment.assignments", "experiment.price_plan"):
        before, after = read(stages / "week2", table), read(root, table)
        kept = before[before["date"] <= stop].reset_index(drop=True)
        assert len(kept) < len(before)
        pd.testing.assert_frame_equal(
            after[after["product_id"] != free[2]].reset_index(drop=True), kept, check_like=True
        )
        assert (after["product_id"] == free[2]).sum() == 3
    path.write_text(text)
    bench = Workbench.open(root)
    with pytest.raises(LabError, match=r"design\.stop .* 2024-04-12 or earlier: the experiment was stopped then"):
        bench.frozen_assignment(bench.experiment(NAME))


def test_products_of_a_cluster_move_together(tmp_path, runner):
    root = triggered_lab.pairs(tmp_path / "lab")
    work = runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
    arms = triggered_lab.drawn(root)
    members = arms.groupby("unit_id")["product_id"].agg(list)
    several = members[members.str.len() > 1]
    assert len(several) >= 4  # the history shows most of the twelve pairs
    assert (arms.groupby("unit_id")["arm"].nunique() == 1).all()
    first = Workbench.open(root).experiment(NAME).start
    day_of = {unit: first + timedelta(days=k % 5) for k, unit in enumerate(several.index)}
    new = [triggered_lab.event(k, several[unit][-1], day_of[unit]) for k, unit in enumerate(several.index)]
    again = triggered_lab.event(99, several.iloc[0][0], first + timedelta(days=6))
    triggered_lab.deliver(root, "week1", [*new, again])
    tiny_lab.succeeded([work.plan(NAME)])
    assert verdicts(root).loc["e99", "status"] == "inside_running"
    cells_of = read(root, "experiment.assignments")
    assert sorted(set(cells_of["product_id"])) == sorted(product for products in several for product in products)
    for unit, products in several.items():
        for product in products:
            days = cells_of.loc[cells_of["product_id"] == product, "date"].tolist()
            assert days == [day_of[unit] + timedelta(days=number) for number in range(1, 5)], product
    assert (cells_of.groupby(["unit_id", "date"])["arm"].nunique() == 1).all()


def test_without_incumbent_prices_a_unit_keeps_the_last_shelf_price_before_its_own_start(stages, tmp_path, runner):
    config = re.sub(r"prices:\n(?:  .*\n)+", "", triggered_lab.CONFIG)
    assert "incumbent" not in config
    root = triggered_lab.write(tmp_path / "lab", config=config)
    shelf = tiny_lab.world().sales.set_index(["sku", "day"])["price"]
    plans, work = [], runner(root)
    tiny_lab.succeeded([work.refresh(), *work.experiments([NAME])])
    for week, eve in (("week1", tiny_lab.EVE), ("week2", WEEK1)):
        if plans:
            triggered_lab.follow(root, through=eve)
        shutil.copy(stages / "end" / "data" / "events" / f"{week}.csv", root / "data" / "events")
        tiny_lab.succeeded([work.refresh(), work.plan(NAME)])
        plans.append(cells(read(root, "experiment.price_plan")))
        for (product, day), row in plans[-1].items():
            if row not in plans[0].values() or len(plans) == 1:
                assert row["incumbent_price"] == pytest.approx(shelf[product, eve]), (product, day)
            if row["arm"] == "treatment":
                assert abs(row["price"] - MULTIPLIER * row["incumbent_price"]) <= CENT
    assert len(plans[1]) > len(plans[0]) > 0
    assert {cell: plans[1][cell] for cell in plans[0]} == plans[0]
    assert any(shelf[product, tiny_lab.EVE] != shelf[product, WEEK1] for product, _ in plans[0])


@pytest.mark.parametrize("table", ["assignments", "price_plan"])
def test_a_run_that_was_killed_between_verdict_and_plan_is_due_again(stages, at, table):
    root = at("week2")
    assert due_runs(Workbench.open(root)) == {}
    file = Path("lake") / "experiment" / table / f"{NAME}.parquet"
    shutil.copy(stages / "week1" / file, root / file)
    assert list(due_runs(Workbench.open(root))) == [NAME]


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def tick(root, instance):
    """Evaluates the sensor as the daemon would."""
    return events(dg.build_sensor_context(instance=instance, resources={"lab": LabResource(root=str(root))}))


def key(found):
    (request,) = found.run_requests
    assert request.partition_key == NAME
    return request.run_key


def test_the_sensor_asks_for_new_events_once(stages, at, instance, runner):
    root = at("drawn")
    assert tick(root, instance).skip_message == "No event that a triggered experiment has not judged."
    shutil.copy(stages / "week1" / "data" / "events" / "week1.csv", root / "data" / "events")
    asked = key(tick(root, instance))
    assert asked.startswith("rain:events:")
    assert key(tick(root, instance)) == asked, "one key is run once"
    (outcome,) = [runner(root)._run("trigger", NAME)]
    assert outcome.succeeded, outcome.message
    assert isinstance(tick(root, instance), dg.SkipReason)
    tables = (*DESIGN, "staging.stg_events", "intermediate.int_data_quality")
    assert bytes_of(root, *tables) == bytes_of(stages / "week1", *tables)


def test_the_sensor_asks_again_after_a_failed_run_once_something_changed(stages, at, instance):
    root = at("drawn")
    triggered_lab.deliver(root, "one", [triggered_lab.event(1, "0000", START)])
    asked = key(tick(root, instance))
    # that run failed: nothing was judged, and nothing has changed
    assert key(tick(root, instance)) == asked
    triggered_lab.deliver(root, "two", [triggered_lab.event(2, "0001", START)])
    both = key(tick(root, instance))
    assert both != asked
    # the same events beside other verdicts are another request
    bench = Workbench.open(root)
    bench.lake.write("experiment.triggers", Workbench.open(stages / "week1").seen_events(bench.experiment(NAME)), NAME)
    triggered_lab.deliver(root, "one", [triggered_lab.event(1, "0000", START)])
    assert key(tick(root, instance)) not in (asked, both)


def test_an_experiment_with_a_run_under_way_is_looked_at_once_that_is_over(stages, at, instance):
    root, file = at("week2"), Path("lake") / "experiment" / "assignments" / f"{NAME}.parquet"
    shutil.copy(stages / "week1" / file, root / file)

    def requested():
        context = dg.build_sensor_context(instance=instance, resources={"lab": LabResource(root=str(root))})
        return [request.partition_key for request in experiments(context).run_requests]

    assert requested() == [NAME]
    run = dg.DagsterRun(job_name="trigger", status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": NAME})
    instance.add_run(run)
    assert requested() == []
    instance.report_run_failed(run)
    assert requested() == [NAME]


def test_the_sensor_sees_files_that_come_late_and_out_of_order(stages, at, instance):
    root = at("end")
    assert isinstance(tick(root, instance), dg.SkipReason), "the experiment is concluded"
    root = at("week2")
    folder = root / "data" / "events"
    shutil.copy(folder / "week1.csv", folder / "0000-renamed.csv")
    assert event_runs(Workbench.open(root)), "the second copy of each event is a row that was not judged"
    (folder / "0000-renamed.csv").unlink()
    assert isinstance(tick(root, instance), dg.SkipReason)
    triggered_lab.deliver(root, "0000-before-all", [triggered_lab.event(70, "0002", START)])
    assert key(tick(root, instance))


def test_the_sensor_leaves_the_first_run_to_the_other_one(tmp_path, instance, stages):
    root = triggered_lab.write(tmp_path / "lab")
    shutil.copy(stages / "week1" / "data" / "events" / "week1.csv", root / "data" / "events")
    assert isinstance(tick(root, instance), dg.SkipReason)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,sku,kind\ne1,0000,rain\n", 'Referenced column "day" not found'),
        ("id,sku,day,kind\ne1,0000,some day,rain\n", "some day"),
    ],
    ids=["no column", "no date"],
)
def test_a_broken_events_file_skips_the_tick_and_says_why(at, instance, text, said):
    root = at("drawn")
    (root / "data" / "events" / "broken.csv").write_text(text)
    found = tick(root, instance)
    assert isinstance(found, dg.SkipReason)
    assert found.skip_message.startswith("The events cannot be read. ")
    assert said in found.skip_message


def test_a_broken_lab_skips_the_tick_and_says_why(at, instance):
    root = at("drawn")
    (root / "pricelab.yaml").write_text("sales: {}\n")
    assert tick(root, instance).skip_message.startswith("pricelab.yaml: sales.columns is missing")
