import re

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pricelab_dagster import audit, checks, frames, spillovers, validate
from pricelab_dagster.lab import LabError
from pricelab_dagster.science import panel
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONCLUDED, ELASTICITY, EXPERIMENTS, MULTIPLIER

PARTITIONED = [name for name in TABLES if TABLES[name].partitioned]
BEFORE_THE_START = (
    "intermediate.int_product_features",
    "spillover.substitute_edges",
    "spillover.product_clusters",
    "spillover.certificate",
    "experiment.drawn_arms",
    "experiment.triggers",
    "experiment.assignments",
    "experiment.pair_probabilities",
    "experiment.price_plan",
    "experiment.power",
)
SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
CENT = 0.005 / 2  # prices are rounded to cents and are at least 2: the most that rounding moves a multiplier


def read(root, table, experiment_id=None):
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


def headline(root, experiment_id, metric):
    rows = read(root, "experiment.effects", experiment_id)
    return rows[rows["is_headline"] & (rows["metric"] == metric)].iloc[0]


def last_materialization(instance, table, experiment_id):
    import dagster as dg

    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(table.split(".")), asset_partitions=[experiment_id]), limit=1
    ).records
    return records[0].asset_materialization


def test_every_table_has_its_declared_columns(played):
    lake = Workbench.open(played).lake
    for name, spec in TABLES.items():
        assert lake.files(name), name
        for file in lake.files(name):
            found = pq.read_schema(file)
            assert found.names[: len(spec.columns)] == spec.schema.names, file
            assert [found.field(column.name).type for column in spec.columns] == spec.schema.types, file
            assert spec.open_ended or len(found.names) == len(spec.columns), file


def test_planned_experiment_stops_after_its_price_plan(played):
    lake = Workbench.open(played).lake
    assert {name for name in PARTITIONED if lake.exists(name, "later")} == set(BEFORE_THE_START)
    plan = read(played, "experiment.price_plan", "later")
    assert len(plan) == 16 * 14
    assert plan["price"].notna().all()


@pytest.mark.parametrize("experiment_id", [*CONCLUDED, "going"])
def test_started_experiment_has_every_table(played, experiment_id):
    lake = Workbench.open(played).lake
    assert [name for name in PARTITIONED if not lake.exists(name, experiment_id)] == []


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_one_headline_per_metric_near_what_the_world_does(played, experiment_id):
    rows = read(played, "experiment.effects", experiment_id)
    quoted = rows[rows["is_headline"]].set_index("metric")
    assert sorted(quoted.index) == sorted(set(rows["metric"]))
    assert (quoted["scale"] == "relative").all()
    truth = {"units": MULTIPLIER**ELASTICITY - 1, "price": MULTIPLIER - 1}
    for metric, expected in truth.items():
        one = quoted.loc[metric]
        assert abs(one["effect"] - expected) <= SIGMAS * one["se"] + CENT
        assert one["effect"] * expected > 0
    assert (quoted["n_replicates"] == tiny_lab.N_REPLICATES).all()


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_effects_reach_the_end_and_diagnostics_stand_beside_them(played, experiment_id):
    bench = Workbench.open(played)
    one = bench.experiment(experiment_id)
    assert bench.is_final(one)
    assert bench.lake.metadata("experiment.effects", experiment_id)["through"] == bench.window(one).end.isoformat()
    checks = read(played, "experiment.diagnostics", experiment_id).set_index("check_name")
    assert checks.loc["price_compliance", "status"] == "passed"
    assert checks["message"].str.len().min() > 0
    assert set(checks["status"]) <= {"passed", "failed", "informational"}


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_peers_stand_beside_the_headline_and_share_its_draws(played, experiment_id):
    rows = read(played, "experiment.effects", experiment_id)
    peers = {"ancova", "cuped", "causal_forest_dml"}
    if experiment_id == "days":
        assert not set(rows["estimator"]) & peers
        return
    forest = rows[rows["estimator"] == "causal_forest_dml"]
    assert forest[["metric", "scale"]].to_numpy().tolist() == [["units", "relative"]]
    assert forest["reason"].str.contains("at least 20 of each are needed").all()
    adjusted = rows[rows["estimator"].isin(["ancova", "cuped"])]
    assert len(adjusted) == 2 * 2 * rows["metric"].nunique()
    assert adjusted[["effect", "se", "p_value"]].notna().all(axis=None)
    drawn = read(played, "experiment.effect_draws", experiment_id)
    sizes = drawn[drawn["estimator"].isin(["ancova", "cuped"])].groupby(["metric", "scale", "estimator"]).size()
    assert (sizes == tiny_lab.N_REPLICATES).all()
    assert len(sizes) == len(adjusted)


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_estimators_are_compared_with_the_headline(played, experiment_id):
    check = read(played, "experiment.diagnostics", experiment_id).set_index("check_name").loc["estimators_agree"]
    quoted = headline(played, experiment_id, "units")
    assert check["status"] in ("passed", "informational"), check["message"]
    assert f"{quoted['estimator']} {quoted['effect']:+.1%}" in check["message"]
    assert "from shared draws" in check["message"]


