import itertools
import math
import shutil
from datetime import date

import numpy as np
import pandas as pd
import pytest
import yaml

from pricelab_dagster.demo import data, world
from pricelab_dagster.lab.read import Lab

FIRST_START = date(2017, 7, 10)
SUM_TOLERANCE = 1e-12  # two ways to add at most a few thousand doubles
DRAW_SIGMAS = 4.0  # a fair draw leaves this band once in 16,000 tests
HISTORY = pd.date_range("2017-01-01", periods=8)
DAYS = pd.date_range("2017-01-09", periods=4)


@pytest.fixture(scope="module")
def untreated_world():
    return data.load(FIRST_START)


def tiny_sales(rng, product_ids=("a", "b", "c")):
    cells = list(itertools.product(product_ids, HISTORY.append(DAYS)))
    frame = pd.DataFrame(cells, columns=["product_id", "date"])
    return frame.assign(units=rng.integers(1, 9, len(frame)), price=2.0)


def tiny_plan(multipliers, experiment_id="x", incumbent_price=2.0):
    rows = [(experiment_id, i, t, incumbent_price, incumbent_price * p) for i, p in multipliers.items() for t in DAYS]
    return pd.DataFrame(rows, columns=["experiment_id", "product_id", "date", "incumbent_price", "price"])


def cells_of(plan):
    multiplier = plan["price"] / plan["incumbent_price"]
    return plan.assign(in_analysis=True, multiplier=multiplier)[
        ["experiment_id", "product_id", "date", "in_analysis", "multiplier"]
    ]


def test_elasticities_depend_on_the_set_of_products_not_their_order():
    forward = world.draw_elasticities(["a", "b", "c"], rng=np.random.default_rng(1))
    backward = world.draw_elasticities(["c", "b", "a", "a"], rng=np.random.default_rng(1))
    pd.testing.assert_series_equal(forward, backward)
    assert forward.nunique() == 3


def test_control_and_days_outside_the_plan_keep_their_sales_exactly():
    sales = tiny_sales(np.random.default_rng(2))
    plan = tiny_plan({"a": 1.0, "b": 0.5})
    elasticity = pd.Series({"a": -2.0, "b": -2.0})
    planted = world.plant(sales, plan, elasticity, rng=np.random.default_rng(3))
    untouched = (sales["product_id"] != "b") | (sales["date"] < DAYS[0])
    pd.testing.assert_frame_equal(planted[untouched], sales[untouched])
    assert (planted.loc[~untouched, "units"].to_numpy() >= sales.loc[~untouched, "units"].to_numpy()).all()
    assert planted.loc[~untouched, "units"].sum() > sales.loc[~untouched, "units"].sum()
    assert (planted.loc[~untouched, "price"] == 1.0).all()


@pytest.mark.parametrize("p", [0.8, 1.25])
def test_planted_demand_has_the_planned_mean(p):
    units, e = 400_000, -2.0
    sales = pd.DataFrame({"product_id": "a", "date": DAYS, "units": units, "price": 2.0})
    planted = world.plant(sales, tiny_plan({"a": p}), pd.Series({"a": e}), rng=np.random.default_rng(4))
    m = p**e
    per_unit_variance = m * (1 - m) if m < 1 else m - 1
    error = planted["units"].sum() - 4 * units * m
    assert abs(error) < DRAW_SIGMAS * math.sqrt(4 * units * per_unit_variance)
    assert planted["units"].sum() != 4 * units * m


def test_a_day_that_loses_all_units_loses_its_row():
    sales = pd.DataFrame({"product_id": "a", "date": DAYS, "units": 1, "price": 2.0})
    planted = world.plant(sales, tiny_plan({"a": 1000.0}), pd.Series({"a": -2.0}), rng=np.random.default_rng(5))
    assert planted.empty


def test_recorded_price_is_the_planned_one_where_the_shelf_shows_the_incumbent():
    sales = pd.DataFrame({"product_id": "a", "date": DAYS[:2], "units": 3, "price": [2.55, 2.5467]})
    plan = pd.DataFrame(
        {"experiment_id": "x", "product_id": "a", "date": DAYS[:2], "incumbent_price": 2.55, "price": 2.30}
    )
    planted = world.plant(sales, plan, pd.Series({"a": -2.0}), rng=np.random.default_rng(6))
    assert planted["price"].tolist() == [2.30, 2.5467 * (2.30 / 2.55)]


