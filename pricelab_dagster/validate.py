"""Whether a lab's data fit its files: columns, dates and conditions, judged before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from pricelab_dagster import attributes, collisions, scope
from pricelab_dagster.engine import EngineError
from pricelab_dagster.lab import Experiment, LabError, Source, unknown_column_error
from pricelab_dagster.lab.config import ProductsSource
from pricelab_dagster.models import models
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import ASSIGNMENTS, DRAWN_ARMS, FEATURES, Workbench

MIN_UNITS = 4
MIN_PER_ARM = 3
"""Units of an arm without which effects have no standard error: `bootstrap.MIN_UNITS_PER_ARM`."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """First and last date of the sales source, and whether its dates fall on one weekday."""

    first: date
    last: date
    n_weekdays: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check of a lab found: experiments that can run, errors, overlaps, data quality, and what else to know."""

    valid: list[str]
    errors: list[LabError]
    overlaps: list[str]
    data_quality: pa.Table
    notes: Sequence[str] = ()


def check(bench: Workbench) -> Findings:
    """Return all findings, without writing anything.

    Raises
    ------
    LabError : when pricelab.yaml does not fit its sources, which stops all experiments.
    """
    found = check_files(bench, ())
    staged = _staged(bench)
    errors, notes = list(found.errors), {}
    claims = collisions.in_force(bench)
    for name in found.valid:
        experiment = bench.experiment(name)
        try:
            products = _priced(staged, experiment)
            notes[name] = _few_units(bench, experiment, len(products))
            if name not in claims or not bench.is_drawn_as_written(experiment):
                claims[name] = collisions.claim(bench, experiment, products)
        except LabError as error:
            errors.append(error)
    quality = staged.run_model(models()["intermediate.int_data_quality"])
    broken = {error.file for error in errors}
    valid = [name for name in found.valid if bench.experiment(name).file not in broken]
    said = [note for name in valid for note in (_kinds(staged, bench.experiment(name)), notes[name]) if note]
    return Findings(valid, errors, collisions.sentences(claims), quality, said)


def check_files(bench: Workbench, ids: Sequence[str]) -> Findings:
    """Return the experiments among `ids` (all by default) that can run, and the errors of the others.

    Raises
    ------
    LabError : when pricelab.yaml does not fit its sources, or an id has no file.
    """
    calendar = check_sources(bench)
    names = list(ids) or sorted({*bench.lab.experiments, *bench.lab.broken})
    valid, errors = [], []
    for name in names:
        if name not in bench.lab.broken:
            bench.experiment(name)
        try:
            check_experiment(bench, bench.experiment(name), calendar)
            valid.append(name)
        except LabError as error:
            errors.append(error)
    return Findings(valid, errors, [], TABLES["intermediate.int_data_quality"].schema.empty_table())


def check_sources(bench: Workbench) -> Calendar:
    """Return the calendar of the sales, after every source was found to have the columns and types it is said to have.

    Raises
    ------
    LabError : for the first expression that does not fit its source.
    """
    for key, source in bench.lab.config.sources().items():
        _check_source(bench, "pricelab.yaml", key, source)
    sales = bench.lab.config.sales
    query = f"""
        select min(date) as first, max(date) as last,
            count(distinct datediff('day', date_trunc('week', date), date)) as n_weekdays
        from ({sales.select(bench.lab.root)}) as sales
    """
    row = bench.engine.sql(query, files=sales.files(bench.lab.root)).to_pylist()[0]
    if row["first"] is None:
        raise LabError(
            "pricelab.yaml", "sales.columns.date", "no date", "set in at least one row", "Check the mapping."
        )
    return Calendar(**row)


def check_experiment(bench: Workbench, experiment: Experiment, calendar: Calendar) -> None:
    """Check that an experiment fits the data of its lab.

    Raises
    ------
    LabError : for a scope that does not bind, a start without history, or a start between the weeks.
    """
    bench.refuse_unsupported()
    for key, source in experiment.tables().items():
        _check_source(bench, experiment.file, key.removesuffix(".source"), source)
    if experiment.start <= calendar.first:
        allowed = f"after the first sales on {calendar.first}"
        raise LabError(experiment.file, "design.start", experiment.start, allowed, "Start later, or add earlier sales.")
    if bench.grain == "week" and calendar.n_weekdays == 1 and (experiment.start - calendar.first).days % 7:
        allowed = f"a week label such as {calendar.first} or {calendar.last}"
        raise LabError(experiment.file, "design.start", experiment.start, allowed, "Give the label of the first week.")
    if bench.grain == "week" and calendar.n_weekdays > 1 and experiment.start.weekday():
        allowed = "a Monday, because the lab's weeks are labelled by their Monday"
        raise LabError(experiment.file, "design.start", experiment.start, allowed, "Give the Monday of the first week.")
    stop = experiment.design.stop
    if bench.grain == "week" and stop is not None and (stop - experiment.start).days % 7:
        allowed = f"a whole number of weeks after the start {experiment.start}"
        raise LabError(experiment.file, "design.stop", stop, allowed, "Give the label of the last week in force.")
    if experiment.scope.where:
        scope.matching(bench, experiment, _empty_features(bench))
    bench.refuse_changed_design(experiment)


