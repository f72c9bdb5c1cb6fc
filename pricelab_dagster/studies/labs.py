"""Labs played from the draw to the readout through Dagster: how often their intervals hold the planted effects."""

import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster import frames, runner, simulated_lab, template
from pricelab_dagster.science import market
from pricelab_dagster.studies import figures, resume
from pricelab_dagster.workbench import ASSIGNMENTS, Workbench, stage_rng

SCENARIO, N_PRODUCTS = "base", 400
HORIZON, AFTER = 28, 14
"""Days on which an event triggers, and for which it does."""
N_WINDOW = HORIZON + AFTER + 1
P_EVENT = 0.8
"""Share of the products of the triggered experiment that have an event."""
TRIGGERED = "triggered"
DESIGNS = {
    **simulated_lab.DESIGNS,
    TRIGGERED: f"kind: triggered\n  event: mailer\n  start: {simulated_lab.START}\n"
    f"  horizon: {simulated_lab.START + timedelta(days=HORIZON - 1)}\n  duration: {AFTER}",
}
EVENTS = "events: {source: data/events/*.csv, columns: {event_id: id, product_id: sku, occurred_on: day, kind: kind}}\n"
NOMINAL = 0.95

READING = (
    "Every lab is a new market, played as it would be used: sales up to the start, arms and plan drawn by a run, sales "
    "that follow the plan, events file by file, and a last run over all sales. Each design has every fourth category. "
    "Truth is the planted effect of the same products and days. coverage: share of headline intervals that hold it, "
    "with its exact binomial interval; all designs together: share of labs in which all intervals for units do, where "
    ".95^4 = .815 is expected. error_over_se: mean of (effect - truth) / standard error."
)


def run(labs: int, *, workers: int, out: Path, report: resume.Progress) -> pa.Table:
    """Return a row per design and metric, and one for all designs together; labs that `out` holds are not played again.

    Raises
    ------
    RunError : when a run fails; the message names the step.
    """
    done = {row["lab"] for row in resume.read(out)}
    report(f"{len(done)} labs are there already")
    wanted = [seed for seed in range(1, labs + 1) if seed not in done]
    resume.append(wanted, play, out=out, workers=workers, report=report, title=lambda seed: f"lab {seed}")
    return summary([row for row in resume.read(out) if row["lab"] <= labs])


