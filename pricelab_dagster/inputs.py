"""What the models read under `source.<name>`: the lab's own sources, and what its files say as tables."""

from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster.engine import Table, View
from pricelab_dagster.lab import Experiment
from pricelab_dagster.lifecycle import Status, Window
from pricelab_dagster.tables import TABLES

if TYPE_CHECKING:
    from pricelab_dagster.workbench import Workbench

ASSIGNMENTS = "experiment.assignments"
_EMPTY_SOURCES = {
    "products": {"product_id": pa.string(), "category": pa.string()},
    "events": {"event_id": pa.string(), "product_id": pa.string(), "occurred_on": pa.date32(), "kind": pa.string()},
    "incumbent_prices": {"product_id": pa.string(), "date": pa.date32(), "price": pa.float64()},
}


def source(bench: "Workbench", name: str, experiment: Experiment | None) -> Table:
    """Return what stands under `source.<name>`; some names have a meaning for one experiment only."""
    if name == "experiments":
        return _experiments(bench)
    if experiment is not None:
        if name == "policies":
            return _policies(experiment)
        if name == "policy_prices":
            return _policy_prices(bench, experiment)
        if name == "endings":
            return pa.table({"ending": pa.array(experiment.guard.endings or (), pa.float64())})
        if name == "cells_in_force":
            return _cells_in_force(bench, experiment)
        if name == "cells_ever":
            return _cells_ever(bench, experiment)
    config, root = bench.lab.config, bench.lab.root
    found = config.sources().get({"incumbent_prices": "prices.incumbent"}.get(name, name))
    if found is None:
        return pa.schema(_EMPTY_SOURCES[name]).empty_table()
    query = found.select(root)
    if name == "sales" and not config.has_cost:
        query = f"select *, cast(null as double) as cost from ({query}) as sales"
    return View(query, tuple(found.files(root)))


def cells_in_force(bench: "Workbench", experiment_id: str) -> pa.Table:
    """Return the stored assignment of an experiment, up to a stop that its file names and no run has carried out."""
    rows = bench.lake.read(ASSIGNMENTS, experiment_id)
    stop = end_ahead(bench, experiment_id)
    return rows if stop is None else rows.filter(pc.less_equal(rows["date"], pa.scalar(stop)))


def end_ahead(bench: "Workbench", experiment_id: str) -> date | None:
    """Return the end of an experiment where its stored assignment goes on after it."""
    if experiment_id not in bench.lab.experiments:
        return None
    end = bench.window(bench.lab.experiments[experiment_id]).end
    return end if end.isoformat() < str(bench.lake.metadata(ASSIGNMENTS, experiment_id)["end"]) else None


def _cells_in_force(bench: "Workbench", experiment: Experiment) -> Table:
    """Return the assignments of the other experiments that are not retired."""
    left_out = {experiment.id, *bench.retired()}
    names = [name for name in bench.lake.partitions(ASSIGNMENTS) if name not in left_out]
    if any(end_ahead(bench, name) for name in names):
        return pa.concat_tables([cells_in_force(bench, name) for name in names], promote_options="default")
    return [bench.lake.path(ASSIGNMENTS, name) for name in names] or TABLES[ASSIGNMENTS].schema.empty_table()


def _cells_ever(bench: "Workbench", experiment: Experiment) -> Table:
    """Return the assignments of the other experiments, retired ones too."""
    files = [path for path in bench.lake.files(ASSIGNMENTS) if path.stem != experiment.id]
    return files or TABLES[ASSIGNMENTS].schema.empty_table()


def _policy_prices(bench: "Workbench", experiment: Experiment) -> Table:
    schema = pa.schema(
        [("arm", pa.string()), ("product_id", pa.string()), ("date", pa.date32()), ("price", pa.float64())]
    )
    tables = [schema.empty_table()]
    for key, table in experiment.tables().items():
        if not key.endswith(".prices"):
            continue
        # control.prices, treatment.prices, or treatment.2.prices for the third of several arms
        policy, *number = key.removesuffix(".prices").split(".")
        arm = policy if policy == "control" else experiment.arms[int(number[0]) if number else 0].name
        rows = bench.engine.sql(table.select(bench.lab.root), files=table.files(bench.lab.root))
        arms = pa.array([arm] * rows.num_rows, pa.string())
        tables.append(rows.append_column("arm", arms).select(schema.names).cast(schema))
    return pa.concat_tables(tables)


def _policies(experiment: Experiment) -> pa.Table:
    """Return the price multiplier of each arm; without a declared treatment no price is ours to set."""
    control = experiment.control.price_multiplier if experiment.treatment is not None else None
    multipliers = {arm.name: arm.price_multiplier for arm in experiment.arms} | {"control": control}
    columns = {"arm": pa.array(list(multipliers), pa.string())}
    return pa.table(columns | {"price_multiplier": pa.array(list(multipliers.values()), pa.float64())})


def _experiments(bench: "Workbench") -> pa.Table:
    stated = {name: (bench.facts(one), bench.status(one)) for name, one in bench.lab.experiments.items()}
    for name in bench.lake.partitions(ASSIGNMENTS):
        if name not in stated:
            facts = bench.lake.metadata(ASSIGNMENTS, name)
            # an experiment whose file is broken goes on as it was drawn, and its prices stay in force
            window = Window(*(date.fromisoformat(str(facts[end])) for end in ("start", "end")))
            stated[name] = (facts, window.status(bench.as_of) if name in bench.lab.broken else Status.RETIRED)
    rows = [
        {
            "experiment_id": name,
            "title": facts["title"],
            "owner": facts["owner"],
            "design": facts["kind"],
            "status": str(status),
            "start": date.fromisoformat(str(facts["start"])),
            "end": date.fromisoformat(str(facts["end"])),
        }
        for name, (facts, status) in stated.items()
    ]
    names = ("experiment_id", "title", "owner", "design", "status", "start", "end")
    types = {column.name: column.type for column in TABLES["marts.dim_experiments"].columns}
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types[name]) for name in names]))
