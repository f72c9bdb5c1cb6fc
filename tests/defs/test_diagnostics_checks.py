import ast
import inspect
import re
from dataclasses import replace

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from pricelab_dagster import checks, disturbing, frames, replaying, verdicts
from pricelab_dagster.defs.effects import NOT_ASKED, _headline, _verdicts
from pricelab_dagster.instance import open_instance
from pricelab_dagster.science import agreement, diagnostics, disturbances
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONCLUDED, EXPERIMENTS

DIAGNOSTICS = dg.AssetKey(["experiment", "diagnostics"])
MAKERS = (checks, replaying, disturbing, agreement, diagnostics, disturbances)


def stored(root, experiment_id):
    rows = Workbench.open(root).lake.read("experiment.diagnostics", experiment_id).to_pandas()
    return rows.set_index("check_name")


def evaluations(root, name):
    """Return the evaluations of a check by experiment, the last one of each."""
    instance = open_instance(root)
    try:
        history = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(DIAGNOSTICS, name), limit=100
        )
    finally:
        instance.dispose()
    found = {}
    for record in history:
        event = record.event.dagster_event.event_specific_data if record.event else None
        if isinstance(event, dg.AssetCheckEvaluation):
            found.setdefault(event.partition, event)
    return found


def literals(module):
    return {node.value for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Constant)}


