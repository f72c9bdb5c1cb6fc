"""The demo, played: sales up to each start, assignment and plan, sales that follow it, effects beside truth."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pricelab_dagster import frames, runner
from pricelab_dagster.demo import data, mailers, world
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.workbench import ASSIGNMENTS, Workbench, stage_rng

WORLD_SEED = 20170101
MAX_WORKERS = 2
MARKER = ".pricelab-demo"
TRUTH_FILE = Path("truth") / "planted.parquet"
COMPARED = ("experiment_id", "design", "metric", "scale", "effect", "ci_lower", "ci_upper", "truth", "covered")

Progress = Callable[[str], None]


def run(lab_root: Path, report: Progress) -> pa.Table:
    """Build the demo lab, run its experiments and return their effects beside the planted truth.

    Raises
    ------
    LabError : when `lab_root` holds something that no demo wrote.
    RunError : when a run fails; the message names the step.
    """
    _prepare(lab_root)
    report("reading Complete Journey")
    work = runner.Runner(lab_root, report, workers=min(os.cpu_count() or 1, MAX_WORKERS))
    try:
        _play(lab_root, work)
    finally:
        work.close()
    return comparison(lab_root)


def _play(lab_root: Path, work: runner.Runner) -> None:
    untreated = data.load(data.FIRST_START)
    _write_reference(lab_root, untreated)
    _write_sales(lab_root, untreated.sales, through=data.FIRST_START - timedelta(days=1))
    experiments = Workbench.open(lab_root).lab.experiments
    elasticity = world.draw_elasticities(
        untreated.products["product_id"].tolist(), rng=np.random.default_rng(WORLD_SEED)
    )
    sales, events = untreated.sales, mailers.weekly_files(mailers.onsets(untreated.products["product_id"]))
    for start in sorted({one.start for one in experiments.values()}):
        starting = [one for one in experiments.values() if one.start == start]
        _write_sales(lab_root, sales, through=start - timedelta(days=1))
        _run(work, starting)
        sales = _follow_plans(lab_root, starting, sales, elasticity)
        for one in starting:
            if one.design.kind == "triggered":
                sales = _play_weeks(lab_root, work, one, events, sales, elasticity)
    _write_sales(lab_root, sales, through=date.max)
    _write_truth(lab_root, list(experiments.values()), untreated, elasticity)
    _run(work, list(experiments.values()))
    runner.require([work.publish()])


def _play_weeks(
    lab_root: Path,
    work: runner.Runner,
    experiment: Experiment,
    events: Mapping[date, pd.DataFrame],
    sales: pd.DataFrame,
    elasticity: pd.Series,
) -> pd.DataFrame:
    """Return the sales of shops that follow a triggered plan: each Sunday brings the mailer of the week that begins.

    The plan grows by the windows of the products that the mailer triggers, and demand answers the new rows alone.
    """
    design = experiment.design
    assert design.kind == "triggered"
    done: set[tuple[str, date]] = set()
    for monday in sorted(day for day in events if design.start <= day <= design.horizon):
        _write_sales(lab_root, sales, through=monday - timedelta(days=1))
        write_mailers(lab_root, {monday: events[monday]})
        runner.require([work.refresh(), work.plan(experiment.id)])
        plan = Workbench.open(lab_root).lake.read("experiment.price_plan", experiment.id).to_pandas()
        new = [cell not in done for cell in zip(plan["product_id"], plan["date"], strict=True)]
        rng = stage_rng(experiment.assignment.seed, experiment.id, f"planting {monday}")
        sales = world.plant(sales, plan[new], elasticity, rng=rng)
        done |= set(zip(plan["product_id"], plan["date"], strict=True))
    return sales


def write_mailers(lab_root: Path, files: Mapping[date, pd.DataFrame]) -> None:
    """Write the mailers as one file of events a week, named after its Monday."""
    folder = lab_root / "data" / "mailers"
    folder.mkdir(parents=True, exist_ok=True)
    for monday, rows in files.items():
        rows.assign(occurred_on=rows["occurred_on"].dt.date).to_csv(folder / f"{monday}.csv", index=False)


def comparison(lab_root: Path) -> pa.Table:
    """Return the headline effects of the demo beside the planted truth, and whether the interval holds it."""
    bench = Workbench.open(lab_root)
    effects = frames.to_pandas(bench.lake.read("experiment.effects"))
    designs = {name: one.design.kind for name, one in bench.lab.experiments.items()}
    planted = pq.read_table(lab_root / TRUTH_FILE).to_pandas()
    rows = effects[effects["is_headline"]].merge(planted, on=["experiment_id", "metric"])
    rows["design"] = rows["experiment_id"].map(designs)
    rows["covered"] = (rows["ci_lower"] <= rows["truth"]) & (rows["truth"] <= rows["ci_upper"])
    order = pd.Categorical(rows["metric"], ["units", "revenue", "price"])
    rows = rows.assign(order=order).sort_values(["experiment_id", "order"])
    return pa.Table.from_pandas(rows[list(COMPARED)], preserve_index=False)


def summary(rows: pa.Table) -> str:
    """Return one sentence on how many intervals of the primary metric hold their truth."""
    units = [row for row in rows.to_pylist() if row["metric"] == "units"]
    covered = sum(row["covered"] for row in units)
    return f"{covered} of {len(units)} intervals for units hold the planted truth; 95 % of them should in the long run."


def write_untreated(lab_root: Path, untreated: data.UntreatedWorld) -> None:
    """Write the demo's lab with the sales of the whole year as if no experiment had been."""
    _prepare(lab_root)
    _write_reference(lab_root, untreated)
    _write_sales(lab_root, untreated.sales, through=date.max)


