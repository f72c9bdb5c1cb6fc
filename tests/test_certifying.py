"""The certificate of an experiment: from history rows to its table, sentence and picture."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pricelab_dagster import certifying, frontier_plot
from pricelab_dagster.lab import Experiment
from pricelab_dagster.lake import shape
from pricelab_dagster.science import certificate, market
from pricelab_dagster.science.market_scenarios import SCENARIOS

Make = Callable[..., Experiment]

N, T, HORIZON, MULTIPLIER = 60, 392, 28, 0.9
ARMS = [{"name": "less", "price_multiplier": 0.9}, {"name": "more", "price_multiplier": 1.05}]
FLOORS: Any = {"min_units": 1.0, "min_price_sd": 0.01}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows of `graphs.history` of a market of substitutes."""
    scenario = replace(SCENARIOS["substitution_strong"], n_categories=6)
    world = market.simulate(scenario=scenario, n_products=N, n_history=T, n_window=1, rng=np.random.default_rng(1))
    days = [date(2023, 1, 1) + timedelta(days=day) for day in range(T)]
    return pa.table(
        {
            "product_id": np.repeat(world.product_id, T),
            "category": np.repeat(world.category, T),
            "date": pa.array(days * N),
            "units": world.untreated_units[:, :T].astype(float).ravel(),
            "price": world.incumbent_price[:, :T].ravel(),
        }
    )


def choose(rows: pa.Table, experiment: Experiment, **options: Any) -> Any:
    scope = sorted(set(rows["product_id"].to_pylist()))
    settings = {"scope": scope, "season": 7, "price_multiplier": MULTIPLIER, "floors": FLOORS}
    return certifying.choices(rows, experiment, **settings | options, rng=np.random.default_rng(2))


@pytest.fixture
def plan(make_experiment: Make) -> Experiment:
    return make_experiment("time_bound", design={"duration": HORIZON})


def planned(make_experiment: Make, **keys: Any) -> Experiment:
    return make_experiment("time_bound", design={"duration": HORIZON}, **keys)


def test_the_table_holds_every_choice_and_one_advice(rows: pa.Table, make_experiment: Make) -> None:
    experiment = planned(make_experiment, assignment={"unit": "cluster", "clusters": {"max_size": 8}})
    found, advice = choose(rows, experiment)
    table = shape("spillover.certificate", certifying.table(experiment, found, advice)).to_pandas()
    table = table.set_index("choice")
    assert table.index.tolist() == [f"clusters of {cap:02d}" for cap in certifying.CAPS] + ["product"]
    assert table["is_recommended"].sum() == 1
    assert table.index[table["is_planned"]].tolist() == ["clusters of 08"]
    assert N >= table.loc["product", "n_units"] > table.loc["clusters of 12", "n_units"]
    np.testing.assert_allclose(table["rmse"], np.hypot(table["bias"], table["se"]))
    np.testing.assert_allclose(table["mde"], 2.8 * table["se"])
    assert table.loc["product", "bias"] > table.loc["clusters of 12", "bias"] > -table.loc["product", "bias"]
    assert advice.sentence.startswith("Assign ")


@pytest.mark.parametrize(
    ("assignment", "name"),
    [
        ({"unit": "product"}, "product"),
        ({"unit": "cluster", "clusters": {"max_size": 6}}, "clusters of 06"),
        (
            {"unit": "cluster", "clusters": {"method": "severing", "edges": "either_sign"}},
            "clusters of 12, severing, either sign",
        ),
        ({"unit": "mixed", "clusters": {"method": "louvain"}}, "mixed, clusters of 12, louvain"),
    ],
)
def test_what_is_planned_always_stands_among_the_choices(
    rows: pa.Table, make_experiment: Make, assignment: dict[str, Any], name: str
) -> None:
    experiment = planned(make_experiment, assignment=assignment)
    found, advice = choose(rows, experiment)
    table = shape("spillover.certificate", certifying.table(experiment, found, advice)).to_pandas()
    assert table.loc[table["is_planned"], "choice"].tolist() == [name]
    assert table.set_index("choice").loc[name, ["bias", "se"]].notna().all()
    assert certifying.clusters_of(experiment) in set(table["choice"])
    assert "as planned" in certifying.picture(experiment, found, advice)


def test_a_mixed_assignment_stands_beside_its_clusters_and_is_not_advised(
    rows: pa.Table, make_experiment: Make
) -> None:
    found, advice = choose(rows, planned(make_experiment, assignment={"unit": "mixed"}))
    by_name = {certifying.name_of(one): one for one in found}
    whole, half, product = (by_name[name] for name in ("clusters of 12", "mixed, clusters of 12", "product"))
    assert whole.bias < half.bias < product.bias
    expected = np.sqrt((np.square(whole.se_by_window) + np.square(product.se_by_window)) / 2)
    np.testing.assert_allclose(half.se_by_window, expected)
    assert advice.choice is not half


