"""The `pricelab` command: thin over the workbench and the runner. Data on stdout, messages on stderr."""

import sys
from pathlib import Path
from typing import Any

import click

from pricelab_dagster.cli_options import format_option, lab_option
from pricelab_dagster.design_commands import blackout, certificate, power
from pricelab_dagster.lab.errors import LabError
from pricelab_dagster.study_commands import study

DONE, NOT_DONE, WRONG_INPUT = 0, 1, 2


class Group(click.Group):
    """A group that turns what a user can mend into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; wrong input exits 2, work that has not happened exits 1."""
        from pricelab_dagster.engine import EngineError
        from pricelab_dagster.lake import LakeError
        from pricelab_dagster.runner import RunError

        try:
            return super().invoke(ctx)
        except (LabError, EngineError) as error:
            click.echo(f"pricelab: {error}", err=True)
            ctx.exit(WRONG_INPUT)
        except (LakeError, RunError) as error:
            click.echo(f"pricelab: {error}", err=True)
            ctx.exit(NOT_DONE)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pricelab", prog_name="pricelab")
def main() -> None:
    """Price experiments over products and time: design, price plan, effect and spillover.

    A lab is a folder with pricelab.yaml and experiments/*.yaml. Make one with `pricelab new DIR`, or see the whole
    thing at work on real grocery sales with `pricelab demo`.

    Exit codes: 0 done, 1 a run failed or has not happened, 2 the input is wrong.
    """


@main.command()
@click.option(
    "--lab",
    "lab_root",
    default="demo_lab",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the demo lab is built; an older one there is replaced.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How rows are printed.",
)
def demo(lab_root: Path, form: str) -> None:
    """Build and run the demo: six experiments on real grocery sales, effects beside the planted truth."""
    from pricelab_dagster import show
    from pricelab_dagster.demo import play

    with show.progress("demo") as report:
        rows = play.run(lab_root, report)
    show.rows(rows, form)
    if form == "table":
        show.note(play.summary(rows))


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--simulate", "scenario", metavar="SCENARIO", help="Simulate this market and plant known effects in it.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of the simulated market.")
@click.option("--products", default=200, show_default=True, help="How many products to simulate.")
def new(directory: Path, scenario: str | None, seed: int, products: int) -> None:
    """Make DIRECTORY a commented lab to start from; it runs as it stands."""
    from pricelab_dagster import show, simulated_lab, template

    if scenario is None:
        template.write(directory)
    else:
        simulated_lab.write(directory, scenario, seed=seed, n_products=products)
        show.note(f"The planted effects stand in {directory / simulated_lab.TRUTH}.")
    show.note(f"Wrote a lab to {directory}. Next: pricelab run --lab {directory}")


@main.command()
@lab_option
@format_option
def check(lab_root: Path, form: str) -> None:
    """Validate the lab and show its data quality, overlaps and refused changes; write nothing."""
    from pricelab_dagster import show, validate
    from pricelab_dagster.workbench import Workbench

    bench = Workbench.open(lab_root)
    with show.progress("check") as report:
        report("reading the sources")
        found = validate.check(bench)
    show.rows(found.data_quality, form)
    for line in found.overlaps:
        show.note(f"overlap: {line}")
    for error in found.errors:
        show.note(f"pricelab: {error}")
    for line in found.notes:
        show.note(line)
    show.note(f"{len(found.valid)} of {len(found.valid) + len(found.errors)} experiments can run.")
    sys.exit(WRONG_INPUT if found.errors or found.overlaps else DONE)


@main.command()
@lab_option
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Experiments that run at the same time."
)
@click.option("--force", is_flag=True, help="Also recompute experiments that are concluded and computed.")
def run(lab_root: Path, ids: tuple[str, ...], workers: int, force: bool) -> None:
    """Run the experiments IDs, or all: read the sources, materialise what is due, build the warehouse."""
    from pricelab_dagster import runner, show, validate
    from pricelab_dagster.workbench import Workbench

    bench = Workbench.open(lab_root)
    found = validate.check_files(bench, ids)
    for error in found.errors:
        show.note(f"pricelab: {error}")
    if found.errors and not found.valid:
        sys.exit(WRONG_INPUT)
    outcomes: list[runner.Outcome] = []
    skipped: list[str] = []
    with show.progress("run", total=len(found.valid) + 2) as report:
        work = runner.Runner(lab_root, report, workers=max(1, min(workers, len(found.valid))))
        try:
            outcomes.append(work.refresh())
            if outcomes[0].succeeded:
                wanted, skipped = runner.due(Workbench.open(lab_root), found.valid, force=force)
                outcomes += work.experiments(wanted)
                outcomes.append(work.publish())
        finally:
            work.close()
    for name in skipped:
        show.note(f"{name} is concluded and computed; --force recomputes it.")
    for outcome in outcomes:
        if not outcome.succeeded:
            show.note(f"pricelab: {outcome.experiment_id or outcome.job} failed. {outcome.message}")
    show.status(Workbench.open(lab_root))
    sys.exit(NOT_DONE if any(not one.succeeded for one in outcomes) else WRONG_INPUT if found.errors else DONE)


