from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster import interval_plot, segmenting, svg_text
from pricelab_dagster.attributes import as_numbers
from pricelab_dagster.lab import Experiment
from pricelab_dagster.pictures import BOLD, LABEL_SIZE
from pricelab_dagster.science import panel
from pricelab_dagster.tables import TABLES
from tests.science.test_panel import make

Make = Callable[..., Experiment]
SVG = "{http://www.w3.org/2000/svg}"
ROUNDING = 1e-9  # sums of a few hundred doubles
MAX_BYTES = 25_000  # a picture of this size shows inline in the web UI
N = 160


@pytest.fixture
def study(make_experiment: Make) -> segmenting.Study:
    keys: dict[str, Any] = {"analysis": {"forest": {"n_trees": 8}, "bootstrap": {"n_replicates": 20}}}
    experiment = make_experiment("time_bound", metrics=["units"], **keys)
    one, rng = make("time_bound", n=N), np.random.default_rng(1)
    trimmed = panel.trimmed(one, panel.forecasts(one))
    X = pd.DataFrame({"category": one.category, "log_base_price": rng.normal(size=N)})
    leaves = panel.fit_leaves(one, X, trimmed[0], n_trees=8, rng=rng)
    return segmenting.Study(experiment, one, trimmed, leaves, X)


def test_segment_rows_are_all_products_then_attributes_then_the_forest(study: segmenting.Study) -> None:
    rows = segmenting.segment_rows(study, rng=np.random.default_rng(2))
    assert rows.schema == TABLES[segmenting.SEGMENTS].schema
    frame = rows.to_pandas()
    assert frame["place"].tolist() == list(range(9))
    names = ["all products", "category", "category", *["base_price"] * 3, *["effect forest"] * 3]
    assert frame["attribute"].tolist() == names
    assert frame["reason"].isna().all()
    assert (frame["simultaneous_lower"] <= frame["ci_lower"]).all()
    assert (frame["p_adjusted"] >= frame["p_value"]).all()
    assert frame.loc[3:5, "n_products"].sum() == frame.loc[0, "n_products"]
    # thirds of the price itself, not of its logarithm
    prices = np.exp(study.X["log_base_price"])
    assert frame.loc[3, "segment"].startswith("up to ")
    assert float(frame.loc[3, "segment"].removeprefix("up to ")) == pytest.approx(np.quantile(prices, 1 / 3), rel=0.05)