def test_standard_errors_are_of_the_share_the_arms_the_scope_and_the_clusters(
    rows: pa.Table, make_experiment: Make
) -> None:
    ids = sorted(set(rows["product_id"].to_pylist()))
    base = choose(rows, planned(make_experiment))[0][0]
    arms = {"treatment": ARMS, "assignment": {"unit": "cluster", "share": 0.2}}
    experiment, pairs = planned(make_experiment, **arms), {one: ids[i // 2 * 2] for i, one in enumerate(ids)}
    found, _ = choose(rows, experiment, clusters=pairs)
    # 1 / .1 + 1 / .8 against 4; joining the strata adds a noise of its own
    assert found[0].se / base.se == pytest.approx(np.sqrt(11.25 / 4), rel=0.1)
    assert next(one for one in found if certifying.is_planned(experiment, one)).n_units == len(ids) / 2
    half = choose(rows, planned(make_experiment), scope=ids[::2])[0][0]
    assert half.n_units <= len(ids) / 2 < base.n_units
    # half of the products, each with its own noise
    assert half.se / base.se == pytest.approx(np.sqrt(2), rel=0.25)


def test_errors_are_of_several_windows_and_ties_are_not_ranked(rows: pa.Table, plan: Experiment) -> None:
    found, advice = choose(rows, plan)
    assert {len(one.se_by_window) for one in found} == {certifying.WINDOWS}
    assert found[0].se == pytest.approx(np.sqrt(np.mean(np.square(found[0].se_by_window))))
    assert np.ptp(found[0].se_by_window) > 0
    caps = [one for one in found if one.assignment == "cluster"]
    assert not any(certificate.told_apart(one, min(caps, key=lambda two: two.rmse)) for one in caps)
    assert "As good for all that is known: " in advice.sentence


@pytest.mark.parametrize(("kind", "said"), [("time_bound", False), ("crossover", True), ("random_days", True)])
def test_another_design_is_told_whose_standard_error_it_reads(
    rows: pa.Table, make_experiment: Make, kind: str, said: bool
) -> None:
    sentence = choose(rows, make_experiment(kind))[1].sentence
    assert ("standard errors are of a time-bound design of the same length" in sentence) == said


def test_products_launched_in_the_last_window_are_a_reason(rows: pa.Table, plan: Experiment) -> None:
    units = rows["units"].to_numpy().reshape(N, T).copy()
    units[:, : T - HORIZON] = 0
    launched = rows.set_column(3, "units", pa.array((40 * units).ravel()))
    assert choose(launched, plan) == ([], certificate.Recommendation(None, certifying.TOO_YOUNG))
    some = rows["units"].to_numpy().reshape(N, T).copy()
    some[: N // 4, : T - HORIZON] = 0
    mixed, _ = choose(rows.set_column(3, "units", pa.array(some.ravel())), plan, floors=FLOORS | {"min_units": 1e-6})
    others = rows.filter(pc.is_in(rows["product_id"], pa.array(rows["product_id"].to_pylist()[T * (N // 4) :: T])))
    # the launched have no level to be measured by: the error is that of the others, whose forecast shares little
    assert mixed[0].se == pytest.approx(choose(others, plan)[0][0].se, rel=0.1)


def test_the_picture_shows_every_choice_and_fills_the_advice(rows: pa.Table, plan: Experiment) -> None:
    found, advice = choose(rows, plan)
    svg = certifying.picture(plan, found, advice)
    root = ElementTree.fromstring(svg)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == len(found)
    assert [one.get("fill") for one in circles].count("#fff") == len(found) - 1
    texts = ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("text")]
    assert "by product, as planned" in texts
    assert {"standard error of the effect", "predicted spillover bias"} <= set(texts)


def test_products_that_sell_too_little_take_no_part_and_are_counted(rows: pa.Table, plan: Experiment) -> None:
    units = rows["units"].to_numpy().reshape(N, T)
    floor = float(np.median(units.mean(axis=1)))
    found, advice = choose(rows, plan, floors=FLOORS | {"min_units": floor})
    n = int((units.mean(axis=1) >= floor).sum())
    assert found[0].n_units == n
    assert advice.sentence.endswith(f"All of this is of the {n} of {N} products that sell enough to be judged.")
    assert choose(rows, plan, floors=FLOORS | {"min_units": 1e6})[1].sentence == certifying.TOO_THIN


@pytest.mark.parametrize(
    ("multiplier", "length", "reason"),
    [
        (1.0, HORIZON, certifying.NO_CHANGE),
        (np.nan, HORIZON, certifying.NO_PLAN),
        (MULTIPLIER, T - 20, certifying.NO_WINDOW),
    ],
)
def test_what_cannot_be_foretold_says_so(
    rows: pa.Table, make_experiment: Make, multiplier: float, length: int, reason: str
) -> None:
    experiment = make_experiment("time_bound", design={"duration": length})
    found, advice = choose(rows, experiment, price_multiplier=multiplier)
    assert found == []
    table = shape("spillover.certificate", certifying.table(make_experiment(), found, advice)).to_pandas()
    assert table["reason"].tolist() == [reason]
    assert table["bias"].isna().all()
    assert certifying.picture(make_experiment(), found, advice) is None


def test_a_short_history_has_standard_errors_and_no_bias(rows: pa.Table, plan: Experiment) -> None:
    short = rows.filter(pc.less(rows["date"], pa.scalar(date(2023, 5, 1))))
    found, advice = choose(short, plan)
    table = certifying.table(plan, found, advice).to_pandas()
    assert table["bias"].isna().all()
    assert (table["se"] > 0).all()
    assert advice.choice is None
    assert certifying.picture(plan, found, advice) is None


def test_below_a_year_products_are_not_advised_where_they_are_biased(rows: pa.Table, plan: Experiment) -> None:
    found, advice = choose(rows.filter(pc.less(rows["date"], pa.scalar(date(2023, 10, 1)))), plan)
    assert found[0].ci_lower > 0
    assert all(np.isnan(one.bias) and one.se > 0 for one in found[1:])
    assert advice.choice is None
    assert "Clusters could not be judged: too few weeks to form clusters from half of them" in advice.sentence
    assert "39, needs 52." in advice.sentence


def test_the_multiplier_is_the_planned_one_of_the_furthest_arm_over_that_of_control(make_experiment: Make) -> None:
    plan = pd.DataFrame(
        {
            "arm": ["less", "less", "more", "control", "control", "less"],
            "multiplier": [0.8, 0.5, 1.3, 0.9, 1.6, np.nan],
        }
    )
    several = make_experiment("time_bound", treatment=ARMS)
    control = np.sqrt(0.9 * 1.6)
    assert certifying.multiplier(plan, several) == pytest.approx(np.sqrt(0.8 * 0.5) / control)
    same = plan.assign(multiplier=plan["multiplier"].where(plan["arm"] != "less", 1.3))
    assert certifying.multiplier(same, several) == pytest.approx(1.3 / control)


@pytest.mark.parametrize(
    ("treatment", "control", "expected"), [(1.0, 0.9, 1 / 0.9), (0.95, 1.05, 0.95 / 1.05), (0.9, 1.0, 0.9)]
)
def test_before_there_is_a_plan_the_policies_of_the_file_count(
    make_experiment: Make, treatment: float, control: float, expected: float
) -> None:
    policies = {"treatment": {"price_multiplier": treatment}, "control": {"price_multiplier": control}}
    nothing = pd.DataFrame({"arm": pd.Series(dtype=str), "multiplier": pd.Series(dtype=float)})
    assert certifying.multiplier(nothing, make_experiment("time_bound", **policies)) == pytest.approx(expected)
    cells = pd.DataFrame({"arm": ["treatment", "control"], "multiplier": [treatment, control]})
    assert certifying.multiplier(cells, make_experiment("time_bound", **policies)) == pytest.approx(expected)


def test_tables_of_prices_have_no_multiplier_before_there_is_a_plan(make_experiment: Make) -> None:
    nothing = pd.DataFrame({"arm": pd.Series(dtype=str), "multiplier": pd.Series(dtype=float)})
    tables = make_experiment("time_bound", treatment={"prices": "prices.csv"})
    assert np.isnan(certifying.multiplier(nothing, tables))


def test_the_axes_hold_their_points() -> None:
    points = [
        frontier_plot.Point("a", 0.02, 0.05, 0.01, 0.09),
        frontier_plot.Point("b <", 0.03, 0.0, -0.02, 0.02, True),
    ]
    svg = frontier_plot.draw("Milk & tea", "a sentence", points)
    root = ElementTree.fromstring(svg)
    width, height = (int(root.get(name, "0")) for name in ("width", "height"))
    for circle in (one for one in root.iter() if one.tag.endswith("circle")):
        assert 0 < int(circle.get("cx", "0")) < width
        assert 0 < int(circle.get("cy", "0")) < height