def test_the_forecast_of_each_metric_is_stored_and_its_placebos_are_those_of_the_estimate(played):
    bench = Workbench.open(played)
    named = bench.lake.metadata("experiment.detrended_sales", "cut")
    assert named["methods"] == dict.fromkeys(("units", "revenue", "profit", "price"), "pooled_ridge")
    assert "placebo_errors" not in named
    stored = bench.lake.metadata("experiment.detrended_sales", "going")
    one = frames.load_panel(bench, bench.experiment("going"))
    found = panel.choices(one)
    assert stored["methods"] == {metric: choice.method for metric, choice in found.items()}
    assert stored["placebo_errors"] == {metric: choice.placebo_error for metric, choice in found.items()}
    assert set(stored["methods"].values()) - {"mean"}, "a choice that is no choice would not be seen to be kept"
    kept = panel.trimmed(one, panel.forecasts(one, method=stored["methods"]), method=stored["methods"])
    rows = [bench.lake.read(f"experiment.{table}", "going") for table in ("detrended_sales", "trimmed_panel")]
    for mine, theirs in zip(kept, frames.read_trimmed(one, *rows), strict=True):
        np.testing.assert_array_equal(theirs.placebo, mine.placebo)


def test_an_estimator_that_disagrees_fails_the_check(played):
    """The same tables with one effect and its draws moved by 50 points."""
    rows, drawn = (read(played, f"experiment.{table}", "cut") for table in ("effects", "effect_draws"))
    for table in (rows, drawn):
        table.loc[table["estimator"] == "hajek", "effect"] += 0.5
    bench = Workbench.open(played)
    experiment = bench.experiment("cut")
    one = frames.load_panel(bench, experiment)
    stored = (bench.lake.read(f"experiment.{table}", "cut") for table in ("detrended_sales", "trimmed_panel"))
    features = read(played, "intermediate.int_product_features", "cut")
    found = checks.run(
        experiment,
        one,
        frames.read_trimmed(one, *stored),
        X=frames.attributes(features, one.product_id),
        plan=read(played, "experiment.price_plan", "cut"),
        days=read(played, "intermediate.int_product_days"),
        effects=rows,
        arms=read(played, "experiment.drawn_arms", "cut"),
        facts=bench.lake.metadata("experiment.assignments", "cut"),
        draws=drawn,
        rng=np.random.default_rng(0),
    )
    (check,) = [one for one in found if one.check_name == "estimators_agree"]
    assert check.status == "failed"
    assert "hajek reads" in check.message
    assert "Likely reason" in check.message


def test_effects_of_a_running_experiment_say_so(played):
    rows = read(played, "experiment.effects", "going")
    assert rows["reason"].str.contains("running: periods through 2024-04-25 only.").all()
    assert read(played, "experiment.detrended_sales", "going")["date"].max() == tiny_lab.AS_OF


