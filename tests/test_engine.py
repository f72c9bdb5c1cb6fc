from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pricelab_dagster.engine import (
    Engine,
    EngineError,
    View,
    check_portable,
    connect,
    dependencies,
    query_database,
    single_select,
    write_database,
)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no query was given."""
    path = tmp_path / "secret.parquet"
    pq.write_table(pa.table({"x": [42]}), path)
    return path


@pytest.fixture
def lake_file(tmp_path: Path) -> Path:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), path)
    return path


@pytest.fixture
def database(tmp_path: Path, lake_file: Path) -> Path:
    path = tmp_path / "warehouse.duckdb"
    write_database(path, tables={"marts.t": pa.table({"x": [1, 2, 3]})}, views={"experiment.v": [lake_file]})
    return path


def test_a_query_reads_arrow_tables_files_and_views_under_their_names(lake_file: Path) -> None:
    tables = {
        "a.arrow": pa.table({"x": [10]}),
        "b.files": [lake_file],
        "c.view": View(f"select x + 100 as x from read_parquet('{lake_file}')", (lake_file,)),
    }
    query = "select x from a.arrow union all select x from b.files union all select x from c.view order by x"
    assert Engine().sql(query, tables=tables)["x"].to_pylist() == [1, 2, 10, 101, 102]


def test_files_of_one_table_may_differ_in_their_columns(tmp_path: Path, lake_file: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"y": [7], "x": [3]}), other)
    found = Engine().sql("select x, y from s.t order by x", tables={"s.t": [lake_file, other]})
    assert found.to_pylist() == [{"x": 1, "y": None}, {"x": 2, "y": None}, {"x": 3, "y": 7}]


def test_a_path_such_as_experiment_equals_milk_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "experiment=milk" / "part.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"x": [1]}), path)
    assert Engine().sql("select * from s.t", tables={"s.t": [path]}).schema.names == ["x"]


def test_parameters_bind_as_values_and_unused_ones_are_ignored() -> None:
    injected = "1'; drop table s.t; --"
    found = Engine().sql("select $a as a, $b is null as b", parameters={"a": injected, "b": None, "unused": 1})
    assert found.to_pylist() == [{"a": injected, "b": True}]


def test_a_timestamp_becomes_a_date_in_the_labs_time_zone() -> None:
    query = "select cast(timestamptz '2024-01-01 02:00:00+00' as date) as day"
    days = [str(Engine(time_zone=zone).sql(query)["day"][0]) for zone in ("UTC", "America/New_York")]
    assert days == ["2024-01-01", "2023-12-31"]


def test_names_and_paths_with_quotes_are_only_names_and_paths(tmp_path: Path) -> None:
    path = tmp_path / 'it\'s a "part".parquet'
    pq.write_table(pa.table({"x": [1]}), path)
    query = """select x from "odd ""schema"."odd 'table" """
    assert Engine().sql(query, tables={"odd \"schema.odd 'table": [path]}).num_rows == 1


def test_sums_of_doubles_have_the_same_bytes_in_every_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "sales.parquet"
    n = 400_000  # several row groups, which several threads would add in a changing order
    pq.write_table(pa.table({"key": rng.integers(0, 20, n), "x": rng.random(n)}), path, row_group_size=20_000)
    query = "select key, sum(x) as total from s.t group by key order by key"
    first, *others = [Engine().sql(query, tables={"s.t": [path]}) for _ in range(4)]
    assert all(other.equals(first) for other in others)


REFUSED_FILES = [
    "select * from read_parquet('{path}')",
    "select * from '{path}'",
    "select * from read_csv('{path}')",
    "select * from read_text('{path}')",
    "select * from read_blob('{path}')",
    "select * from glob('{path}')",
    "select * from parquet_metadata('{path}')",
    "select * from query('select * from ''{path}''')",
]


@pytest.mark.parametrize("query", REFUSED_FILES)
def test_a_file_that_was_not_given_is_not_read(secret: Path, lake_file: Path, query: str) -> None:
    with pytest.raises(EngineError, match=r"Permission Error|disabled"):
        Engine().sql(query.format(path=secret), tables={"s.t": [lake_file]})


@pytest.mark.parametrize("query", REFUSED_FILES)
def test_a_warehouse_query_reads_only_the_lake(secret: Path, lake_file: Path, database: Path, query: str) -> None:
    with pytest.raises(EngineError, match=r"Permission Error|disabled"):
        query_database(database, query.format(path=secret), lake_files=[lake_file])


def test_a_file_that_was_given_is_read_by_its_absolute_path(secret: Path) -> None:
    assert Engine().sql(f"select x from read_parquet('{secret}')", files=[secret])["x"].to_pylist() == [42]


STATEMENTS = [
    "copy s.t to '{path}'",
    "copy (select 1) to '{path}'",
    "attach '{path}'",
    "install httpfs",
    "load json",
    "set threads = 4",
    "pragma threads = 4",
    "call pragma_version()",
    "insert into s.t values (1)",
    "update s.t set x = 1",
    "delete from s.t",
    "create table s.u as select 1",
    "drop table s.t",
    "export database '{path}'",
    "explain analyze select 1",
    "select 1; select 2",
    "select 1; drop table s.t",
    "with x as (delete from s.t returning *) select * from x",
    "select * into s.u from s.t",
    "",
    "not even ( SQL",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_only_one_select_runs(tmp_path: Path, statement: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        Engine().sql(statement.format(path=out), tables={"s.t": pa.table({"x": [1]})})
    assert not out.exists()


@pytest.mark.parametrize("statement", [*STATEMENTS[:6], *STATEMENTS[8:13]])
def test_the_warehouse_is_read_only(tmp_path: Path, database: Path, statement: str) -> None:
    before = database.read_bytes()
    with pytest.raises(EngineError):
        query_database(database, statement.format(path=tmp_path / "out").replace("s.t", "marts.t"), lake_files=[])
    assert database.read_bytes() == before


def test_the_connection_itself_refuses_what_the_parser_would_let_through(database: Path, secret: Path) -> None:
    with connect(str(database), read_only=True) as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("insert into marts.t values (9)")
    engine = Engine()
    with engine._connection({"s.t": pa.table({"x": [1]})}, []) as connection:
        for statement in (
            f"copy s.t to '{secret.with_suffix('.out')}'",
            f"attach '{secret.with_suffix('.duckdb')}'",
            f"select * from '{secret}'",
            "set lock_configuration = false",
            "set enable_external_access = true",
            f"set allowed_paths = ['{secret}']",
            "install httpfs",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)


def test_python_variables_are_no_tables(database: Path) -> None:
    hidden = pa.table({"x": [1]})
    with pytest.raises(EngineError, match="hidden does not exist"):
        Engine().sql("select * from hidden")
    with pytest.raises(EngineError, match="hidden does not exist"):
        query_database(database, "select * from hidden", lake_files=[])
    with connect(":memory:") as connection, pytest.raises(duckdb.Error, match="hidden does not exist"):
        connection.sql("select * from hidden")
    assert hidden.num_rows == 1


def test_a_query_sees_only_the_tables_it_is_given() -> None:
    with pytest.raises(EngineError, match="u does not exist"):
        Engine().sql("select * from s.u", tables={"s.t": pa.table({"x": [1]})})


def test_the_warehouse_holds_tables_and_views_over_the_lake(database: Path, lake_file: Path) -> None:
    query = "select (select sum(x) from marts.t) as t, (select sum(x) from experiment.v) as v"
    assert query_database(database, query, lake_files=[lake_file]).to_pylist() == [{"t": 6, "v": 3}]
    with pytest.raises(EngineError, match="Permission Error"):
        query_database(database, "select * from experiment.v", lake_files=[])


def test_a_failed_query_leaves_no_connection_behind(database: Path) -> None:
    with pytest.raises(EngineError) as failure:
        query_database(database, "select nothing from marts.t", lake_files=[])
    # the traceback still holds the frames, and a connection that they kept open would lock the file
    assert failure.tb is not None
    with connect(str(database)) as connection:
        connection.execute("insert into marts.t values (4)")
    assert query_database(database, "select x from marts.t", lake_files=[]).num_rows == 4


def test_readers_of_the_warehouse_do_not_shut_each_other_out(database: Path) -> None:
    with connect(str(database), read_only=True) as connection:
        connection.execute("select * from marts.t")
        # a connection that may write would be refused beside this one
        assert query_database(database, "select x from marts.t", lake_files=[]).num_rows == 3


def test_errors_are_one_line() -> None:
    with pytest.raises(EngineError) as failure:
        Engine().sql("select y from s.t", tables={"s.t": pa.table({"x": [1]})})
    assert "\n" not in str(failure.value)
    assert "y" in str(failure.value)


SCHEMA = pa.schema([("key", pa.string()), ("total", pa.float64())])


def total(part: pa.Table) -> pa.Table:
    return pa.table({"unused": [0], "total": [pc.sum(part["x"]).as_py()], "key": [part["key"][0].as_py()]})


def test_by_group_returns_the_groups_in_order_and_in_the_schema() -> None:
    table = pa.table({"key": ["b", "a", "b", "c"], "x": [1, 2, 3, 4]})
    found = Engine().by_group(table, "key", total, schema=SCHEMA)
    assert found.schema == SCHEMA
    assert found.to_pylist() == [{"key": "a", "total": 2.0}, {"key": "b", "total": 4.0}, {"key": "c", "total": 4.0}]
    assert Engine().by_group(table.take([3, 2, 1, 0]), "key", total, schema=SCHEMA).equals(found)


def test_by_group_of_no_rows_is_an_empty_table() -> None:
    empty = pa.table({"key": pa.array([], pa.string()), "x": pa.array([], pa.int64())})
    found = Engine().by_group(empty, "key", total, schema=SCHEMA)
    assert (found.num_rows, found.schema) == (0, SCHEMA)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select * from a.t", ["a.t"]),
        ("from a.t select x", ["a.t"]),
        ("select * from a.t as t join b.t as u on t.x = u.x", ["a.t", "b.t"]),
        ("select * from a.t join b.t on true", ["a.t", "b.t"]),
        ("with t as (select * from a.t) select * from t", ["a.t"]),
        ("with t as (select * from a.t) select * from a.t", ["a.t"]),
        ("with t as (select 1 as x) select * from t join a.t on true", ["a.t"]),
        ("select * from (with t as (select * from a.u) select * from t) as s join a.t on true", ["a.t", "a.u"]),
        ("with one as (select * from a.t), two as (select * from one) select * from two", ["a.t"]),
        ("select x from a.t union all select x from b.t except select x from c.t", ["a.t", "b.t", "c.t"]),
        ("select * from a.t where x in (select x from b.t)", ["a.t", "b.t"]),
        ("select * from a.t where exists (select 1 from b.t where b.t.x = a.t.x)", ["a.t", "b.t"]),
        ("select (select max(x) from b.t) as m from a.t", ["a.t", "b.t"]),
        ("select * from a.t cross join lateral (select * from b.t where b.t.x = a.t.x) as u", ["a.t", "b.t"]),
        ("select x from a.t order by (select max(x) from b.t)", ["a.t", "b.t"]),
        ("select * from range(5)", []),
        ("select * from unnest([1, 2]) as u(x)", []),
        ("select * from a.t cross join range(5)", ["a.t"]),
        ("with recursive r as (select 1 as x union all select x + 1 from r where x < 3) select * from r", []),
    ],
)
def test_dependencies_follow_the_scope_of_each_name(query: str, expected: list[str]) -> None:
    assert dependencies(query) == expected


NOT_PORTABLE = {
    "list(x order by y)": "order",
    "array_agg(x)": "order",
    "string_agg(x, ',' order by y)": "order",
    "x[1]": "indexing",
    "x[1:2]": "indexing",
    "list_extract(x, 1)": "not know this function",
    "percentile_cont(0.5) within group (order by x)": "approximate",
    "quantile_cont(x, 0.5)": "approximate",
    "percentile_disc(0.5) within group (order by x)": "kernel",
    "quantile_disc(x, 0.5)": "kernel",
    "approx_quantile(x, 0.5)": "kernel",
    "median(x)": "kernel",
    "log(x)": "base 10",
    "log10(x)": "base 10",
    "log2(x)": "base 10",
    "ln(x)": "null on Spark",
    "dayofweek(x)": "weekday",
    "isodow(x)": "weekday",
    "weekday(x)": "not know this function",
    "dayname(x)": "weekday",
    "extract(dow from x)": "parts of dates",
    "extract(year from x)": "parts of dates",
    "date_part('dow', x)": "not know this function",
    "strftime(x, '%a')": "formats",
    "cast(x as decimal(10, 2)) / 3": "truncates",
    "x::numeric": "truncates",
    "x // 2": "truncates",
    "mode(x)": "ties",
    "arg_max(x, y)": "ties",
    "max_by(x, y)": "ties",
    "first(x)": "row order",
    "last(x)": "row order",
    "any_value(x)": "row order",
    "hash(x)": "not know this function",
    "random()": "chance",
    "current_date": "clock",
    "current_timestamp": "clock",
    "now()": "not know this function",
}


@pytest.mark.parametrize("expression", NOT_PORTABLE)
def test_what_means_something_else_on_spark_is_refused(expression: str) -> None:
    for query in (
        f"select {expression} as z from s.t",
        f"with t as (select {expression} as z from s.t) select z from t",
        f"select y from s.t where y in (select {expression} from s.u)",
    ):
        with pytest.raises(EngineError, match=NOT_PORTABLE[expression]) as failure:
            check_portable("marts.some_model", query)
        assert str(failure.value).startswith("marts.some_model: ")


@pytest.mark.parametrize(
    "relation",
    [
        "(pivot s.t on x using sum(y))",
        "s.t pivot (sum(y) for x in (1, 2))",
        "s.t unpivot (y for x in (a, b))",
        "read_parquet('a.parquet')",
        "s.t, read_csv('a.csv')",
        "'a.parquet'",
        "glob('*')",
        "duckdb_settings()",
        "generate_series(5)",
        "query('select 1')",
        "query_table('s.t')",
    ],
)
def test_relations_that_hide_their_tables_are_refused(relation: str) -> None:
    with pytest.raises(EngineError, match=r"^marts\.some_model: "):
        check_portable("marts.some_model", f"select * from {relation}")


@pytest.mark.parametrize(
    "query", ["pivot s.t on x using sum(y)", "select 1; select 2", "copy s.t to 'x'", "show tables"]
)
def test_a_model_is_one_select(query: str) -> None:
    with pytest.raises(EngineError, match="one SELECT is allowed"):
        check_portable("marts.some_model", query)


def test_a_table_without_a_schema_is_refused_and_a_cte_is_not() -> None:
    with pytest.raises(EngineError, match="table 't' has no schema"):
        check_portable("m", "select * from t")
    with pytest.raises(EngineError, match="table 'u' has no schema"):
        check_portable("m", "with t as (select 1 as x) select * from t where x in (select x from u)")
    check_portable("m", "with t as (select 1 as x) select * from t")


@pytest.mark.parametrize(
    "query",
    [
        "select * from range(5)",
        "select * from unnest([1, 2]) as u(x)",
        "select cast(unnest(range(3)) as bigint) as i from s.t",
        "select ln(nullif(x, 0)) as z from s.t",
        "select last_value(x ignore nulls) over (partition by y order by d) as z from s.t",
        "select date_trunc('week', d) as week, datediff('day', d, e) as days from s.t",
        "select x / nullif(y, 0) as z, cast(x as double) / 3 as w from s.t",
    ],
)
def test_the_portable_subset_passes(query: str) -> None:
    check_portable("m", query)


def test_single_select_names_what_it_found() -> None:
    with pytest.raises(EngineError, match=r"^found insert, one SELECT is allowed\. Give a single read-only query\.$"):
        single_select("insert into s.t select 1")
    with pytest.raises(EngineError, match=r"^found nothing"):
        single_select("-- a comment alone")


def test_no_file_appears_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Engine().sql("select count(*) from range(100000)")
    assert list(tmp_path.iterdir()) == []


def test_a_view_that_does_not_bind_is_an_engine_error_of_one_line() -> None:
    broken = View("select nope from (select 1 as a)")
    with pytest.raises(EngineError, match="nope") as error:
        Engine().sql("select * from source.x", tables={"source.x": broken})
    assert "\n" not in str(error.value)
