"""The SQL models and assertions of dbt_like_sql: a file is a table or a check; dependencies are parsed from the SQL."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pricelab_dagster import engine
from pricelab_dagster.tables import TABLES

FOLDER = Path(__file__).resolve().parent.parent / "dbt_like_sql"
SOURCES = (
    *("sales", "products", "events", "incumbent_prices", "experiments"),
    *("policies", "policy_prices", "endings", "cells_in_force", "cells_ever"),
)


class ModelError(Exception):
    """A SQL file that cannot be a model or an assertion."""


@dataclass(frozen=True, slots=True)
class Model:
    """One table made by one SELECT; `dependencies` are the tables that it reads, `source.*` included."""

    name: str
    query: str
    description: str
    dependencies: tuple[str, ...]

    @property
    def upstream_tables(self) -> tuple[str, ...]:
        """The lake's tables among the dependencies."""
        return tuple(name for name in self.dependencies if not name.startswith("source."))


@dataclass(frozen=True, slots=True)
class Assertion:
    """A SELECT of offending rows of `table`: no row, passed. `reason` says why the business cares."""

    name: str
    query: str
    reason: str
    table: str
    dependencies: tuple[str, ...]


@cache
def models() -> dict[str, Model]:
    """Return the models by table name, in an order in which each comes after what it reads.

    Raises
    ------
    ModelError : when a file reads an unknown table, is not declared in `tables`, or the models form a circle.
    EngineError : when a file is not one portable SELECT.
    """
    found = {}
    for path in sorted(FOLDER.glob("*/*.sql")):
        if path.parent.name == "tests":
            continue
        name = f"{path.parent.name}.{path.stem}"
        if name not in TABLES:
            raise ModelError(f"{path.name}: {name} has no columns in tables.py. Declare them there.")
        found[name] = Model(name, path.read_text(), _header(path), _dependencies(name, path.read_text()))
    return _in_order(found)


@cache
def assertions() -> tuple[Assertion, ...]:
    """Return the assertions; each belongs to the table that its header names after `-- checks:`.

    Raises
    ------
    ModelError : when the header names no table, or one that the query does not read.
    """
    found = []
    for path in sorted((FOLDER / "tests").glob("assert_*.sql")):
        query = path.read_text()
        table = next((line[10:].strip() for line in query.splitlines() if line.startswith("-- checks:")), "")
        dependencies = _dependencies(path.stem, query)
        if table not in dependencies:
            raise ModelError(f"{path.name}: its header must hold `-- checks: schema.table`, a table that it reads.")
        found.append(Assertion(path.stem, query, _header(path), table, dependencies))
    return tuple(found)


def _dependencies(name: str, query: str) -> tuple[str, ...]:
    engine.check_portable(name, query)
    dependencies = engine.dependencies(query)
    known = {*TABLES, *(f"source.{source}" for source in SOURCES)}
    unknown = [dependency for dependency in dependencies if dependency not in known]
    if unknown:
        raise ModelError(f"{name}: reads {unknown[0]}, which is no table. The tables are {', '.join(sorted(known))}.")
    return tuple(dependencies)


def _header(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("--"):
            break
        if not line.startswith("-- checks:"):
            lines.append(line.removeprefix("--").strip())
    if not lines:
        raise ModelError(f"{path.name}: needs a header comment. Say what one row is, then why the table exists.")
    return " ".join(lines)


def _in_order(found: dict[str, Model]) -> dict[str, Model]:
    ordered: dict[str, Model] = {}
    waiting = dict(found)
    while waiting:
        ready = [
            name
            for name, model in waiting.items()
            if not any(upstream in waiting for upstream in model.upstream_tables)
        ]
        if not ready:
            raise ModelError(f"the models {', '.join(waiting)} read each other in a circle.")
        ordered |= {name: waiting.pop(name) for name in ready}
    return ordered