def test_spillover_effects_are_null_with_a_reason(played):
    rows = read(played, "experiment.spillover_effects", "cut")
    uncorrected = rows["estimator"] == spillovers.UNCORRECTED
    corrected = rows[~uncorrected]
    assert set(corrected["component"]) == {"direct", "spillover", "total"}
    assert corrected[["effect", "se", "ci_lower", "ci_upper"]].isna().all(axis=None)
    assert corrected["reason"].eq(spillovers.NO_GRAPH).all()
    effects = read(played, "experiment.effects", "cut")
    headline = effects[effects["is_headline"]].set_index("metric")["effect"]
    relative = rows[uncorrected & (rows["scale"] == "relative")].set_index("metric")["effect"]
    assert relative.to_dict() == headline.to_dict()


def test_the_graph_names_its_version_and_the_day_it_was_learned_up_to(played):
    lake = Workbench.open(played).lake
    facts = {name: lake.metadata("spillover.substitute_edges", name) for name in ("cut", "going")}
    assert [one["cut_off"] for one in facts.values()] == ["2024-04-01", "2024-04-22"]
    assert len({one["version"] for one in facts.values()}) == 2


def test_pairs_without_a_graph_have_no_rows(played):
    assert read(played, "experiment.pair_probabilities", "cut").empty


def test_short_history_names_the_edges_it_cannot_identify(played):
    rows = read(played, "spillover.substitute_edges", "cut")
    assert rows["effect"].isna().all()
    assert rows["reason"].str.startswith("not identified: ").all()


def test_profit_stands_beside_units_where_a_cost_is_mapped(played):
    rows = read(played, "experiment.effects", "cut")
    assert set(rows["metric"]) == {"units", "revenue", "profit", "price"}
    assert "points per revenue" in headline(played, "cut", "profit")["estimand"]
    days = read(played, "intermediate.int_product_days")
    expected = days["revenue"] - days["units"] * days["cost"]
    pd.testing.assert_series_equal(days["profit"], expected, check_names=False)


def test_plan_charges_the_multiplier_of_the_incumbent_price_and_follows_arms(played):
    plan = read(played, "experiment.price_plan", "phases")
    treated = plan["arm"] == "treatment"
    assert treated.mean() == 0.5
    assert (plan.loc[~treated, "price"] == plan.loc[~treated, "incumbent_price"]).all()
    assert (plan.loc[treated, "multiplier"] - MULTIPLIER).abs().max() <= CENT


def test_stopped_experiment_ends_with_its_stop(played):
    assert str(read(played, "experiment.assignments", "stopped")["date"].max()) == "2024-04-10"
    dim = read(played, "marts.dim_experiments").set_index("experiment_id")
    assert str(dim.loc["stopped", "end"]) == "2024-04-10"
    assert dim.loc["stopped", "status"] == "concluded"
    assert Workbench.open(played).lake.metadata("experiment.effects", "stopped")["through"] == "2024-04-10"


def test_marts_hold_every_experiment(played):
    dim = read(played, "marts.dim_experiments").set_index("experiment_id")
    expected = dict.fromkeys(CONCLUDED, "concluded") | {"going": "running", "later": "planned"}
    assert dim["status"].to_dict() == expected
    assert dim["has_effects"].to_dict() == {name: name != "later" for name in EXPERIMENTS}
    assert dim.loc["cut", "title"] == "A fifth cheaper"
    effects = read(played, "marts.fct_experiment_effects")
    assert len(effects) == sum(len(read(played, "experiment.effects", name)) for name in [*CONCLUDED, "going"])


def test_warehouse_is_read_by_any_client(played):
    with duckdb.connect(str(played / "warehouse.duckdb"), read_only=True) as connection:
        for name in TABLES:
            counted = connection.execute(f"select count(*) from {name}").fetchone()
            assert counted == (len(read(played, name)),), name


def test_experiments_with_one_start_share_their_edges(played, runner):
    instance = runner(played)._instance
    for table in ("intermediate.int_product_features", "spillover.substitute_edges"):
        metadata = last_materialization(instance, table, "days").metadata
        assert metadata["computed_for"].value == "cut", table
        keys = {Workbench.open(played).lake.metadata(table, name)["shared_key"] for name in ("cut", "days")}
        assert len(keys) == 1, table
    own = [read(played, "spillover.substitute_edges", name) for name in ("cut", "days")]
    assert [set(rows["experiment_id"]) for rows in own] == [{"cut"}, {"days"}]
    pd.testing.assert_frame_equal(own[0].drop(columns="experiment_id"), own[1].drop(columns="experiment_id"))


