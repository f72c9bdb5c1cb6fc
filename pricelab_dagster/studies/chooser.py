"""The study of the design chooser: its choice and its predicted errors against those that designs have on a market."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.science import affinity, carryover, detrend, market, outliers, power, replay
from pricelab_dagster.science import panel as science
from pricelab_dagster.science._power_designs import draw
from pricelab_dagster.science._power_windows import draw_order
from pricelab_dagster.science._replay import Fixed
from pricelab_dagster.studies import figures, networks, real_choices, resume
from pricelab_dagster.studies.bars import Bar, at_least
from pricelab_dagster.studies.cases import UNITS, Case, Size, attributes, history
from pricelab_dagster.studies.planted import plant
from pricelab_dagster.workbench import stage_rng

FloatArray = NDArray[np.float64]

N_PRODUCTS, N_HISTORY, DAYS, N_TREES = 300, 365, 28, 48
N_DRAWS, FOREST_OF = 200, 20
"""Draws of each design on each market, and those that share a forest."""
SCENARIOS = {"base": 0.0, "carryover": 0.4}
"""Markets with what they carry over."""
HALF_LIFE = float(np.log(0.5) / np.log(0.7))
ELASTICITY_TAKEN = 0.08
"""Same-day effect that the chooser is told; that of the markets is .10, which it does not know."""
PAST: tuple[Case, ...] = (
    Case("", "time-bound", "time_bound", {"duration": DAYS}),
    Case("", "coin flip", "random_days", {"duration": DAYS, "balance": "none"}),
    Case("", "crossover", "crossover", {"phase": DAYS // 2, "blackout": 7}),
)
PAST_OF_EACH = 4
NOTHING, LEARNED, TOLD = "nothing known", "12 past experiments", "carryover told"
CLOSE, WANTED = 1.1, at_least(16 / 20)
SE_BAR = Bar(0.8, 1.2)

READING = (
    "Every market is drawn once; each design of 28 days is then drawn 200 times on it, and its error is the root mean "
    "squared difference from the long-run effect. chosen_within_10_percent: share of markets in which the recommended "
    "design has the least error or one within 10 % of it, by what the chooser knows of carryover: nothing, what twelve "
    "past experiments of 300 products tell, or the truth. predicted_over_realised: instant standard error, not "
    "inflated, over the standard deviation of the estimates, mean over markets, by kind of design; on Complete Journey "
    "over that of replays on the next 56 days, mean over designs. n: markets, there designs. Intervals are 95 %: "
    "exact binomial, and t over markets or designs."
)


@dataclass(frozen=True, slots=True)
class World:
    """A market with what a design needs that does not depend on its draw."""

    simulated: market.Market
    predicted: FloatArray
    scale: FloatArray
    order: NDArray[np.intp]
    unit: NDArray[Any]
    stratum: NDArray[Any]

    @classmethod
    def of(cls, scenario: str, number: int) -> "World":
        """Return a market; equal arguments give equal markets."""
        simulated = market.simulate(
            scenario=scenario,
            n_products=N_PRODUCTS,
            n_history=N_HISTORY,
            n_window=DAYS,
            rng=stage_rng(number, scenario, "market of the chooser"),
        )
        past, price = history(simulated), simulated.incumbent_price
        predicted = detrend.forecast(
            past, DAYS, groups=simulated.category, prices=price[:, :N_HISTORY], planned=price[:, N_HISTORY:]
        )
        order, unit, stratum = draw_order(_history(simulated), "product")
        return cls(simulated, predicted, detrend.product_scale(past)[:, None], order, unit, stratum)

    @property
    def known(self) -> power.History:
        """What the chooser sees."""
        return _history(self.simulated)


def run(markets: int, *, workers: int, out: Path, report: resume.Progress, real: bool = True) -> pa.Table:
    """Return how often the recommended design was the right one, and how predicted errors compare with realised ones.

    `real` adds the comparison on real sales (`real_choices`).
    """
    done = {(row["scenario"], row["market"]) for row in resume.read(out)}
    jobs = [(scenario, number) for number in range(1, markets + 1) for scenario in SCENARIOS]
    missing = [job for job in jobs if job not in done]
    report(f"{len(jobs) - len(missing)} of {len(jobs)} markets are there already")
    resume.append(missing, play, out=out, workers=workers, report=report, title=lambda job: f"{job[0]} {job[1]}")
    simulated = summary([row for row in resume.read(out) if row["market"] <= markets])
    if not real:
        return simulated
    report("standard errors on Complete Journey")
    found = [
        networks.row(f"Complete Journey, {name}", "predicted_over_realised", kind, ratio, SE_BAR, n_designs)
        for name, kind, ratio, n_designs in real_choices.ratios()
    ]
    return pa.concat_tables([simulated, pa.Table.from_pylist(found, schema=simulated.schema)])


def play(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Return one row: the designs of a market with predicted and realised errors, and what is recommended."""
    scenario, number = job
    world, rng = World.of(scenario, number), stage_rng(number, scenario, "chooser")
    designs = power.candidates(durations=[DAYS], blackouts=[0, 3, 7])
    predictions = list(power.evaluations(world.known, designs, rng=rng))
    rows = []
    for one in predictions:
        errors = realised(world, one.candidate, rng=stage_rng(number, scenario, one.candidate.name))
        errors_of = {"bias": float(errors.mean()), "sd": float(errors.std(ddof=1))}
        rmse = float(np.sqrt((errors**2).mean()))
        rows.append({"design": one.candidate.name, "kind": one.candidate.kind, "se": one.se, "rmse": rmse, **errors_of})
    chosen = {}
    for name, assumed in _assumed(scenario, number).items():
        choice = power.recommend(predictions, assumed=assumed).choice
        chosen[name] = choice.prediction.candidate.name if choice else None
    return [{"scenario": scenario, "market": number, "designs": rows, "chosen": chosen}]