@main.command()
@lab_option
@format_option
@click.argument("ids", nargs=-1, metavar="[ID]...")
def effects(lab_root: Path, form: str, ids: tuple[str, ...]) -> None:
    """Print the effects of the experiments IDs, or of all that have some."""
    from pricelab_dagster import show

    show.stored(lab_root, "experiment.effects", ids, form, hidden=("estimand", "n_replicates", "seed"))
    if form == "table":
        from pricelab_dagster import show

        show.note("What each figure is an effect of stands in the column estimand of --format json and csv.")


@main.command()
@lab_option
@format_option
@click.argument("ids", nargs=-1, metavar="[ID]...")
def elasticities(lab_root: Path, form: str, ids: tuple[str, ...]) -> None:
    """Print the price elasticities of the experiments IDs, or of all that have some, and whether the change pays."""
    from pricelab_dagster import show

    show.stored(lab_root, "experiment.elasticities", ids, form, hidden=("n_replicates",))


@main.command()
@lab_option
@format_option
@click.argument("ids", nargs=-1, metavar="[ID]...")
def diagnostics(lab_root: Path, form: str, ids: tuple[str, ...]) -> None:
    """Print the checks of the experiments IDs, or of all that have some: passed, failed or informational."""
    from pricelab_dagster import show

    show.stored(lab_root, "experiment.diagnostics", ids, form)


@main.command()
@lab_option
@format_option
@click.argument("experiment_id", metavar="ID")
def plan(lab_root: Path, form: str, experiment_id: str) -> None:
    """Print the price plan of experiment ID: one price per product and period; works before the start."""
    from pricelab_dagster import show
    from pricelab_dagster.workbench import Workbench

    show.stored(lab_root, "experiment.price_plan", (experiment_id,), form)
    show.guarded(Workbench.open(lab_root), experiment_id)


@main.command()
@lab_option
@format_option
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(min=1), help="The number of products to print."
)
@click.argument("experiment_id", metavar="ID")
@click.argument("product_id", metavar="PRODUCT")
def twins(lab_root: Path, form: str, top: int, experiment_id: str, product_id: str) -> None:
    """Print the products that experiment ID compares PRODUCT with most: those that share most leaves of its forest."""
    from pricelab_dagster import show
    from pricelab_dagster import twins as alike
    from pricelab_dagster.workbench import Workbench

    show.rows(alike.of(Workbench.open(lab_root), experiment_id, product_id, top=top), form)


@main.command()
@lab_option
@click.argument("experiment_id", metavar="ID")
def picture(lab_root: Path, experiment_id: str) -> None:
    """Print the design of experiment ID as an SVG picture: products by periods, arms and blackouts."""
    from pricelab_dagster import picturing
    from pricelab_dagster.workbench import ASSIGNMENTS, Workbench

    bench = Workbench.open(lab_root)
    experiment = bench.experiment(experiment_id)
    click.echo(picturing.design_of(experiment, bench.lake.read(ASSIGNMENTS, experiment_id), bench.grain))


@main.command()
@lab_option
@format_option
@click.argument("query")
def sql(lab_root: Path, form: str, query: str) -> None:
    """Print the rows of QUERY, one read-only SELECT on the warehouse.

    For example: pricelab sql "from marts.fct_experiment_effects"
    """
    from pricelab_dagster import show
    from pricelab_dagster.engine import query_database
    from pricelab_dagster.lake import LakeError
    from pricelab_dagster.workbench import Workbench

    bench = Workbench.open(lab_root)
    warehouse = bench.lab.root / "warehouse.duckdb"
    if not warehouse.exists():
        raise LakeError("warehouse.duckdb: nothing there yet. Build it with `pricelab run`.")
    show.rows(query_database(warehouse, query, lake_files=bench.lake.all_files()), form)


for command in (certificate, power, blackout, study):
    main.add_command(command)
