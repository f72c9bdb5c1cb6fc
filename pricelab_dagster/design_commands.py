"""The commands that help to choose a design: spillover certificate, power, blackout."""

from pathlib import Path

import click

from pricelab_dagster.cli_options import format_option, lab_option


@click.command()
@lab_option
@format_option
@click.argument("experiment_id", metavar="ID")
def certificate(lab_root: Path, form: str, experiment_id: str) -> None:
    """Print what assigning by product or by clusters is predicted to cost experiment ID, and which of them to take."""
    from pricelab_dagster import show
    from pricelab_dagster.workbench import Workbench

    show.stored(lab_root, "spillover.certificate", (experiment_id,), form)
    if form == "table":
        stored = Workbench.open(lab_root).lake.metadata("spillover.certificate", experiment_id)
        show.note(str(stored.get("recommendation", "")))


@click.command()
@lab_option
@format_option
@click.option("--where", help="Instead of ID: the SQL condition over the products of an experiment not written yet.")
@click.option("--effect", type=float, help="With --where: the relative effect that it looks for, .05 for 5 %.")
@click.option("--days", default=28, show_default=True, type=int, help="With --where: the most days that it may take.")
@click.option("--exact", is_flag=True, help="Draw each design many times: minutes instead of seconds, with coverage.")
@click.argument("experiment_id", required=False, metavar="[ID]")
def power(
    lab_root: Path,
    form: str,
    where: str | None,
    effect: float | None,
    days: int,
    exact: bool,
    experiment_id: str | None,
) -> None:
    """Print what each design would cost experiment ID, or products --where, by their own history, and which to take."""
    from pricelab_dagster import choosing, show
    from pricelab_dagster.workbench import Workbench

    if (experiment_id is None) == (where is None) or (where is None) != (effect is None):
        raise click.UsageError("Give an ID, or --where with --effect.")
    bench = Workbench.open(lab_root)
    if experiment_id is not None and not exact:
        show.stored(lab_root, choosing.TABLE, (experiment_id,), form, hidden=choosing.HIDDEN)
        advice = str(bench.lake.metadata(choosing.TABLE, experiment_id).get("recommendation", ""))
    else:
        with show.progress("power") as report:
            report("reading the history")
            rows, advice = choosing.answer(
                bench, experiment_id, where=where, effect=effect, days=days, exact=exact, report=report
            )
        show.rows(rows.drop_columns(list(choosing.HIDDEN)) if form == "table" else rows, form)
    if form == "table":
        show.note(advice)


@click.command()
@lab_option
@format_option
@click.argument("ids", nargs=-1, metavar="[ID]...")
def blackout(lab_root: Path, form: str, ids: tuple[str, ...]) -> None:
    """Print how the effect moved after each switch in the experiments IDs, or all, and the blackouts this advises."""
    from pricelab_dagster import after_effects, show
    from pricelab_dagster.workbench import Workbench

    show.stored(lab_root, after_effects.TABLE, ids, form, hidden=after_effects.HIDDEN)
    if form == "table":
        bench = Workbench.open(lab_root)
        for name in ids or bench.lake.partitions(after_effects.TABLE):
            for sentence in after_effects.advices(bench.lake.metadata(after_effects.TABLE, name)):
                show.note(f"{name}, {sentence}")
        show.note(after_effects.summary(after_effects.beliefs(bench), bench.grain))
