from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest

from pricelab_dagster.engine import Engine
from pricelab_dagster.models import assertions, models
from pricelab_dagster.tables import TABLES

SOURCES = {
    "source.sales": "product_id text, date day, units real, price real, cost real",
    "source.products": "product_id text, category text",
    "source.events": "event_id text, product_id text, occurred_on day, kind text",
    "source.incumbent_prices": "product_id text, date day, price real",
    "source.policies": "arm text, price_multiplier real",
    "source.policy_prices": "arm text, product_id text, date day, price real",
    "source.endings": "ending real",
    "source.cells_in_force": "experiment_id text, product_id text, date day, arm text",
    "source.cells_ever": "experiment_id text, product_id text, date day, arm text",
    "source.experiments": "experiment_id text, title text, owner text, design text, status text, start day, end day",
}
TYPES = {"text": pa.string(), "day": pa.date32(), "real": pa.float64()}
PARAMETERS: dict[str, object] = {
    "grain": "day",
    "days_per_period": 1,
    "as_of": date(2024, 1, 10),
    "has_incumbent": False,
    "experiment_id": "milk",
    "start": date(2024, 1, 4),
    "end": date(2024, 1, 6),
    "history_start": date(1, 1, 1),
    "decimals": 2,
    "min_margin": None,
    "max_change": None,
    "floor": None,
    "ceiling": None,
}
TOLERANCE = 1e-12  # the rounding of a few sums of doubles
Rows = list[dict[str, object]]
Read = Callable[[str, str], pa.Table]


def schema_of(name: str) -> pa.Schema:
    if name in TABLES:
        return TABLES[name].schema
    return pa.schema([(column.split()[0], TYPES[column.split()[1]]) for column in SOURCES[name].split(", ")])


def value(text: str, kind: pa.DataType) -> object:
    if text == "":
        return None
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text]
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    if pa.types.is_integer(kind):
        return int(text)
    return float(text) if pa.types.is_floating(kind) else text


def read_table(name: str, text: str) -> pa.Table:
    schema = schema_of(name)
    lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    header, body = (lines[0], lines[1:]) if lines else ([], [])
    for extra in header:
        if extra not in schema.names:
            schema = schema.append(pa.field(extra, pa.string()))
    cells = [dict(zip(header, line, strict=True)) for line in body]
    found = [{field.name: value(row.get(field.name, ""), field.type) for field in schema} for row in cells]
    return pa.Table.from_pylist(found, schema=schema)


def inputs(tables: dict[str, str], dependencies: tuple[str, ...]) -> dict[str, pa.Table]:
    assert set(tables) <= set(dependencies), "a table is given that the query does not read"
    return {name: read_table(name, tables.get(name, "")) for name in dependencies}


@pytest.fixture
def table() -> Read:
    """Reads a table from text: a header, then a row a line, cells between bars; an empty cell is null."""
    return read_table


@pytest.fixture
def run() -> Callable[..., pa.Table]:
    """Runs a model on tables given as text; what it reads and is not given is empty."""

    def run(name: str, tables: dict[str, str], **parameters: object) -> pa.Table:
        model = models()[name]
        given = inputs(tables, model.dependencies)
        return Engine().sql(model.query, tables=given, parameters=PARAMETERS | parameters)

    return run


@pytest.fixture
def offending() -> Callable[..., Rows]:
    """Runs an assertion on tables given as text and returns the offending rows."""

    def run(name: str, tables: dict[str, str], **parameters: object) -> Rows:
        assertion = next(one for one in assertions() if one.name == name)
        given = inputs(tables, assertion.dependencies)
        return Engine().sql(assertion.query, tables=given, parameters=PARAMETERS | parameters).to_pylist()

    return run


@pytest.fixture
def check() -> Callable[[pa.Table, str], None]:
    """Compares rows, in any order, with the columns that the text names; its types are those of the rows."""

    def check(found: pa.Table, text: str) -> None:
        lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
        names = lines[0]
        expected = [
            tuple(value(cell, found.schema.field(name).type) for name, cell in zip(names, line, strict=True))
            for line in lines[1:]
        ]
        rows = [tuple(row[name] for name in names) for row in found.to_pylist()]
        assert len(rows) == len(expected), rows
        for row, wanted in zip(sorted(rows, key=order), sorted(expected, key=order), strict=True):
            assert row == tuple(near(cell) for cell in wanted)

    return check


def order(row: tuple[object, ...]) -> list[str]:
    return [str(cell) for cell in row]


def near(cell: object) -> object:
    return pytest.approx(cell, rel=TOLERANCE, abs=TOLERANCE) if isinstance(cell, float) else cell