def test_row_order_and_date_type_do_not_change_the_draw():
    sales = tiny_sales(np.random.default_rng(7))
    plan = tiny_plan({"a": 0.9, "b": 1.1, "c": 0.9})
    elasticity = pd.Series({"c": -1.5, "b": -2.0, "a": -2.5})
    planted = world.plant(sales, plan, elasticity, rng=np.random.default_rng(8))
    shuffled = plan.sample(frac=1, random_state=1).assign(date=lambda rows: rows["date"].dt.date)
    again = world.plant(sales.sample(frac=1, random_state=2), shuffled, elasticity, rng=np.random.default_rng(8))
    pd.testing.assert_frame_equal(planted, again)


def test_sales_of_later_days_do_not_change_the_draw_of_earlier_ones():
    sales = tiny_sales(np.random.default_rng(9))
    plan = tiny_plan({"a": 0.7, "b": 1.4, "c": 0.6})
    elasticity = pd.Series(-2.0, index=["a", "b", "c"])
    known = sales[sales["date"] <= DAYS[1]]
    whole = world.plant(sales, plan, elasticity, rng=np.random.default_rng(10))
    early = world.plant(known, plan, elasticity, rng=np.random.default_rng(10))
    pd.testing.assert_frame_equal(whole[whole["date"] <= DAYS[1]].reset_index(drop=True), early)
    assert len(whole) > len(early)


def test_truth_by_hand():
    history = pd.DataFrame({"product_id": "a", "date": HISTORY, "units": 2, "price": 3.0})
    during = pd.DataFrame({"product_id": "a", "date": DAYS[:2], "units": [1, 3], "price": 3.0})
    cells = pd.DataFrame(
        {
            "experiment_id": "x",
            "product_id": "a",
            "date": DAYS[:2],
            "in_analysis": True,
            "multiplier": [0.5, 2.0],
        }
    )
    planted = world.truth(pd.concat([history, during]), cells, pd.Series({"a": -2.0}))
    # units: m = 4, 1/4; revenue: m p = 2, 1/2; price: 1/2, 2, on sales 1, 3 and one price
    expected = {"units": (3 * 1 - 0.75 * 3) / 4, "revenue": (1 * 1 - 0.5 * 3) / 4, "price": (-0.5 + 1.0) / 2}
    assert dict(zip(planted["metric"], planted["truth"], strict=True)) == pytest.approx(expected, abs=SUM_TOLERANCE)


def test_truth_weighs_products_by_their_scale():
    rng = np.random.default_rng(11)
    sales = tiny_sales(rng)
    plan = tiny_plan({"a": 0.9, "b": 0.8, "c": 1.2})
    elasticity = pd.Series({"a": -1.5, "b": -2.0, "c": -2.5})
    k, n_days = 3.5, len(HISTORY)
    past = sales[sales["date"] < DAYS[0]]
    total, mean = past.groupby("product_id")["units"].sum(), past["units"].mean()
    top = bottom = 0.0
    for row in sales[sales["date"] >= DAYS[0]].itertuples():
        s = (total[row.product_id] + k * mean) / (n_days + 2 * k)
        p = {"a": 0.9, "b": 0.8, "c": 1.2}[row.product_id]
        top += (p ** elasticity[row.product_id] - 1) * row.units / s
        bottom += row.units / s
    planted = world.truth(sales, cells_of(plan), elasticity).set_index("metric")["truth"]
    assert planted["units"] == pytest.approx(top / bottom, abs=SUM_TOLERANCE)


def test_truth_leaves_out_blackout_days_and_starts_history_before_them():
    sales = tiny_sales(np.random.default_rng(12))
    elasticity = pd.Series({"a": -1.5, "b": -2.0, "c": -2.5})
    cells = cells_of(tiny_plan({"a": 0.9, "b": 0.8, "c": 1.2}))
    blacked = cells.assign(in_analysis=cells["date"] > DAYS[0])
    spike = sales["date"] == DAYS[0]
    spiked = sales.assign(units=sales["units"].where(~spike, 1000))
    pd.testing.assert_frame_equal(
        world.truth(sales, blacked, elasticity), world.truth(spiked, blacked, elasticity), rtol=SUM_TOLERANCE
    )
    moved = world.truth(spiked, cells, elasticity)["truth"] - world.truth(sales, cells, elasticity)["truth"]
    assert (moved.to_numpy()[:2] != 0).all()