def named(module):
    """Return the texts that stand first in a call of Diagnostic or of a helper that makes one, or go by `name`."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if getattr(node.func, "id", "") in ("Diagnostic", "_shares_by_arm", "_judged"):
                found.add(node.args[0].value)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "name":
            found.add(getattr(node.value, "value", None))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            pairs = zip(node.targets[0].elts, getattr(node.value, "elts", ()), strict=False)
            found |= {getattr(value, "value", None) for target, value in pairs if getattr(target, "id", "") == "name"}
    return {text for text in found if isinstance(text, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}


def test_the_list_of_checks_is_what_the_code_can_return():
    made = set().union(*map(named, MAKERS))
    assert made >= {"one_price", "aa_own_history", "stockouts_by_arm", "follows_design", "triggers_by_arm"}
    assert made - set(verdicts.CHECKS) == set(), "a check that verdicts.CHECKS does not list"
    assert set(verdicts.CHECKS) - set().union(*map(literals, MAKERS)) == set(), "a check that nothing makes"


def test_every_check_of_the_list_is_declared_beside_the_table_and_blocks_nothing(definitions):
    graph = definitions.resolve_asset_graph()
    declared = {key.name: graph.get_check_spec(key) for key in graph.asset_check_keys if key.asset_key == DIAGNOSTICS}
    assert set(declared) == set(verdicts.CHECKS)
    for name, spec in declared.items():
        assert not spec.blocking, name
        assert spec.partitions_def is not None, name
        assert spec.description == verdicts.CHECKS[name]


def test_every_stored_check_is_on_the_list(played):
    found = {name for experiment_id in (*CONCLUDED, "going") for name in stored(played, experiment_id).index}
    assert found <= set(verdicts.CHECKS)
    assert {"carryover", "cell_balance", "covariate_balance", "stockouts_by_arm", "outliers_listed"} <= found


@pytest.mark.parametrize("name", ["price_compliance", "outliers_listed", "carryover", "follows_design"])
def test_each_experiment_has_a_verdict_of_each_check_with_status_and_numbers(played, name):
    found = evaluations(played, name)
    assert set(found) == set(EXPERIMENTS) - {"later"}
    for experiment_id, event in found.items():
        rows = stored(played, experiment_id)
        metadata = {key: value.value for key, value in event.metadata.items()}
        if name not in rows.index:
            assert (event.passed, metadata["status"], event.description) == (True, NOT_ASKED, NOT_ASKED)
            continue
        row = rows.loc[name]
        assert event.passed == (row["status"] != "failed")
        assert event.description == f"{row['status']}: {row['message']}"
        numbers = {key: row[key] for key in ("value", "threshold", "p_value") if np.isfinite(row[key])}
        assert metadata == {"status": row["status"], "message": row["message"], **numbers}
    asked = {experiment_id for experiment_id, event in found.items() if event.metadata["status"].value != NOT_ASKED}
    expected = {"carryover": {"days"}, "follows_design": set()}.get(name, set(found))
    assert asked == expected


def test_passed_failed_informational_and_not_asked_are_four_different_things():
    made = [Diagnostic(name, status, 1.0, np.nan, np.nan, "Seen.") for name, status in STATUSES.items()]
    found = {result.check_name: result for result in _verdicts(made)}
    assert list(found) == list(verdicts.CHECKS)
    assert {found[name].metadata["status"].value for name in verdicts.CHECKS} == {*STATUSES.values(), NOT_ASKED}
    assert [name for name, result in found.items() if not result.passed] == ["pre_trend"]
    assert {result.severity for result in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert set(found["one_price"].metadata) == {"status", "message", "value"}


STATUSES = {"one_price": "passed", "pre_trend": "failed", "carryover": "informational"}


def test_a_check_that_is_not_on_the_list_is_refused():
    with pytest.raises(ValueError, match=r"check 'moon_phase' is not in verdicts\.CHECKS"):
        _verdicts([Diagnostic("moon_phase", "passed", 0.0, 0.0, np.nan, "Full.")])


def test_a_failed_diagnostic_is_a_warning_of_its_experiment_and_the_run_a_success(copied, runner):
    """Shops charge a tenth more than planned for every product of `cut`, from its start on."""
    bench = Workbench.open(copied)
    plan = bench.lake.read("experiment.price_plan", "cut").to_pandas()
    planned = plan.rename(columns={"product_id": "sku", "date": "day"})[["sku", "day", "price"]]
    sales = tiny_lab.world().sales.merge(planned, on=["sku", "day"], how="left", suffixes=("", "_planned"))
    tiny_lab.write_sales(
        copied, sales.assign(price=(1.1 * sales["price_planned"]).fillna(sales["price"])), through=tiny_lab.AS_OF
    )
    work = runner(copied)
    outcomes = [work.refresh(), *work.experiments(["cut"])]
    assert [outcome.succeeded for outcome in outcomes] == [True, True]
    assert stored(copied, "cut").loc["price_compliance", "status"] == "failed"
    found = evaluations(copied, "price_compliance")
    failed = found["cut"]
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert failed.metadata["status"].value == "failed"
    assert "differ from the plan" in failed.metadata["message"].value
    assert found["days"].passed
    assert evaluations(copied, "one_price")["cut"].passed
    # prices a tenth off the plan are also off those of the start, in both arms alike
    assert "100.0% of treated, 100.0% of control" in stored(copied, "cut").loc["promotions_by_arm", "message"]


def test_a_headline_without_interval_shows_its_reason(played):
    rows = Workbench.open(played).lake.read("experiment.effects", "cut").to_pylist()
    for row in rows:
        row |= {"ci_lower": None, "ci_upper": None, "reason": "3 units in the smaller arm."}
    shown = _headline(pa.Table.from_pylist(rows)).value.splitlines()[2:]
    assert len(shown) == len({row["metric"] for row in rows})
    assert all(line.endswith("% | 3 units in the smaller arm. |") for line in shown)


def test_neighbours_are_named_by_category_and_time_whatever_has_run(played):
    bench = Workbench.open(played)
    found = {name: _neighbours(bench, name) for name in (*CONCLUDED, "going")}
    assert [(one.experiment_id, one.categories) for one in found["cut"]] == [("days", ("bread", "milk"))]
    assert (str(found["cut"][0].first), str(found["cut"][0].last)) == ("2024-04-01", "2024-04-14")
    assert [one.experiment_id for one in found["days"]] == ["cut"]
    # another category, or the same one after this experiment has ended
    assert found["stopped"] == found["phases"] == found["going"] == []
    message = stored(played, "cut").loc["other_experiments", "message"]
    assert "days in bread, milk from 2024-04-01 to 2024-04-14" in message
    assert stored(played, "cut").loc["other_experiments", "status"] == "informational"
    assert stored(played, "phases").loc["other_experiments", "status"] == "passed"


def test_a_neighbour_that_was_never_run_or_whose_scope_does_not_bind(copied):
    (copied / "experiments" / "new.yaml").write_text(EXPERIMENTS["stopped"].replace("'tea'", "'fruit'"))
    odd = EXPERIMENTS["stopped"].replace("category = 'tea'", "colour = 'red'")
    (copied / "experiments" / "odd.yaml").write_text(odd)
    bench = Workbench.open(copied)
    assert set(bench.lab.experiments) >= {"new", "odd"}
    assert [one.experiment_id for one in _neighbours(bench, "phases")] == ["new"]


def test_an_arm_with_empty_shelves_or_promotions_of_its_own_fails(played):
    found = {one.check_name: one for one in _beside(played, "cut", lambda treated, sold, price: None)}
    assert (found["stockouts_by_arm"].status, found["promotions_by_arm"].status) == ("passed", "passed")

    def empty(treated, sold, price):
        shelf = treated & (np.arange(treated.shape[1]) < 9)
        sold[shelf], price[shelf] = 0.0, np.nan

    assert {one.check_name for one in _beside(played, "cut", empty) if one.status == "failed"} == {"stockouts_by_arm"}

    def promoted(treated, sold, price):
        price[~treated] *= 0.9

    assert {one.check_name for one in _beside(played, "cut", promoted) if one.status == "failed"} == {
        "promotions_by_arm"
    }


def test_within_products_the_cell_and_not_the_product_is_treated(played):
    def promoted(treated, sold, price):
        price[treated] *= 0.9

    found = {one.check_name: one for one in _beside(played, "days", promoted)}
    assert found["promotions_by_arm"].status == "failed"
    assert found["promotions_by_arm"].value > 0.5


def test_outliers_are_counted_by_arm_and_the_largest_are_listed(played):
    experiment, one, primary = _tables(played, "cut")
    D, reason = primary.first_difference.copy(), primary.reason.copy()
    rows = [*np.flatnonzero(one.drawn_arm > 0)[:3], np.flatnonzero(one.drawn_arm == 0)[0]]
    D[rows], reason[rows[:2]], reason[rows[2:]] = [9.0, -8.0, 7.0, 6.5], "outlier: dropped", "outlier: set to the"
    found = disturbing.outliers_listed(experiment, one, replace(primary, first_difference=D, reason=reason))
    listed = ", ".join(
        f"{one.product_id[row]} {value}" for row, value in zip(rows, ("+9.00", "-8.00", "+7.00"), strict=False)
    )
    assert (found.status, found.value) == ("informational", 4.0)
    assert found.message == (
        "The outlier filter drops or holds 4 products by units: 3 of 8 treatment, 1 of 8 control. Largest first "
        f"differences, in parts of the product's own level: {listed}. All of them stand in experiment.trimmed_panel."
    )
    nothing = disturbing.outliers_listed(experiment, one, replace(primary, reason=np.full(16, None, dtype=object)))
    assert nothing.message.endswith("drops or holds 0 products by units: 0 of 8 treatment, 0 of 8 control.")


def _tables(root, name):
    bench = Workbench.open(root)
    experiment = bench.experiment(name)
    one = frames.load_panel(bench, experiment)
    rows = [bench.lake.read(f"experiment.{table}", name) for table in ("detrended_sales", "trimmed_panel")]
    return experiment, one, frames.read_trimmed(one, *rows)[0]


def _beside(root, name, change):
    """Return the checks on what else happened once `change` has had its way with units and prices in place."""
    experiment, one, primary = _tables(root, name)
    sold, price = (one.observed[metric].copy() for metric in ("units", "price"))
    change(one.treated == 1.0, sold, price)
    changed = replace(one, observed={**one.observed, "units": sold, "price": price})
    plan = frames.to_pandas(Workbench.open(root).lake.read("experiment.price_plan", name))
    return list(disturbing.checks(experiment, changed, primary, plan, None))


def _neighbours(bench, name):
    features = bench.lake.read("intermediate.int_product_features", name)
    return disturbing.neighbours(bench, bench.experiment(name), features)
