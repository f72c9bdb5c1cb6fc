"""How an asset becomes a table of the lake: read, compute, judge by its assertions, write, describe."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from pricelab_dagster import lake
from pricelab_dagster.defs.partitions import EXPERIMENTS
from pricelab_dagster.defs.resources import LabResource
from pricelab_dagster.engine import EngineError
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.models import assertions
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench

GROUPS = {"staging": "sources", "intermediate": "features", "marts": "marts", "spillover": "spillover"}
EXAMPLE_ROWS = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step of one experiment works with."""

    bench: Workbench
    experiment: Experiment

    def read(self, table: str) -> pa.Table:
        """Return a table, of a partitioned one this experiment's partition."""
        return self.bench.lake.read(table, self.experiment.id if TABLES[table].partitioned else None)

    def rng(self, name: str) -> np.random.Generator:
        """Return the generator of the named step of this experiment."""
        return self.bench.rng(self.experiment, name)


@dataclass(frozen=True, slots=True)
class Output:
    """The rows of a table, facts to store in its file, metadata for the web UI, and what follows once it is written.

    `beside` holds the rows of the tables that the same computation makes, by name; `checks` are verdicts that stand
    beside the rows and never hold them back.
    """

    rows: pa.Table
    facts: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    then: Callable[[], None] | None = None
    beside: Mapping[str, pa.Table] = field(default_factory=dict)
    checks: Sequence[dg.AssetCheckResult] = ()


def experiment_asset(
    table: str,
    *,
    reads: Sequence[str],
    group: str,
    after_start: bool = False,
    kinds: Sequence[str] = ("python", "parquet"),
    description: str | None = None,
    beside: Mapping[str, str] | None = None,
    verdicts: Mapping[str, str] | None = None,
) -> Callable[[Callable[[Stage], Output]], dg.AssetsDefinition]:
    """Return a decorator that makes `table`, partitioned by experiment, of a function from its stage to its output.

    The function's docstring is the asset's description. `after_start` assets are skipped while the experiment is
    planned: they have nothing to look at yet. `beside` describes, by name, the tables that the same function makes,
    `verdicts` the checks that its output carries: they block nothing.
    """
    others = beside or {}

    def decorate(compute: Callable[[Stage], Output]) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=table.replace(".", "__"),
            specs=[
                _spec(name, reads, group, kinds, text, skippable=True)
                for name, text in {table: description or compute.__doc__, **others}.items()
            ],
            check_specs=[
                *(check for name in (table, *others) for check in _check_specs(name)),
                *(_check_spec(table, name, text, blocking=False) for name, text in (verdicts or {}).items()),
            ],
            partitions_def=EXPERIMENTS,
            # without it the checks of a skipped table would count as missing outputs
            can_subset=True,
        )
        def asset(context: dg.AssetExecutionContext, lab: LabResource) -> Iterator[Any]:
            bench = lab.open()
            with _one_line_failures():
                experiment = bench.experiment(context.partition_key)
                bench.refuse_unsupported()
                bench.refuse_changed_design(experiment)
                if after_start and not bench.has_begun(experiment):
                    context.log.info(f"{experiment.id}: no product is in an arm yet, nothing to look at.")
                    return
                output = compute(Stage(bench, experiment))
            wanted = context.selected_asset_keys
            # the table with the facts by which an experiment counts as done comes last
            for name, rows in output.beside.items():
                if asset_key(name) in wanted:
                    yield from _publish(bench, name, Output(rows, output.facts), experiment)
            if asset_key(table) in wanted:
                yield from _publish(bench, table, output, experiment)

        return asset

    return decorate


