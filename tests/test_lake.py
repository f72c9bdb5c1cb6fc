from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pricelab_dagster import lake as module
from pricelab_dagster.engine import Engine
from pricelab_dagster.lake import Lake, LakeError
from pricelab_dagster.tables import TABLES

PLAN, SALES, PRODUCTS = "experiment.price_plan", "staging.stg_sales", "staging.stg_products"
FILLED = {
    pa.string(): lambda i: f"p{i}" if i % 5 else None,
    pa.date32(): lambda i: date(2024, 1, 1 + i % 28),
    pa.float64(): lambda i: float(i) if i % 7 else None,
    pa.int64(): lambda i: i * 3,
    pa.bool_(): lambda i: i % 2 == 0,
    pa.list_(pa.float64()): lambda i: [float(i), None, 0.5],
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def filled(name: str, n: int) -> pa.Table:
    """Rows of a table whose key is unique."""
    spec = TABLES[name]
    columns = {field.name: pa.array([FILLED[field.type](i) for i in range(n)], field.type) for field in spec.schema}
    first = next(key for key in spec.key if spec.schema.field(key).type in (pa.string(), pa.int64()))
    whole = spec.schema.field(first).type == pa.int64()
    columns[first] = pa.array([i if whole else f"id-{i:03d}" for i in range(n)], spec.schema.field(first).type)
    return pa.table(columns)


def partition_of(name: str) -> str | None:
    return "milk" if TABLES[name].partitioned else None


@pytest.mark.parametrize("name", TABLES)
def test_rows_come_back_as_they_were_written(lake: Lake, name: str) -> None:
    rows = filled(name, 30)
    written = lake.write(name, rows, partition_of(name))
    found = lake.read(name, partition_of(name))
    assert found.cast(TABLES[name].schema) == written.cast(TABLES[name].schema)
    by_key = [(key, "ascending") for key in TABLES[name].key]
    assert found.to_pylist() == rows.sort_by(by_key).to_pylist()
    assert [found.schema.field(field.name).type for field in TABLES[name].schema] == TABLES[name].schema.types


@pytest.mark.parametrize("name", TABLES)
def test_the_same_rows_in_another_order_and_in_chunks_give_the_same_bytes(lake: Lake, name: str) -> None:
    rows, rng = filled(name, 40), np.random.default_rng(3)
    lake.write(name, rows, partition_of(name), metadata={"b": 1, "a": date(2024, 1, 1)})
    path = lake.path(name, partition_of(name))
    first, printed = path.read_bytes(), lake.fingerprint(name)
    shuffled = rows.take(rng.permutation(40))
    chunked = pa.concat_tables([shuffled.slice(0, 7), shuffled.slice(7)]).select(rows.schema.names[::-1])
    lake.write(name, chunked, partition_of(name), metadata={"a": date(2024, 1, 1), "b": 1})
    assert path.read_bytes() == first
    assert lake.fingerprint(name) == printed
    lake.write(name, rows.slice(1), partition_of(name), metadata={"b": 1, "a": date(2024, 1, 1)})
    assert lake.fingerprint(name) != printed


def test_events_of_one_id_and_two_kinds_have_one_order(lake: Lake) -> None:
    day = date(2024, 1, 1)
    rows = [{"event_id": "1", "product_id": "a", "occurred_on": day, "kind": kind} for kind in ("rain", "sale")]
    schema = TABLES["staging.stg_events"].schema
    lake.write("staging.stg_events", pa.Table.from_pylist(rows, schema=schema))
    printed = lake.fingerprint("staging.stg_events")
    lake.write("staging.stg_events", pa.Table.from_pylist(rows[::-1], schema=schema))
    assert lake.fingerprint("staging.stg_events") == printed


def test_a_missing_column_is_named(lake: Lake) -> None:
    rows = filled(SALES, 2).drop_columns(["price", "cost"])
    with pytest.raises(LakeError, match=r"^staging\.stg_sales: missing columns \['price', 'cost'\]"):
        lake.write(SALES, rows)
    assert not lake.exists(SALES)


def test_an_extra_column_is_refused_but_in_open_ended_tables(lake: Lake) -> None:
    extra = pa.array(["x", "y"])
    with pytest.raises(LakeError, match=r"unknown columns \['brand'\]"):
        lake.write(SALES, filled(SALES, 2).append_column("brand", extra))
    lake.write(PRODUCTS, filled(PRODUCTS, 2).append_column("brand", extra))
    assert lake.read(PRODUCTS)["brand"].to_pylist() == ["x", "y"]
    with pytest.raises(LakeError, match=r"missing columns \['category'\]"):
        lake.write(PRODUCTS, filled(PRODUCTS, 2).drop_columns("category").append_column("brand", extra))


def test_columns_are_cast_to_the_declared_types_or_refused(lake: Lake) -> None:
    rows = filled(SALES, 2).set_column(2, "units", pa.array([3, 4], pa.int32()))
    assert lake.write(SALES, rows).schema.field("units").type == pa.float64()
    with pytest.raises(pa.ArrowInvalid):
        lake.write(SALES, rows.set_column(2, "units", pa.array(["three", "four"])))
    assert lake.read(SALES)["units"].to_pylist() == [3.0, 4.0]


def test_an_unknown_table_is_refused_with_those_that_exist(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"'staging.stg_sale' is no table of the lake\. The tables are .*stg_sales"):
        lake.write("staging.stg_sale", filled(SALES, 1))


def test_a_partition_belongs_to_partitioned_tables_only(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"stg_sales is not partitioned by experiment; got partition 'milk'"):
        lake.write(SALES, filled(SALES, 1), "milk")
    with pytest.raises(LakeError, match="price_plan is partitioned by experiment; got partition None"):
        lake.write(PLAN, filled(PLAN, 1))


def test_nothing_written_is_an_error_to_read_and_an_empty_table_to_query(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"price_plan, experiment milk: nothing there yet\. Materialise it first"):
        lake.read(PLAN, "milk")
    assert not lake.exists(PLAN, "milk")
    assert (lake.files(PLAN), lake.metadata(PLAN, "milk")) == ([], {})
    assert lake.source(PLAN, "milk") == TABLES[PLAN].schema.empty_table()


def test_partitions_are_read_together_and_apart(lake: Lake) -> None:
    for name, n in (("milk", 3), ("bread", 2)):
        lake.write(PLAN, filled(PLAN, n), name)
    assert lake.partitions(PLAN) == ["bread", "milk"]
    assert [lake.read(PLAN, name).num_rows for name in (None, "milk", "bread")] == [5, 3, 2]
    assert Engine().sql(f"select count(*) as n from {PLAN}", tables={PLAN: lake.source(PLAN)})["n"].to_pylist() == [5]
    assert lake.all_files() == [lake.path(PLAN, "bread"), lake.path(PLAN, "milk")]


def test_partitions_with_other_attributes_are_read_together(lake: Lake) -> None:
    features = "intermediate.int_product_features"
    lake.write(features, filled(features, 1).append_column("brand", pa.array(["x"])), "milk")
    lake.write(features, filled(features, 1).append_column("size_oz", pa.array([1.5])), "bread")
    found = lake.read(features)
    assert (found["brand"].to_pylist(), found["size_oz"].to_pylist()) == ([None, "x"], [1.5, None])


def test_facts_are_stored_beside_the_rows(lake: Lake) -> None:
    lake.write(PLAN, filled(PLAN, 1), "milk", metadata={"through": date(2024, 1, 6), "design": {"phase": 14}})
    assert lake.metadata(PLAN, "milk") == {"through": "2024-01-06", "design": {"phase": 14}}
    lake.write(PLAN, filled(PLAN, 1), "milk")
    assert lake.metadata(PLAN, "milk") == {}


def test_one_computation_is_shared_by_key(lake: Lake) -> None:
    clusters = "spillover.product_clusters"
    computed = pa.table({"product_id": ["a"], "cluster_id": ["a"]})
    calls = []

    def compute() -> pa.Table:
        calls.append(1)
        return computed

    rows, origin = lake.shared(clusters, "milk", "key", compute)
    lake.write(clusters, rows, "milk", metadata={"shared_key": "key"})
    assert (rows["experiment_id"].to_pylist(), origin, len(calls)) == (["milk"], None, 1)
    rows, origin = lake.shared(clusters, "bread", "key", compute)
    assert (rows["experiment_id"].to_pylist(), origin, len(calls)) == (["bread"], "milk", 1)
    _, origin = lake.shared(clusters, "bread", "another key", compute)
    assert (origin, len(calls)) == (None, 2)


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write(SALES, filled(SALES, 3))
    before = lake.fingerprint(SALES)

    def fail(rows: pa.Table, where: Path, **options: object) -> None:
        where.write_bytes(b"PAR1 half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="no space left"):
        lake.write(SALES, filled(SALES, 4))
    assert lake.fingerprint(SALES) == before
    assert list(lake.path(SALES).parent.iterdir()) == [lake.path(SALES)]


def test_no_reader_ever_sees_a_file_that_is_being_written(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write(PLAN, filled(PLAN, 3), "milk")
    write, seen = pq.write_table, []

    def look(rows: pa.Table, where: Path, **options: object) -> None:
        write(rows, where, **options)
        seen.append((lake.files(PLAN), lake.read(PLAN).num_rows, lake.sweep()))

    monkeypatch.setattr(pq, "write_table", look)
    lake.write(PLAN, filled(PLAN, 4), "milk")
    lake.write(PLAN, filled(PLAN, 4), "bread")
    milk, bread = lake.path(PLAN, "milk"), lake.path(PLAN, "bread")
    assert seen == [([milk], 3, []), ([milk], 4, [])]
    assert lake.files(PLAN) == [bread, milk]


def test_sweep_removes_what_nobody_is_writing(lake: Lake) -> None:
    lake.write(PLAN, filled(PLAN, 3), "milk")
    orphans = [
        lake.path(PLAN, "milk").with_name(".bread.parquet.writing"),
        lake.root / "staging" / ".x.parquet.writing",
    ]
    for orphan in orphans:
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(b"PAR1 half")
    assert lake.files(PLAN) == [lake.path(PLAN, "milk")]
    assert lake.sweep() == sorted(orphans)
    assert lake.sweep() == []
    assert (lake.read(PLAN).num_rows, lake.all_files()) == (3, [lake.path(PLAN, "milk")])


def test_sweep_leaves_a_file_alone_whose_name_another_writer_has_taken(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = lake.root / "staging" / ".x.parquet.writing"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"the first writer's")

    def taken(handle: int, *, wait: bool) -> bool:
        # between opening and locking, the first writer renames its file away and a second one begins
        orphan.rename(orphan.with_name("x.parquet"))
        orphan.write_bytes(b"the second writer's")
        return True

    monkeypatch.setattr(module, "_lock", taken)
    assert lake.sweep() == []
    assert orphan.read_bytes() == b"the second writer's"


def writes(content: bytes) -> Callable[[Path], None]:
    def build(temporary: Path) -> None:
        temporary.write_bytes(content)

    return build


def test_a_database_is_swapped_in_whole(lake: Lake) -> None:
    path = lake.root.parent / "warehouse.duckdb"
    lake.publish_database(path, writes(b"first"))

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        lake.publish_database(path, fail)
    assert path.read_bytes() == b"first"
    lake.publish_database(path, writes(b"second"))
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_database_left_half_built_does_not_stand_in_the_way(lake: Lake) -> None:
    path = lake.root.parent / "warehouse.duckdb"
    left = path.with_name(".warehouse.duckdb.writing")
    left.write_bytes(b"half")
    seen = []

    def build(temporary: Path) -> None:
        seen.append((temporary == left, temporary.exists()))
        temporary.write_bytes(b"whole")

    lake.publish_database(path, build)
    assert (seen, path.read_bytes(), left.exists()) == ([(True, False)], b"whole", False)