def test_truth_of_a_constant_effect_is_that_effect_and_nothing_is_zero():
    sales = tiny_sales(np.random.default_rng(13))
    elasticity = pd.Series({"a": -2.0, "b": -2.0, "c": -2.0})
    cut, same = (
        cells_of(tiny_plan(dict.fromkeys("abc", p))).assign(experiment_id=name)
        for p, name in [(0.9, "cut"), (1.0, "same")]
    )
    planted = world.truth(sales, pd.concat([cut, same]), elasticity).pivot(
        index="experiment_id", columns="metric", values="truth"
    )
    assert planted.loc["cut", ["units", "revenue", "price"]].tolist() == pytest.approx(
        [0.9**-2 - 1, 0.9**-1 - 1, -0.1], abs=SUM_TOLERANCE
    )
    assert (planted.loc["same"] == 0.0).all()


def test_truth_has_no_meaning_without_sales():
    sales = tiny_sales(np.random.default_rng(14))
    silent = sales[(sales["product_id"] != "a") | (sales["date"] < DAYS[0])]
    planted = world.truth(silent, cells_of(tiny_plan({"a": 0.9})), pd.Series({"a": -2.0})).set_index("metric")["truth"]
    assert math.isnan(planted["units"])
    assert math.isnan(planted["revenue"])
    assert planted["price"] == pytest.approx(-0.1, abs=SUM_TOLERANCE)


def test_the_mean_planted_effect_is_the_truth():
    rng = np.random.default_rng(15)
    sales = tiny_sales(rng)
    elasticity = pd.Series({"a": -1.5, "b": -2.0, "c": -2.5})
    plan = tiny_plan({"a": 0.9, "b": 0.8, "c": 1.2})
    scale = sales[sales["date"] < DAYS[0]].groupby("product_id")["units"].sum() + 3.5 * (
        sales.loc[sales["date"] < DAYS[0], "units"].mean()
    )

    def weighted(frame):
        during = frame[frame["date"] >= DAYS[0]]
        return (during["units"] / scale.loc[during["product_id"]].to_numpy()).sum()

    lifts = [weighted(world.plant(sales, plan, elasticity, rng=rng)) / weighted(sales) - 1 for _ in range(200)]
    truth = world.truth(sales, cells_of(plan), elasticity).set_index("metric").loc["units", "truth"]
    assert abs(np.mean(lifts) - truth) < DRAW_SIGMAS * np.std(lifts, ddof=1) / math.sqrt(len(lifts))
    assert np.std(lifts) > 0


def test_treated_prices_round_halves_away_from_zero():
    assignments = pd.DataFrame(
        {"experiment_id": "x", "product_id": ["a", "b", "c"], "date": DAYS[0], "in_analysis": [True, False, True]}
    )
    incumbent = pd.DataFrame({"product_id": ["a", "b", "c"], "date": DAYS[0], "price": [1.25, 0.75, 0.33]})
    cells = world.treated_cells(assignments, incumbent, {"x": 0.9})
    assert (cells["multiplier"] * incumbent["price"]).tolist() == pytest.approx([1.13, 0.68, 0.30], abs=SUM_TOLERANCE)
    assert cells["in_analysis"].tolist() == [True, False, True]
    same = world.treated_cells(assignments, incumbent, {"x": 1.0})
    assert (same["multiplier"] == 1.0).all()


def test_refusals_name_the_table_and_the_next_step():
    sales = tiny_sales(np.random.default_rng(16))
    elasticity = pd.Series({"a": -2.0})
    plan, rng = tiny_plan({"a": 0.9}), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"plan: 4 rows repeat .* disjoint scopes"):
        world.plant(sales, pd.concat([plan, plan]), elasticity, rng=rng)
    with pytest.raises(ValueError, match=r"plan\.price: 1 values .*a 2017-01-09"):
        world.plant(sales, plan.assign(price=plan["price"].where(plan["date"] > DAYS[0])), elasticity, rng=rng)
    with pytest.raises(ValueError, match="elasticity lacks 1 products, such as"):
        world.plant(sales, tiny_plan({"b": 0.9}), elasticity, rng=rng)
    cells = cells_of(plan)
    with pytest.raises(ValueError, match="price_multipliers lacks"):
        world.treated_cells(cells, sales, {})
    with pytest.raises(ValueError, match=r"incumbent\.price: 4 values"):
        world.treated_cells(cells, sales[sales["product_id"] == "b"], {"x": 0.9})


