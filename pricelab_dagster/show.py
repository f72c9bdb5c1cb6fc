"""What the command prints: rows as a table, JSON or CSV on stdout, progress and notes on stderr."""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pricelab_dagster.lab import Experiment
from pricelab_dagster.lake import LakeError
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.workbench import Workbench

_WIDE = 10_000
_stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def rows(table: pa.Table, form: str) -> None:
    """Print rows: `table` for people, `json` as a list of flat rows, `csv` with a header."""
    if form == "json":
        print(json.dumps([_plain(row) for row in table.to_pylist()], indent=1, allow_nan=False))
    elif form == "csv":
        buffer = io.BytesIO()
        pa.csv.write_csv(pa.Table.from_pylist([_text(row) for row in table.to_pylist()], schema=_texts(table)), buffer)
        sys.stdout.write(buffer.getvalue().decode())
    else:
        _as_table(table)


def stored(lab_root: Path, table: str, ids: tuple[str, ...], form: str, *, hidden: tuple[str, ...] = ()) -> None:
    """Print a table of the lake, of the experiments `ids` or of all; as a table for people without `hidden` columns.

    Raises
    ------
    LabError, LakeError : for an experiment that does not exist, or whose table does not yet.
    """
    bench = Workbench.open(lab_root)
    for name in ids:
        if not bench.lake.exists(table, name):
            bench.experiment(name)
    names = list(ids) or bench.lake.partitions(table)
    if not names:
        raise LakeError(f"{table}: nothing there yet. Materialise it first with `pricelab run`.")
    found = pa.concat_tables([bench.lake.read(table, name) for name in names], promote_options="default")
    rows(found.drop_columns(list(hidden)) if form == "table" else found, form)


def note(line: str) -> None:
    """Print one line for the person at the terminal."""
    _stderr.print(line, markup=False)


@contextmanager
def progress(title: str, *, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Yield a function that names the present step; a bar where the number of steps is known.

    Without a terminal each step is one line.
    """
    if not _stderr.is_terminal:
        yield lambda step: note(f"{title}: {step}")
        return
    columns = [SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
    if total is not None:
        columns[2:2] = [BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, console=_stderr, transient=True) as display:
        task = display.add_task(title, total=total)
        seen = False

        def report(step: str) -> None:
            nonlocal seen
            display.update(task, description=f"{title}: {step}", advance=1 if seen else 0)
            seen = True

        yield report


def status(bench: Workbench) -> None:
    """Print where each experiment stands."""
    for experiment in bench.lab.experiments.values():
        window = bench.window(experiment)
        computed = "not run, or its run failed"
        if bench.is_current(experiment):
            computed = "effects computed" if bench.has_begun(experiment) else "price plan ready"
            if bench.status(experiment) is Status.CONCLUDED and not bench.has_begun(experiment):
                computed = "no effects: no product was triggered"
        events = _events(bench, experiment) if experiment.design.kind == "triggered" else ""
        note(f"{experiment.id}: {bench.status(experiment)}, {window.start} to {window.end}, {computed}{events}")


def guarded(bench: Workbench, experiment_id: str) -> None:
    """Print how many prices of a plan the guard changed, and how many it put back to the incumbent price."""
    notes = bench.lake.read("experiment.price_plan", experiment_id)["note"]
    counts = {row["values"]: row["counts"] for row in notes.value_counts().to_pylist() if row["values"] is not None}
    for text, count in sorted(counts.items()):
        note(f"{count} of {len(notes)} cells: {text}.")


def _events(bench: Workbench, experiment: Experiment) -> str:
    """Return the verdicts on the events so far, counted."""
    counted = bench.seen_events(experiment)["status"].value_counts().to_pylist()
    told = sorted(f"{row['counts']} {row['values']}" for row in counted)
    return f"; events: {', '.join(told) or 'none yet'}"


def _as_table(table: pa.Table) -> None:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for field in table.schema:
        numeric = any(check(field.type) for check in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal))
        grid.add_column(field.name, justify="right" if numeric else "left", no_wrap=True)
    for row in table.to_pylist():
        grid.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=_WIDE if not sys.stdout.isatty() else None, highlight=False)
    console.print(grid, crop=False, no_wrap=True, overflow="ignore", soft_wrap=not sys.stdout.isatty())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0:
        return "0"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {name: _json_value(value) for name, value in row.items()}


def _json_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return float(value) if value % 1 else int(value)
    return value.isoformat() if isinstance(value, date) else value


def _text(row: dict[str, object]) -> dict[str, str | None]:
    return {name: None if (plain := _json_value(value)) is None else str(plain) for name, value in row.items()}


def _texts(table: pa.Table) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in table.schema.names])