def play(seed: int) -> list[dict[str, Any]]:
    """Return the headline effects of one lab beside the truth, by design, metric and scale."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lab"
        world = market.simulate(
            scenario=SCENARIO,
            n_products=N_PRODUCTS,
            n_history=simulated_lab.N_HISTORY,
            n_window=N_WINDOW,
            start=simulated_lab.START,
            treatment_multiplier=simulated_lab.MULTIPLIER,
            rng=stage_rng(seed, SCENARIO, "market"),
        )
        simulated_lab.write_files(root, world, seed, designs=DESIGNS, events=EVENTS)
        work = runner.Runner(root, lambda _: None)
        try:
            arm = _play(root, world, work, stage_rng(seed, SCENARIO, "events"))
            template.write_data(root, world, arm)
            _run(work, list(DESIGNS))
            return [{"lab": seed, **row} for row in _beside_truth(root, world)]
        finally:
            work.close()


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    """Return coverage by design and metric with its interval, and that of all intervals of a lab at once."""
    frame, found = pd.DataFrame(rows), []
    frame["held"] = (frame["ci_lower"] <= frame["truth"]) & (frame["truth"] <= frame["ci_upper"])
    for (design, metric, scale), part in frame.groupby(["design", "metric", "scale"], sort=False):
        found.append(_figure(str(design), str(metric), str(scale), part["held"], NOMINAL, part))
    units = frame[(frame["metric"] == "units") & (frame["scale"] == "relative")]
    together = units.groupby("lab")["held"].all()
    found.append(_figure("all together", "units", "relative", together, NOMINAL ** units["design"].nunique(), units))
    return pa.Table.from_pylist(found)


def _figure(
    design: str, metric: str, scale: str, held: pd.Series, nominal: float, part: pd.DataFrame
) -> dict[str, Any]:
    share = figures.proportion(int(held.sum()), len(held))
    error = (part["effect"] - part["truth"]) / part["se"]
    return {
        "design": design,
        "metric": metric,
        "scale": scale,
        "coverage": share.value,
        "lower": share.lower,
        "upper": share.upper,
        "expected": round(nominal, 4),
        "holds": "yes" if share.lower <= nominal <= share.upper else "no",
        "error_over_se": float(error.mean()),
        "labs": len(held),
    }


def _play(root: Path, world: market.Market, work: runner.Runner, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return the arms (N, T) that were in force, after events came week by week."""
    start = simulated_lab.START
    arm = np.zeros((len(world.product_id), N_WINDOW), dtype=np.int8)
    events = _events(world, rng)
    _write_events(root, start - timedelta(days=7), events.iloc[:0])
    template.write_data(root, world, arm, through=start - timedelta(days=1))
    _run(work, list(DESIGNS))
    for name in simulated_lab.DESIGNS:
        arm = np.maximum(arm, _in_force(root, world, name))
    for week in range(HORIZON // 7):
        monday = start + timedelta(days=7 * week)
        template.write_data(root, world, arm, through=monday - timedelta(days=1))
        _write_events(root, monday, events[events["day"].between(monday, monday + timedelta(days=6))])
        runner.require([work.refresh(), work.plan(TRIGGERED)])
        arm = np.maximum(arm, _in_force(root, world, TRIGGERED))
    return arm


def _events(world: market.Market, rng: np.random.Generator) -> pd.DataFrame:
    """Return an event for most products, on any day of the horizon; it changes nothing by itself."""
    has = np.flatnonzero(rng.random(len(world.product_id)) < P_EVENT)
    days = [simulated_lab.START + timedelta(days=int(day)) for day in rng.integers(0, HORIZON, len(has))]
    return pd.DataFrame({"id": has, "sku": world.product_id[has], "day": days, "kind": "mailer"})


def _write_events(root: Path, monday: date, rows: pd.DataFrame) -> None:
    folder = root / "data" / "events"
    folder.mkdir(exist_ok=True)
    rows.to_csv(folder / f"{monday}.csv", index=False)


def _in_force(root: Path, world: market.Market, name: str) -> NDArray[np.int8]:
    """Return where a run has put the products of an experiment under treatment (N, T)."""
    rows = Workbench.open(root).lake.read(ASSIGNMENTS, name).to_pandas()
    return _cells(world, rows, (rows["arm"] == "treatment").to_numpy()).astype(np.int8)


def _cells(world: market.Market, rows: pd.DataFrame, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which cells (N, T) of the window the wanted rows name."""
    found = np.zeros((len(world.product_id), N_WINDOW), dtype=bool)
    product = pd.Index(world.product_id).get_indexer(pd.Index(rows["product_id"]))
    day = (pd.to_datetime(rows["date"]) - pd.Timestamp(simulated_lab.START)).dt.days.to_numpy()
    found[product[wanted], day[wanted]] = True
    return found


def _beside_truth(root: Path, world: market.Market) -> Iterator[dict[str, Any]]:
    bench = Workbench.open(root)
    for name, experiment in bench.lab.experiments.items():
        effects = frames.to_pandas(bench.lake.read("experiment.effects", name))
        assigned = bench.lake.read(ASSIGNMENTS, name).to_pandas()
        truth = _truth(world, assigned)
        for row in effects[effects["is_headline"]].to_dict("records"):
            numbers = {key: float(row[key]) for key in ("effect", "se", "ci_lower", "ci_upper")}
            about = {"design": experiment.design.kind, "metric": row["metric"], "scale": row["scale"]}
            yield {**about, **numbers, "truth": truth[row["scale"]][row["metric"]]}


def _truth(world: market.Market, assigned: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the planted effects over the products and days in analysis, by scale and metric."""
    rows = np.flatnonzero(np.isin(world.product_id, assigned["product_id"].unique()))
    counted = _cells(world, assigned, assigned["in_analysis"].to_numpy(dtype=bool))[rows]
    found = simulated_lab.of_products(world, rows).truth(counted)
    return {"relative": dict(found.relative), "level": dict(found.level)}


def _run(work: runner.Runner, names: list[str]) -> None:
    runner.require([work.refresh(), *work.experiments(names)])
