import shutil
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from pricelab_dagster.runner import due
from pricelab_dagster.science import panel
from pricelab_dagster.workbench import Workbench
from tests.cli.command import DONE, NOT_DONE, WRONG_INPUT, pricelab, refusals
from tests.defs import imports_lab, tiny_lab
from tests.defs.imports_lab import STEPS
from tests.defs.tiny_lab import ELASTICITY, EXPERIMENTS, MULTIPLIER

SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
CENT = 0.005 / 2  # prices are rounded to cents and are at least 2: the most that rounding moves a multiplier
TRUTH = {"units": MULTIPLIER**ELASTICITY - 1, "price": MULTIPLIER - 1}
VALUES = ["effect", "se", "ci_lower", "ci_upper", "p_value"]
LATER = EXPERIMENTS["later"]


@pytest.fixture(scope="session")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The played lab of imported assignments; read only."""
    return imports_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


def read(root: Path, table: str, experiment_id: str | None = None) -> pd.DataFrame:
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


def near_truth(row: pd.Series) -> bool:
    """Whether an effect lies within SIGMAS of what the world does, on the same side of zero."""
    expected = TRUTH[row["metric"]]
    return abs(row["effect"] - expected) <= SIGMAS * row["se"] + CENT and row["effect"] * expected > 0


def test_one_sequence_of_a_crossover_is_refused_with_the_paired_contrast_beside(imports: Path) -> None:
    rows = read(imports, "experiment.effects", "oneway")
    paired = rows["estimator"] == "paired"
    refused = rows[~paired]
    assert set(panel.ESTIMATORS) <= set(refused["estimator"])
    assert refused[VALUES].isna().all(axis=None)
    assert refused["reason"].str.startswith("not identified: all products have the same sequence of arms").all()
    assert rows.loc[paired, VALUES].notna().all(axis=None)
    assert not rows.loc[paired, "is_headline"].any(), "it holds the effect only if nothing else changed"
    assert rows.loc[paired, "estimand"].str.contains("one sequence does not identify the period effect").all()
    relative = rows[paired & (rows["scale"] == "relative") & rows["metric"].isin(TRUTH)]
    assert len(relative) == 2
    assert all(near_truth(row) for _, row in relative.iterrows())


def test_staggered_starts_are_quoted_by_their_group_time_average(imports: Path) -> None:
    rows = read(imports, "experiment.effects", "stairs")
    names = set(rows["estimator"])
    for kind in ("simple", "dynamic", "group"):
        assert {f"group_time_{kind}_never", f"group_time_{kind}_not_yet"} <= names
    assert "two_way_fixed_effects" in names
    plain = rows[rows["estimator"].isin(["hpte", "hajek", "difference_in_differences"])]
    assert plain[VALUES].isna().all(axis=None)
    assert plain["reason"].str.contains("products start at different times").all()
    quoted = rows[rows["is_headline"]]
    assert set(quoted["estimator"]) == {"group_time_simple_not_yet"}
    assert sorted(quoted["metric"]) == ["price", "revenue", "units"]
    assert all(near_truth(row) for _, row in quoted.iterrows() if row["metric"] in TRUTH)
    assert (quoted[["n_treated", "n_control"]] == [12, 4]).all(axis=None)


def test_staggered_starts_keep_the_days_on_which_each_product_switched(imports: Path) -> None:
    cells = read(imports, "experiment.assignments", "stairs")
    treated = cells[cells["arm"] == "treatment"].groupby("product_id")["date"].min()
    days = [(day - imports_lab.START).days for day in treated]
    assert sorted(days) == sorted(STEPS * 4)
    facts = Workbench.open(imports).lake.metadata("experiment.assignments", "stairs")
    assert (facts["is_staggered"], facts["deviations"]) == (True, [])


def test_a_staggered_experiment_in_which_nothing_has_switched_yet_has_no_effect_and_says_why(imports: Path) -> None:
    rows = read(imports, "experiment.effects", "soon")
    assert rows[VALUES].isna().all(axis=None)
    assert rows["reason"].str.contains("0 treated and 16 control products with a first difference").all()
    assert rows["reason"].str.contains(f"running: periods through {tiny_lab.AS_OF} only.").all()
    assert rows[rows["is_headline"]].groupby("metric").size().to_dict() == {"price": 1, "revenue": 1, "units": 1}


@pytest.mark.parametrize("name", ["oneway", "stairs", "soon"])
def test_imported_assignments_say_whether_they_follow_the_design(imports: Path, name: str) -> None:
    checks = read(imports, "experiment.diagnostics", name).set_index("check_name")
    assert checks.loc["follows_design", ["status", "message"]].tolist() == ["passed", "The arms follow the design."]
    assert checks.loc["price_compliance", "status"] == "passed"


def test_deviations_of_an_imported_assignment_are_reported_and_left_out(imports: Path, tmp_path: Path, runner) -> None:
    root = Path(shutil.copytree(imports, tmp_path / "lab"))
    drawn = imports_lab.drawn(
        imports_lab.of("tea"), date(2024, 4, 15), lambda number, day: imports_lab.stair(number, day)
    )
    back = (drawn["product_id"] == drawn["product_id"].iloc[-1]) & (drawn["date"] > date(2024, 4, 25))
    drawn.loc[back, "arm"] = "control"
    drawn.to_csv(root / "data" / "crooked.csv", index=False)
    text = imports_lab.EXPERIMENTS["stairs"].replace("stairs", "crooked").replace("milk", "tea")
    text = text.replace(f"start: {imports_lab.START}", "start: 2024-04-15")
    (root / "experiments" / "crooked.yaml").write_text(text)
    tiny_lab.succeeded(runner(root).experiments(["crooked"]))
    checks = read(root, "experiment.diagnostics", "crooked").set_index("check_name")
    assert checks.loc["follows_design", "status"] == "failed"
    said = (
        "The imported arms depart from the design: 1 products (0063) do not follow time_bound (one arm throughout, or "
    )
    assert checks.loc["follows_design", "message"].startswith(said)
    assert checks.loc["drawn_before_start", "status"] == "informational"
    cells = read(root, "experiment.assignments", "crooked")
    assert set(cells.loc[~cells["in_analysis"], "product_id"]) == {"0063"}
    assert len(read(root, "experiment.price_plan", "crooked")) == len(cells) == 16 * imports_lab.DURATION
    quoted = read(root, "experiment.effects", "crooked").query("is_headline")
    assert (quoted["n_treated"] + quoted["n_control"] == 15).all()


def test_prices_that_the_guard_puts_back_are_counted_in_plan_and_diagnostics(imports: Path) -> None:
    plan = read(imports, "experiment.price_plan", "endings")
    treated = plan[plan["arm"] == "treatment"]
    back = treated["note"] == "guard: back to the incumbent price"
    assert 0 < back.sum() < len(treated)
    assert (treated.loc[back, "price"] == treated.loc[back, "incumbent_price"]).all()
    assert (treated.loc[~back, "price"] < treated.loc[~back, "incumbent_price"]).all()
    assert set((treated["price"] * 100).round().astype(int) % 50) == {49}
    check = read(imports, "experiment.diagnostics", "endings").set_index("check_name").loc["guarded_prices"]
    products = treated.loc[back, "product_id"].nunique()
    expected = f"{back.sum()} of {len(treated)} treated prices, of {products} products, are the incumbent price; "
    expected += f"the guard moved {len(treated) - back.sum()} more to another price than the policy's."
    assert (check["status"], check["value"], check["message"]) == ("failed", back.mean(), expected)
    clean = read(imports, "experiment.diagnostics", "stairs").set_index("check_name").loc["guarded_prices"]
    assert clean["status"] == "passed"
    printed = pricelab("plan", "endings", lab=imports)
    assert f"{back.sum()} of {len(plan)} cells: guard: back to the incumbent price." in printed.stderr.splitlines()


def test_an_odd_number_of_products_with_categories_of_one_is_drawn_exactly(imports: Path) -> None:
    cells = read(imports, "experiment.assignments", "odd")
    arms = cells.pivot(index="product_id", columns="date", values="arm")
    assert arms.shape == (7, 6)
    treated = (arms == "treatment").sum()
    assert set(treated) == {3, 4}
    assert (cells["probability"] == 0.5).all()
    flips = arms.iloc[:, 0] != arms.iloc[:, 3]
    assert flips.all()
    assert read(imports, "experiment.price_plan", "odd")["price"].notna().all()


def test_one_day_of_history_is_enough_for_an_effect_with_an_interval(imports: Path) -> None:
    quoted = read(imports, "experiment.effects", "young").query("is_headline")
    assert quoted[["effect", "ci_lower", "ci_upper"]].notna().all(axis=None)
    assert (quoted["ci_lower"] < quoted["ci_upper"]).all()
    facts = read(imports, "intermediate.int_product_features", "young")
    assert set(facts["history_periods"]) == {1}


SMALL_SCOPES = {
    "three products": ("products: ['0002', '0006', '0010']", "", "number of units == 3, must be 4 or more"),
    "four of three arms": (
        "products: ['0002', '0006', '0010', '0014']",
        "treatment: [{name: low, price_multiplier: 0.9}, {name: high, price_multiplier: 1.1}]\n",
        "must be 6 or more",
    ),
}


@pytest.mark.parametrize("case", SMALL_SCOPES)
def test_a_scope_under_four_units_is_refused_with_the_reason(copied: Path, runner, case: str) -> None:
    products, arms, said = SMALL_SCOPES[case]
    text = LATER.replace("where: \"category = 'milk'\"", products).replace("2024-05-06", "2024-06-03")
    if arms:
        text = text.replace(f"treatment: {{price_multiplier: {MULTIPLIER}}}\n", arms)
    (copied / "experiments" / "small.yaml").write_text(text)
    (outcome,) = runner(copied).experiments(["small"])
    assert not outcome.succeeded
    assert said in outcome.message
    assert not Workbench.open(copied).lake.exists("experiment.assignments", "small")
    checked = pricelab("check", lab=copied)
    assert checked.exit_code == WRONG_INPUT
    (line,) = refusals(checked)
    assert line.startswith(
        f"pricelab: experiments/small.yaml: scope == '{products.count('00')} products', must be a scope"
    )


def test_two_experiments_on_a_product_and_day_are_refused_naming_both(copied: Path) -> None:
    (copied / "experiments" / "twin.yaml").write_text(LATER.replace("2024-05-06", "2024-05-13"))
    before = tiny_lab.tree(copied)
    checked = pricelab("check", lab=copied)
    assert checked.exit_code == WRONG_INPUT
    overlaps = [line for line in checked.stderr.splitlines() if line.startswith("overlap: ")]
    assert overlaps == ["overlap: later and twin both price product 0002 and 15 more on 2024-05-13"]
    assert tiny_lab.tree(copied) == before
    result = pricelab("run", "twin", "--workers", "1", lab=copied)
    assert result.exit_code == NOT_DONE
    (line,) = refusals(result)
    assert "twin and later both price product 0002 on 2024-05-13, and 111 cells more, must be apart" in line
    lake = Workbench.open(copied).lake
    assert not lake.exists("experiment.assignments", "twin")
    assert not lake.exists("experiment.price_plan", "twin")
    assert set(read(copied, "marts.fct_price_plan")["experiment_id"]) == set(EXPERIMENTS)


def test_another_seed_is_refused_once_the_experiment_runs_and_leaves_everything(copied: Path) -> None:
    path = copied / "experiments" / "going.yaml"
    path.write_text(path.read_text() + "assignment: {seed: 8}\n")
    before = tiny_lab.tree(copied)
    for words in (("check",), ("run", "going")):
        result = pricelab(*words, lab=copied)
        assert result.exit_code == WRONG_INPUT
        (line,) = refusals(result)
        assert "the design changed after the start: assignment.seed: 7 -> 8" in line
    assert tiny_lab.tree(copied) == before


def test_the_products_of_a_retired_experiment_may_be_taken_and_its_effects_stay(copied: Path, runner) -> None:
    effects = read(copied, "experiment.effects", "going")
    (copied / "experiments" / "going.yaml").unlink()
    (copied / "experiments" / "heir.yaml").write_text(
        EXPERIMENTS["going"].replace("2024-04-22", "2024-04-29").replace("going", "heir")
    )
    work = runner(copied)
    tiny_lab.succeeded([*work.experiments(["heir"]), work.publish()])
    plan = read(copied, "marts.fct_price_plan")
    assert set(plan["experiment_id"]) == {*EXPERIMENTS, "heir"} - {"going"}
    assert not plan.duplicated(["product_id", "date"]).any()
    assert len(read(copied, "experiment.price_plan", "going")), "what was handed out stays in the lake"
    both = set(
        zip(*(read(copied, "experiment.price_plan", "going")[name] for name in ("product_id", "date")), strict=True)
    )
    heir = plan[plan["experiment_id"] == "heir"]
    assert both & set(zip(heir["product_id"], heir["date"], strict=True)), "the heir prices cells of the retired one"
    status = read(copied, "marts.dim_experiments").set_index("experiment_id")["status"]
    assert (status["going"], status["heir"]) == ("retired", "planned")
    kept = read(copied, "marts.fct_experiment_effects").query("experiment_id == 'going'").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, effects)


def test_a_broken_file_leaves_the_plan_of_its_experiment_in_force(copied: Path) -> None:
    plan = read(copied, "marts.fct_price_plan")
    (copied / "experiments" / "going.yaml").write_text("design: {kind: time_bound\n")
    # another experiment may not take its products meanwhile
    (copied / "experiments" / "heir.yaml").write_text(EXPERIMENTS["going"].replace("2024-04-22", "2024-04-29"))
    result = pricelab("run", "--workers", "1", lab=copied)
    assert result.exit_code == NOT_DONE
    said = refusals(result)
    assert said[0].startswith("pricelab: experiments/going.yaml: ")
    assert "heir and going both price product" in said[1]
    pd.testing.assert_frame_equal(read(copied, "marts.fct_price_plan"), plan)
    dim = read(copied, "marts.dim_experiments").set_index("experiment_id")
    assert dim.loc["going", ["status", "has_effects"]].tolist() == ["running", True]


def test_a_stop_frees_its_products_in_the_same_run_whatever_the_order(copied: Path) -> None:
    """`after` comes before `going` by name, and is planned before the stop of `going` is carried out."""
    path = copied / "experiments" / "going.yaml"
    path.write_text(path.read_text().replace("duration: 14", "duration: 14, stop: 2024-04-28, stop_reason: recall"))
    (copied / "experiments" / "after.yaml").write_text(EXPERIMENTS["going"].replace("2024-04-22", "2024-04-29"))
    assert due(Workbench.open(copied), [], force=False)[0] == ["after", "going", "later"]
    assert pricelab("check", lab=copied).exit_code == DONE
    result = pricelab("run", "after", "going", "--workers", "1", lab=copied)
    assert result.exit_code == DONE, result.stderr
    plan = read(copied, "marts.fct_price_plan")
    last = plan[plan["experiment_id"] == "going"]["date"].max()
    assert (last, plan[plan["experiment_id"] == "after"]["date"].min()) == (date(2024, 4, 28), date(2024, 4, 29))
