"""The commands under `pricelab study`: simulation studies that may be interrupted and go on from their file."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pricelab_dagster.cli_options import format_option

if TYPE_CHECKING:
    import pyarrow as pa

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def draws_option(name: str, default: int, text: str) -> Decorator:
    """Return the option that says how many draws a study makes."""
    return click.option(name, default=default, show_default=True, type=click.IntRange(min=1), help=text)


def resumable(name: str) -> Decorator:
    """Return the options of every study: how many processes work on it, and the file that it goes on from."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        out = click.option(
            "--out",
            default=f"study/{name}.jsonl",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Results so far; a study that was interrupted goes on from there.",
        )
        workers = click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes.")
        return workers(out(function))

    return add


def all_option(what: str) -> Decorator:
    """Return the option that shows what a study leaves out of its tables."""
    return click.option("--all", "everything", is_flag=True, help=f"Also print {what}.")


@click.group()
def study() -> None:
    """Simulation studies: redraw and re-estimate many times, and print coverage and standard errors."""


@study.command("demo")
@draws_option("--seeds", 100, "Draws per experiment.")
@resumable("demo")
@format_option
def study_demo(seeds: int, workers: int, out: Path, form: str) -> None:
    """Redraw assignment and planting of the demo; print coverage and median standard error per experiment."""
    from pricelab_dagster import show
    from pricelab_dagster.demo import study as demo_study

    with show.progress("study demo", total=seeds) as report:
        rows = demo_study.run(seeds, workers=workers, out=out, report=report)
    show.rows(rows, form)


@study.command("designs")
@draws_option("--replications", 400, "Draws of each design and market.")
@resumable("designs")
@format_option
def study_designs(replications: int, workers: int, out: Path, form: str) -> None:
    """Draw each design on simulated markets; print bias, coverage and standard errors of every estimator."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import designs

    with show.progress("study designs", total=replications) as report:
        rows = designs.run(replications, workers=workers, out=out, report=report)
    show.rows(rows, form)
    if form == "table":
        show.note(designs.READING)


@study.command("hpte")
@draws_option("--replications", 1000, "Draws of each market and design; those that take long have fewer.")
@resumable("hpte")
@all_option("the figures of which nothing is asked")
@format_option
def study_hpte(replications: int, workers: int, out: Path, everything: bool, form: str) -> None:
    """Hold HPTE against its bars and its peers on simulated markets: intervals, filter, confounding."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import hpte

    with show.progress("study hpte", total=replications) as report:
        rows = hpte.run(replications, workers=workers, out=out, report=report)
    _judged(rows, form, everything=everything, reading=hpte.READING)


@study.command("spillover")
@draws_option("--worlds", 200, "Simulated markets without cross effects; those with them are 24 at most.")
@resumable("spillover")
@all_option("the figures of which nothing is asked")
@format_option
def study_spillover(worlds: int, workers: int, out: Path, everything: bool, form: str) -> None:
    """Hold graph, clusters, exposure weighting and certificate against markets whose cross effects are known."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import spillover

    total = worlds + len(spillover.MARKETS) * min(worlds, spillover.MOST_WORLDS)
    with show.progress("study spillover", total=total) as report:
        rows = spillover.run(worlds, workers=workers, out=out, report=report)
    _judged(rows, form, everything=everything, reading=spillover.READING)


@study.command("claims")
@draws_option("--replications", 400, "Draws of each design and market; markets with substitutes are 24 at most.")
@resumable("claims")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Folder to write a picture of each claim into."
)
@all_option("mean squared errors and every estimator's spread")
@format_option
def study_claims(replications: int, workers: int, out: Path, plots: Path | None, everything: bool, form: str) -> None:
    """Hold designs, filter, blackout and clusters against what the article says they take off error and bias."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import claim_plots, claims

    steps = replications + min(replications, claims.MOST_WORLDS) + 2
    with show.progress("study claims", total=steps) as report:
        rows = claims.run(replications, workers=workers, out=out, report=report)
    for path in claim_plots.write(rows, plots) if plots else ():
        show.note(f"Wrote {path}")
    rows = rows if everything else claims.headline(rows)
    for place, part in enumerate(claims.tables(rows) if form == "table" else [rows]):
        if place:
            click.echo()
        show.rows(part, form)
    if form == "table":
        show.note(claims.READING)


@study.command("chooser")
@draws_option("--markets", 20, "Simulated markets of each kind.")
@resumable("chooser")
@all_option("the figures of which nothing is asked")
@format_option
def study_chooser(markets: int, workers: int, out: Path, everything: bool, form: str) -> None:
    """Hold the design chooser's choice and its predicted errors against those that designs have on a market."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import chooser

    with show.progress("study chooser", total=markets * len(chooser.SCENARIOS)) as report:
        rows = chooser.run(markets, workers=workers, out=out, report=report)
    _judged(rows, form, everything=everything, reading=chooser.READING)


@study.command("labs")
@draws_option("--labs", 40, "Labs, each with one experiment per design.")
@resumable("labs")
@format_option
def study_labs(labs: int, workers: int, out: Path, form: str) -> None:
    """Play whole labs through Dagster, from the draw to the readout; print how often their intervals hold the truth."""
    from pricelab_dagster import show
    from pricelab_dagster.studies import labs as study_of_labs

    with show.progress("study labs", total=labs) as report:
        rows = study_of_labs.run(labs, workers=workers, out=out, report=report)
    show.rows(rows, form)
    if form == "table":
        show.note(study_of_labs.READING)


def _judged(rows: "pa.Table", form: str, *, everything: bool, reading: str) -> None:
    """Print the figures that are held against a bar, or all of them, and how to read them."""
    import pyarrow.compute as pc

    from pricelab_dagster import show

    show.rows(rows if everything else rows.filter(pc.not_equal(rows["bar"], "")), form)
    if form == "table":
        show.note(reading)
