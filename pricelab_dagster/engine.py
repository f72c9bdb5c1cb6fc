"""The one place that opens DuckDB: `sql` and `by_group` on locked-down connections, and the gate for portable SQL."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.scope import traverse_scope


@dataclass(frozen=True, slots=True)
class View:
    """A SELECT over files outside the lake, which stands in a query under a table's name."""

    query: str
    files: tuple[Path, ...] = ()


Table: TypeAlias = "Sequence[Path] | pa.Table | View"
"""What a query may read under a name: Parquet files of the lake, an Arrow table, or a view over other files."""

DIALECT = "duckdb"


class EngineError(Exception):
    """A query that may not run here, or that DuckDB refused."""


@dataclass(frozen=True, slots=True)
class Engine:
    """DuckDB in memory: each call opens its own connection, which sees only the tables it is given.

    Parameters
    ----------
    time_zone : the zone in which timestamps become dates.
    threads : DuckDB's threads. Several add floats in a changing order, so that equal input gives other last digits.
    """

    time_zone: str = "UTC"
    threads: int = 1

    def sql(
        self,
        query: str,
        *,
        tables: Mapping[str, Table] | None = None,
        parameters: Mapping[str, object] | None = None,
        files: Sequence[Path] = (),
    ) -> pa.Table:
        """Return the rows of one SELECT that reads only `tables` (by `schema.name`) and `files` (by absolute path).

        `parameters` bind to `$name` in the query; those that the query does not name are ignored.

        Raises
        ------
        EngineError : when `query` is not one SELECT, or when DuckDB refuses it.
        """
        tree = single_select(query)
        named = {node.name for node in tree.find_all(exp.Parameter, exp.Placeholder)}
        bound = {key: value for key, value in (parameters or {}).items() if key in named}
        try:
            with self._connection(tables or {}, files) as connection:
                return connection.sql(query, params=bound or None).to_arrow_table()
        except duckdb.Error as error:
            raise EngineError(one_line(error)) from error

    def by_group(
        self, table: pa.Table, key: str, function: Callable[[pa.Table], pa.Table], *, schema: pa.Schema
    ) -> pa.Table:
        """Return the concatenated results of `function` on the rows of each value of `key`, in the order of the values.

        `function` is a pure Arrow kernel; its result is cast to `schema`. No group gives an empty table.
        """
        values = sorted(value for value in pc.unique(table[key]).to_pylist() if value is not None)
        parts = [function(table.filter(pc.equal(table[key], value))) for value in values]
        return pa.concat_tables([part.select(schema.names).cast(schema) for part in parts] or [schema.empty_table()])

    @contextmanager
    def _connection(self, tables: Mapping[str, Table], files: Sequence[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
        allowed = [str(path) for path in files]
        with connect(":memory:") as connection:
            connection.execute(f"set TimeZone = {_literal(self.time_zone)}")
            connection.execute(f"set threads = {self.threads}")
            for name, source in tables.items():
                allowed += _attach(connection, name, source)
            lock_down(connection, allowed)
            yield connection


@contextmanager
def connect(database: str, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a DuckDB connection that is closed whatever happens; an open one would keep the file locked."""
    # Dagster takes seconds to import, and most commands open no connection
    from dagster_duckdb import DuckDBResource

    config = {"access_mode": "READ_ONLY"} if read_only else {}
    resource = DuckDBResource(database=database, connection_config=config)
    with resource.get_connection() as connection:
        try:
            connection.execute("set python_enable_replacements = false")
            yield connection
        finally:
            connection.close()


def lock_down(connection: duckdb.DuckDBPyConnection, allowed_files: Sequence[str]) -> None:
    """Let the connection read `allowed_files` and nothing else, for good."""
    connection.execute(f"set allowed_paths = [{', '.join(map(_literal, sorted(set(allowed_files))))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def query_database(path: Path, query: str, *, lake_files: Sequence[Path]) -> pa.Table:
    """Return the rows of one SELECT on the DuckDB file `path`, opened read-only and locked down to `lake_files`."""
    single_select(query)
    with connect(str(path), read_only=True) as connection:
        lock_down(connection, [str(file) for file in lake_files])
        try:
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise EngineError(one_line(error)) from error


def write_database(path: Path, *, tables: Mapping[str, Table], views: Mapping[str, Sequence[Path]]) -> None:
    """Build the DuckDB file `path` anew: `tables` are copied in, `views` stay over their Parquet files."""
    with connect(":memory:") as connection:
        # clients of DuckDB before 2.0 refuse a file of the newest storage version
        connection.execute(f"attach {_literal(str(path))} as target (storage_version 'v1.4.0')")
        connection.execute("use target")
        for name, source in tables.items():
            _attach(connection, name, source, copy=True)
        for name, paths in views.items():
            _attach(connection, name, paths)
        connection.execute("use memory")
        connection.execute("checkpoint target")
        connection.execute("detach target")


def single_select(query: str) -> exp.Query:
    """Return the parsed `query`.

    Raises
    ------
    EngineError : when it does not parse, or is not exactly one SELECT (FROM-first and set operations included).
    """
    try:
        trees = [tree for tree in sqlglot.parse(query, read=DIALECT) if tree is not None]
    except sqlglot.errors.SqlglotError as error:
        raise EngineError(f"the query does not parse: {one_line(error)}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query) or trees[0].find(exp.Into, exp.DML, exp.DDL) is not None:
        found = ", ".join(tree.key for tree in trees) or "nothing"
        raise EngineError(f"found {found}, one SELECT is allowed. Give a single read-only query.")
    return trees[0]


def dependencies(query: str) -> list[str]:
    """Return the sorted `schema.table` names that `query` reads; names of its own CTEs do not count."""
    found = set()
    for scope in traverse_scope(single_select(query)):
        tables = [source for source in scope.sources.values() if isinstance(source, exp.Table) and source.name]
        found |= {f"{table.db}.{table.name}" for table in tables}
    return sorted(found)


_REFUSED: dict[type[exp.Expr], str] = {
    exp.Pivot: "PIVOT hides its tables from the parser",
    exp.Bracket: "list indexing starts at 1 in DuckDB and at 0 in Spark",
    exp.PercentileCont: "percentile_cont becomes approximate on Spark; compute quantiles in a kernel",
    exp.PercentileDisc: "quantiles belong in a kernel",
    exp.Quantile: "quantiles belong in a kernel",
    exp.Median: "quantiles belong in a kernel",
    exp.ApproxQuantile: "quantiles belong in a kernel",
    exp.ArrayAgg: "list() loses its order on Spark",
    exp.Log: "log() is base 10 in DuckDB and e in Spark; write ln(), guarded against 0",
    exp.DayOfWeek: "weekday numbers differ between engines; use date_trunc('week', date)",
    exp.DayOfWeekIso: "weekday numbers differ between engines; use date_trunc('week', date)",
    exp.Dayname: "weekday names differ between engines; use date_trunc('week', date)",
    exp.Extract: "parts of dates differ between engines; use date_trunc or datediff",
    exp.TimeToStr: "date formats differ between engines",
    exp.Anonymous: "the parser does not know this function, so it cannot be translated",
    exp.Mode: "ties are broken differently between engines",
    exp.First: "first() depends on the row order; use a window with an order",
    exp.Last: "last() depends on the row order; use a window with an order",
    exp.AnyValue: "any_value() depends on the row order; use min or max",
    exp.IntDiv: "integer division truncates differently; cast and floor",
    exp.GroupConcat: "string_agg() loses its order on Spark",
    exp.ArgMax: "ties are broken by the row order; use a window with an order",
    exp.ArgMin: "ties are broken by the row order; use a window with an order",
    exp.Rand: "equal input must give equal rows, and this is chance",
    exp.CurrentDate: "equal input must give equal rows, and this is the clock",
    exp.CurrentTimestamp: "equal input must give equal rows, and this is the clock",
}
_TABLE_FUNCTIONS = {"range", "unnest"}


def check_portable(name: str, query: str) -> None:
    """Refuse a model whose SQL would not mean the same on every engine.

    Raises
    ------
    EngineError : naming the model, the construct and why it is refused.
    """
    tree = single_select(query)
    for node in tree.walk():
        reason = _REFUSED.get(type(node))
        if isinstance(node, exp.DataType) and node.is_type(exp.DataType.Type.DECIMAL):
            reason = "decimal division truncates on Spark; use double"
        if isinstance(node, exp.Ln) and not isinstance(node.this, exp.Nullif):
            reason = "ln(0) is an error in DuckDB and null on Spark; write ln(nullif(x, 0))"
        if reason and not (isinstance(node, exp.Func) and isinstance(node.parent, exp.Table)):
            raise EngineError(f"{name}: {node.sql(dialect=DIALECT)[:60]!r} is not portable: {reason}.")
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Func):
            function = node.this.name.lower() if isinstance(node.this, exp.Anonymous) else node.this.sql_name().lower()
            if isinstance(node.this, exp.GenerateSeries) and node.this.args.get("is_end_exclusive"):
                function = "range"
            if function not in _TABLE_FUNCTIONS:
                raise EngineError(f"{name}: table function {function}() is refused; allowed are range and unnest.")
    unqualified = {table[1:] for table in dependencies(query) if table.startswith(".")} - _TABLE_FUNCTIONS
    if unqualified:
        raise EngineError(f"{name}: table {min(unqualified)!r} has no schema. Write schema.table.")


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, which is the one that says what is wrong."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _attach(connection: duckdb.DuckDBPyConnection, name: str, source: Table, *, copy: bool = False) -> list[str]:
    """Create `name` over `source`; return the files that it reads at query time."""
    schema, _, table = name.rpartition(".")
    target = f"{_identifier(schema)}.{_identifier(table)}" if schema else _identifier(table)
    if schema:
        connection.execute(f"create schema if not exists {_identifier(schema)}")
    if isinstance(source, pa.Table):
        connection.register("_arrow", source)
        connection.execute(f"create table {target} as select * from _arrow")
        connection.unregister("_arrow")
        return []
    if isinstance(source, View):
        connection.execute(f"create view {target} as {source.query}")
        return [str(path) for path in source.files]
    paths = [str(path) for path in source]
    listed = ", ".join(map(_literal, paths))
    relation = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    connection.execute(f"create {'table' if copy else 'view'} {target} as select * from {relation}")
    return [] if copy else paths


def _identifier(name: str) -> str:
    return exp.to_identifier(name, quoted=True).sql(dialect=DIALECT)


def _literal(value: str) -> str:
    return exp.Literal.string(value).sql(dialect=DIALECT)
