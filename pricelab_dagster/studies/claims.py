"""The study of the article's claims: what designs, filter, blackout and clusters take off error and bias.

What is drawn stands in `claim_draws`; what is added to `CLAIMS` shows up in the rows.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pricelab_dagster.studies import claim_draws, designs, figures, interference, placebo_designs, resume
from pricelab_dagster.studies.bars import Bar, at_least
from pricelab_dagster.studies.cases import Case, Size
from pricelab_dagster.studies.claim_draws import CARRYOVER, FILTERED, HPTE, NO_FILTER, RAW, RAW_FILTERED
from pricelab_dagster.studies.claim_rows import (
    BIAS,
    BIAS_CUT,
    JOURNEY,
    MIDDLE_CUT,
    REPLICATION,
    RMSE_CUT,
    SD_CUT,
    SIZES,
    WORLD,
    Draws,
    Row,
    bias,
    cut,
    row,
    side_by_side,
)

SUBSTITUTES = "substitution_middle"
MOST_WORLDS, PLACEBO_DRAWS = 24, 2000
SPREAD, OUTLIERS, REAL = "spread", "outlier rule", "Complete Journey"
ARTICLE = {"random_days": "60", "crossover": "40 to 50"}
"""Per cent of the standard error that the article says a kind of design takes off."""
COMPARED = (*((HPTE, other) for other in (RAW, RAW_FILTERED, FILTERED, HPTE)), (RAW, RAW), (RAW_FILTERED, RAW_FILTERED))
"""Estimators of a design, and of the time-bound experiment that it is held against."""
ASKED: Mapping[tuple[str, str, str], Bar] = {
    (designs.BALANCED.design, "base", RAW): at_least(55.0),
    (designs.BALANCED.design, "base", FILTERED): at_least(45.0),
    (designs.BALANCED.design, "break_at_start", RAW): at_least(64.0),
    (designs.COIN_FLIP.design, "break_at_start", RAW): at_least(59.0),
    (designs.CROSSOVER.design, "base", RAW): at_least(35.0),
    (designs.CROSSOVER.design, "break_at_start", RAW): at_least(40.0),
}
"""By design, market and reference, the least cut of the standard error."""

READING = (
    "A draw is a new market of 1,000 products with a year of history, 28 days of experiment, a new assignment and a "
    "new forest. sd_cut_percent: by how many per cent the standard deviation of estimate less truth over the draws is "
    "below the reference's; rmse_cut_percent: the same of the root mean squared error; middle_cut_percent: of the "
    "range of the middle half, which a few wild draws do not move; bias_percent: mean error in per cent of the truth, "
    "without the luck of the draws; bias_cut_percent: by how much the spillover bias is below that of products drawn "
    "one by one. References are time-bound: the raw difference against the 28 days before, the same with the outlier "
    "filter, the filtered difference of our first differences (hajek), and HPTE. Intervals are 95 %: of cuts bootstrap "
    "over draws, on Complete Journey Student's over windows. `article` is the article's figure, `unsure` says that the "
    "interval lies on both sides of what methods ask."
)


def narrower(draws: Draws) -> Iterator[Row]:
    """Yield how much less estimates spread under each design than time-bound ones.

    By HPTE against each reference, and by the design alone, raw against raw and filtered against filtered.
    """
    for design in claim_draws.DESIGNS:
        if design.kind == "time_bound":
            continue
        for estimator, other in COMPARED:
            for figure in SIZES:
                yield from _against_time_bound(draws, design, estimator, figure, other)


def outlier_rule(draws: Draws) -> Iterator[Row]:
    """Yield what the filter takes off the error of a time-bound experiment, and what it costs in bias."""
    asked = {("base", RAW): at_least(15.0), ("break_at_start", RAW): at_least(30.0)}
    for which in _of(draws, designs.TIME_BOUND):
        for other in (RAW, NO_FILTER):
            found, bar = cut(draws, RMSE_CUT, (which, HPTE), (which, other)), asked.get((which[0], other))
            yield row(OUTLIERS, which, HPTE, RMSE_CUT, found, reference=f"time_bound {other}", bar=bar)
        for estimator, bar in ((HPTE, Bar(-5.0, 5.0)), (NO_FILTER, None)):
            yield row(OUTLIERS, which, estimator, BIAS, bias(draws, which, estimator), bar=bar)


def carryover(draws: Draws) -> Iterator[Row]:
    """Yield how far estimates are from the long-run effect where treatment goes on working after it has ended."""
    for one in claim_draws.AFTER_EFFECTS:
        which, bar = (CARRYOVER, one.design), Bar(-3.0, 3.0) if one == designs.CROSSOVER else None
        if which in draws:
            found = bias(draws, which, HPTE, "long_run")
            yield row("carryover", which, HPTE, BIAS, found, reference="long-run effect", bar=bar)


def clustering(draws: Draws) -> Iterator[Row]:
    """Yield how much less spillover bias is left when substitutes move together, and what that costs in precision."""
    n = len(draws.worlds)
    for name, graph in {"leiden": "learned", "oracle": "planted"}.items() if n else ():
        which, held = (SUBSTITUTES, f"time_bound, clusters of the {graph} graph"), name == "leiden"
        told: dict[str, Any] = {"reference": "by product"}
        one, product = (draws.worlds[f"bias {of}"].to_numpy(dtype=float) for of in (name, "product"))
        less = figures.compare(lambda ours, theirs: 100.0 * (1.0 - abs(ours.mean() / theirs.mean())), one, product)
        bar, article = (at_least(42.0), "37") if held else (None, "")
        yield row("clustering", which, "difference", BIAS_CUT, (less, n), bar=bar, article=article, **told)
        one, product = (draws.worlds[f"se {of}"].to_numpy(dtype=float) for of in (name, "product"))
        less = figures.compare(lambda ours, theirs: 100.0 * (1.0 - ours.mean() / theirs.mean()), one, product)
        yield row("clustering", which, "difference", SD_CUT, (less, n), **told)


def complete_journey(draws: Draws) -> Iterator[Row]:
    """Yield how often designs find an effect in real sales without treatment, and how much less they spread."""
    for one in draws.journey:
        which, figure, reference, article = (one["scenario"], one["design"]), one["figure"], one["reference"], ""
        if reference:
            figure, article = SD_CUT, ARTICLE.get(one["design"].split(",")[0], "") if reference == RAW else ""
            reference = f"time_bound {RAW if reference == RAW else HPTE}"
        found = (figures.Bounded(one["value"], one["lower"], one["upper"]), one["draws"])
        told = row(REAL, which, one["estimator"], figure, found, reference=reference, article=article)
        yield told | {"bar": one["bar"], "reached": one["reached"]}


def spread(draws: Draws) -> Iterator[Row]:
    """Yield the spread and the bias of every estimator, of every design on every market."""
    for which in draws:
        for estimator in draws.estimators(which):
            errors = 100.0 * draws.errors(which, estimator)["error"].to_numpy(dtype=float)
            for figure, size in SIZES.items():
                found = (figures.compare(size, errors), len(errors))
                yield row(SPREAD, which, estimator, figure.replace("cut_percent", "points"), found)
            yield row(SPREAD, which, estimator, BIAS, bias(draws, which, estimator))


Claim = Callable[[Draws], Iterator[Row]]
CLAIMS: tuple[Claim, ...] = (narrower, outlier_rule, carryover, clustering, complete_journey, spread)


def summary(rows: list[Row]) -> Iterator[Row]:
    """Yield the figures of every claim."""
    draws = Draws(rows)
    for claim in CLAIMS:
        yield from claim(draws)


def headline(rows: pa.Table) -> pa.Table:
    """Return what the claims are about: without every estimator's spread, and each cut by its most telling figure."""

    def told(one: Row) -> bool:
        if one["figure"] == MIDDLE_CUT:
            return one["estimator"] == HPTE and one["reference"] == f"time_bound {RAW}"
        return one["claim"] == OUTLIERS or one["figure"] != RMSE_CUT

    wanted = [one for one in rows.to_pylist() if one["claim"] != SPREAD and told(one)]
    return pa.Table.from_pylist(wanted, schema=rows.schema)