def test_materialisations_carry_what_a_person_needs(played, runner):
    instance = runner(played)._instance
    effects = last_materialization(instance, "experiment.effects", "cut").metadata
    assert "| units | +" in effects["headline"].value
    assert effects["dagster/partition_row_count"].value == len(read(played, "experiment.effects", "cut"))
    drawn = last_materialization(instance, "experiment.assignments", "cut").metadata
    assert drawn["frozen"].value is True
    assert "time_bound" in drawn["mechanism"].value


def test_runs_are_in_the_audit_log(played):
    assert audit.broken_lines(played) == []
    text = (played / "audit" / "log.jsonl").read_text()
    assert text.count('"job": "experiment"') == 2 * len(EXPERIMENTS)


def test_second_run_gives_the_same_bytes(copied, runner):
    before = tiny_lab.lake(copied)
    work = runner(copied)
    tiny_lab.succeeded([work.refresh(), *work.experiments(["cut", "days", "later", "phases"]), work.publish()])
    assert tiny_lab.lake(copied) == before
    assert not list(copied.glob("lake/**/*.writing"))


def test_assignment_is_frozen_from_the_start_on(played):
    assert Workbench.open(played).lake.metadata("experiment.assignments", "cut")["design"]["assignment"]["seed"] == 7
    cut = read(played, "experiment.assignments", "cut")
    assert cut.groupby("product_id")["arm"].nunique().max() == 1
    assert (cut["probability"] == 0.5).all()


def test_changed_design_is_refused_with_the_difference(copied, runner):
    path = copied / "experiments" / "cut.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 13"))
    before = tiny_lab.lake(copied)
    bench = Workbench.open(copied)
    with pytest.raises(LabError, match=r"design\.duration: 14 -> 13"):
        bench.refuse_changed_design(bench.experiment("cut"))
    (outcome,) = runner(copied).experiments(["cut"])
    assert not outcome.succeeded
    assert "design.duration: 14 -> 13" in outcome.message
    assert "Traceback" not in outcome.message
    assert tiny_lab.lake(copied) == before


def test_title_and_stop_may_change_after_the_start(copied):
    path = copied / "experiments" / "going.yaml"
    stop = "duration: 14, stop: 2024-04-24, stop_reason: complaints"
    path.write_text(path.read_text().replace("duration: 14", stop) + "title: Fruit\nowner: new@example.com\n")
    bench = Workbench.open(copied)
    bench.refuse_changed_design(bench.experiment("going"))
    assert str(bench.status(bench.experiment("going"))) == "concluded"
    assert not bench.is_final(bench.experiment("going"))


def test_planned_design_may_change(copied):
    path = copied / "experiments" / "later.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 21"))
    bench = Workbench.open(copied)
    bench.refuse_changed_design(bench.experiment("later"))


def test_only_force_runs_a_concluded_experiment_again(played):
    from pricelab_dagster.runner import due

    bench = Workbench.open(played)
    assert due(bench, list(EXPERIMENTS), force=False) == (["going", "later"], list(CONCLUDED))
    assert due(bench, list(EXPERIMENTS), force=True) == (list(EXPERIMENTS), [])


def test_retired_experiment_keeps_its_results(copied, runner):
    (copied / "experiments" / "cut.yaml").unlink()
    tiny_lab.succeeded([runner(copied).publish()])
    dim = read(copied, "marts.dim_experiments").set_index("experiment_id")
    assert dim.loc["cut", "status"] == "retired"
    assert dim.loc["cut", "title"] == "A fifth cheaper"
    assert str(dim.loc["cut", "start"]) == "2024-04-01"
    effects = read(copied, "marts.fct_experiment_effects")
    assert len(effects[effects["experiment_id"] == "cut"]) == len(read(copied, "experiment.effects", "cut"))


