import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import Result

from pricelab_dagster import simulated_lab
from pricelab_dagster.science import market
from pricelab_dagster.studies import claim_draws, claims
from pricelab_dagster.workbench import ASSIGNMENTS, PLAN, Workbench, stage_rng
from tests.cli.command import DONE, WRONG_INPUT, pricelab, refusals
from tests.defs import tiny_lab

N_PRODUCTS = 60
# sums of some hundred doubles, of the size of one
ROUNDING = 1e-9


def simulate(root: Path, scenario: str, *options: str) -> Result:
    return pricelab("new", root, "--simulate", scenario, "--products", str(N_PRODUCTS), *options)


def truth(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / simulated_lab.TRUTH)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "lab"
    result = simulate(root, "carryover", "--seed", "3")
    assert result.exit_code == DONE, result.stderr
    assert str(root / "truth" / "truth.csv") in result.stderr.replace("\n", "")
    assert result.stdout == ""
    return root


def test_the_lab_says_where_the_truth_is_and_checks(lab: Path) -> None:
    before = tiny_lab.tree(lab)
    assert "stands in truth/truth.csv" in (lab / "pricelab.yaml").read_text()
    result = pricelab("check", lab=lab)
    assert result.exit_code == DONE, result.stderr
    assert result.stderr.splitlines()[-1] == "3 of 3 experiments can run."
    assert tiny_lab.tree(lab) == before


def test_experiments_share_no_category(lab: Path) -> None:
    products = pd.read_csv(lab / "data" / "products.csv")
    scopes = [one.scope.where for one in Workbench.open(lab).lab.experiments.values()]
    owners = [sum(f"'{category}'" in where for where in scopes) for category in products["category"].unique()]
    assert owners == [1] * len(owners)


def test_a_run_before_the_start_draws_the_arms_that_the_sales_follow(lab: Path, tmp_path: Path) -> None:
    root = tmp_path / "lab"
    simulate(root, "carryover", "--seed", "3")
    assert tiny_lab.tree(root) == tiny_lab.tree(lab), "equal arguments write equal bytes"
    sales = pd.read_csv(root / "data" / "sales.csv", dtype={"product_id": str}, parse_dates=["date"])
    sales[sales["date"] < pd.Timestamp(simulated_lab.START)].to_csv(root / "data" / "sales.csv", index=False)
    result = pricelab("run", "crossover", "--workers", "1", lab=root)
    assert result.exit_code == DONE, result.stderr
    bench = Workbench.open(root)
    plan = bench.lake.read(PLAN, "crossover").to_pandas()
    both = plan.assign(date=pd.to_datetime(plan["date"])).merge(
        sales, on=["product_id", "date"], suffixes=("", "_paid")
    )
    assert set(both["arm"]) == {"treatment", "control"}
    np.testing.assert_allclose(both["price_paid"], both["price"], rtol=ROUNDING)
    # a fiftieth of a price below 20 is a few cents: the arms are told apart
    treated = both["arm"] == "treatment"
    assert (both["price_paid"] < both["incumbent_price"])[treated].mean() > 0.9
    assert (both["price_paid"] == both["incumbent_price"])[~treated].all()
    analysed = bench.lake.read(ASSIGNMENTS, "crossover").to_pandas().groupby("date")["in_analysis"].mean()
    assert analysed.tolist() == ([0.0] * 7 + [1.0] * 7) * 2


def test_truths_are_those_of_the_market_by_hand(lab: Path) -> None:
    found = truth(lab).set_index(["experiment_id", "metric", "scale", "estimand"])["truth"]
    assert len(found) == 3 * 3 * 2 * 2
    options = {"scenario": "carryover", "n_products": N_PRODUCTS, "n_window": 28, "n_history": 365}
    world = market.simulate(**options, rng=stage_rng(3, "carryover", "market"))
    own = np.isin(world.category, sorted(set(world.category))[2::3])
    past, later = world.untreated_units[own, :365], world.expected_demand[own, 365:]
    s = (past.sum(axis=1) + 3.5 * past.mean()) / (365 + 7)
    # the crossover comes third, and counts the second week of each fortnight
    Y0 = later[:, np.tile(np.repeat([False, True], 7), 2)].sum(axis=1)
    for estimand, factor in (("same_day", 1.0), ("long_run", 1.4)):
        gain = 0.95 ** (factor * world.own_elasticity[own]) - 1
        by_hand = (gain * Y0 / s).sum() / (Y0 / s).sum()
        assert found["crossover", "units", "relative", estimand] == pytest.approx(by_hand, rel=ROUNDING)
        assert found["crossover", "units", "level", estimand] == pytest.approx((gain * Y0).sum() / (own.sum() * 14))
    assert (found.xs("relative", level="scale").xs("price", level="metric") + 0.05).abs().max() < ROUNDING


