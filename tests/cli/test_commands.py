import csv
import io
import json
import shutil
from datetime import date

import pytest

from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.cli.command import DONE, NOT_DONE, WRONG_INPUT, pricelab, refusals
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONCLUDED, EXPERIMENTS

FORMATTED = {
    "experiment.effects": ("effects", "cut"),
    "experiment.elasticities": ("elasticities", "cut"),
    "experiment.diagnostics": ("diagnostics", "cut"),
    "experiment.after_effects": ("blackout", "cut"),
    "experiment.price_plan": ("plan", "later"),
}


@pytest.fixture(scope="module")
def new_lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("new") / "lab"
    result = pricelab("new", root)
    assert result.exit_code == DONE, result.stderr
    assert f"pricelab run --lab {root}" in result.stderr.replace("\n", "")
    assert result.stdout == ""
    return root


def test_new_refuses_a_folder_with_something_in_it(new_lab):
    before = tiny_lab.tree(new_lab)
    result = pricelab("new", new_lab)
    assert result.exit_code == WRONG_INPUT
    (line,) = result.stderr.splitlines()
    assert "there is something already" in line
    assert tiny_lab.tree(new_lab) == before


def test_new_takes_an_empty_folder_only(tmp_path):
    (tmp_path / "file").touch()
    assert pricelab("new", tmp_path / "file").exit_code == WRONG_INPUT
    assert pricelab("new", tmp_path).exit_code == WRONG_INPUT


def test_new_lab_runs_as_it_stands(new_lab, tmp_path):
    before = tiny_lab.tree(new_lab)
    checked = pricelab("check", lab=new_lab)
    assert checked.exit_code == DONE, checked.stderr
    assert checked.stderr.splitlines()[-1] == "2 of 2 experiments can run."
    assert tiny_lab.tree(new_lab) == before
    root = shutil.copytree(new_lab, tmp_path / "lab")
    result = pricelab("run", "--workers", "1", lab=root)
    assert result.exit_code == DONE, result.stderr
    stated = result.stderr.splitlines()[-2:]
    assert stated[0].startswith("a-tenth-cheaper: concluded, 2024-10-28 to 2024-12-08, effects computed")
    assert stated[1].startswith("next-crossover: planned, 2024-12-09 to 2025-02-02, price plan ready")
    rows = json.loads(pricelab("effects", "a-tenth-cheaper", "--format", "json", lab=root).stdout)
    (units,) = [row for row in rows if row["is_headline"] and row["metric"] == "units"]
    assert units["ci_lower"] > 0


@pytest.mark.parametrize(("table", "words"), FORMATTED.items(), ids=FORMATTED)
def test_json_is_a_list_of_flat_rows(played, table, words):
    result = pricelab(*words, "--format", "json", lab=played)
    assert result.exit_code == DONE
    assert result.stderr == ""
    rows = json.loads(result.stdout)
    stored = Workbench.open(played).lake.read(table, words[1]).to_pylist()
    assert [list(row) for row in rows] == [TABLES[table].schema.names] * len(stored)
    for row, expected in zip(rows, stored, strict=True):
        for name, value in expected.items():
            assert row[name] == (value.isoformat() if isinstance(value, date) else value), name


def test_json_has_null_for_missing_and_iso_dates(played):
    plan = json.loads(pricelab("plan", "later", "--format", "json", lab=played).stdout)
    assert {row["date"] for row in plan} == {f"2024-05-{day:02d}" for day in range(6, 20)}
    assert {row["note"] for row in plan} == {None}


@pytest.mark.parametrize(("table", "words"), FORMATTED.items(), ids=FORMATTED)
def test_csv_parses(played, table, words):
    result = pricelab(*words, "--format", "csv", lab=played)
    assert result.exit_code == DONE
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    stored = Workbench.open(played).lake.read(table, words[1]).to_pylist()
    assert len(rows) == len(stored)
    assert list(rows[0]) == TABLES[table].schema.names
    for row, expected in zip(rows, stored, strict=True):
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value)), name


def test_table_shows_every_row_on_one_line(played):
    result = pricelab("plan", "later", lab=played)
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 16 * 14
    assert lines[0].split() == TABLES["experiment.price_plan"].schema.names


def test_effects_of_all_experiments_that_have_some(played):
    rows = json.loads(pricelab("effects", "--format", "json", lab=played).stdout)
    assert {row["experiment_id"] for row in rows} == {*CONCLUDED, "going"}
    assert len([row for row in rows if row["is_headline"]]) == 5 * 3 + 1


