import pytest

from pricelab_dagster.lab.errors import Rule
from pricelab_dagster.lab.sql import (
    expand_paths,
    expression_columns,
    parse_expression,
    parse_query,
    query_paths,
    unknown_column_error,
)


@pytest.mark.parametrize(
    "text",
    [
        "UNITS is not null",
        "SPEND / nullif(UNITS, 0)",
        "category in ('MILK', 'EGGS') and units_per_day >= 1",
        "lpad(UPC::varchar, 12, '0')",
        "name glob 'A*'",
        '"Size oz" > 2',
        "list_contains(tags, 'x')",
        "strptime(D, '%d.%m.%Y')::date",
    ],
)
def test_expressions_over_one_row_are_allowed(text: str) -> None:
    assert parse_expression(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "UNITS is not",
        "(UNITS",
        "'open",
        "a; b",
        "a, b",
        "a as b",
        "select 1",
        "drop table t",
        "copy t to 'x'",
        "a in (select b from t)",
        "exists(from 'x.csv')",
        "read_csv('x.csv')",
        "read_text('x')",
        "glob('*')",
        "getenv('HOME')",
        "current_setting('x')",
        "random() < 0.5",
        "D < current_date",
        "D < now()",
        "sum(UNITS)",
        "lag(UNITS) over ()",
        "*",
        "columns('a.*')",
        "unnest(tags)",
        "$value",
        "?",
        "#1",
        "(" * 3000 + "a" + ")" * 3000,
    ],
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(Rule):
        parse_expression(text)


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SPEND / nullif(UNITS, 0)", {"SPEND", "UNITS"}),
        ("1.5", set()),
        ('size.value + "Pack Size"', {"size", "Pack Size"}),
        ("list_transform(tags, x -> x || suffix)", {"tags", "suffix"}),
        ("[z for z in tags if z > low]", {"tags", "low"}),
    ],
)
def test_expression_columns(sql: str, columns: set[str]) -> None:
    assert expression_columns(sql) == columns


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ("select * from 'a.csv'", ["a.csv"]),
        ('from "a.csv" select x', ["a.csv"]),
        ("with t as (from read_parquet('a/*.parquet')) select * from t join T as u using (k)", ["a/*.parquet"]),
        ("select * from read_csv(['a.csv', 'b.csv'], header = true)", ["a.csv", "b.csv"]),
        ("from 'a.csv' union all from read_json_auto('b.json') union all from 'a.csv'", ["a.csv", "b.json"]),
        ("select (select max(x) from 'a.csv') as m from range(3)", ["a.csv"]),
        ("from (pivot 'a.csv' on b using sum(c))", ["a.csv"]),
        ("select * from unnest([1, 2]) as u(x);", []),
    ],
)
def test_query_paths(query: str, paths: list[str]) -> None:
    assert query_paths(parse_query(query)) == paths


@pytest.mark.parametrize(
    "query",
    [
        "",
        "select 1; select 2",
        "create table t as select 1",
        "select 1 into t",
        "copy (select 1) to 'x.csv'",
        "attach 'x.db'",
        "explain select 1",
        "pragma version",
        "select * from",
        "select * from sales",
        "select * from main.sales",
        "select * from read_text('x')",
        "select * from glob('*')",
        "from query('select 1')",
        "from duckdb_settings()",
        "from read_csv('a' || 'b')",
        "from read_csv($path)",
        "from read_parquet()",
        "from read_csv(getenv('X'))",
        "select now() from 'a.csv'",
    ],
)
def test_other_queries_are_refused(query: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Rule):
        parse_query(query)
    assert capfd.readouterr() == ("", "")


def test_expanding_names_every_file_and_keeps_the_query() -> None:
    files = {"a.csv": ["/lab/a.csv"], "b/*.csv": ["/lab/b/1.csv", "/lab/b/2.csv"]}
    tree = parse_query(
        "select a.x from 'a.csv' join 'b/*.csv' b on a.x = b.x join read_csv('b/*.csv', header=true) c on b.x = c.x"
    )
    before = tree.sql("duckdb")

    expanded = expand_paths(tree, files.__getitem__, lambda _: "read_csv").sql("duckdb")

    listed = "['/lab/b/1.csv', '/lab/b/2.csv']"
    assert expanded == (
        f'SELECT a.x FROM "/lab/a.csv" JOIN READ_CSV({listed}) AS b ON a.x = b.x '
        f"JOIN READ_CSV({listed}, header = TRUE) AS c ON b.x = c.x"
    )
    assert tree.sql("duckdb") == before


def test_unknown_column_names_it_the_closest_and_what_there_is() -> None:
    error = unknown_column_error(
        "pricelab.yaml", "sales.columns.price", "SPNED / nullif(units, 0)", ["UPC", "UNITS", "SPEND"]
    )
    assert str(error) == (
        "pricelab.yaml: sales.columns.price == 'SPNED / nullif(units, 0)', must be over columns that exist, and SPNED "
        "does not. Did you mean SPEND? The columns are UPC, UNITS, SPEND."
    )


def test_unknown_column_shortens_a_long_list() -> None:
    error = unknown_column_error("pricelab.yaml", "sales.where", "zzz", [f"c{number}" for number in range(15)])
    assert str(error).endswith("The columns are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 3 more.")


def test_unknown_column_needs_one() -> None:
    with pytest.raises(ValueError, match="must have a column outside available"):
        unknown_column_error("pricelab.yaml", "sales.where", "units > 0", ["UNITS"])