def test_substitutes_have_a_direct_effect_beside_the_total(tmp_path: Path) -> None:
    simulate(tmp_path / "lab", "substitution_middle")
    units = truth(tmp_path / "lab").query("metric == 'units' and scale == 'relative'")
    wide = units.pivot(index="experiment_id", columns="estimand", values="truth")
    assert list(wide.columns) == ["direct", "same_day"]
    assert (wide["same_day"] < wide["direct"]).all(), "a cut on all takes less than a cut on each alone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--simulate", "moon"), "new: --simulate == 'moon', must be one of base, clean, break_at_start, "),
        (("--simulate", "base", "--products", "59"), "new: --products == 59, must be at least 60. "),
    ],
)
def test_wrong_markets_are_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = pricelab("new", tmp_path / "lab", *words)
    assert result.exit_code == WRONG_INPUT
    (line,) = refusals(result)
    assert line.startswith(f"pricelab: {said}")
    assert not (tmp_path / "lab").exists()


def test_a_used_folder_is_refused(lab: Path) -> None:
    before = tiny_lab.tree(lab)
    result = simulate(lab, "base")
    assert result.exit_code == WRONG_INPUT
    assert "there is something already" in result.stderr
    assert tiny_lab.tree(lab) == before


@pytest.mark.study
@pytest.mark.parametrize("scenario", ["base", "clean"])
def test_the_pipeline_is_judged_against_the_truth(tmp_path: Path, scenario: str) -> None:
    root = tmp_path / "lab"
    assert pricelab("new", root, "--simulate", scenario, "--products", "400").exit_code == DONE
    assert pricelab("run", lab=root).exit_code == DONE
    rows = pd.DataFrame(json.loads(pricelab("effects", "--format", "json", lab=root).stdout))
    planted = truth(root).query("estimand == 'same_day'")
    both = rows[rows["is_headline"]].merge(planted, on=["experiment_id", "metric", "scale"])
    assert len(both) == 9
    # the intervals are of 95 %; four standard errors fail one time in ten thousand
    assert ((both["effect"] - both["truth"]).abs() < 4 * both["se"]).all()
    assert (both.loc[both["metric"] == "price", "ci_upper"] < 0).all()


def test_the_claims_are_printed_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"claim": "random days", "design": "random_days, balanced, 28 days", "estimator": claim_draws.HPTE}
    case |= {"figure": "sd_cut_percent", "reference": f"time_bound {claim_draws.RAW}", "article": "60", "draws": 40}
    numbers = {"value": 61.25, "lower": 55.5, "upper": 66.0, "bar": ">= 55", "reached": "yes"}
    rows = [case | numbers | {"scenario": scenario} for scenario in (*claim_draws.SCENARIOS, "carryover")]
    rows.append(rows[0] | {"claim": claims.SPREAD})
    monkeypatch.setattr(claims, "run", lambda *_, **__: pa.Table.from_pylist(rows))
    out = ("--out", str(tmp_path / "claims.jsonl"))
    shown = pricelab("study", "claims", *out, "--plots", str(tmp_path / "plots"))
    assert shown.exit_code == DONE
    beside, alone = shown.stdout.strip().split("\n\n")
    assert [len(part.splitlines()) for part in (beside, alone)] == [2, 2]
    assert beside.count("61.2 (55.5 to 66.0)") == len(claim_draws.SCENARIOS)
    assert "base >= 55: yes; clean >= 55: yes" in beside
    assert (tmp_path / "plots" / "random-days-balanced-28-days.svg").read_text().startswith("<svg")
    flat = json.loads(pricelab("study", "claims", *out, "--format", "json").stdout)
    assert flat == [dict(row) for row in rows[:-1]]
    assert len(json.loads(pricelab("study", "claims", *out, "--all", "--format", "json").stdout)) == len(rows)
