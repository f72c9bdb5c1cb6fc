"""The SQL that a user writes in a lab file, parsed and held to what a lab allows."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from pricelab_dagster.lab.errors import LabError, Rule, one_line

FILE_READERS = frozenset(
    {
        "read_parquet",
        "parquet_scan",
        "read_csv",
        "read_csv_auto",
        "read_json",
        "read_json_auto",
        "read_ndjson",
        "read_ndjson_auto",
    }
)
FILE_FUNCTIONS = FILE_READERS | {
    "read_text",
    "read_blob",
    "read_json_objects",
    "read_json_objects_auto",
    "read_ndjson_objects",
    "sniff_csv",
    "csv_scan",
    "glob",
    "query",
    "query_table",
}
UNREPEATABLE = frozenset(
    {
        *("getenv", "getvariable", "current_setting", "current_user", "session_user", "setseed"),
        *("rand", "random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid"),
        *("now", "today", "get_current_time", "get_current_timestamp", "transaction_timestamp"),
        *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
    }
)
NOT_ONE_ROW = (exp.AggFunc, exp.Window, exp.Star, exp.Columns, exp.Explode, exp.Unnest)
LISTED_COLUMNS = 12


def parse_expression(text: str) -> exp.Expr:
    """The parsed SQL expression over the columns of one row, checked.

    Raises
    ------
    Rule
        `text` is no single expression, reads a table or file, spans rows, or would not repeat.

    Examples
    --------
    >>> parse_expression("SPEND / nullif(UNITS, 0)").sql("duckdb")
    'SPEND / NULLIF(UNITS, 0)'
    """
    try:
        tree = sqlglot.parse_one(text, into=exp.Condition, dialect="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise Rule(f"one SQL expression{_place(error)}", "Give column names and scalar functions only.") from None
    if isinstance(tree, exp.Block):
        raise Rule("one SQL expression", "Remove the semicolon.")
    if tree.find(exp.Query, exp.Table):
        raise Rule("an expression over one row, without a subquery", "Put it under `query:` of the source.")
    _refuse_functions(tree, FILE_FUNCTIONS)
    if tree.find(*NOT_ONE_ROW):
        raise Rule("an expression over one row", "Put aggregates, windows and * under `query:` of the source.")
    if tree.find(exp.Parameter, exp.Placeholder, exp.PositionalColumn):
        raise Rule("an expression without parameters", "Write the value or the column's name in its place.")
    return tree


def parse_query(text: str) -> exp.Query:
    """The parsed SELECT of a source, checked.

    Raises
    ------
    Rule
        `text` is not exactly one SELECT, reads something other than files and its own WITH names, or would not
        repeat.
    """
    remedy = "Give a single SELECT, optionally after WITH or FROM."
    try:
        tokens = sqlglot.tokenize(text, dialect="duckdb")
        # sqlglot logs a warning for a statement that it cannot parse, so others are refused before parsing.
        if not tokens or tokens[0].text.lower() not in {"select", "with", "from"}:
            raise Rule("exactly one SELECT", remedy)
        statements = [tree for tree in sqlglot.parse(text, dialect="duckdb") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise Rule(f"exactly one SELECT{_place(error)}", remedy) from None
    if len(statements) != 1:
        raise Rule("exactly one SELECT", f"Found {len(statements)} statements; keep one.")
    tree = statements[0]
    if not isinstance(tree, exp.Query) or tree.find(exp.DML, exp.Into, exp.Command):
        raise Rule("exactly one SELECT", remedy)
    if tree.find(exp.Parameter, exp.Placeholder):
        raise Rule("a SELECT without parameters", "Write the value in its place.")
    _refuse_functions(tree, FILE_FUNCTIONS - FILE_READERS)
    for table in tree.find_all(exp.Table):
        _check_table(table)
    query_paths(tree)
    return tree


def expand_paths(tree: exp.Query, expand: Callable[[str], list[str]], reader: Callable[[list[str]], str]) -> exp.Query:
    """A copy of the query that names the files themselves, ``expand(path)`` for each path or glob.

    `reader` names the table function for files that the query names without one. A glob would have to be searched
    for when the query runs, which a locked connection does not do.
    """
    copy = tree.copy()
    for table, paths in list(_file_tables(copy)):
        files = list(dict.fromkeys(file for path in paths for file in expand(path)))
        listed = exp.Array(expressions=[exp.Literal.string(file) for file in files])
        function = "" if isinstance(table.this, exp.Func) else reader(files)
        if isinstance(table.this, exp.ReadCSV):
            table.this.set("this", listed)
        elif isinstance(table.this, exp.Func):
            table.this.set("expressions", [listed, *table.this.expressions[1:]])
        elif len(files) == 1:
            table.set("this", exp.to_identifier(files[0], quoted=True))
        else:
            table.set("this", exp.Anonymous(this=function, expressions=[listed]))
    return copy


def query_paths(tree: exp.Query) -> list[str]:
    """The file paths and globs that the query reads, in order of appearance, each once.

    Examples
    --------
    >>> query_paths(parse_query("from 'a.csv' join read_parquet(['b/*.parquet']) using (k)"))
    ['a.csv', 'b/*.parquet']
    """
    return list(dict.fromkeys(path for _, paths in _file_tables(tree) for path in paths))


def expression_columns(sql: str) -> set[str]:
    """The columns that an expression reads, as written; of a struct's field the struct.

    Examples
    --------
    >>> sorted(expression_columns("SPEND / nullif(UNITS, 0)"))
    ['SPEND', 'UNITS']
    """
    return set(_columns(sql))


def unknown_column_error(file: str, key: str, expression: str, available: list[str]) -> LabError:
    """The error for an expression with a column that its source lacks: the closest ones and what there is.

    Raises
    ------
    ValueError
        Every column of `expression` is in `available` (letter case does not matter).
    """
    known = {name.lower(): name for name in available}
    missing = next((name for name in _columns(expression) if name.lower() not in known), None)
    if missing is None:
        raise ValueError(f"expression == {expression!r}, must have a column outside available. Pass the failing one.")
    close = [known[name] for name in get_close_matches(missing.lower(), known, n=3)]
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    more = f" and {len(available) - LISTED_COLUMNS} more" if len(available) > LISTED_COLUMNS else ""
    listed = f"The columns are {', '.join(available[:LISTED_COLUMNS])}{more}."
    return LabError(file, key, expression, f"over columns that exist, and {missing} does not", hint + listed)


def _columns(sql: str) -> list[str]:
    tree = parse_expression(sql)
    bound = {loop.expression.name for loop in tree.find_all(exp.Comprehension)}
    names = (column.parts[0].name for column in tree.find_all(exp.Column))
    return [name for name in dict.fromkeys(names) if name not in bound]


def _place(error: SqlglotError | RecursionError) -> str:
    if isinstance(error, ParseError) and error.errors:
        near = one_line(str(error.errors[0].get("highlight") or ""))
        return f" (it breaks at '{near}', column {error.errors[0].get('col')})" if near else " (it breaks at its end)"
    return " (a quote or a bracket may be left open)"


def _function_name(node: exp.Func) -> str:
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()


def _refuse_functions(tree: exp.Expr, reading: frozenset[str]) -> None:
    for node in tree.find_all(exp.Func):
        name = _function_name(node)
        if name in UNREPEATABLE:
            written = one_line(node.sql("duckdb"))
            raise Rule(
                f"SQL that repeats, and {written} depends on the clock, on chance or on the machine",
                "Write the value in its place.",
            )
        if name in reading:
            raise Rule(f"SQL without the function {name}", "Name the files under `source:` or in the FROM of `query:`.")


def _check_table(table: exp.Table) -> None:
    source = table.this
    if isinstance(source, exp.Identifier):
        if table.args.get("db") is not None or not (source.quoted or _is_with_name(table)):
            raise Rule(
                f"a SELECT from files, and {table.sql('duckdb')} is none",
                "Write a quoted path such as 'data/sales.parquet', or a name from WITH.",
            )
        return
    if not isinstance(source, exp.GenerateSeries) and _reader_name(source) not in FILE_READERS:
        raise Rule(
            f"a SELECT from files, and {one_line(source.sql('duckdb'))} is not allowed",
            "Use read_parquet, read_csv, read_json, range or unnest.",
        )


def _reader_name(node: exp.Expr) -> str:
    if isinstance(node, exp.ReadCSV):
        return "read_csv"
    return _function_name(node) if isinstance(node, exp.Func) else ""


def _is_with_name(table: exp.Table) -> bool:
    root = table.root()
    return any(table.name.lower() == part.alias_or_name.lower() for part in root.find_all(exp.CTE))


def _file_tables(tree: exp.Query) -> Iterator[tuple[exp.Table, list[str]]]:
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier):
            if not _is_with_name(table):
                yield table, [table.name]
        elif _reader_name(table.this) in FILE_READERS:
            yield table, _path_literals(table.this)


def _path_literals(reader: exp.Expr) -> list[str]:
    first = reader.this if isinstance(reader, exp.ReadCSV) else next(iter(reader.expressions), None)
    nodes = first.expressions if isinstance(first, exp.Array) else [first]
    paths = [node.name for node in nodes if isinstance(node, exp.Literal) and node.is_string]
    if not paths or len(paths) < len(nodes):
        raise Rule(
            f"a SELECT whose {_reader_name(reader)} names its files",
            "Give one path in quotes, or a list of them, as the first argument.",
        )
    return paths
