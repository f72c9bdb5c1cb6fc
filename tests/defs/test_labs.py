"""Labs that differ from the tiny one: weeks, assignments drawn elsewhere, clusters, other formats."""

import gzip
import json
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster import validate
from pricelab_dagster.models import models
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONFIG, SMALL

LIFT = 0.3
SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
FIRST_WEEK, N_WEEKS = date(2023, 1, 7), 60
WEEKLY_CONFIG = """\
sales:
  source: data/sales.parquet
  columns: {product_id: sku, date: week, units: units, price: price}
  grain: week
"""
WEEKLY = f"""\
design: {{kind: crossover, start: 2023-12-23, phase: 3, phases: 2}}
scope: {{where: "units_per_day > 0"}}
assignment: {{source: data/drawn.csv}}
{SMALL}"""


def read(root, table, experiment_id=None):
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


@pytest.fixture
def weekly_lab(tmp_path):
    """Forty products by week, with a crossover that another system drew, the first week of each phase blacked out."""
    rng = np.random.default_rng(3)
    weeks = [FIRST_WEEK + timedelta(weeks=week) for week in range(N_WEEKS)]
    skus = [f"s{number:02d}" for number in range(40)]
    start = weeks.index(date(2023, 12, 23))
    arm = np.zeros((40, N_WEEKS))
    arm[::2, start : start + 3] = 1
    arm[1::2, start + 3 : start + 6] = 1
    units = rng.poisson(rng.uniform(40, 90, 40)[:, None] * (1 + LIFT * arm))
    sales = {
        "sku": np.repeat(skus, N_WEEKS),
        "week": np.tile(np.array(weeks, dtype=object), 40),
        "units": units.ravel(),
        "price": np.where(arm == 1, 1.8, 2.0).ravel(),
    }
    drawn = pd.DataFrame(
        [
            (sku, weeks[t], "blackout" if (t - start) % 3 == 0 else "treatment" if arm[i, t] else "control")
            for i, sku in enumerate(skus)
            for t in range(start, start + 6)
        ],
        columns=["product_id", "date", "arm"],
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "experiments").mkdir()
    pd.DataFrame(sales).to_parquet(tmp_path / "data" / "sales.parquet", index=False)
    drawn.to_csv(tmp_path / "data" / "drawn.csv", index=False)
    (tmp_path / "pricelab.yaml").write_text(WEEKLY_CONFIG)
    (tmp_path / "experiments" / "drawn-elsewhere.yaml").write_text(WEEKLY)
    return tmp_path


def test_weekly_lab_with_an_imported_assignment(weekly_lab, runner):
    work = runner(weekly_lab)
    tiny_lab.succeeded([work.refresh(), *work.experiments(["drawn-elsewhere"]), work.publish()])
    cells = read(weekly_lab, "experiment.assignments", "drawn-elsewhere")
    assert len(cells) == 40 * 6
    assert set(cells["arm"]) == {"treatment", "control"}
    blacked_out = sorted({str(day) for day in cells.loc[~cells["in_analysis"], "date"]})
    assert blacked_out == ["2023-12-23", "2024-01-13"]
    one = cells[cells["product_id"] == "s00"].sort_values("date")
    assert one["arm"].tolist() == ["treatment"] * 3 + ["control"] * 3
    assert one["probability"].isna().all()
    plan = read(weekly_lab, "experiment.price_plan", "drawn-elsewhere")
    assert (plan["note"] == "prices of this arm are set elsewhere").all()
    assert plan["price"].isna().all()
    effects = read(weekly_lab, "experiment.effects", "drawn-elsewhere")
    quoted = effects[effects["is_headline"]].set_index("metric")
    assert abs(quoted.loc["units", "effect"] - LIFT) <= SIGMAS * quoted.loc["units", "se"]
    assert quoted.loc["price", "effect"] == pytest.approx(-0.1, abs=SIGMAS * quoted.loc["price", "se"] + 1e-9)
    assert (quoted["n_treated"] + quoted["n_control"] > 0).all()
    dim = read(weekly_lab, "marts.dim_experiments").iloc[0]
    assert (dim["status"], str(dim["end"]), dim["n_in_analysis"]) == ("concluded", "2024-01-27", 40 * 4)


def test_weekly_lab_refuses_a_start_between_its_labels(weekly_lab):
    path = weekly_lab / "experiments" / "drawn-elsewhere.yaml"
    path.write_text(WEEKLY.replace("2023-12-23", "2023-12-25"))
    (error,) = validate.check(Workbench.open(weekly_lab)).errors
    assert str(error).startswith("experiments/drawn-elsewhere.yaml: design.start == 2023-12-25, must be a week label")


