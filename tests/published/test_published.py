"""Data sets with a published answer, run whole: files, assets, effects."""

from datetime import date, timedelta
from pathlib import Path

import causaldata
import numpy as np
import pandas as pd
import pytest
import synthdid.datasets

from pricelab_dagster import runner
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

FIRST = date(2001, 1, 1)  # a Monday; years and treatments stand in as weeks
PROP99, CASTLE = -27.35, 0.0818
SLEEP, SLEEP_T, SLEEP_DF = -1.58, -4.0621, 9
TWO_DIGITS, FOUR_DIGITS = 0.005, 0.00005  # the published figures are rounded
BASE = 10.0  # sales cannot be negative: a constant added to every cell changes no difference
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # Student (1908), hours of sleep gained
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
CONFIG = """\
sales:
  source: sales.csv
  columns: {product_id: product, date: day, units: units, price: "1.0"}
  grain: week
"""


def week(number: int) -> date:
    return FIRST + timedelta(weeks=number)


def run(root: Path, sales: pd.DataFrame, arms: pd.DataFrame, design: str, analysis: str) -> pd.DataFrame:
    """Return the effects on units of a lab with one imported assignment; both frames count weeks from 0."""
    products = sorted(sales["product"].unique())
    for name, rows in (("sales", sales), ("arms", arms)):
        rows.assign(day=rows["week"].map(week)).drop(columns="week").to_csv(root / f"{name}.csv", index=False)
    renamed = pd.read_csv(root / "arms.csv").rename(columns={"product": "product_id", "day": "date"})
    renamed.to_csv(root / "arms.csv", index=False)
    (root / "pricelab.yaml").write_text(CONFIG)
    (root / "experiments").mkdir()
    listed = ", ".join(f'"{product}"' for product in products)
    (root / "experiments" / "study.yaml").write_text(
        f"design: {{{design}}}\nscope: {{products: [{listed}]}}\nassignment: {{source: arms.csv}}\n"
        f"metrics: [units]\nanalysis: {{{analysis}}}\n"
    )
    work = runner.Runner(root, lambda step: None)
    try:
        tiny_lab.succeeded([work.refresh(), *work.experiments(["study"])])
    finally:
        work.close()
    rows = Workbench.open(root).lake.read("experiment.effects", "study").to_pandas()
    return rows[rows["metric"] == "units"].set_index(["scale", "estimator"])


def test_proposition_99(tmp_path: Path) -> None:
    """California's cigarette sales after its tax of 1989, against 38 states: plain difference-in-differences."""
    smoking = synthdid.datasets.load_california_prop99()
    sales = pd.DataFrame(
        {"product": smoking["State"], "week": smoking["Year"] - 1970, "units": smoking["PacksPerCapita"]}
    )
    since = smoking[smoking["Year"] >= 1989]
    treated = np.where(since["State"] == "California", "treatment", "control")
    arms = pd.DataFrame({"product": since["State"], "week": since["Year"] - 1970, "arm": treated})
    design = f"kind: time_bound, start: {week(19)}, duration: 12"
    effects = run(tmp_path, sales, arms, design, "detrend: {method: mean, window: all}, trim: {method: none}")
    for estimator in ("hpte", "hpte_doubly_robust", "hajek"):
        assert effects.loc[("level", estimator), "effect"] == pytest.approx(PROP99, abs=TWO_DIGITS)
    assert (effects.loc[("level", "hpte"), "n_treated"], effects.loc[("level", "hpte"), "n_control"]) == (1, 38)


def test_students_sleep(tmp_path: Path) -> None:
    """Ten patients, two drugs, always in this order: the paired contrast, and no effect of a two-sequence crossover."""
    patients = [f"patient {number:02}" for number in range(10)]
    cells = [
        (patient, number, BASE + gain)
        for number, gains in ((0, [0.0] * 10), (1, [0.0] * 10), (2, DRUG_1), (3, DRUG_2))
        for patient, gain in zip(patients, gains, strict=True)
    ]
    sales = pd.DataFrame(cells, columns=["product", "week", "units"])
    order = [(patient, number, arm) for patient in patients for number, arm in ((2, "treatment"), (3, "control"))]
    arms = pd.DataFrame(order, columns=["product", "week", "arm"])
    design = f"kind: crossover, start: {week(2)}, phase: 1, phases: 2, blackout: 0"
    effects = run(tmp_path, sales, arms, design, "detrend: {method: none}, trim: {method: none}")
    paired = effects.loc[("level", "paired")]
    assert paired["effect"] == pytest.approx(SLEEP, abs=TWO_DIGITS)
    assert paired["effect"] / paired["se"] == pytest.approx(SLEEP_T, abs=FOUR_DIGITS)
    assert "one sequence does not identify the period effect" in paired["estimand"]
    refused = effects.drop(index=[("level", "paired"), ("relative", "paired")])
    assert refused["effect"].isna().all()
    assert refused["reason"].str.contains("all products have the same sequence").all()
    assert refused["is_headline"].sum() == 1


def test_castle_doctrine(tmp_path: Path) -> None:
    """Homicides in 50 states, 21 of which extended self-defence between 2005 and 2009: staggered starts."""
    castle = causaldata.castle.load_pandas().data.sort_values(["sid", "year"])
    number = (castle["year"] - 2000).to_numpy()
    sales = pd.DataFrame({"product": castle["sid"], "week": number, "units": BASE + castle["l_homicide"]})
    # `post` marks whole years under the law; it was in force in a part of the year before
    law = (castle.groupby("sid")["post"].shift(-1).fillna(castle["post"]) > 0).to_numpy()
    since = number >= 5
    arms = pd.DataFrame(
        {"product": castle["sid"][since], "week": number[since], "arm": np.where(law, "treatment", "control")[since]}
    )
    design = f"kind: time_bound, start: {week(5)}, duration: 6"
    effects = run(tmp_path, sales, arms, design, "trim: {method: none}")
    assert effects.loc[("level", "two_way_fixed_effects"), "effect"] == pytest.approx(CASTLE, abs=FOUR_DIGITS)
    headline = effects[effects["is_headline"]]
    assert headline.index.tolist() == [("relative", "group_time_simple_not_yet")]
    kinds = [
        f"group_time_{kind}_{control}" for kind in ("simple", "dynamic", "group") for control in ("never", "not_yet")
    ]
    assert np.isfinite(effects.loc[[("level", kind) for kind in kinds], ["effect", "se"]].to_numpy(dtype=float)).all()
    assert effects.loc[("level", "hpte"), "reason"].startswith("not identified by one before and after")
