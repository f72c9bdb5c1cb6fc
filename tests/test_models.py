from pathlib import Path

import pyarrow as pa
import pytest

from pricelab_dagster import models as module
from pricelab_dagster.engine import Engine, EngineError
from pricelab_dagster.models import ModelError, assertions, models
from pricelab_dagster.tables import TABLES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of dbt_like_sql."""
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "models", models.__wrapped__)
    monkeypatch.setattr(module, "assertions", assertions.__wrapped__)
    return tmp_path


def put(folder: Path, path: str, query: str, header: str = "-- One row per product.\n") -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(header + query)


def test_every_sql_file_is_a_model_or_an_assertion() -> None:
    files = set(module.FOLDER.glob("**/*.sql"))
    assert {f"{path.parent.name}.{path.stem}" for path in files if path.parent.name != "tests"} == set(models())
    assert {path.stem for path in files if path.parent.name == "tests"} == {one.name for one in assertions()}


def test_a_model_comes_after_what_it_reads() -> None:
    seen: set[str] = set()
    for name, model in models().items():
        made_by_sql = [upstream for upstream in model.upstream_tables if upstream in models()]
        assert seen.issuperset(made_by_sql)
        seen.add(name)


@pytest.mark.parametrize("name", models())
def test_a_model_returns_the_columns_that_are_declared(name: str) -> None:
    model = models()[name]
    types = {"units": pa.float64(), "price": pa.float64(), "cost": pa.float64(), "price_multiplier": pa.float64()}
    types |= {"ending": pa.float64()}
    days = dict.fromkeys(("date", "occurred_on", "start", "end"), pa.date32())
    sources = {
        "source.sales": ("product_id", "date", "units", "price", "cost"),
        "source.products": ("product_id", "category"),
        "source.events": ("event_id", "product_id", "occurred_on", "kind"),
        "source.incumbent_prices": ("product_id", "date", "price"),
        "source.policies": ("arm", "price_multiplier"),
        "source.policy_prices": ("arm", "product_id", "date", "price"),
        "source.endings": ("ending",),
        "source.cells_in_force": ("experiment_id", "product_id", "date", "arm"),
        "source.cells_ever": ("experiment_id", "product_id", "date", "arm"),
        "source.experiments": ("experiment_id", "title", "owner", "design", "status", "start", "end"),
    }
    known = types | days
    tables = {
        dependency: pa.schema([(column, known.get(column, pa.string())) for column in sources[dependency]])
        if dependency in sources
        else TABLES[dependency].schema
        for dependency in model.dependencies
    }
    parameters = dict.fromkeys(
        ("as_of", "start", "end", "history_start", "min_margin", "max_change", "floor", "ceiling", "experiment_id")
    ) | {"grain": "day", "days_per_period": 1, "has_incumbent": False, "decimals": 2}
    found = Engine().sql(
        model.query, tables={key: schema.empty_table() for key, schema in tables.items()}, parameters=parameters
    )
    declared = TABLES[name].schema
    assert set(found.schema.names) == set(declared.names)
    assert [found.schema.field(field.name).type for field in declared] == [field.type for field in declared]


def test_an_assertion_belongs_to_a_table_that_it_reads_and_has_a_reason() -> None:
    for one in assertions():
        assert one.table in one.dependencies
        assert one.reason.endswith(".")
        assert "checks:" not in one.reason


def test_a_model_that_reads_a_table_it_does_not_declare_fails_at_once() -> None:
    model = models()["intermediate.int_product_days"]
    assert model.dependencies == ("staging.stg_sales",)
    forgotten = {"staging.stg_products": TABLES["staging.stg_products"].schema.empty_table()}
    with pytest.raises(EngineError, match="stg_sales does not exist"):
        Engine().sql(model.query, tables=forgotten, parameters={"grain": "day"})


def test_models_are_read_from_the_folder(folder: Path) -> None:
    put(folder, "marts/dim_products.sql", "select * from staging.stg_products", "-- One row.\n-- And why.\n")
    put(folder, "staging/stg_products.sql", "select * from source.products")
    found = module.models()
    assert list(found) == ["staging.stg_products", "marts.dim_products"]
    assert found["marts.dim_products"].description == "One row. And why."
    assert found["marts.dim_products"].upstream_tables == ("staging.stg_products",)
    assert found["staging.stg_products"].upstream_tables == ()


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("marts/unknown.sql", "select 1 as x", "no columns in tables.py"),
        ("marts/dim_products.sql", "select * from staging.stg_sale", "reads staging.stg_sale, which is no table"),
        ("marts/dim_products.sql", "select * from source.sale", "reads source.sale, which is no table"),
        ("marts/dim_products.sql", "select * from marts.dim_products", "in a circle"),
    ],
)
def test_a_broken_model_is_named(folder: Path, path: str, query: str, message: str) -> None:
    put(folder, path, query)
    with pytest.raises(ModelError, match=message):
        module.models()


def test_a_circle_of_two_models_is_named(folder: Path) -> None:
    put(folder, "staging/stg_products.sql", "select * from marts.dim_products")
    put(folder, "marts/dim_products.sql", "select * from staging.stg_products")
    put(folder, "staging/stg_sales.sql", "select * from source.sales")
    with pytest.raises(ModelError, match=r"marts\.dim_products, staging\.stg_products read each other in a circle"):
        module.models()


def test_a_model_without_a_header_is_refused(folder: Path) -> None:
    put(folder, "staging/stg_products.sql", "select * from source.products", header="")
    with pytest.raises(ModelError, match="needs a header comment"):
        module.models()


def test_a_model_that_is_not_portable_stops_the_load(folder: Path) -> None:
    put(folder, "staging/stg_products.sql", "select median(x) as x from source.products")
    with pytest.raises(EngineError, match=r"^staging\.stg_products: .* is not portable"):
        module.models()


@pytest.mark.parametrize("header", ["-- Why.\n", "-- Why.\n-- checks: staging.stg_products\n", "-- Why.\n-- checks:\n"])
def test_an_assertion_names_a_table_that_it_reads(folder: Path, header: str) -> None:
    put(folder, "tests/assert_it.sql", "select * from staging.stg_sales", header)
    with pytest.raises(ModelError, match=r"checks: schema\.table"):
        module.assertions()


def test_an_assertion_is_read_from_the_folder(folder: Path) -> None:
    header = "-- Why.\n-- checks: staging.stg_sales\n"
    put(folder, "tests/assert_it.sql", "select 1 as x from staging.stg_sales where units < 0", header)
    (one,) = module.assertions()
    assert (one.name, one.table, one.reason) == ("assert_it", "staging.stg_sales", "Why.")
