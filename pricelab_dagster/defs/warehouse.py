"""The warehouse: one DuckDB file with every mart, for people and tools that speak SQL."""

from collections.abc import Iterator

import dagster as dg

from pricelab_dagster.defs.conditions import publish_when_settled
from pricelab_dagster.defs.lake_assets import GROUPS, asset_key
from pricelab_dagster.defs.resources import LabResource
from pricelab_dagster.tables import TABLES

MARTS = [name for name in TABLES if name.startswith("marts.")]


@dg.asset(
    key=dg.AssetKey("warehouse"),
    deps=[asset_key(name) for name in MARTS],
    group_name=GROUPS["marts"],
    kinds={"duckdb"},
    automation_condition=publish_when_settled(),
)
def warehouse(lab: LabResource) -> Iterator[dg.MaterializeResult]:
    """The file warehouse.duckdb: the marts as tables, every other table as a view over the lake.

    It is built aside and swapped in whole, so it can be read by any DuckDB client while runs go on.
    """
    rows = lab.open().build_warehouse()
    table = "\n".join(["| mart | rows |", "|---|---|", *(f"| {name} | {count} |" for name, count in rows.items())])
    yield dg.MaterializeResult(metadata={"rows": dg.MetadataValue.md(table)})
