from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster import estimating
from pricelab_dagster.lab import DOSE_LINE
from pricelab_dagster.science import affinity, panel
from pricelab_dagster.workbench import Workbench
from tests.defs import arms_lab, tiny_lab
from tests.defs.arms_lab import ARMS, DESIGNS, SHARE
from tests.defs.tiny_lab import ELASTICITY

SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws, of the 24 here once in 700
CENT = 0.005 / 2  # prices are rounded to cents and are at least 2: the most that rounding moves a multiplier
BEND = 0.001  # demand is no line: slopes over other mixes of the same doses differ by so much
METRICS = {"units", "revenue", "price"}
N_EACH = 32


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The played lab of three arms in each design; read only."""
    return arms_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


def read(root: Path, table: str, experiment_id: str | None = None) -> pd.DataFrame:
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


def quoted(root: Path, name: str) -> pd.DataFrame:
    rows = read(root, "experiment.effects", name)
    return rows[rows["is_headline"]].set_index(["metric", "arm"]).sort_index()


def truth(metric: str, multiplier: float) -> float:
    return {"units": multiplier**ELASTICITY, "revenue": multiplier ** (ELASTICITY + 1), "price": multiplier}[metric] - 1


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_effect_of_each_arm_is_near_the_truth(lab: Path, name: str, metric: str) -> None:
    found = quoted(lab, name).loc[metric]
    for arm, multiplier in ARMS.items():
        expected, one = truth(metric, multiplier), found.loc[arm]
        assert abs(one["effect"] - expected) <= SIGMAS * one["se"] + CENT, arm
        assert one["effect"] * expected > 0, arm


@pytest.mark.parametrize("name", DESIGNS)
def test_one_figure_is_quoted_for_each_metric_and_arm_and_for_the_line_over_them(lab: Path, name: str) -> None:
    rows = read(lab, "experiment.effects", name)
    assert set(rows["arm"]) == {*ARMS, DOSE_LINE}
    counted = rows[rows["is_headline"]].groupby(["metric", "arm"]).size()
    assert counted.to_dict() == {(metric, arm): 1 for metric in METRICS for arm in (*ARMS, DOSE_LINE)}
    assert (rows.loc[rows["is_headline"], "scale"] == "relative").all()
    line = rows[rows["arm"] == DOSE_LINE]
    assert line["estimand"].str.contains("for each per cent of price above control, over all arms").all()
    assert not rows[rows["arm"] != DOSE_LINE]["estimand"].str.contains("per cent of price").any()


@pytest.mark.parametrize("name", DESIGNS)
def test_the_line_over_the_arms_is_their_slope(lab: Path, name: str) -> None:
    doses = np.array([0.0, *(100 * (multiplier - 1) for multiplier in ARMS.values())])
    found = quoted(lab, name).xs(DOSE_LINE, level="arm")
    for metric in METRICS:
        effects = np.array([0.0, *(truth(metric, multiplier) for multiplier in ARMS.values())])
        slope = np.polyfit(doses, effects, 1)[0]
        one = found.loc[metric]
        bend = BEND if metric != "price" else CENT / np.ptp(doses)
        assert abs(one["effect"] - slope) <= SIGMAS * one["se"] + bend, metric
        assert one["effect"] * slope > 0
    # every price lies on the line but for its rounding
    assert found.loc["price", "se"] < 1e-4


def test_arms_are_named_in_assignment_plan_and_marts(lab: Path) -> None:
    plan = read(lab, "marts.fct_price_plan")
    assert set(plan["arm"]) == {"control", *ARMS}
    expected = plan["arm"].map({"control": 1.0, **ARMS})
    assert ((plan["multiplier"] - expected).abs() <= CENT).all()
    effects = read(lab, "marts.fct_experiment_effects")
    assert set(effects["arm"]) == {*ARMS, DOSE_LINE}


@pytest.mark.parametrize("name", ["switch", "rain"])
def test_each_arm_has_its_part_of_the_share(lab: Path, name: str) -> None:
    cells = read(lab, "experiment.assignments", name)
    arms = cells.drop_duplicates("product_id")["arm"].value_counts()
    assert arms.to_dict() == dict.fromkeys(("control", *ARMS), N_EACH // 4)
    assert (cells.groupby("product_id")["arm"].nunique() == 1).all()
    assert (cells["probability"] == SHARE).all()


def test_a_crossover_alternates_one_arm_with_control(lab: Path) -> None:
    cells = read(lab, "experiment.assignments", "phases")
    by_product = cells.groupby("product_id")["arm"].agg(lambda arms: tuple(sorted(set(arms))))
    assert set(by_product) == {tuple(sorted(("control", arm))) for arm in ARMS}
    assert by_product.value_counts().between(N_EACH // 3, N_EACH // 3 + 1).all()


def test_random_days_put_a_product_in_every_arm(lab: Path) -> None:
    cells = read(lab, "experiment.assignments", "days")
    share = cells["arm"].value_counts(normalize=True)
    spread = SIGMAS * np.sqrt(0.25 * 0.75 / len(cells))
    assert set(share.index) == {"control", *ARMS}
    assert (share - 0.25).abs().max() <= spread
    assert cells.groupby("product_id")["arm"].nunique().min() >= 2


@pytest.mark.parametrize("name", DESIGNS)
def test_the_products_that_are_listed_as_dropped_are_as_many_as_each_arm_trims(lab: Path, name: str) -> None:
    effects, listed = (read(lab, f"experiment.{table}", name) for table in ("effects", "trimmed_panel"))
    dropped = listed["reason"].fillna("").str.extract(r"^outlier: .*\((.*)\)$")[0].fillna("").str.split(", ")
    counted = dict.fromkeys(ARMS, 0)
    for (metric, scale), rows in listed.assign(arms=dropped).groupby(["metric", "scale"]):
        trimmed = effects[
            (effects["metric"] == metric) & (effects["scale"] == scale) & (effects["estimator"] == "hpte")
        ]
        for arm, n_trimmed in trimmed[trimmed["arm"] != DOSE_LINE].set_index("arm")["n_trimmed"].items():
            n_listed = int(rows["arms"].map(lambda arms, arm=arm: arm in arms).sum())
            assert n_listed == n_trimmed, (metric, scale, arm)
            counted[arm] += n_listed
        named = rows["arms"].map(lambda arms: arms != [""])
        without = rows["reason"].str.startswith("no ", na=False)
        assert (rows["kept"] == ~(without | (named & (scale == "relative")))).all()
    # of fewer than twenty products of an arm none is cut; on random days all products are ranked together
    assert (min(counted.values()) > 0) == (name == "days")
    check = read(lab, "experiment.diagnostics", name).set_index("check_name").loc["outliers_listed", "message"]
    units = listed.assign(arms=dropped).query("metric == 'units' and scale == 'relative'")["arms"]
    said = ", ".join(f"{arm} {sum(arm in arms for arms in units)}" for arm in ARMS)
    assert f"Each arm is filtered against control: {said}." in check


@pytest.mark.parametrize("name", ["switch", "phases", "rain"])
def test_checks_between_products_name_the_worst_arm(lab: Path, name: str) -> None:
    checks = read(lab, "experiment.diagnostics", name).set_index("check_name")
    for one in ("covariate_balance", "pre_trend", "missing_by_arm"):
        assert checks.loc[one, "message"].split(",")[0].removeprefix("Arm ") in ARMS
        assert "the worst of 3 against control: " in checks.loc[one, "message"]
        assert checks.loc[one, "status"] in ("passed", "informational")


def by_hand(arm: np.ndarray, kind: str) -> panel.Panel:
    """A panel without noise: each product sells ten, and one in a hundred less for each unit of its arm."""
    n, t = arm.shape
    start = np.datetime64("2024-01-01")
    return panel.Panel(
        product_id=np.array([f"p{number:02d}" for number in range(n)], dtype=object),
        date=start + np.arange(t),
        unit_id=np.array([f"p{number:02d}" for number in range(n)], dtype=object),
        category=np.array(["milk"] * n, dtype=object),
        arm=arm,
        in_analysis=np.ones_like(arm, dtype=bool),
        probability=np.full_like(arm, np.nan),
        phase=np.ones(t, dtype=np.int64),
        history={"units": np.full((n, 28), 10.0)},
        observed={"units": 10.0 * (1 - 0.01 * arm)},
        kind=kind,
        imported=kind == "time_bound",
    )


def line(one: panel.Panel) -> dict[str, panel.hpte.Effect]:
    """The dose line by scale, with doses equal to the codes of the arms."""
    predicted = {"units": np.full_like(one.arm, 10.0)}
    trimmed = panel.trimmed(one, predicted, trim="none", method="mean")
    rng = np.random.default_rng(1)
    weights = panel.bootstrap.poisson_weights(one.unit_id, n_replicates=20, rng=rng)
    doses = np.arange(one.arm.max() + 1)
    found = panel.dose_line(one, trimmed, None, doses, weights=weights, trim="none", rng=rng)
    return {scale: effect for _, scale, effect in found}


def test_a_product_without_control_days_keeps_its_part_in_the_line() -> None:
    arm = np.array([[0, 1, 2, 0, 1, 2], [1, 2, 1, 2, 1, 2], [2, 0, 1, 2, 0, 1], [0, 2, 0, 1, 2, 1]] * 3, dtype=float)
    found = line(by_hand(arm, "random_days"))
    assert found["relative"].effect == pytest.approx(-0.01, abs=1e-12)
    assert found["level"].effect == pytest.approx(-0.1, abs=1e-12)
    assert found["relative"].n_treated == len(arm)


def test_staggered_starts_of_several_arms_have_no_line_and_each_arm_its_own_headline(make_experiment) -> None:
    """The first arm starts with the experiment, the second one later."""
    arm = np.zeros((12, 6))
    arm[:4] = 1.0
    arm[4:8, 3:] = 2.0
    one = by_hand(arm, "time_bound")
    for effect in line(one).values():
        assert np.isnan(effect.effect)
        assert effect.reason.startswith("not identified by one before and after: products start at different times")
    assert line(by_hand(np.repeat(arm[:, -1:], 6, axis=1), "time_bound"))["relative"].effect == pytest.approx(-0.01)

    arms = [{"name": name, "price_multiplier": price} for name, price in (("now", 0.9), ("later", 0.8))]
    experiment = make_experiment("time_bound", treatment=arms, assignment={"source": "drawn.csv"}, metrics=["units"])
    predicted = {"units": np.full_like(one.arm, 10.0)}
    trimmed = panel.trimmed(one, predicted, trim="none", method="mean")
    leaves = affinity.Leaves.single(12)
    doses = np.arange(len(experiment.arms) + 1.0)
    found = list(estimating.estimates(experiment, one, trimmed, leaves, doses=doses, rng=np.random.default_rng(2)))
    assert estimating.headlines(experiment, found) == {
        "now": "hpte_doubly_robust",
        "later": "group_time_simple_not_yet",
        DOSE_LINE: "hpte_doubly_robust",
    }
