import datetime as dt
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pricelab_dagster.engine import Engine
from pricelab_dagster.lab import Lab, LabError
from pricelab_dagster.lab.config import EventsSource, ProductsSource, SalesSource
from pricelab_dagster.lab.sources import Source

SALES_ROWS = [
    {"product_id": "0012", "date": dt.date(2017, 1, 1), "units": 2.0, "price": 1.5},
    {"product_id": "0012", "date": dt.date(2017, 1, 2), "units": 0.0, "price": None},
    {"product_id": "0013", "date": dt.date(2017, 1, 1), "units": 4.0, "price": 2.5},
]
COLUMNS = {"product_id": "UPC", "date": "DAY", "units": "UNITS", "price": "SPEND / nullif(UNITS, 0)"}


def rows(source: Source, root: Path) -> list[dict[str, Any]]:
    return Engine().sql(source.select(root), files=source.files(root)).to_pylist()


def sales(**keys: Any) -> SalesSource:
    return SalesSource.model_validate({"columns": COLUMNS} | keys)


@pytest.mark.parametrize(
    "origin",
    [
        {"source": "data/sales.csv"},
        {"source": "data/*.csv"},
        {"source": ["data/sales.csv", "data/s*.csv"]},
        {"query": "select * from 'data/sales.csv' where UPC <> 'x'"},
        {"query": "select * from read_csv('data/*.csv', types = {'UPC': 'VARCHAR'})"},
        {"query": "with s as (from 'data/s*.csv') select * from s -- all\n"},
    ],
)
@pytest.mark.parametrize("folder", ["plain", "we[ird] * lab's"])
def test_sales_select_on_a_locked_engine(
    origin: dict[str, Any], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / folder / "data"
    data.mkdir(parents=True)
    lines = ["UPC,DAY,UNITS,SPEND", "0012,2017-01-01,2,3", "0012,2017-01-02,0,0", "0013,2017-01-01,4,10"]
    (data / "sales.csv").write_text("\n".join(lines) + "\n")
    elsewhere = tmp_path / "elsewhere" / "data"
    elsewhere.mkdir(parents=True)
    (elsewhere / "sales.csv").write_text("UPC,DAY,UNITS,SPEND\nwrong,2017-01-01,1,1\n")
    monkeypatch.chdir(elsewhere.parent)

    assert rows(sales(**origin), tmp_path / folder) == SALES_ROWS


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    records = [{"UPC": "0012", "DAY": "2017-01-01", "UNITS": 2, "SPEND": 3.0}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "s.parquet")
    (tmp_path / "s.json").write_text(json.dumps(records))
    (tmp_path / "s.ndjson").write_text(json.dumps(records[0]) + "\n")
    (tmp_path / "s.jsonl").write_text(json.dumps(records[0]) + "\n")
    (tmp_path / "s.csv").write_text("UPC,DAY,UNITS,SPEND\n0012,2017-01-01,2,3.0\n")

    for suffix in ("parquet", "json", "ndjson", "jsonl", "csv"):
        assert rows(sales(source=f"s.{suffix}"), tmp_path) == SALES_ROWS[:1], suffix


def test_compressed_csv_and_files_with_columns_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"UPC,DAY,UNITS,SPEND\n0012,2017-01-01,2,3\n"))
    (tmp_path / "b.csv").write_text("SPEND,UNITS,DAY,UPC,MORE\n10,4,2017-01-01,0013,x\n")

    result = rows(sales(source=["a.csv.gz", "b.csv"]), tmp_path)
    assert sorted(result, key=lambda row: row["product_id"]) == [SALES_ROWS[0], SALES_ROWS[2]]


@pytest.mark.parametrize("mapping", ["UPC", "upc", "(UPC)", "UPC::varchar", "'' || UPC"])
@pytest.mark.parametrize("product_id", ["0012", "1.50", "1e3"])
def test_ids_that_look_like_numbers_stay_as_written(mapping: str, product_id: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"UPC,DAY,UNITS,SPEND\n{product_id},2017-01-01,2,3\n")
    source = sales(source="s.csv", columns=COLUMNS | {"product_id": mapping})
    assert rows(source, tmp_path) == [SALES_ROWS[0] | {"product_id": product_id}]