def test_experiment_whose_data_break_an_assertion_fails_alone(copied, runner):
    """Two arms for one product and day in an imported assignment."""
    bench = Workbench.open(copied)
    rows = read(copied, "experiment.assignments", "later")[["product_id", "date", "arm"]]
    rows.to_csv(copied / "data" / "drawn.csv", index=False)
    text = EXPERIMENTS["later"] + "assignment: {source: data/drawn.csv}\n"
    (copied / "experiments" / "later.yaml").write_text(text)
    (copied / "experiments" / "good.yaml").write_text(EXPERIMENTS["later"].replace("'milk'", "'tea'"))
    work = runner(copied)
    tiny_lab.succeeded(work.experiments(["later"]))
    kept = {name: bench.lake.fingerprint(name, "later") for name in BEFORE_THE_START}

    twice = rows.iloc[:1]
    pd.concat([rows, twice]).to_csv(copied / "data" / "twice.csv", index=False)
    (copied / "experiments" / "later.yaml").write_text(text.replace("drawn.csv", "twice.csv"))
    broken, good = work.experiments(["later", "good"])
    assert not broken.succeeded
    assert "assert_one_arm_per_product_and_period found 1 offending rows" in broken.message
    assert str(rows["product_id"].iloc[0]) in broken.message
    assert good.succeeded, good.message
    assert {name: bench.lake.fingerprint(name, "later") for name in BEFORE_THE_START} == kept
    tiny_lab.succeeded([work.publish()])
    plans = read(copied, "marts.fct_price_plan").groupby("experiment_id").size()
    assert plans["later"] == plans["good"] == len(rows)


def test_a_stop_that_was_carried_out_cannot_be_taken_back(copied):
    path = copied / "experiments" / "stopped.yaml"
    text = path.read_text()
    path.write_text(text.replace(", stop: 2024-04-10, stop_reason: out of tea", ""))
    assert path.read_text() != text
    bench = Workbench.open(copied)
    with pytest.raises(LabError, match=r"design.stop .* 2024-04-10 or earlier"):
        bench.frozen_assignment(bench.experiment("stopped"))


def test_scope_that_is_no_condition_is_refused_before_anything_is_written(copied):
    path = copied / "experiments" / "later.yaml"
    path.write_text(re.sub(r"scope:.*", "scope: {where: category}", path.read_text()))
    bench = Workbench.open(copied)
    calendar = validate.check_sources(bench)
    with pytest.raises(LabError, match=r"scope.where == 'category', must be an SQL condition .*string"):
        validate.check_experiment(bench, bench.experiment("later"), calendar)


def test_arms_that_were_fixed_before_the_start_pass_their_check(played):
    found = read(played, "experiment.diagnostics", "cut").set_index("check_name")["status"]
    assert found["drawn_before_start"] == "passed"


def test_a_start_moved_past_the_sales_does_not_thaw_the_assignment(copied, runner):
    path = copied / "experiments" / "going.yaml"
    before = tiny_lab.lake(copied)
    path.write_text(re.sub(r"start: \S+,", "start: 2024-06-03,", path.read_text()))
    bench = Workbench.open(copied)
    with pytest.raises(LabError, match=r"design\.start: "):
        bench.refuse_changed_design(bench.experiment("going"))
    (outcome,) = runner(copied).experiments(["going"])
    assert not outcome.succeeded
    assert tiny_lab.lake(copied) == before


def test_a_plan_by_shelf_prices_is_frozen_from_the_start_on(copied):
    bench = Workbench.open(copied)
    experiment = bench.experiment("cut")
    assert bench.frozen_plan(experiment) is None, "prices of an incumbent source follow that source"
    text = (copied / "pricelab.yaml").read_text()
    (copied / "pricelab.yaml").write_text(re.sub(r"prices:\n(?:  .*\n)+", "", text))
    bench = Workbench.open(copied)
    assert bench.lab.config.prices is None
    stored = bench.lake.read("experiment.price_plan", "cut")
    assert bench.frozen_plan(bench.experiment("cut")) == stored
    assert bench.frozen_plan(bench.experiment("later")) is None


def test_removing_the_last_experiment_retires_it(copied, runner):
    from click.testing import CliRunner

    from pricelab_dagster.cli import main

    for path in (copied / "experiments").glob("*.yaml"):
        path.unlink()
    result = CliRunner().invoke(main, ["run", "--lab", str(copied)])
    assert result.exit_code == 0
    assert set(read(copied, "marts.dim_experiments")["status"]) == {"retired"}
