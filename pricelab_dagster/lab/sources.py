"""Data sources of a lab, compiled to one SELECT each over absolute paths."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from pydantic import Field, PrivateAttr, model_validator
from sqlglot import exp

from pricelab_dagster.lab.errors import Found, Rule
from pricelab_dagster.lab.fields import Expression, Model, Paths, Query
from pricelab_dagster.lab.paths import match_files, reader
from pricelab_dagster.lab.sql import expand_paths, parse_expression, parse_query, query_paths

CONFIG_FILE = "pricelab.yaml"
KEEPS_TEXT = (exp.Column, exp.Identifier, exp.Paren, exp.Literal, exp.DPipe, exp.Concat)
Result = TypeVar("Result")


class Columns(Model):
    """A mapping from canonical column names to SQL expressions."""


class Source(Model):
    """Where a table comes from: files or a query, a mapping of columns and a row filter."""

    types: ClassVar[dict[str, str]] = {}
    may_be_empty: ClassVar[bool] = False
    _file: str = PrivateAttr(default=CONFIG_FILE)
    _key: str = PrivateAttr(default="source")

    source: Paths | None = Field(
        default=None, description="The path, glob or list of them: Parquet, CSV, CSV.gz or JSON files."
    )
    query: Query | None = Field(default=None, description="The one DuckDB SELECT over files, instead of `source`.")
    where: Expression | None = Field(default=None, description="The SQL condition of the rows to keep.")
    columns: Columns = Field(description="The canonical columns as SQL expressions over the source.")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.source is None and self.query is None:
            raise Rule("a path, glob or list", "Give it, or a SELECT under `query`.", "source", Found.MISSING)
        if self.source is not None and self.query is not None:
            raise Rule("absent beside `source`", "Keep one of the two.", "query", self.query)
        return self

    def files(self, lab_root: Path) -> list[Path]:
        """The files that the source reads, absolute and sorted.

        Raises
        ------
        LabError
            A path or glob without a file, or a format that is not read.
        """
        return self._located(partial(self._files, lab_root))

    def is_empty(self, lab_root: Path) -> bool:
        """Whether the source is a glob that no file matches yet, of a kind that may wait for its first one."""
        return self.source is not None and not self.files(lab_root)

    def select(self, lab_root: Path) -> str:
        """The SELECT (DuckDB) of the canonical columns: ids as text, days as dates, quantities as doubles.

        Raises
        ------
        LabError
            As `files`.
        """
        if self.is_empty(lab_root):
            nothing = [exp.cast(exp.null(), kind, dialect="duckdb").as_(name) for name, kind in self.types.items()]
            return exp.select(*nothing).where(exp.false()).sql("duckdb")
        query = exp.select(*self._canonical()).from_(self._located(partial(self._relation, lab_root, typed=True)))
        if self.where is not None:
            query = query.where(parse_expression(self.where))
        return query.sql("duckdb")

    def select_all(self, lab_root: Path) -> str:
        """The SELECT (DuckDB) of all columns as the source has them, to learn their names and types.

        Raises
        ------
        LabError
            As `files`.
        """
        return exp.select("*").from_(self._located(partial(self._relation, lab_root, typed=False))).sql("duckdb")

    def expressions(self) -> dict[str, str]:
        """The user's SQL expressions by key relative to the source, such as ``columns.price``."""
        written = {f"columns.{name}": sql for name, sql in self._mapping().items()}
        return written if self.where is None else written | {"where": self.where}

    def declared_at(self, file: str, key: str) -> Self:
        """The same source whose errors name `file` and `key`."""
        copy = self.model_copy()
        copy._file, copy._key = file, key
        return copy

    def _mapping(self) -> dict[str, str]:
        return {name: sql for name, sql in self.columns if sql is not None}

    def _canonical(self) -> list[exp.Expr]:
        return [_cast(parse_expression(sql), self.types[name]).as_(name) for name, sql in self._mapping().items()]

    def _located(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except Rule as rule:
            key = self._key if self.query is None else f"{self._key.removesuffix('source')}query"
            raise rule.at(self._file, key) from None

    def _patterns(self) -> tuple[str, ...]:
        if self.query is not None:
            return tuple(query_paths(parse_query(self.query)))
        return (self.source,) if isinstance(self.source, str) else self.source or ()

    def _files(self, lab_root: Path) -> list[Path]:
        files = match_files(lab_root, self._patterns(), may_be_empty=self.may_be_empty and self.query is None)
        if self.query is not None:
            self._relation(lab_root, typed=True)
        elif files:
            reader(files)
        return files

    def _relation(self, lab_root: Path, *, typed: bool) -> exp.Expr:
        if self.query is not None:
            expand = partial(_expand, lab_root)
            return expand_paths(parse_query(self.query), expand, reader).subquery("source")
        files = self._files(lab_root)
        function = reader(files)
        paths = exp.Array(expressions=[exp.Literal.string(str(file)) for file in files])
        options = [exp.EQ(this=exp.column("union_by_name"), expression=exp.true())]
        if function == "read_csv" and typed and (names := self._text_columns()):
            text = exp.Literal.string("VARCHAR")
            types = [exp.PropertyEQ(this=exp.Literal.string(name), expression=text.copy()) for name in names]
            options.append(exp.EQ(this=exp.column("types"), expression=exp.Struct(expressions=types)))
        return exp.Table(this=exp.Anonymous(this=function, expressions=[paths, *options]))

    def _text_columns(self) -> list[str]:
        # The CSV reader would take an id such as 0012 for a number, and casting it back loses the zeros.
        texts = [parse_expression(sql) for name, sql in self._mapping().items() if self.types[name] == "varchar"]
        plain = [tree for tree in texts if all(_keeps_text(node) for node in tree.walk())]
        return list(dict.fromkeys(column.name for tree in plain for column in tree.find_all(exp.Column)))


def _keeps_text(node: exp.Expr) -> bool:
    if isinstance(node, (exp.Cast, exp.DataType)):
        kind = node.to if isinstance(node, exp.Cast) else node
        return bool(kind.is_type(*exp.DataType.TEXT_TYPES))
    return isinstance(node, KEEPS_TEXT)


def _expand(lab_root: Path, pattern: str) -> list[str]:
    return [str(file) for file in match_files(lab_root, (pattern,))]


def _cast(tree: exp.Expr, kind: str) -> exp.Expr:
    return exp.cast(tree, kind, dialect="duckdb")