def tables(rows: pa.Table) -> list[pa.Table]:
    """Return the rows for people: markets side by side, then those of one market alone, then real sales."""
    beside = side_by_side(rows, claim_draws.SCENARIOS)
    others: dict[bool, list[Row]] = {False: [], True: []}
    for one in rows.to_pylist():
        if one["scenario"] not in claim_draws.SCENARIOS:
            others[one["claim"] == REAL].append(one)
    return [beside, *(pa.Table.from_pylist(part, schema=rows.schema) for part in others.values() if part)]


Key = tuple[str, str, int]


def run(
    replications: int,
    *,
    workers: int,
    out: Path,
    report: resume.Progress,
    size: Size = claim_draws.FULL,
    worlds: bool = True,
    real: bool = True,
) -> pa.Table:
    """Return one row per figure, as `READING` describes them; draws that `out` already holds are not repeated.

    `worlds` adds the markets with substitutes, 24 at most; `real` the designs on Complete Journey without treatment,
    five times as many draws, 2,000 at most.
    """
    wanted: list[Key] = [(REPLICATION, one.name, k) for k in range(1, replications + 1) for one in claim_draws.cases()]
    wanted += [(WORLD, SUBSTITUTES, k) for k in range(1, min(replications, MOST_WORLDS) + 1) if worlds]
    wanted += [(JOURNEY, "", min(5 * replications, PLACEBO_DRAWS))] if real else []
    done = {_key(one) for one in resume.read(out)}
    missing = [key for key in wanted if key not in done]
    report(f"{len(wanted) - len(missing)} of {len(wanted)} draws are there already")
    due: dict[tuple[str, int], list[str]] = {}
    for part, name, number in missing:
        due.setdefault((part, number), []).append(name)
    jobs = [(part, number, tuple(names)) for (part, number), names in due.items()]
    resume.append(jobs, partial(_work, size=size), out=out, workers=workers, report=report, title=_title)
    found = {_key(one): one for one in resume.read(out)}
    return pa.Table.from_pylist(list(summary([found[key] for key in wanted])))


