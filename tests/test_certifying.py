"""The certificate of an experiment: from history rows to its table, sentence and picture."""

from collections.abc import Callable
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
from pricelab_dagster.science import market
from pricelab_dagster.science.market_scenarios import SCENARIOS

Make = Callable[..., Experiment]

N, T, HORIZON, MULTIPLIER = 100, 280, 28, 0.9
FLOORS: Any = {"min_units": 1.0, "min_price_sd": 0.01}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows of `graphs.history` of a market of substitutes."""
    scenario = SCENARIOS["substitution_strong"]
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


def choose(rows: pa.Table, **options: Any) -> Any:
    settings = {"horizon": HORIZON, "season": 7, "price_multiplier": MULTIPLIER, "floors": FLOORS}
    return certifying.choices(rows, **settings | options, rng=np.random.default_rng(2))


def test_the_table_holds_every_choice_and_one_advice(rows: pa.Table, make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", assignment={"unit": "cluster", "clusters": {"max_size": 8}})
    found, advice = choose(rows)
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


def test_the_picture_shows_every_choice_and_fills_the_advice(rows: pa.Table, make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    found, advice = choose(rows)
    svg = certifying.picture(experiment, found, advice)
    root = ElementTree.fromstring(svg)
    circles = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(circles) == len(found)
    assert [one.get("fill") for one in circles].count("#fff") == len(found) - 1
    texts = ["".join(one.itertext()) for one in root.iter() if one.tag.endswith("text")]
    assert "by product, as planned" in texts
    assert {"standard error of the effect", "predicted spillover bias"} <= set(texts)


def test_products_that_sell_too_little_take_no_part_and_are_counted(rows: pa.Table) -> None:
    units = rows["units"].to_numpy().reshape(N, T)
    floor = float(np.median(units.mean(axis=1)))
    found, advice = choose(rows, floors=FLOORS | {"min_units": floor})
    n = int((units.mean(axis=1) >= floor).sum())
    assert found[0].n_units == n
    assert advice.sentence.endswith(f"All of this is of the {n} of {N} products that sell enough to be judged.")
    assert choose(rows, floors=FLOORS | {"min_units": 1e6})[1].sentence == certifying.TOO_THIN


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"price_multiplier": 1.0}, certifying.NO_CHANGE), ({"horizon": T - 20}, certifying.NO_WINDOW)],
)
def test_what_cannot_be_foretold_says_so(
    rows: pa.Table, make_experiment: Make, options: dict[str, Any], reason: str
) -> None:
    found, advice = choose(rows, **options)
    assert found == []
    table = shape("spillover.certificate", certifying.table(make_experiment(), found, advice)).to_pandas()
    assert table["reason"].tolist() == [reason]
    assert table["bias"].isna().all()
    assert certifying.picture(make_experiment(), found, advice) is None


def test_a_short_history_has_standard_errors_and_no_bias(rows: pa.Table, make_experiment: Make) -> None:
    short = rows.filter(pc.less(rows["date"], pa.scalar(date(2023, 5, 1))))
    found, advice = choose(short)
    table = certifying.table(make_experiment(), found, advice).to_pandas()
    assert table["bias"].isna().all()
    assert (table["se"] > 0).all()
    assert advice.choice is None
    assert certifying.picture(make_experiment(), found, advice) is None


def test_the_multiplier_is_the_planned_one_of_the_furthest_arm(make_experiment: Make) -> None:
    arms = [{"name": "less", "price_multiplier": 0.9}, {"name": "more", "price_multiplier": 1.05}]
    plan = pd.DataFrame(
        {
            "arm": ["less", "less", "more", "control", "less"],
            "multiplier": [0.8, 0.5, 1.3, 0.1, np.nan],
        }
    )
    several = make_experiment("time_bound", treatment=arms)
    assert certifying.multiplier(plan, several) == pytest.approx(np.sqrt(0.8 * 0.5))
    assert certifying.multiplier(plan[plan["arm"] != "less"], several) == pytest.approx(1.3)
    assert certifying.multiplier(plan.iloc[:0], several) == 1.0


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