def realised(world: World, candidate: power.Candidate, *, rng: np.random.Generator) -> FloatArray:
    """Return estimate less long-run effect in `N_DRAWS` draws of a design on one market, by HPTE."""
    simulated, back, T = world.simulated, np.argsort(world.order), candidate.duration
    X, found, leaves = attributes(simulated), np.empty(N_DRAWS), None
    counted = candidate.counted
    estimand: market.Estimand = "long_run" if simulated.scenario.carryover else "same_day"
    truth = simulated.truth(counted, estimand=estimand).relative[UNITS]
    drawn = draw(candidate, simulated.product_id[world.order], world.unit, world.stratum, n_draws=N_DRAWS, rng=rng)
    for r in range(N_DRAWS):
        arm = _in_force(candidate, drawn[r] if candidate.kind == "random_days" else drawn[:, r])[back]
        sold = simulated.observe(arm).units[:, N_HISTORY:]
        residual, outcome = (sold - world.predicted) / world.scale, (sold / world.scale)[:, counted].mean(axis=1)
        value, target, group = _contrast(candidate, residual, arm, counted)
        if leaves is None or r % FOREST_OF == 0:
            kept = np.where(outliers.keep_mask(target, group), target, np.nan)
            leaves = affinity.fit_leaves(X, kept, n_trees=N_TREES, rng=rng)
        swap = candidate.kind == "crossover"
        exposure = np.full((2, N_PRODUCTS), 0.5) if swap else None
        fixed = Fixed(
            value, simulated.product_id, leaves=leaves, factor=0.5 if swap else 1.0, outcome=outcome, exposure=exposure
        )
        cells = arm[None, :, :T] if candidate.kind == "random_days" else arm[:, :1]
        found[r] = float(replay.instant(fixed, cells.astype(np.int8)).effect[0])
    return found - truth


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    """Return how often the choice was right, by market and knowledge, and predicted over realised errors by kind."""
    found: list[dict[str, Any]] = []
    for scenario in SCENARIOS:
        part = [row for row in rows if row["scenario"] == scenario]
        if part:
            found += list(_choices(scenario, part))
            found += list(_errors(scenario, part))
    return pa.Table.from_pylist(found)


def _choices(scenario: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for known in (NOTHING, LEARNED, TOLD):
        right = []
        for row in rows:
            errors = {one["design"]: one["rmse"] for one in row["designs"]}
            right.append(errors[row["chosen"][known]] <= CLOSE * min(errors.values()))
        share = figures.proportion(sum(right), len(right))
        # what is told, or true of a market without carryover, is what the bar asks for
        held = known == TOLD or (known == NOTHING and not SCENARIOS[scenario])
        yield networks.row(scenario, "chosen_within_10_percent", known, share, WANTED if held else None, len(rows))


def _errors(scenario: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    frame = pd.DataFrame([{"market": row["market"], **one} for row in rows for one in row["designs"]])
    frame["ratio"] = frame["se"] / frame["sd"]
    for kind, part in frame.groupby("kind", sort=False):
        ratio = figures.mean(part.groupby("market")["ratio"].mean())
        yield networks.row(scenario, "predicted_over_realised", str(kind), ratio, SE_BAR, len(rows))


def _assumed(scenario: str, number: int) -> dict[str, power.Assumed]:
    """Return what the chooser may assume, by what it knows of carryover; long-run effects alike."""
    kappa = SCENARIOS[scenario]
    effect = ELASTICITY_TAKEN * (1.0 + kappa)
    learned = power.Assumed.after(effect, carryover.learn(list(_past(scenario, number))))
    return {
        NOTHING: power.Assumed(effect),
        LEARNED: learned,
        TOLD: power.Assumed(effect, kappa, HALF_LIFE),
    }


def _past(scenario: str, number: int) -> Iterator[carryover.Evidence]:
    """Yield what past experiments say, each on a market of its own."""
    size = Size(n_products=N_PRODUCTS, n_history=N_HISTORY)
    for case in PAST:
        for k in range(PAST_OF_EACH):
            planted = plant(replace(case, scenario=scenario), 1000 * number + k, size)
            primary = science.trimmed(planted.panel, science.forecasts(planted.panel), method="none")[0]
            residual = np.where(primary.kept[:, None], primary.residual, np.nan)
            yield carryover.evidence(residual, planted.panel.arm)


def _history(simulated: market.Market) -> power.History:
    return power.History(
        simulated.product_id,
        history(simulated),
        simulated.category,
        simulated.incumbent_price[:, :N_HISTORY],
        attributes(simulated),
    )


def _in_force(candidate: power.Candidate, drawn: NDArray[np.int8]) -> FloatArray:
    """Return the arm in force (N, T) from what was drawn: cells, a first phase, or an arm for good."""
    if candidate.kind == "random_days":
        return drawn.astype(float)
    if candidate.kind == "crossover":
        odd = candidate.phase_index % 2 == 1
        return np.where(odd, drawn[:, None], 1 - drawn[:, None]).astype(float)
    return np.repeat(drawn[:, None], candidate.duration, axis=1).astype(float)


def _contrast(
    candidate: power.Candidate, residual: FloatArray, arm: FloatArray, counted: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return what is contrasted, what the forest splits on, and the groups of the filter."""
    if candidate.kind == "random_days":
        cells = np.where(counted, residual, np.nan)
        return cells, residual[:, counted].mean(axis=1), np.zeros(len(residual))
    if candidate.kind == "crossover":
        value = detrend.phase_contrast(residual, candidate.phase_index, counted)
    else:
        value = detrend.first_difference(residual, np.zeros_like(residual), counted)
    return value, value, arm[:, 0]