def test_elasticities_of_all_experiments_say_whether_the_change_pays(played):
    rows = json.loads(pricelab("elasticities", "--format", "json", lab=played).stdout)
    assert [row["experiment_id"] for row in rows] == sorted([*CONCLUDED, "going"])
    assert {row["verdict_revenue"] for row in rows} == {"more elastic than break-even: the cut pays in revenue"}
    shown = pricelab("elasticities", "cut", "stopped", lab=played).stdout.splitlines()
    assert shown[0].split() == [
        name for name in TABLES["experiment.elasticities"].schema.names if name != "n_replicates"
    ]
    assert [line.split()[0] for line in shown[1:]] == ["cut", "stopped"]


def test_blackouts_are_printed_with_what_the_experiments_advise_and_tell_together(played):
    shown = pricelab("blackout", lab=played)
    assert shown.exit_code == DONE, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:4] == ["experiment_id", "arm", "metric", "periods_since"]
    assert {line.split()[0] for line in lines[1:]} == {*CONCLUDED, "going"}
    notes = shown.stderr.splitlines()
    assert "going, treatment: not identified: the experiment is not finished." in notes
    assert "For no more than 2% of a long-run effect to stay hidden as expected, " in notes[-1]


def test_elasticities_of_a_planned_experiment_have_not_happened(played):
    result = pricelab("elasticities", "later", lab=played)
    assert result.exit_code == NOT_DONE
    (line,) = refusals(result)
    assert "experiment.elasticities, experiment later: nothing there yet" in line


def test_effects_of_a_planned_experiment_have_not_happened(played):
    result = pricelab("effects", "later", lab=played)
    assert result.exit_code == NOT_DONE
    (line,) = refusals(result)
    assert "experiment.effects, experiment later: nothing there yet" in line


@pytest.mark.parametrize(
    "words",
    [
        ("effects", "nobody"),
        ("elasticities", "nobody"),
        ("diagnostics", "nobody"),
        ("plan", "nobody"),
        ("run", "nobody"),
        ("twins", "nobody", "0000"),
    ],
)
def test_unknown_id(played, words):
    before = tiny_lab.lake(played)
    result = pricelab(*words, lab=played)
    assert result.exit_code == WRONG_INPUT
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("pricelab: experiments/nobody.yaml: no such file, must be one of cut, days")
    assert tiny_lab.lake(played) == before


def test_twins_are_the_products_that_share_most_leaves(played):
    rows = json.loads(pricelab("twins", "cut", "0000", "--top", "5", "--format", "json", lab=played).stdout)
    leaves = Workbench.open(played).lake.read("experiment.affinity_leaves", "cut").to_pandas()
    grid = leaves.pivot(index="product_id", columns="tree", values="leaf")
    shared = (grid == grid.loc["0000"]).mean(axis=1).drop("0000").sort_values(ascending=False, kind="stable")
    assert [row["twin"] for row in rows] == shared.index[:5].tolist()
    assert [row["shared_leaves"] for row in rows] == shared.iloc[:5].tolist()
    features = Workbench.open(played).lake.read("intermediate.int_product_features", "cut").to_pandas()
    known = features.set_index("product_id")
    for row in rows:
        assert row["product_id"] == "0000"
        assert (row["category"], row["size"]) == (known.loc[row["twin"], "category"], known.loc[row["twin"], "size"])


def test_twins_of_a_product_outside_the_experiment(played):
    result = pricelab("twins", "cut", "0001", lab=played)
    assert result.exit_code == WRONG_INPUT
    (line,) = refusals(result)
    assert "experiments/cut.yaml: product 0001 is not in the experiment, must be one of 16 products" in line


def test_twins_of_a_planned_experiment_have_not_happened(played):
    result = pricelab("twins", "later", "0002", lab=played)
    assert result.exit_code == NOT_DONE
    (line,) = refusals(result)
    assert "experiment.affinity_leaves, experiment later: nothing there yet" in line


def test_lab_from_the_environment(played, monkeypatch):
    monkeypatch.setenv("PRICELAB_HOME", str(played))
    assert pricelab("plan", "later").exit_code == DONE


def test_lab_is_the_current_directory_by_default(played, monkeypatch):
    monkeypatch.chdir(played)
    assert pricelab("plan", "later").exit_code == DONE


