import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster import attributes, frames, scope, show, validate
from pricelab_dagster.lab import LabError
from pricelab_dagster.models import models
from pricelab_dagster.science.affinity import encode
from pricelab_dagster.workbench import FEATURES, PRODUCTS, Workbench
from tests.defs import tiny_lab

FAR = date(9999, 12, 31)
USABLE: dict[str, pa.Array] = {
    "whole": pa.array([1, None, 3]),
    "real": pa.array([1.5, None, float("nan")]),
    "cents": pa.array([Decimal("1.25"), None, Decimal("3.00")]),
    "huge": pa.array([1, None, 3], pa.decimal128(38, 0)),
    "flag": pa.array([True, None, False]),
    "text": pa.array(["x", None, "y"]),
    "level": pa.array(["x", None, "y"]).dictionary_encode(),
    "launched": pa.array([date(2020, 1, 2), None, FAR]),
    "seen": pa.array([datetime(2020, 1, 2, 6), None, datetime(2020, 1, 3)], pa.timestamp("us", "Europe/Berlin")),
    "empty": pa.nulls(3),
}


def products(**columns: Any) -> pa.Table:
    return pa.table({"product_id": ["a", "b", "c"], **columns})


def test_numbers_booleans_text_and_dates_are_usable() -> None:
    attributes.refuse_unusable(products(**USABLE), list(USABLE))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([[1], None, [2]]), "list<"),
        (pa.array([{"x": 1}, None, {"x": 2}]), "struct<"),
        (pa.array([time(10), None, time(11)]), "time64[us]"),
        (pa.array([b"1", None, b"2"]), "binary"),
    ],
)
def test_other_types_are_refused_by_name(column: pa.Array, kind: str) -> None:
    with pytest.raises(LabError) as refused:
        attributes.refuse_unusable(products(fine=pa.array([1, 2, 3]), odd=column), ["fine", "odd"])
    assert str(refused.value).startswith(
        "pricelab.yaml: products.attributes == 'odd', must be columns of numbers, booleans, text or dates, and this "
        f"one is {kind}"
    )


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, float("inf"), float("-inf")]),
        pa.array([0, 2**31 - 1, 1 - 2**31], pa.int32()).cast(pa.date32()),
        pa.array([0, 2**63 - 1, 1 - 2**63], pa.int64()).cast(pa.timestamp("us")),
    ],
)
def test_infinite_values_are_refused_with_their_products(column: pa.Array) -> None:
    with pytest.raises(LabError) as refused:
        attributes.refuse_unusable(products(size=column), ["size"])
    assert str(refused.value) == (
        "pricelab.yaml: products.attributes == 'size', must be finite or empty, and 2 of 3 products have an infinite "
        "value there. Leave it empty for b, c."
    )


def test_dates_count_days_and_decimals_are_doubles() -> None:
    rows = products(**USABLE).drop_columns(["product_id"])
    found = attributes.as_numbers(frames.to_pandas(rows))
    # 18,263 days from 1970 to 2020-01-02; 06:00 UTC is 07:00 in Berlin
    np.testing.assert_array_equal(found["launched, days since 1970"], [18263.0, np.nan, 2932896.0])
    np.testing.assert_allclose(found["seen, days since 1970"], [18263 + 7 / 24, np.nan, 18264 + 1 / 24])
    np.testing.assert_array_equal(found["cents"], [1.25, np.nan, 3.0])
    np.testing.assert_array_equal(found["huge"], [1.0, np.nan, 3.0])
    features, _ = encode(found)
    assert np.isfinite(features).all()


def test_days_become_the_dates_again() -> None:
    dates = pd.DataFrame({"launched": np.array(["2020-01-02T06:00", "NaT", FAR.isoformat()], dtype="datetime64[s]")})
    back = attributes.as_dates(attributes.as_numbers(dates).assign(size=1.0))
    assert list(back.columns) == ["launched", "size"]
    np.testing.assert_array_equal(back["launched"].to_numpy(), dates["launched"].to_numpy())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab whose products have a date, a decimal and a sum of whole numbers among their attributes."""
    one = tiny_lab.world(n_products=48, n_days=100)
    launched = [date(2020, 1, 1 + number % 28) for number in range(48)]
    described = one.products.assign(launched=launched, ounces=[Decimal(size) / 4 for size in one.products["size"]])
    old = "source: data/products.csv"
    new = "query: select *, sum(size) over (partition by sku) as total from 'data/products.parquet'"
    config = tiny_lab.CONFIG.replace(old, new).replace("[size, brand]", "[size, brand, launched, ounces, total]")
    where = "launched < date '2020-01-15' and ounces > 0.5"
    files = {"cut": tiny_lab.experiment("kind: time_bound, start: 2024-04-01, duration: 7", where)}
    root = tiny_lab.write_lab(tmp_path_factory.mktemp("lab"), files, config=config, one=one)
    described.to_parquet(root / "data" / "products.parquet", index=False)
    return root


def test_a_lab_with_dates_and_decimals_gets_numbers_for_the_forest_and_dates_for_the_scope(lab: Path) -> None:
    bench = Workbench.open(lab)
    assert validate.check(bench).errors == []
    experiment = bench.experiment("cut")
    features = validate._staged(bench).run_model(models()[FEATURES], experiment)
    described = frames.to_pandas(features)
    covered = np.array(scope.products(bench, experiment, features), dtype=object)
    X = frames.attributes(described, covered)
    assert {"launched, days since 1970", "ounces", "total"} <= set(X.columns)
    known = described.set_index("product_id").loc[covered]
    np.testing.assert_array_equal(X["ounces"], [float(one) for one in known["ounces"]])
    np.testing.assert_array_equal(X["total"], known["size"])
    assert (X["launched, days since 1970"] < 18276).all()
    assert np.isfinite(encode(X)[0]).all()


def test_decimals_and_dates_are_printed_as_numbers_and_dates(capsys: pytest.CaptureFixture[str]) -> None:
    show.rows(products(**{name: USABLE[name] for name in ("cents", "launched")}), "json")
    assert json.loads(capsys.readouterr().out) == [
        {"product_id": "a", "cents": 1.25, "launched": "2020-01-02"},
        {"product_id": "b", "cents": None, "launched": None},
        {"product_id": "c", "cents": 3, "launched": "9999-12-31"},
    ]


REFUSED = r"products.attributes == 'size', must be columns of numbers, .* time64"


def test_products_with_an_attribute_that_no_experiment_can_use_are_not_staged(tmp_path: Path) -> None:
    old, new = "source: data/products.csv", "query: select * replace (time '10:00' as size) from 'data/products.csv'"
    one = tiny_lab.world(n_products=4, n_days=3)
    root = tiny_lab.write_lab(tmp_path / "lab", {}, config=tiny_lab.CONFIG.replace(old, new), one=one)
    with pytest.raises(LabError, match=REFUSED):
        Workbench.open(root).run_model(models()[PRODUCTS])


def test_products_that_were_staged_with_one_reach_no_draw(lab: Path) -> None:
    bench = validate._staged(Workbench.open(lab))
    products = bench.in_memory[PRODUCTS]
    times = pa.array([time(10)] * products.num_rows)
    bench = bench.with_table(PRODUCTS, products.set_column(products.schema.get_field_index("size"), "size", times))
    with pytest.raises(LabError, match=REFUSED):
        bench.run_model(models()[FEATURES], bench.experiment("cut"))