@pytest.fixture
def cluster_lab(tmp_path):
    """Twenty-four products in three categories; each even one and the next are strong substitutes."""
    rng = np.random.default_rng(5)
    n, n_days = 24, 230
    weeks = n_days // 7 + 1
    moved = np.exp(rng.normal(0, 0.2, (n, weeks))).repeat(7, axis=1)[:, :n_days]
    partner = np.arange(n) ^ 1
    units = rng.poisson(rng.uniform(60, 120, n)[:, None] * moved**-2.0 * moved[partner] ** 1.5)
    one = tiny_lab.world(n_products=n, n_days=n_days)
    one.products["category"] = np.array(["a", "b", "c"])[np.arange(n) // 8]
    price = (3 * moved).round(2)
    one.sales["units"], one.sales["price"] = units.ravel(), price.ravel()
    text = (
        "design: {kind: crossover, start: 2024-08-01, phase: 7, phases: 2, blackout: 2}\n"
        "scope: {where: units_per_day > 0}\ntreatment: {price_multiplier: 0.9}\n"
        f"assignment: {{unit: cluster}}\n{SMALL}"
    )
    return tiny_lab.write_lab(tmp_path / "lab", {"pairs": text}, one=one, through=date.max)


def test_clusters_are_found_and_assigned_whole(cluster_lab, runner):
    work = runner(cluster_lab)
    tiny_lab.succeeded([work.refresh(), *work.experiments(["pairs"])])
    found = read(cluster_lab, "spillover.product_clusters", "pairs").set_index("product_id")["cluster_id"]
    pairs = [(f"{number:04d}", f"{number + 1:04d}") for number in range(0, 24, 2)]
    together = sum(found[one] == found[other] for one, other in pairs)
    assert together >= 9  # of 12; a chance partition into pairs would hold about one
    cells = read(cluster_lab, "experiment.assignments", "pairs")
    assert (cells.groupby(["unit_id", "date"])["arm"].nunique() == 1).all()
    assert cells["unit_id"].nunique() == found.nunique() < 24
    effects = read(cluster_lab, "experiment.effects", "pairs")
    assert set(effects.loc[effects["is_headline"], "estimator"]) == {"hajek"}
    hpte = effects[effects["estimator"] == "hpte"]
    # 24 products are in one leaf, where comparing like with like does nothing
    assert hpte["reason"].str.contains("one leaf").all()
    assert not hpte["reason"].str.contains("quote hajek").any()


def staged(root):
    bench = Workbench.open(root)
    for name in ("staging.stg_sales", "staging.stg_products"):
        bench = bench.with_table(name, bench.run_model(models()[name]))
    return {name: rows.to_pandas() for name, rows in bench.in_memory.items()}


SOURCES = {
    "csv.gz": "source: data/sales.csv.gz",
    "json": "source: data/sales.json",
    "jsonl in two files": "source: data/part-*.jsonl",
    "query": '''query: "select * from read_csv('data/sales.csv', types = {'sku': 'VARCHAR'}) where units > 0"''',
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_format_gives_the_same_sales(tmp_path, source):
    root = tiny_lab.write_lab(tmp_path / "lab", {}, one=tiny_lab.world(n_products=8, n_days=20))
    expected = staged(root)
    data = root / "data"
    rows = pd.read_csv(data / "sales.csv", dtype={"sku": str}).to_dict("records")
    (data / "sales.csv.gz").write_bytes(gzip.compress((data / "sales.csv").read_bytes()))
    (data / "sales.json").write_text(json.dumps(rows))
    for part in (0, 1):
        (data / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[part::2]))
    (root / "pricelab.yaml").write_text(CONFIG.replace("source: data/sales.csv", source))
    found = staged(root)
    assert found["staging.stg_sales"]["product_id"].iloc[0] == "0000"
    for name, frame in expected.items():
        key = list(frame.columns[:2])
        pd.testing.assert_frame_equal(
            found[name].sort_values(key, ignore_index=True), frame.sort_values(key, ignore_index=True)
        )
    assert validate.check(Workbench.open(root)).errors == []


def test_query_runs_in_the_dagster_flow(tmp_path, runner):
    query = "query: select sku, day, units, spend, cost from 'data/sales.csv' where day < date '2024-01-15'"
    config = CONFIG.replace("source: data/sales.csv", query)
    root = tiny_lab.write_lab(tmp_path / "lab", {}, config=config, one=tiny_lab.world(n_products=8, n_days=20))
    tiny_lab.succeeded([runner(root).refresh()])
    days = read(root, "intermediate.int_product_days")
    assert str(days["date"].max()) == "2024-01-14"
    quality = read(root, "intermediate.int_data_quality").set_index(["source", "rule"])
    assert quality.loc[("sales", "all rows"), "rows_kept"] == 8 * 14