def test_where_and_cost(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("UPC,DAY,UNITS,SPEND,COST\na,2017-01-01,2,3,1\nb,2017-01-01,,3,1\n")
    source = sales(source="s.csv", where="UNITS is not null", columns=COLUMNS | {"cost": "COST"})
    assert [(row["product_id"], row["cost"]) for row in rows(source, tmp_path)] == [("a", 1.0)]
    assert source.expressions() == {f"columns.{k}": v for k, v in (COLUMNS | {"cost": "COST"}).items()} | {
        "where": "UNITS is not null"
    }


def test_products_have_one_category_unless_mapped_and_their_attributes(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("UPC,Brand,size oz,CAT\n01,a,2.5,3\n")
    keys: dict[str, Any] = {"source": "p.csv", "attributes": ["Brand", "size oz"]}

    plain = ProductsSource.model_validate(keys | {"columns": {"product_id": "UPC"}})
    mapped = ProductsSource.model_validate(keys | {"columns": {"product_id": "UPC", "category": "CAT"}})

    assert rows(plain, tmp_path) == [{"product_id": "01", "category": "all", "Brand": "a", "size oz": 2.5}]
    assert rows(mapped, tmp_path) == [{"product_id": "01", "category": "3", "Brand": "a", "size oz": 2.5}]


def test_events_get_an_id_from_product_date_and_kind(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("ID,UPC,D,K\n007,01,2017-01-02,mailer\n")
    columns = {"product_id": "UPC", "occurred_on": "D", "kind": "K"}
    event = {"product_id": "01", "occurred_on": dt.date(2017, 1, 2), "kind": "mailer"}

    plain = EventsSource.model_validate({"source": "e.csv", "columns": columns})
    mapped = EventsSource.model_validate({"source": "e.csv", "columns": columns | {"event_id": "ID"}})

    assert rows(plain, tmp_path) == [{"event_id": "01/2017-01-02/mailer"} | event]
    assert rows(mapped, tmp_path) == [{"event_id": "007"} | event]


def test_all_columns_are_there_to_be_listed_when_a_mapped_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("SKU,DAY\n1,2017-01-01\n")
    source = sales(source="s.csv")
    assert Engine().sql(source.select_all(tmp_path), files=source.files(tmp_path)).column_names == ["SKU", "DAY"]


def test_files_are_absolute_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv"):
        (tmp_path / name).write_text("x\n1\n")
    source = sales(source=["b.csv", "*.csv", str(tmp_path / "a.csv"), "../" + tmp_path.name + "/a.csv"])
    assert source.files(tmp_path) == [tmp_path / "a.csv", tmp_path / "b.csv"]


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (
            {"source": "data/none/*.csv"},
            "pricelab.yaml: sales.source == 'data/none/*.csv', must be a path or glob of existing files. Looked for "
            "{root}/data/none/*.csv and found nothing; name a file or a glob such as folder/*.parquet.",
        ),
        (
            {"source": "data"},
            "pricelab.yaml: sales.source == 'data', must be a path or glob of existing files. Looked for {root}/data "
            "and found only a folder; name a file or a glob such as folder/*.parquet.",
        ),
        (
            {"query": "select * from read_csv('gone.csv')"},
            "pricelab.yaml: sales.query == 'gone.csv', must be a path or glob of existing files. Looked for "
            "{root}/gone.csv and found nothing; name a file or a glob such as folder/*.parquet.",
        ),
        (
            {"query": "from 'data/sales.xlsx'"},
            "pricelab.yaml: sales.query == 'sales.xlsx', must be files ending in .parquet, .csv, .csv.gz, .json, "
            ".jsonl, .ndjson. Convert or rename it.",
        ),
        (
            {"source": "data/sales.xlsx"},
            "pricelab.yaml: sales.source == 'sales.xlsx', must be files ending in .parquet, .csv, .csv.gz, .json, "
            ".jsonl, .ndjson. Convert or rename it.",
        ),
        (
            {"source": ["data/sales.csv", "data/sales.json"]},
            "pricelab.yaml: sales.source == 'sales.csv and sales.json', must be files of one format. Narrow the path, "
            "or combine the formats under `query:`.",
        ),
    ],
)
def test_wrong_paths(origin: dict[str, Any], line: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("sales.csv", "sales.json", "sales.xlsx"):
        (tmp_path / "data" / name).write_text("x\n1\n")
    source = sales(**origin)
    for call in (source.files, source.select, source.select_all):
        with pytest.raises(LabError) as caught:
            call(tmp_path)
        assert str(caught.value) == line.format(root=os.fspath(tmp_path))


def test_the_loaded_config_compiles(make_lab: Any) -> None:
    lab = Lab.load(make_lab())
    assert list(lab.config.sources()) == ["sales"]
    assert rows(lab.config.sales, lab.root) == SALES_ROWS


def test_events_may_wait_for_their_first_file(tmp_path: Path) -> None:
    columns = {"product_id": "sku", "occurred_on": "day", "kind": "'rain'"}
    waiting = EventsSource.model_validate({"source": "events/*.csv", "columns": columns})
    assert waiting.files(tmp_path) == []
    assert rows(waiting, tmp_path) == []
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "one.csv").write_text("sku,day\n0012,2024-01-01\n")
    assert [row["product_id"] for row in rows(waiting, tmp_path)] == ["0012"]
    named = EventsSource.model_validate({"source": "events/two.csv", "columns": columns})
    with pytest.raises(LabError, match=r"events\.source == 'events/two\.csv'"):
        named.files(tmp_path)