def _work(job: tuple[str, int, tuple[str, ...]], *, size: Size) -> list[Row]:
    part, number, names = job
    if part == REPLICATION:
        return [claim_draws.replicate(one, number, size) for one in claim_draws.cases() if one.name in names]
    found = interference.measured(SUBSTITUTES, number) if part == WORLD else list(placebo_designs.rows(number))
    return [{"part": part, "name": names[0], "number": number, "found": found}]


def _title(job: tuple[str, int, tuple[str, ...]]) -> str:
    return {REPLICATION: "replication {}", WORLD: "substitutes, world {}", JOURNEY: "{} draws on Complete Journey"}[
        job[0]
    ].format(job[1])


def _key(one: Row) -> Key:
    return one["part"], one["name"], one["number"]


def _of(draws: Draws, design: Case) -> list[tuple[str, str]]:
    """Return the markets in which a design was drawn."""
    return [(scenario, design.design) for scenario in claim_draws.SCENARIOS if (scenario, design.design) in draws]


def _against_time_bound(draws: Draws, design: Case, estimator: str, figure: str, other: str) -> Iterator[Row]:
    """Yield one cut on every market."""
    claim, article = design.kind.replace("_", " "), ARTICLE.get(design.kind, "") if other == RAW else ""
    for which in _of(draws, design):
        found = cut(draws, figure, (which, estimator), ((which[0], designs.TIME_BOUND.design), other))
        held = figure == SD_CUT and estimator == HPTE
        bar = ASKED.get((design.design, which[0], other)) if held else None
        yield row(claim, which, estimator, figure, found, reference=f"time_bound {other}", article=article, bar=bar)