@pytest.mark.parametrize(
    "query",
    [
        "from marts.fct_experiment_effects",
        "select count(*) as n from experiment.assignments",
        "with one as (select 1 as n) select n from one",
    ],
)
def test_sql_reads_the_warehouse(played, query):
    result = pricelab("sql", query, "--format", "json", lab=played)
    assert result.exit_code == DONE, result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize(
    "query",
    [
        "insert into marts.dim_products select * from marts.dim_products",
        "copy marts.dim_products to 'out.csv'",
        "drop table marts.dim_products",
        "attach 'other.duckdb'",
        "set threads = 4",
        "pragma database_list",
        "install httpfs",
        "select 1; select 2",
        "select * from read_csv('{lab}/data/sales.csv')",
        "select * from read_text('/etc/hostname')",
        "from marts.no_such_table",
        "selec 1",
        "",
    ],
)
def test_sql_refuses_what_is_not_one_select(played, query):
    before = tiny_lab.tree(played, under="warehouse.duckdb")
    result = pricelab("sql", query.format(lab=played), lab=played)
    assert result.exit_code == WRONG_INPUT
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert tiny_lab.tree(played, under="warehouse.duckdb") == before


def test_check_of_a_sound_lab_writes_nothing(played):
    before = tiny_lab.tree(played)
    result = pricelab("check", "--format", "json", lab=played)
    assert result.exit_code == DONE, result.stderr
    rows = json.loads(result.stdout)
    assert [list(row) for row in rows] == [TABLES["intermediate.int_data_quality"].schema.names] * len(rows)
    assert result.stderr.splitlines()[-1] == "6 of 6 experiments can run."
    assert tiny_lab.tree(played) == before


def test_check_names_overlaps(copied):
    (copied / "experiments" / "twin.yaml").write_text(EXPERIMENTS["later"])
    assignments = copied / "lake" / "experiment" / "assignments"
    shutil.copy(assignments / "later.parquet", assignments / "twin.parquet")
    result = pricelab("check", lab=copied)
    assert result.exit_code == WRONG_INPUT
    overlaps = [line for line in result.stderr.splitlines() if line.startswith("overlap: ")]
    assert overlaps == ["overlap: later and twin both price product 0002 and 15 more on 2024-05-06"]


def test_check_and_run_refuse_a_design_that_changed_after_the_start(copied):
    path = copied / "experiments" / "cut.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 13"))
    before = tiny_lab.tree(copied)
    for words in (("check",), ("run", "cut")):
        result = pricelab(*words, lab=copied)
        assert result.exit_code == WRONG_INPUT
        (line,) = refusals(result)
        assert "design.duration: 14 -> 13" in line
        assert tiny_lab.tree(copied) == before


def test_run_leaves_concluded_experiments_alone(copied):
    before = tiny_lab.lake(copied)
    result = pricelab("run", "cut", lab=copied)
    assert result.exit_code == DONE, result.stderr
    assert "cut is concluded and computed; --force recomputes it." in result.stderr.splitlines()
    assert tiny_lab.lake(copied) == before
    assert (copied / "audit" / "log.jsonl").read_text().count('"job": "experiment"') == 2 * len(EXPERIMENTS)


def test_run_exits_1_when_an_experiment_fails_and_publishes_the_others(copied):
    text = EXPERIMENTS["later"]
    rows = Workbench.open(copied).lake.read("experiment.assignments", "later").to_pandas()
    # the products of the next category stand one before those of milk
    rows["product_id"] = [f"{int(product) - 1:04d}" for product in rows["product_id"]]
    rows = rows[["product_id", "date", "arm"]]
    rows.iloc[[0, *range(len(rows))]].to_csv(copied / "data" / "twice.csv", index=False)
    fruit = text.replace("'milk'", "'fruit'")
    (copied / "experiments" / "twice.yaml").write_text(fruit + "assignment: {source: data/twice.csv}\n")
    (copied / "experiments" / "extra.yaml").write_text(text.replace("'milk'", "'tea'"))
    result = pricelab("run", "twice", "extra", "--workers", "1", lab=copied)
    assert result.exit_code == NOT_DONE
    (line,) = refusals(result)
    assert line.startswith("pricelab: twice failed. ")
    assert "assert_one_arm_per_product_and_period" in line
    marts = Workbench.open(copied).lake.read("marts.fct_price_plan").to_pandas()
    assert {"extra", "cut"} <= set(marts["experiment_id"])
    assert "twice" not in set(marts["experiment_id"])
