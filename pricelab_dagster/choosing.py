"""The design chooser for an experiment of the lab: candidates like its plan, its history, the advice in rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pricelab_dagster import after_effects, certifying, frames, graphs, interval_plot, scope
from pricelab_dagster.lab import Experiment, Grain, LabError
from pricelab_dagster.models import models
from pricelab_dagster.science import power
from pricelab_dagster.science.power import Candidate, Prediction, Spillover
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import EVENTS, FEATURES, PLAN, POWER, Workbench

TABLE, SALES = POWER, "staging.stg_sales"
ELASTICITY = -1.5
"""What demand is taken to answer where nothing is said: near the median of grocery products."""
NOTHING_CHANGES = 0.05
"""Effect that is looked for where no price changes."""
SHOWN, Z = 12, 1.96
ARMS_BESIDE = (1, 2, 3)
ASKED = "asked"
READ = {"features": FEATURES, "plan": PLAN, "certificate": certifying.TABLE}
LENGTHS = ("kind", "unit", "n_arms", "duration", "blackout", "days")
NUMBERS = ("se", "inflation", "mde", "coverage", "coverage_lower", "coverage_upper", "n_units")
MISSED = tuple(
    (f"missed_{round(100 * k)}_{h:g}", (i, j))
    for j, k in enumerate(power.CARRYOVERS)
    for i, h in enumerate(power.HALF_LIVES)
)
HIDDEN = ("kind", "coverage_lower", "coverage_upper", "n_windows", "n_draws", "mode", *(name for name, _ in MISSED))
"""Columns of the table that people at a terminal are spared."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the chooser: an experiment as planned, its effect, and what its units leave of spillover."""

    experiment: Experiment
    grain: Grain
    assumed: power.Assumed
    spillover: Mapping[str, Spillover]
    history: power.History

    @property
    def planned(self) -> Candidate:
        """The design of the file."""
        return planned(self.experiment, self.grain)

    @property
    def grid(self) -> list[Candidate]:
        """The candidates, the plan among them."""
        return grid(self.planned, clusters=self.history.cluster is not None, events=self.history.events is not None)

    def advice(self, predictions: Sequence[Prediction]) -> power.Advice:
        """Return what to take of the calendar that the plan has."""
        return power.recommend(
            predictions,
            assumed=self.assumed,
            spillover=self.spillover,
            max_days=self.planned.days,
            n_arms=self.planned.n_arms,
            planned=None if self.experiment.id == ASKED else self.planned,
        )


def planned(experiment: Experiment, grain: Grain) -> Candidate:
    """Return the design of an experiment's file as a candidate."""
    design = experiment.design
    options: dict[str, Any] = {"duration": design.n_periods, "blackout": design.blackout, "grain": grain}
    if design.kind == "random_days":
        options |= {"block": design.block, "balance": design.balance}
    elif design.kind == "crossover":
        options["phase"] = design.phase
    elif design.kind == "triggered":
        options["recruiting"] = (design.horizon - design.start).days // (7 if grain == "week" else 1) + 1
    unit: Any = "cluster" if experiment.assignment.by_cluster else "product"
    options |= {"unit": unit, "n_arms": len(experiment.arms), "share": experiment.assignment.share}
    return Candidate(design.kind, **options)


