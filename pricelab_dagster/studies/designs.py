"""The study of the designs: whether every estimator finds the planted effect, and how often its interval holds it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster.science import bootstrap, detrend, hpte
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.studies import figures, resume
from pricelab_dagster.studies.cases import Case, Planted, Size
from pricelab_dagster.studies.planted import plant
from pricelab_dagster.workbench import stage_rng

TIME_BOUND = Case("base", "time_bound, 28 days", "time_bound", {"duration": 28})
BALANCED = Case("base", "random_days, balanced, 28 days", "random_days", {"duration": 28})
COIN_FLIP = Case("base", "random_days, coin flip, 28 days", "random_days", {"duration": 28, "balance": "none"})
CROSSOVER = Case("base", "crossover, 2 x 14 days, blackout 7", "crossover", {"phase": 14, "blackout": 7})
NO_BLACKOUT = Case("base", "crossover, 2 x 14 days, no blackout", "crossover", {"phase": 14, "blackout": 0})
FOUR_PHASES = Case("base", "crossover, 4 x 10 days, blackout 3", "crossover", {"phase": 10, "phases": 4, "blackout": 3})
TRIGGERED = Case("base", "triggered, 10 days, blackout 1", "triggered", {"duration": 10, "blackout": 1, "horizon": 21})
STAGGERED = Case("base", "imported, staggered starts, 28 days", "staggered", {"duration": 28})
DESIGNS = (TIME_BOUND, BALANCED, COIN_FLIP, CROSSOVER, FOUR_PHASES, TRIGGERED, STAGGERED)

CASES: tuple[Case, ...] = (
    *DESIGNS,
    *(replace(one, scenario="clean") for one in DESIGNS),
    *(replace(one, scenario="carryover") for one in (CROSSOVER, NO_BLACKOUT, BALANCED, COIN_FLIP)),
    *(replace(one, design=f"{one.design}, two prices", multipliers=(0.95, 0.90)) for one in (TIME_BOUND, CROSSOVER)),
    *(replace(one, design=f"{one.design}, clusters of 3", cluster_size=3) for one in (TIME_BOUND, CROSSOVER)),
)
SIZE = Size()

DOSE_LINE = "per 1 %"
PLACEBO: detrend.Method = "none"
"""How placebo differences are forecast, which no estimate looks at: the cheapest way."""
REFUSED = "hpte, controls without event"
STAGGERED_CHANCE = "group_time_simple_not_yet"

READING = (
    "truth and effect are means over the draws. bias is effect less truth after regression on what the same arms read "
    "on untreated sales, which is luck; bias_percent is in per cent of the truth. se_over_sd is the mean standard "
    "error over the standard deviation of effect less truth. Intervals are 95 %, of the coverage exact binomial."
)

Job = tuple[int, tuple[str, ...]]


def run(
    replications: int,
    *,
    workers: int,
    out: Path,
    report: resume.Progress,
    cases: tuple[Case, ...] = CASES,
    size: Size = SIZE,
) -> pa.Table:
    """Return one row per case, arm, scale, estimand and estimator, as `summary` describes them.

    Draws that `out` already holds are not repeated; each finished one is added to it at once.
    """
    done = {(row["case"], row["replication"]) for row in resume.read(out)}
    missing = {
        replication: tuple(case.name for case in cases if (case.name, replication) not in done)
        for replication in range(1, replications + 1)
    }
    todo = [(replication, names) for replication, names in missing.items() if names]
    report(f"{replications - len(todo)} of {replications} replications are there already")
    resume.append(
        todo,
        partial(_replicate_all, cases=cases, size=size),
        out=out,
        workers=workers,
        report=report,
        title=lambda job: f"replication {job[0]}",
    )
    order = {case.name: place for place, case in enumerate(cases)}
    rows = [row for row in resume.read(out) if row["replication"] <= replications and row["case"] in order]
    return summary(sorted(rows, key=lambda row: (order[row["case"]], row["replication"])))


def replicate(case: Case, replication: int, size: Size) -> dict[str, Any]:
    """Return one draw of a case: effect, interval and truth by arm, scale and estimator.

    `chance` is what the same arms read on the untreated sales: a contrast whose mean over draws is zero.
    """
    planted = plant(case, replication, size)
    panel = planted.panel
    predicted = science.forecasts(panel)
    trimmed = science.trimmed(panel, predicted, method=PLACEBO)
    rng = stage_rng(replication, case.name, "estimates")
    leaves = science.fit_leaves(panel, planted.attributes, trimmed[0], n_trees=size.n_trees, rng=rng)
    weights = bootstrap.poisson_weights(panel.unit_id, n_replicates=size.n_replicates, rng=rng)
    found = []
    for code, truth in enumerate(planted.truth, 1):
        chance = _chance(planted, trimmed[0], predicted, code, weights)
        for scale, estimator, effect in _estimates(case, panel.against(code), trimmed, leaves, weights, rng):
            found.append(_row(f"{case.doses[code]:+g} %", scale, estimator, effect, truth[scale], chance))
    if len(planted.truth) > 1:
        effect = next(science.dose_line(panel, trimmed[:1], leaves, case.doses, weights=weights, rng=rng))[2]
        found.append(_row(DOSE_LINE, "relative", "hpte", effect, dose_truth(case, planted), chance))
    if planted.refused is not None:
        effect = _refused(planted.refused, size, rng)
        found.append(_row(f"{case.doses[1]:+g} %", "relative", REFUSED, effect, planted.truth[0]["relative"], chance))
    names = {"case": case.name, "scenario": case.scenario, "design": case.design, "replication": replication}
    return names | {"found": found}


def dose_truth(case: Case, planted: Planted) -> dict[str, float]:
    """Return the slope of the line through the arms' true effects and control, relative to where the line is at 0.

    The line is the least-squares one, control weighted by one half and the arms by equal parts of the other.
    """
    weight = np.array([0.5, *np.full(len(planted.truth), 0.5 / len(planted.truth))])
    found = {}
    for estimand in planted.truth[0]["relative"]:
        effect = np.array([0.0, *(truth["relative"][estimand] for truth in planted.truth)])
        dose, mean = case.doses - weight @ case.doses, 1.0 + weight @ effect
        slope = (weight * dose) @ effect / ((weight * dose) @ dose)
        found[estimand] = float(slope / (mean - slope * (weight @ case.doses)))
    return found


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    """Return for each case, arm, scale, estimand and estimator what its draws show; all intervals are 95 %.

    `truth` and `effect` are means. `bias` is effect less truth without the luck of the draws (`figures.bias`), so it is
    not the difference of those means; `bias_percent` is in per cent of the truth. `se_over_sd` is the mean standard
    error over the standard deviation of effect less truth.
    """
    keys = ["scenario", "design", "arm", "scale", "estimand", "estimator"]
    flat = [
        {**{key: row[key] for key in ("scenario", "design")}, **one, "estimand": estimand, "truth": truth}
        for row in rows
        for one in row["found"]
        for estimand, truth in one["truth"].items()
    ]
    frame = pd.DataFrame(flat)
    return pa.Table.from_pylist(
        [dict(zip(keys, names, strict=True)) | _figures(part) for names, part in frame.groupby(keys, sort=False)]
    )


def _figures(part: pd.DataFrame) -> dict[str, float]:
    """Return what the draws of one estimator show."""
    defined = part[part["effect"].notna() & part["se"].notna()]
    error, truth = (defined["effect"] - defined["truth"]).to_numpy(), float(defined["truth"].mean())
    hits = int(((defined["ci_lower"] <= defined["truth"]) & (defined["truth"] <= defined["ci_upper"])).sum())
    found = figures.bias(error, defined["chance"])
    covered = figures.proportion(hits, len(defined))
    return {
        "draws": len(defined),
        "undefined": len(part) - len(defined),
        "truth": truth,
        "effect": float(defined["effect"].mean()),
        "bias": found.value,
        "bias_lower": found.lower,
        "bias_upper": found.upper,
        "bias_percent": 100.0 * found.value / abs(truth),
        "coverage": covered.value,
        "coverage_lower": covered.lower,
        "coverage_upper": covered.upper,
        "se_over_sd": figures.se_over_sd(defined["se"], error).value,
    }


def _estimates(
    case: Case,
    panel: science.Panel,
    trimmed: list[science.Trimmed],
    leaves: Leaves,
    weights: np.ndarray[Any, np.dtype[np.float32]],
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, hpte.Effect]]:
    """Yield scale, estimator and effect: all estimators on the relative scale, hpte on the level scale too."""
    wanted: dict[str, tuple[str, ...]] = {"relative": science.ESTIMATORS, "level": ("hpte",)}
    if case.kind == "staggered":
        wanted = {"relative": ()}
    for one in trimmed:
        if one.scale in wanted:
            options: dict[str, Any] = {"estimators": wanted[one.scale], "weights": weights, "rng": rng}
            for _, scale, estimator, effect in science.estimates(panel, [one], leaves, **options):
                yield scale, estimator, effect


def _chance(
    planted: Planted,
    one: science.Trimmed,
    predicted: dict[str, np.ndarray[Any, np.dtype[np.float64]]],
    code: int,
    weights: np.ndarray[Any, np.dtype[np.float32]],
) -> float:
    """Return what the arms read on the untreated sales, over their mean, which no arm has a part in.

    By the Hajek contrast, which changes its sign when two arms of like size change places, so that its mean is zero;
    with several arms without the filter, which does not treat groups of unlike size alike; for staggered starts by
    group-time averages.
    """
    panel, s = planted.panel, one.product_scale[:, None]
    residual = (planted.untreated - predicted[one.metric]) / s
    # on the level scale nothing is divided by a mean that depends on the arms
    untreated = replace(one, scale="level", residual=residual, outcome=planted.untreated / s)
    estimators: tuple[str, ...] = () if panel.imported else ("hajek",)
    leaves, rng = Leaves.single(len(s)), np.random.default_rng(0)
    trim = "trim" if len(planted.truth) == 1 else "none"
    options: dict[str, Any] = {"trim": trim, "estimators": estimators, "weights": weights[:, :2], "rng": rng}
    read = science.estimates(panel.against(code), [untreated], leaves, **options)
    contrast = {name: effect for _, _, name, effect in read}[STAGGERED_CHANCE if panel.imported else "hajek"].effect
    return float(contrast / untreated.outcome[panel.in_analysis].mean())


def _refused(panel: science.Panel, size: Size, rng: np.random.Generator) -> hpte.Effect:
    """Return what comparing treated products after their event with products without one would read."""
    trimmed = science.trimmed(panel, science.forecasts(panel), method=PLACEBO)[:1]
    leaves, n = Leaves.single(len(panel.product_id)), size.n_replicates
    return next(science.estimates(panel, trimmed, leaves, estimators=("hpte",), n_replicates=n, rng=rng))[3]


def _row(
    arm: str, scale: str, estimator: str, effect: hpte.Effect, truth: dict[str, float], chance: float
) -> dict[str, Any]:
    numbers = {name: getattr(effect, name) for name in ("effect", "se", "ci_lower", "ci_upper")}
    defined = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
    return {"arm": arm, "scale": scale, "estimator": estimator, "truth": truth, "chance": chance, **defined}


def _replicate_all(job: Job, *, cases: tuple[Case, ...], size: Size) -> list[dict[str, Any]]:
    replication, names = job
    return [replicate(case, replication, size) for case in cases if case.name in names]