def test_sizes_in_ounces():
    texts = pd.Series(["16 OZ", "2 L", "1/2 GAL", "12 PK/12 OZ", "10/6.75 OZ", "1 LB", "2 1/4 OZ", "6 CT", None])
    expected = [16, 67.628, 64, 144, 67.5, 16, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(data.size_in_ounces(texts), expected)


def test_the_untreated_world_keeps_goods_chosen_before_the_first_start(untreated_world):
    sales = untreated_world.sales
    assert not sales.duplicated(["product_id", "date"]).any()
    assert (sales["units"] > 0).all()
    assert (sales["price"] > 0).all()
    assert set(untreated_world.products["department"]).isdisjoint(data.NOT_PRODUCTS)
    assert set(untreated_world.products["product_id"]) == set(sales["product_id"])
    assert sales["date"].min() == pd.Timestamp("2017-01-01")
    assert sales["date"].max() == pd.Timestamp("2017-12-31")
    assert pd.Timestamp("2017-12-25") not in set(sales["date"])
    before = sales[sales["date"] < pd.Timestamp(FIRST_START)]
    assert before["product_id"].value_counts().reindex(sales["product_id"].unique()).min() == 50
    one_gallon_private_label_milk = "1106523"
    assert one_gallon_private_label_milk in set(sales["product_id"])


def test_the_incumbent_price_is_in_cents_and_known_every_day(untreated_world):
    incumbent = untreated_world.incumbent
    n_products = len(untreated_world.products)
    assert len(incumbent) == n_products * 365
    np.testing.assert_array_equal(incumbent["price"], incumbent["price"].round(2))
    seen = untreated_world.sales.merge(incumbent, on=["product_id", "date"], suffixes=("", "_incumbent"))
    half_a_cent = 0.005 + SUM_TOLERANCE
    assert (seen["price"] - seen["price_incumbent"]).abs().max() <= half_a_cent


def test_an_impossible_choice_of_products_is_refused():
    with pytest.raises(ValueError, match="min_active_days == 400"):
        data.load(FIRST_START, min_active_days=400)


def lab_files():
    folder = data.LAB
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((folder / "experiments").glob("*.yaml"))}


def test_the_demo_lab_is_valid_once_its_data_are_written(untreated_world, tmp_path):
    lab = shutil.copytree(data.LAB, tmp_path / "lab")
    (lab / "data").mkdir()
    for name in ("sales", "products", "incumbent"):
        getattr(untreated_world, name).head(1).to_parquet(lab / "data" / f"{name}.parquet", index=False)
    loaded = Lab.load(lab)
    assert loaded.broken == {}
    assert set(loaded.experiments) == set(lab_files())


def test_the_demo_lab_holds_the_five_kinds_of_experiment():
    experiments = lab_files()
    kinds = {(e["design"]["kind"], e["assignment"]["unit"]) for e in experiments.values()}
    assert {("time_bound", "product"), ("random_days", "product"), ("crossover", "product")} <= kinds
    assert ("crossover", "cluster") in kinds
    assert [e["treatment"]["price_multiplier"] for e in experiments.values()].count(1.0) == 1
    for experiment in experiments.values():
        if experiment["assignment"]["unit"] == "cluster":
            assert (experiment["design"]["start"] - date(2017, 1, 1)).days >= 26 * 7
    assert min(e["design"]["start"] for e in experiments.values()) == FIRST_START


def test_the_demo_scopes_are_disjoint_and_large(untreated_world):
    category_sizes = untreated_world.products["category"].value_counts()
    scopes = {}
    for name, experiment in lab_files().items():
        listed = experiment["scope"]["where"].split(")")[0].split("(", 1)[1]
        scopes[name] = [category.strip(" '\n") for category in listed.split(",")]
        assert set(scopes[name]) <= set(category_sizes.index), name
        assert category_sizes[scopes[name]].sum() >= 100, name
    for (one, first), (other, second) in itertools.combinations(scopes.items(), 2):
        assert set(first).isdisjoint(second), (one, other)