def _staged(bench: Workbench) -> Workbench:
    """Return the lab with its sales, products and calendar in memory."""
    for name in ("staging.stg_sales", "staging.stg_products", "staging.stg_events", "intermediate.int_product_days"):
        bench = bench.with_table(name, bench.run_model(models()[name]))
    return bench


def _priced(bench: Workbench, experiment: Experiment) -> list[str]:
    """Return the products that an experiment prices, or would: as drawn once it has started, else from its scope.

    Raises
    ------
    LabError : when the scope cannot be drawn from, judged on its features in memory.
    """
    for table in (DRAWN_ARMS, ASSIGNMENTS):
        if bench.is_frozen(experiment) and bench.lake.exists(table, experiment.id):
            drawn = sorted(set(bench.lake.read(table, experiment.id)["product_id"].to_pylist()))
            if drawn:
                return drawn
    covered = scope.products(bench, experiment, bench.run_model(models()[FEATURES], experiment))
    if experiment.scope.sample.unit == "product":
        covered = scope.sample(experiment, covered, {}).products
    needed = max(MIN_UNITS, 2 * (len(experiment.arms) + 1))
    if len(covered) < needed:
        allowed = f"a scope of at least {needed} products"
        raise LabError(experiment.file, "scope", f"{len(covered)} products", allowed, "Widen the scope.")
    if _draws_products(experiment):
        scope.refuse_lone_units(experiment, len(covered))
    return covered


def _draws_products(experiment: Experiment) -> bool:
    """Return whether the arms are drawn here, product by product."""
    return experiment.assignment.source is None and experiment.assignment.unit == "product"


def _few_units(bench: Workbench, experiment: Experiment, n_products: int) -> str | None:
    """Return a sentence when an experiment that is still to start will have an arm too small for a standard error."""
    if bench.is_frozen(experiment) or not _draws_products(experiment):
        return None
    expected = scope.units_of_smallest_arm(experiment, n_products)
    if expected >= MIN_PER_ARM:
        return None
    return (
        f"{experiment.file}: of {n_products} products {expected:.2g} are expected in the smallest arm; with less than "
        f"{MIN_PER_ARM} an effect has no standard error. Widen the scope, or take random days, on which all products "
        "are in both arms."
    )


def _kinds(bench: Workbench, experiment: Experiment) -> str | None:
    """Return a sentence when no event so far is of the kind that an experiment waits for."""
    design = experiment.design
    if design.kind != "triggered":
        return None
    kinds = bench.in_memory["staging.stg_events"]["kind"].value_counts().to_pylist()
    counted = {str(row["values"]): row["counts"] for row in kinds}
    if not counted or design.event in counted:
        return None
    known = ", ".join(f"{kind!r} ({count})" for kind, count in sorted(counted.items()))
    return f"{experiment.file}: no event is of the kind {design.event!r} yet; the source has {known}."


def _check_source(bench: Workbench, file: str, key: str, source: Source) -> None:
    root, files = bench.lab.root, source.files(bench.lab.root)
    if source.is_empty(root):
        return
    prefix = "query" if source.query is not None else "source"
    try:
        available = bench.engine.sql(f"{source.select_all(root)} limit 0", files=files).schema.names
    except EngineError as error:
        raise LabError(file, f"{key}.{prefix}", str(error), "readable", "Correct the file or the query.") from error
    for name, expression in source.expressions().items():
        try:
            raise unknown_column_error(file, f"{key}.{name}", expression, available)
        except ValueError:
            continue
    if isinstance(source, ProductsSource):
        _check_attributes(file, source, available)
    try:
        bench.engine.sql(f"select count(columns(*)) from ({source.select(root)}) as canonical", files=files)
    except EngineError as error:
        found, allowed = str(error), "expressions that give text, dates and numbers"
        whole = LabError(file, f"{key}.columns", found, allowed, "Correct the mapping, or filter by where.")
        raise _culprit(bench, file, key, source) or whole from error
    if isinstance(source, ProductsSource):
        attributes.refuse_unusable(bench.engine.sql(source.select(root), files=files), source.attributes)


def _culprit(bench: Workbench, file: str, key: str, source: Source) -> LabError | None:
    """Return the error of the first expression that fails by itself."""
    rows, files = source.select_all(bench.lab.root), source.files(bench.lab.root)
    for name, expression in source.expressions().items():
        kind = source.types.get(name.removeprefix("columns."), "boolean")
        try:
            bench.engine.sql(f"select count(cast({expression} as {kind})) from ({rows}) as source", files=files)
        except EngineError as error:
            remedy = f"Correct the mapping, or filter by where. DuckDB says: {error}"
            return LabError(file, f"{key}.{name}", expression, f"an expression that gives a {kind}", remedy)
    return None


def _check_attributes(file: str, source: ProductsSource, available: list[str]) -> None:
    known = {name.lower() for name in available}
    for attribute in source.attributes:
        if attribute.lower() not in known:
            raise unknown_column_error(file, "products.attributes", f'"{attribute}"', available)


def _empty_features(bench: Workbench) -> pa.Table:
    declared = TABLES[FEATURES].schema
    products = bench.engine.sql(
        "select * from source.products limit 0", tables={"source.products": bench.source("products")}
    ).schema
    extra = [field for field in products if field.name not in declared.names]
    return pa.schema([*declared, *extra]).empty_table()