def test_thirds_of_a_date_are_told_by_date(study: segmenting.Study) -> None:
    launched = np.arange("2020-01-01", "2020-06-09", dtype="datetime64[D]")
    X = as_numbers(study.X.assign(launched=launched[np.random.default_rng(4).permutation(N)]))
    rows = segmenting.segment_rows(replace(study, X=X), rng=np.random.default_rng(2)).to_pandas()
    own = rows[rows["attribute"] == "launched"]
    first, second = (pd.Timestamp(own["segment"].iloc[end].rpartition(" ")[2]) for end in (0, 1))
    assert own["segment"].tolist() == [
        f"up to {first.date()}",
        f"above {first.date()}, up to {second.date()}",
        f"above {second.date()}",
    ]
    # the filter drops ten of 160 products, so that the thirds of the others lie up to ten days off
    assert abs((first - pd.Timestamp(launched[N // 3])).days) <= 10
    assert abs((second - pd.Timestamp(launched[2 * N // 3])).days) <= 10
    assert own["n_products"].sum() == rows.loc[0, "n_products"]


def test_same_generator_gives_the_same_rows(study: segmenting.Study) -> None:
    rows = [segmenting.segment_rows(study, rng=np.random.default_rng(3)) for _ in range(2)]
    assert rows[0].equals(rows[1])


def test_projection_rows_name_every_term(study: segmenting.Study) -> None:
    rows = segmenting.projection_rows(study)
    assert rows.schema == TABLES[segmenting.PROJECTION].schema
    frame = rows.to_pandas()
    assert frame["term"].tolist() == [
        "mean effect",
        "category=a, one standard deviation up",
        "category=b, one standard deviation up",
        "log_base_price, one standard deviation up",
        "any attribute (Wald test)",
    ]
    assert frame["coefficient"].isna().tolist() == [False, False, True, False, True]
    assert frame["reason"].notna().tolist() == [False, False, True, False, True]


def test_curve_rows_hold_one_row_for_each_constant(study: segmenting.Study) -> None:
    rows = segmenting.curve_rows(study, rng=np.random.default_rng(4))
    assert rows.schema == TABLES[segmenting.CURVE].schema
    assert rows["c"].to_pylist() == [0.0, 1.0, 2.0, 5.0, 10.0, 20.0]
    assert rows["n_trimmed"].to_pylist()[0] == 0
    assert set(rows["estimator"].to_pylist()) == {"hpte"}
    assert set(rows["n_replicates"].to_pylist()) == {20}


def test_pictures_are_small_and_draw_every_row(study: segmenting.Study) -> None:
    rows = segmenting.segment_rows(study, rng=np.random.default_rng(5))
    curve = segmenting.curve_rows(study, rng=np.random.default_rng(6))
    for svg, n in (
        (segmenting.segment_picture(study.experiment, rows), rows.num_rows),
        (segmenting.curve_picture(study.experiment, curve), 6),
    ):
        assert len(svg.encode()) < MAX_BYTES
        assert len(ElementTree.fromstring(svg).findall(f"{SVG}circle")) == n


def test_tables_say_what_the_rows_say(study: segmenting.Study) -> None:
    rows = segmenting.segment_rows(study, rng=np.random.default_rng(7))
    lines = segmenting.segment_table(rows).splitlines()
    assert len(lines) == 2 + rows.num_rows
    assert lines[2].startswith(f"| {study.experiment.arms[0].name} | all products | {rows['effect'][0].as_py():+.1%} |")
    projected = segmenting.projection_rows(study)
    shown = segmenting.projection_table(projected).splitlines()
    assert len(shown) == 2 + 5 + 2
    # the effect over all products is one number, in either table
    assert shown[2].startswith(f"| {study.experiment.arms[0].name} | mean effect | {rows['effect'][0].as_py():+.1%} |")
    assert projected["coefficient"][0].as_py() == pytest.approx(rows["effect"][0].as_py(), rel=ROUNDING)
    assert shown[-1] == f"Estimand: {projected['estimand'][0].as_py()}."
    assert "relative to the mean without treatment" in shown[-1]
    curve = segmenting.curve_rows(study, rng=np.random.default_rng(8))
    assert len(segmenting.curve_table(curve).splitlines()) == 2 + 6


def test_an_effect_without_interval_shows_its_reason(study: segmenting.Study) -> None:
    curve = segmenting.curve_rows(study, rng=np.random.default_rng(9)).to_pylist()
    curve[0] |= {"se": None, "ci_lower": None, "ci_upper": None, "reason": "3 units in the smaller arm."}
    rows = pa.Table.from_pylist(curve, schema=TABLES[segmenting.CURVE].schema)
    line = segmenting.curve_table(rows).splitlines()[2]
    assert line.endswith(f"| 0 | {curve[0]['effect']:+.1%} | 3 units in the smaller arm. | 0 |")
    assert segmenting.curve_picture(study.experiment, rows).count("<circle") == 6


def test_a_line_without_effect_is_named_and_text_is_escaped() -> None:
    lines = [
        interval_plot.Line("a < b & c", None),
        interval_plot.Line("x", 0.1, (0.05, 0.15), (0.0, 0.2), strong=True),
    ]
    root = ElementTree.fromstring(interval_plot.draw("A <title>", "sub & title", lines))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "a < b & c" in texts
    assert "not identified" in texts
    assert "+10.0%  (+5.0% to +15.0%)" in texts


def test_numbers_fit_into_the_picture() -> None:
    line = interval_plot.Line("x", -0.888, (-0.988, -0.888), None, strong=True)
    root = ElementTree.fromstring(interval_plot.draw("A", "b", [line]))
    (shown,) = [one for one in root.iter(f"{SVG}text") if one.text and one.text.startswith("-88.8%")]
    width = svg_text.width(str(shown.text), LABEL_SIZE) * BOLD
    assert float(shown.attrib["x"]) + width <= float(root.attrib["width"])


@pytest.mark.parametrize("values", [[], [0.0], [-0.31, 0.02], [1e-9, 3e-9], [4000.0, -17.0]])
def test_axis_holds_the_values_and_zero(values: list[float]) -> None:
    low, high, step = interval_plot.scale(values)
    assert low <= min([0.0, *values]) <= max([0.0, *values]) <= high
    assert step > 0
    assert (high - low) / step <= 12