def _prepare(lab_root: Path) -> None:
    if lab_root.exists():
        if any(lab_root.iterdir()) and not (lab_root / MARKER).exists():
            found, allowed = "holds files that no demo wrote", "a new folder, an empty one or an older demo"
            raise LabError(str(lab_root), None, found, allowed, "Name another folder with --lab DIR.")
        shutil.rmtree(lab_root)
    shutil.copytree(data.LAB, lab_root)
    (lab_root / MARKER).write_text("Made by `pricelab demo`, which replaces this folder when it runs again.\n")
    (lab_root / "data").mkdir()


def _write_reference(lab_root: Path, untreated: data.UntreatedWorld) -> None:
    for name in ("products", "incumbent"):
        table = pa.Table.from_pandas(getattr(untreated, name), preserve_index=False)
        pq.write_table(table, lab_root / "data" / f"{name}.parquet")


def _write_sales(lab_root: Path, sales: pd.DataFrame, *, through: date) -> None:
    """Write what the shops have sold by the evening of `through`."""
    days = sales["date"].dt.date
    table = pa.Table.from_pandas(sales[days <= through], preserve_index=False)
    pq.write_table(table, lab_root / "data" / "sales.parquet")


def _follow_plans(
    lab_root: Path, starting: Sequence[Experiment], sales: pd.DataFrame, elasticity: pd.Series
) -> pd.DataFrame:
    """Return the sales of a world in which the shops charge what the plans of the starting experiments say."""
    lake = Workbench.open(lab_root).lake
    for experiment in starting:
        plan = lake.read("experiment.price_plan", experiment.id).to_pandas()
        rng = stage_rng(experiment.assignment.seed, experiment.id, "planting")
        sales = world.plant(sales, plan, elasticity, rng=rng)
    return sales


def _write_truth(
    lab_root: Path, experiments: Sequence[Experiment], untreated: data.UntreatedWorld, elasticity: pd.Series
) -> None:
    lake = Workbench.open(lab_root).lake
    multipliers = {one.id: float(one.arms[0].price_multiplier or 1.0) for one in experiments}
    planted = [
        world.truth(
            untreated.sales,
            world.treated_cells(lake.read(ASSIGNMENTS, one.id).to_pandas(), untreated.incumbent, multipliers),
            elasticity,
        )
        for one in experiments
    ]
    path = lab_root / TRUTH_FILE
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pandas(pd.concat(planted, ignore_index=True), preserve_index=False), path)


def _run(work: runner.Runner, experiments: Sequence[Experiment]) -> None:
    runner.require([work.refresh(), *work.experiments([one.id for one in experiments])])