def lab_asset(
    table: str,
    *,
    reads: Sequence[str],
    description: str,
    compute: Callable[[Workbench], Output],
    kinds: Sequence[str],
    automation_condition: dg.AutomationCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
) -> dg.AssetsDefinition:
    """Return an unpartitioned asset that makes `table` of the whole lab."""

    spec = _spec(table, reads, GROUPS[table.split(".")[0]], kinds, description, condition=automation_condition)
    spec = spec.replace_attributes(freshness_policy=freshness_policy)

    @dg.multi_asset(name=table.replace(".", "__"), specs=[spec], check_specs=_check_specs(table))
    def asset(lab: LabResource) -> Iterator[Any]:
        bench = lab.open()
        with _one_line_failures():
            output = compute(bench)
        yield from _publish(bench, table, output, None)

    return asset


def shared_output(stage: Stage, table: str, key: str, compute: Callable[[], pa.Table]) -> Output:
    """Return rows that depend on `key` alone, taken from an experiment that has them already where there is one."""
    rows, holder = stage.bench.lake.shared(table, stage.experiment.id, key, compute)
    return Output(rows, facts={"shared_key": key}, metadata={"computed_for": holder or stage.experiment.id})


def asset_key(table: str) -> dg.AssetKey:
    """Return the asset key of a table: schema, then name."""
    return dg.AssetKey(table.split("."))


def _spec(
    table: str,
    reads: Sequence[str],
    group: str,
    kinds: Sequence[str],
    description: str | None,
    *,
    skippable: bool = False,
    condition: dg.AutomationCondition | None = None,
) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(table),
        deps=[asset_key(name) for name in reads],
        group_name=group,
        kinds=set(kinds),
        description=" ".join((description or "").split()),
        metadata={"dagster/column_schema": _column_schema(table)},
        skippable=skippable,
        automation_condition=condition,
    )


def _check_specs(table: str) -> list[dg.AssetCheckSpec]:
    return [_check_spec(table, one.name, one.reason, blocking=True) for one in assertions() if one.table == table]


def _check_spec(table: str, name: str, description: str, *, blocking: bool) -> dg.AssetCheckSpec:
    """Return a check of a table, one verdict per experiment where the table is partitioned."""
    with warnings.catch_warnings():
        # partitions_def of a check is a preview parameter, and the only way to a verdict per experiment
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name,
            asset=asset_key(table),
            description=description,
            blocking=blocking,
            partitions_def=EXPERIMENTS if TABLES[table].partitioned else None,
        )


def _publish(bench: Workbench, table: str, output: Output, experiment: Experiment | None) -> Iterator[Any]:
    """Judge the rows, write them if no assertion breaks, and describe them; refused rows leave the last good table."""
    rows = lake.shape(table, output.rows)
    failed = dict(bench.failed_assertions(table, rows, experiment))
    for assertion in assertions():
        if assertion.table == table:
            offending = failed.get(assertion)
            yield dg.AssetCheckResult(
                passed=offending is None,
                asset_key=asset_key(table),
                check_name=assertion.name,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"offending_rows": offending.num_rows, "examples": _examples(offending)} if offending else {},
            )
    if failed:
        first, offending = next(iter(failed.items()))
        raise dg.Failure(
            f"{table}: {first.name} found {offending.num_rows} offending rows, such as {_examples(offending)}. "
            f"{first.reason} Nothing was written; the last good table is still there.",
            allow_retries=False,
        )
    partition = experiment.id if experiment is not None else None
    written = bench.lake.write(table, rows, partition, metadata=output.facts)
    if output.then is not None:
        output.then()
    yield from output.checks
    counted = "dagster/partition_row_count" if partition else "dagster/row_count"
    yield dg.MaterializeResult(asset_key=asset_key(table), metadata={counted: written.num_rows, **output.metadata})


def _examples(rows: pa.Table) -> str:
    return "; ".join(
        ", ".join(f"{name} {value}" for name, value in row.items()) for row in rows.slice(0, EXAMPLE_ROWS).to_pylist()
    )


def _column_schema(table: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(c.name, str(c.type), description=c.description) for c in TABLES[table].columns]
    )


@contextmanager
def _one_line_failures() -> Iterator[None]:
    """Turn what a user can mend into a failure with one line and no retry."""
    try:
        yield
    except (LabError, EngineError, lake.LakeError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