def grid(plan: Candidate, *, clusters: bool, events: bool) -> list[Candidate]:
    """Return the plan and what stands beside it: designs of its calendar, of half and of twice as much, other arms.

    By cluster only within the plan's calendar, where there are clusters at all.
    """
    shortest = 14 if plan.grain == "day" else 2
    lengths = {plan.n_periods, 2 * plan.n_periods, *(n for n in [plan.n_periods // 2] if n >= shortest)}
    if plan.grain == "day" and plan.n_periods >= shortest:
        lengths.add(plan.n_periods - plan.n_periods % shortest)
    common: dict[str, Any] = {"grain": plan.grain, "n_arms": plan.n_arms, "share": plan.share, "events": events}
    found = [plan, *power.candidates(durations=sorted(lengths), **common)]
    if clusters:
        alike = power.candidates(durations=[plan.n_periods], clusters=True, **common)
        found += [one for one in alike if one.unit == "cluster"]
    found += [replace(plan, n_arms=n) for n in ARMS_BESIDE]
    return list(dict.fromkeys(one for one in found if clusters or one.unit == "product"))


def history(
    bench: Workbench,
    experiment: Experiment,
    features: pd.DataFrame,
    products: Sequence[str],
    clusters: Mapping[str, str],
) -> power.History:
    """Return what is known of some products before the start, as the experiment's own analysis would see it.

    Of a first metric that can be negative (profit) the revenue stands in.
    """
    metric = "units" if experiment.metrics[0] == "units" else "revenue"
    eve = experiment.start - timedelta(days=1)
    days = frames.to_pandas(bench.days(products, since=bench.history_start(experiment), through=eve))
    units, price = (days.pivot(index="product_id", columns="date", values=name) for name in (metric, "price"))
    known, ids = features.set_index("product_id").reindex(units.index), units.index.to_numpy(dtype=object)
    calendar = units.columns.to_numpy().astype("datetime64[D]")
    on_sale = calendar >= known["first_sold"].to_numpy().astype("datetime64[D]")[:, None]
    analysis, labels = experiment.analysis, np.array([clusters.get(one, one) for one in ids], dtype=object)
    prices = price.to_numpy(dtype=float)
    return power.History(
        product_id=ids,
        value=np.where(on_sale, units.to_numpy(dtype=float), np.nan),
        category=known["category"].fillna("unknown").to_numpy(dtype=object),
        price=np.where(prices > 0, prices, np.nan),
        attributes=frames.attributes(features, ids),
        cluster=labels if len(set(labels)) < len(labels) else None,
        events=_events(bench, experiment, ids, calendar),
        grain=bench.grain,
        method=analysis.detrend.method,
        window=frames.window_of(analysis.detrend, bench.grain),
        trim="trim" if analysis.trim.method == "auto" else analysis.trim.method,
        trim_c=analysis.trim.c,
        min_leaf=analysis.forest.min_leaf,
    )


def spillover(certificate: pa.Table, experiment: Experiment) -> dict[str, Spillover]:
    """Return what the certificate predicts by product, and by the clusters planned or of the nearest cap."""
    rows, cap = certificate.to_pylist(), experiment.assignment.clusters.max_size
    wanted = certifying.clusters_of(experiment)
    found = {}
    for unit in ("product", "cluster"):
        like = [row for row in rows if row["choice"].startswith(unit)]
        row = min(like, key=lambda one: (one["choice"] != wanted, abs((one["max_size"] or 0) - cap)), default=rows[0])
        if row["bias"] is None:
            found[unit] = Spillover(np.nan, np.nan, row["reason"])
        else:
            found[unit] = Spillover(row["bias"], (row["ci_upper"] - row["ci_lower"]) / (2.0 * Z))
    return found


def expected_effect(multiplier: float, metric: str) -> float:
    """Return the relative effect of a price change where demand has the usual elasticity.

    Of profit that of units is taken; of no change, or none that is known yet, one that is worth finding.

    Examples
    --------
    >>> round(expected_effect(0.95, "units"), 3), round(expected_effect(0.95, "revenue"), 3)
    (0.08, 0.026)
    """
    if not np.isfinite(multiplier) or abs(np.log(multiplier)) < 1e-9:
        return NOTHING_CHANGES
    return float(multiplier ** (ELASTICITY + (metric == "revenue")) - 1.0)


def of_experiment(
    bench: Workbench, experiment: Experiment, *, features: pa.Table, plan: pa.Table, certificate: pa.Table
) -> Question:
    """Return the question of an experiment whose features, clusters, plan and certificate stand in the lake."""
    rows = bench.lake.read("spillover.product_clusters", experiment.id)
    clusters = scope.cluster_of(rows)
    sample = scope.sample(experiment, scope.products(bench, experiment, features), clusters).products
    multiplier = certifying.multiplier(frames.to_pandas(plan), experiment)
    known = history(bench, experiment, frames.to_pandas(features), sample, clusters)
    effect = expected_effect(multiplier, experiment.metrics[0])
    assumed = power.Assumed.after(effect, after_effects.beliefs(bench, experiment))
    return Question(experiment, bench.grain, assumed, spillover(certificate, experiment), known)


def of_condition(bench: Workbench, where: str, *, effect: float, days: int) -> Question:
    """Return the question of an experiment that is not written yet, over the products for which a condition holds.

    It would start after the last sales, and change the price so that demand answers by `effect`.

    Raises
    ------
    LabError : when the condition does not bind, holds for too few products, or the effect or days are out of range.
    """
    experiment = _asked(bench, where, effect, days)
    features = bench.run_model(models()[FEATURES], experiment)
    try:
        covered = scope.products(bench, experiment, features)
    except LabError as error:
        raise LabError("--where", None, f"{error.found!r}", error.allowed, error.remedy) from error
    frame = frames.to_pandas(features)
    rows = graphs.scope_clusters(bench, experiment, frame, covered)
    clusters = scope.cluster_of(rows)
    classed = graphs.by_class(bench, frame)
    found, advice = certifying.choices(
        graphs.history(bench, experiment, classed[classed["category"].isin(set(graphs.categories(classed, covered)))]),
        experiment,
        scope=covered,
        clusters=clusters,
        season=7 // bench.days_per_period,
        price_multiplier=(1.0 + effect) ** (1.0 / ELASTICITY),
        floors=graphs.floors(bench),
        rng=bench.rng(experiment, "certificate"),
    )
    leaves = spillover(certifying.table(experiment, found, advice), experiment)
    known = history(bench, experiment, frame, covered, clusters)
    assumed = power.Assumed.after(effect, after_effects.beliefs(bench))
    return Question(experiment, bench.grain, assumed, leaves, known)


def answer(
    bench: Workbench,
    experiment_id: str | None,
    *,
    where: str | None,
    effect: float | None,
    days: int,
    exact: bool,
    report: Callable[[str], None],
) -> tuple[pa.Table, str]:
    """Return the rows and the advice on an experiment of the lab, or on the products for which a condition holds."""
    if experiment_id is not None:
        experiment, lake = bench.experiment(experiment_id), bench.lake
        read = {name: lake.read(table, experiment_id) for name, table in READ.items()}
        question = of_experiment(bench, experiment, **read)
    else:
        assert where is not None
        assert effect is not None
        question = of_condition(bench, where, effect=effect, days=days)
    mode: power.Mode = "exact" if exact else "instant"
    rng = bench.rng(question.experiment, "power")
    found = list(power.evaluations(question.history, question.grid, mode=mode, report=report, rng=rng))
    advice = question.advice(found)
    return table(question, found, advice), advice.sentence


def table(question: Question, predictions: Sequence[Prediction], advice: power.Advice) -> pa.Table:
    """Return the candidates as rows of experiment.power, the smallest error first."""
    chosen = None if advice.choice is None else advice.choice.prediction.candidate
    ranked = power.rank(predictions, assumed=question.assumed, spillover=question.spillover)
    rows = []
    for place, one in enumerate(ranked, 1):
        found, candidate = one.prediction, one.prediction.candidate
        numbers = {name: getattr(found, name) for name in NUMBERS} | _missed(found)
        numbers |= {name: getattr(one, name) for name in ("carryover_bias", "spillover_bias", "rmse")}
        rows.append(
            {
                "experiment_id": question.experiment.id,
                "place": place,
                "design": candidate.name,
                **{name: getattr(candidate, name) for name in LENGTHS},
                **{name: float(value) if np.isfinite(value) else None for name, value in numbers.items()},
                **{name: getattr(found, name) for name in ("n_windows", "n_draws", "mode", "reason")},
                "is_planned": candidate == question.planned and question.experiment.id != ASKED,
                "is_recommended": candidate == chosen,
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES[TABLE].schema)


def picture(experiment: Experiment, rows: pa.Table, *, effect: float, sentence: str) -> str | None:
    """Return what the best candidates of the plan's calendar would read of the assumed effect, as SVG.

    The dot is the effect less what carryover hides, the line 1.96 inflated standard errors to both sides.
    """
    ranked = [row for row in rows.to_pylist() if row["rmse"] is not None]
    plan = next((row for row in ranked if row["is_planned"]), None)
    if plan is not None:
        ranked = [row for row in ranked if row["days"] <= plan["days"] and row["n_arms"] == plan["n_arms"]]
    shown = ranked[:SHOWN] + [row for row in ranked[SHOWN:] if row["is_planned"]]
    if not shown:
        return None
    lines = []
    for row in shown:
        read, half = abs(effect) + row["carryover_bias"], Z * row["inflation"] * row["se"]
        label = ("plan: " if row["is_planned"] else "") + row["design"]
        lines.append(interval_plot.Line(label, read, (read - half, read + half), strong=row["is_recommended"]))
    title = f"{experiment.title}: what each design would read of an effect of {abs(effect):.1%}"
    return interval_plot.draw(title, sentence, lines)


def _asked(bench: Workbench, where: str, effect: float, days: int) -> Experiment:
    """Return the experiment that a question on the command line stands for."""
    if not (np.isfinite(effect) and effect > -1.0 and effect != 0.0):
        raise LabError("--effect", None, str(effect), "above -1 and not 0", "Give .05 for 5 % more sales.")
    step = bench.days_per_period
    if days < step:
        raise LabError("--days", None, str(days), f"{step} or more", "Give the days that the experiment may take.")
    as_of = pc.max(bench.lake.read(SALES)["date"]).as_py()
    stated = {
        "id": ASKED,
        "title": f"Products with {where}",
        "design": {"kind": "time_bound", "start": as_of + timedelta(days=step), "duration": days // step},
        "scope": {"where": where},
        "treatment": {"price_multiplier": (1.0 + effect) ** (1.0 / ELASTICITY)},
    }
    return Experiment.model_validate(stated, context=bench.lab.config)


def _events(
    bench: Workbench, experiment: Experiment, ids: NDArray[np.object_], calendar: NDArray[np.datetime64]
) -> NDArray[np.bool_] | None:
    """Return when events of the experiment's kind, or of the most frequent one, touched the products (N, T)."""
    if bench.lab.config.events is None or not bench.lake.exists(EVENTS) or not len(calendar):
        return None
    rows = frames.to_pandas(bench.lake.read(EVENTS))
    rows = rows[rows["product_id"].isin(set(ids)) & (rows["occurred_on"] >= calendar[0])]
    design = experiment.design
    kinds = rows["kind"].value_counts()
    if design.kind != "triggered" and kinds.empty:
        return None
    rows = rows[rows["kind"] == (design.event if design.kind == "triggered" else kinds.index[0])]
    column = calendar.searchsorted(rows["occurred_on"].to_numpy().astype("datetime64[D]"), side="right") - 1
    row = pd.Index(ids).get_indexer(rows["product_id"])
    inside = rows["occurred_on"].to_numpy() < np.datetime64(experiment.start)
    found = np.zeros((len(ids), len(calendar)), dtype=bool)
    found[row[inside], column[inside]] = True
    return found


def _missed(found: Prediction) -> dict[str, float]:
    """Return the part of the effect that carryover hides, by column."""
    return {name: float(found.missed[at]) for name, at in MISSED}
