"""The study of HPTE on simulated markets: intervals, outlier filter, confounding, and its peers on the same panels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.science import affinity, bootstrap, hpte
from pricelab_dagster.science import panel as science
from pricelab_dagster.studies import figures, invariances, job_training, placebo_designs, resume
from pricelab_dagster.studies.bars import Bar, at_least, at_most, verdict
from pricelab_dagster.studies.cases import Case, Planted, Size
from pricelab_dagster.studies.planted import plant
from pricelab_dagster.workbench import stage_rng

DAYS = 42
FULL = Size(n_products=1000, n_history=365, n_trees=200, n_replicates=500)
NO_FILTER = ", no filter"
DIFFERENCE = "difference_in_differences"
PLACEBO_DRAWS = 2000
PEER_DRAWS = 200
"""Draws on which the peers estimate and the other forms have intervals, which takes most of the time."""
BESIDE = ("hpte_leaf", "hpte_doubly_robust", "hajek", DIFFERENCE)
SLOW_PEERS = ("ancova", "cuped", "causal_forest_dml")
RAW = (DIFFERENCE, *(f"{name}_raw" for name in SLOW_PEERS))
FILTERED = ("hajek", *SLOW_PEERS)
"""The difference, raw and on our first difference and filter, and the peers likewise."""

COVERED = Bar(0.925, 0.97)
HONEST = Bar(0.92, 1.15)
NO_WORSE = at_most(1.08)
BELOW = at_most(1.0)
MUCH_BETTER = at_least(20.0)
ANCOVA_KNOWS = ("confounded", "confounded_varying")
"""Scenarios whose confounder has the linear shape that ANCOVA assumes."""

READING = (
    "Every draw is a new market, a new assignment and a new forest; truth is the planted effect of the same products "
    "and days (imported assignments: of the treated ones). Intervals of the figures are 95 %: exact binomial "
    "for coverage, bootstrap over draws for ratios. `bar` is what methods ask; `reached` says whether the value meets "
    "it, and `unsure` that its interval lies on both sides. rmse_cut and bias_removed in per cent of the reference's, "
    "rmse_ratio over the reference's.\n"
    "What is known of figures that are not reached. Coverage and se_over_sd above their bars, and A/A rejections below "
    "theirs: arms are drawn in strata of like products, which the bootstrap's independent weights do not count on "
    "(without strata, break_at_start with 200 products: .967 for .98, 1.12 for 1.25). bias_percent of levels: outliers "
    "are held at the filter's bounds, and the largest sellers with them (unfiltered it is gone, and the error twice as "
    "large). causal_forest_dml where arms are confounded: the forest shrinks effects towards each other, which helps "
    "where all are much alike and less in confounded_varying. sparse: few units a day, 77 draws."
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the plan: what is drawn, and what is asked of it.

    Attributes
    ----------
    case, size
        Design, market and how large.
    headline
        Estimator whose figures are held against the bars.
    raw_cut
        Per cent by which the headline's root mean squared error has to lie below that of the raw difference.
    peers
        Whether the peers estimate the same draws.
    at_most
        Draws, however many are asked for: a setting that takes long, or of which no coverage is asked.
    """

    case: Case
    size: Size = FULL
    headline: str = "hpte"
    raw_cut: float | None = None
    peers: bool = False
    at_most: int | None = None

    @property
    def name(self) -> str:
        """What its draws are stored by."""
        return f"{self.case.name}, {self.size.n_products} products"

    def parts(self, replication: int) -> list[str]:
        """Return what is drawn of it in a replication."""
        main = [MAIN] if self.at_most is None or replication <= self.at_most else []
        return [*main, *([PEERS] if self.peers and replication <= PEER_DRAWS else [])]

    @property
    def imported(self) -> bool:
        """Whether nobody drew the arms."""
        return self.case.kind == "observational"


def _time_bound(scenario: str) -> Case:
    return Case(scenario, f"time_bound, {DAYS} days", "time_bound", {"duration": DAYS})


def _observational(scenario: str) -> Case:
    return Case(scenario, f"imported, {DAYS} days", "observational", {"duration": DAYS})


RANDOM_DAYS = Case("base", f"random_days, balanced, {DAYS} days", "random_days", {"duration": DAYS})
CROSSOVER = Case("base", "crossover, 2 x 21 days, blackout 7", "crossover", {"phase": 21, "blackout": 7})
SETTINGS: tuple[Setting, ...] = (
    Setting(_time_bound("base"), raw_cut=15.0, peers=True),
    Setting(_time_bound("clean"), at_most=200),
    Setting(_time_bound("break_at_start"), raw_cut=30.0, peers=True),
    Setting(_time_bound("break_at_start"), replace(FULL, n_products=200), raw_cut=20.0),
    Setting(_time_bound("sparse"), at_most=200),
    Setting(_time_bound("heavy_tails"), at_most=200),
    Setting(CROSSOVER),
    Setting(RANDOM_DAYS, replace(FULL, n_replicates=200), at_most=200),
    Setting(_observational("confounded"), headline="hpte_doubly_robust", peers=True),
    Setting(_observational("confounded_nonlinear"), headline="hpte_doubly_robust", peers=True),
    Setting(_observational("confounded_varying"), headline="hpte_doubly_robust", peers=True, at_most=200),
)

MAIN, PEERS = "main", "peers"
Job = tuple[int, tuple[tuple[str, str], ...]]


def run(
    replications: int,
    *,
    workers: int,
    out: Path,
    report: resume.Progress,
    settings: tuple[Setting, ...] = SETTINGS,
    real: bool = True,
) -> pa.Table:
    """Return one row per figure, as `READING` describes them; draws that `out` already holds are not repeated.

    `real` adds what must not move an estimate (`invariances`), the comparison of real people whose answer is known
    (`job_training`), and experiments without treatment on real sales (`placebo_designs`), of which twice as many are
    drawn, 2,000 at the most.
    """
    done = {(row["setting"], row["part"], row["replication"]) for row in resume.read(out)}
    jobs: list[Job] = []
    for replication in range(1, replications + 1):
        due = [(one.name, part) for one in settings for part in one.parts(replication)]
        missing = tuple((name, part) for name, part in due if (name, part, replication) not in done)
        if missing:
            jobs.append((replication, missing))
    report(f"{replications - len(jobs)} of {replications} replications are there already")
    resume.append(
        jobs,
        partial(_replicate_all, settings=settings),
        out=out,
        workers=workers,
        report=report,
        title=lambda job: f"replication {job[0]}",
    )
    rows = [row for row in resume.read(out) if row["replication"] <= replications]
    simulated = summary(sorted(rows, key=lambda row: row["replication"]), settings)
    if not real:
        return simulated
    report("what must not move an estimate, and what must flip it")
    found = list(invariances.rows())
    report("job training, where the experiment's answer is known")
    found += job_training.rows()
    report("experiments without treatment on Complete Journey")
    found += placebo_designs.rows(min(2 * replications, PLACEBO_DRAWS))
    return pa.concat_tables([simulated, pa.Table.from_pylist(found, schema=simulated.schema)])


def replicate(setting: Setting, replication: int) -> dict[str, Any]:
    """Return one draw: effect, interval and truth by scale and estimator."""
    planted = plant(setting.case, replication, setting.size)
    panel = planted.panel
    metrics = science.trimmed(panel, science.forecasts(panel), method="none")
    rng = stage_rng(replication, setting.name, "estimates")
    leaves = science.fit_leaves(panel, planted.attributes, metrics[0], n_trees=setting.size.n_trees, rng=rng)
    weights = bootstrap.poisson_weights(panel.unit_id, n_replicates=setting.size.n_replicates, rng=rng)
    found = []

    def estimate(
        one: science.Trimmed, estimators: tuple[str, ...], *, interval: bool = True, trim: str = "auto"
    ) -> None:
        options: dict[str, Any] = {"weights": weights if interval else weights[:, :2], "trim": trim, "rng": rng}
        for _, scale, name, effect in science.estimates(panel, [one], leaves, estimators=estimators, **options):
            called = name if trim == "auto" else name + NO_FILTER
            found.append(_row(scale, called, effect, planted, interval=interval))

    held = tuple(dict.fromkeys(("hpte", setting.headline)))
    for one in metrics:
        estimate(one, held if one.scale == "relative" else ("hpte",))
        if one.scale == "relative":
            others = tuple(name for name in BESIDE if name not in held)
            estimate(one, others, interval=replication <= PEER_DRAWS)
        if panel.kind != "random_days":
            estimate(one, (setting.headline,), interval=False, trim="none")
    return {"setting": setting.name, "part": MAIN, "replication": replication, "found": found}


def replicate_peers(setting: Setting, replication: int) -> dict[str, Any]:
    """Return what the peers estimate on the same draw."""
    planted = plant(setting.case, replication, setting.size)
    relative = science.trimmed(planted.panel, science.forecasts(planted.panel), method="none")[0]
    estimates = science.estimates(
        planted.panel,
        [relative],
        affinity.Leaves.single(len(planted.panel.product_id)),
        X=planted.attributes,
        estimators=(*RAW[1:], *FILTERED[1:]),
        n_replicates=2,
        rng=stage_rng(replication, setting.name, "peers"),
    )
    found = [_row(scale, name, effect, planted, interval=False) for _, scale, name, effect in estimates]
    return {"setting": setting.name, "part": PEERS, "replication": replication, "found": found}


def summary(rows: list[dict[str, Any]], settings: tuple[Setting, ...] = SETTINGS) -> pa.Table:
    """Return the figures of the settings, one a row."""
    flat = [
        {"setting": row["setting"], "replication": row["replication"], **one} for row in rows for one in row["found"]
    ]
    frame = pd.DataFrame(flat)
    found = []
    for setting in settings:
        part = frame[frame["setting"] == setting.name] if len(frame) else frame
        if len(part):
            found += list(_figures(setting, Draws(part)))
    return pa.Table.from_pylist(found)


class Draws:
    """The draws of one setting by scale and estimator, in the order of the replications."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows[rows["effect"].notna()]

    def of(self, estimator: str, scale: str = "relative") -> pd.DataFrame:
        """Return the draws of an estimator, indexed by replication."""
        wanted = (self._rows["estimator"] == estimator) & (self._rows["scale"] == scale)
        return self._rows[wanted].set_index("replication")

    def errors(self, *estimators: str) -> list[NDArray[np.float64]]:
        """Return effect less truth of relative estimates, over the draws that all of them have."""
        parts = [self.of(name) for name in estimators]
        shared = parts[0].index
        for part in parts[1:]:
            shared = shared.intersection(part.index)
        return [(part.loc[shared, "effect"] - part.loc[shared, "truth"]).to_numpy(dtype=float) for part in parts]

    @property
    def names(self) -> list[str]:
        """Every estimator with relative draws."""
        return list(dict.fromkeys(self._rows.loc[self._rows["scale"] == "relative", "estimator"]))


def _figures(setting: Setting, draws: Draws) -> Iterator[dict[str, Any]]:
    yield from _intervals(setting, draws)
    yield from _filter(setting, draws)
    if setting.imported:
        yield from _confounding(setting, draws)
    if setting.peers:
        yield from _peers(setting, draws)


def _intervals(setting: Setting, draws: Draws) -> Iterator[dict[str, Any]]:
    """Yield coverage, honesty of the standard error and bias of the estimators with intervals."""
    for scale, estimator in [*(("relative", name) for name in ("hpte", *BESIDE)), ("level", "hpte")]:
        part = draws.of(estimator, scale)
        part = part[part["se"].notna()]
        if part.empty:
            continue
        held = setting.headline == estimator and scale == "relative"
        truth, error = float(part["truth"].mean()), (part["effect"] - part["truth"]).to_numpy(dtype=float)
        hits = int(((part["ci_lower"] <= part["truth"]) & (part["truth"] <= part["ci_upper"])).sum())
        covered = at_least(0.90) if setting.imported else COVERED
        yield _figure(setting, "coverage", estimator, scale, figures.proportion(hits, len(part)), covered, held, part)
        ratio = figures.se_over_sd(part["se"], error)
        yield _figure(setting, "se_over_sd", estimator, scale, ratio, HONEST, held and not setting.imported, part)
        bias = figures.mean(100.0 * error / truth)
        allowed = Bar(-5.0, 5.0) if scale == "relative" else Bar(-6.0, 6.0)
        asked = not setting.imported and (held or scale == "level")
        yield _figure(setting, "bias_percent", estimator, scale, bias, allowed, asked, part)


def _filter(setting: Setting, draws: Draws) -> Iterator[dict[str, Any]]:
    """Yield how much the filter takes off the error, against the raw difference and against no filter."""
    for reference in (DIFFERENCE, setting.headline + NO_FILTER):
        if reference not in draws.names:
            continue
        errors = draws.errors(setting.headline, reference)
        cut = figures.compare(_cut, *errors)
        bar = at_least(setting.raw_cut or 0.0)
        held = setting.raw_cut is not None and reference == DIFFERENCE
        yield _figure(setting, "rmse_cut_percent", setting.headline, "relative", cut, bar, held, errors[0], reference)


def _confounding(setting: Setting, draws: Draws) -> Iterator[dict[str, Any]]:
    """Yield the part of the raw difference's bias that an estimator removes."""
    for estimator in ("hpte", *BESIDE[:-1], *(FILTERED[1:] if setting.peers else ())):
        errors = draws.errors(estimator, DIFFERENCE)
        removed = figures.compare(lambda ours, raw: 100.0 * (1.0 - abs(ours.mean()) / abs(raw.mean())), *errors)
        held = estimator == setting.headline
        args = (removed, at_least(80.0), held, errors[0], DIFFERENCE)
        yield _figure(setting, "bias_removed_percent", estimator, "relative", *args)


def _peers(setting: Setting, draws: Draws) -> Iterator[dict[str, Any]]:
    """Yield the error against each peer: raw ones by how much it is less, filtered ones as a ratio."""
    for reference in (*RAW, *FILTERED):
        if reference not in draws.names:
            continue
        for estimator in dict.fromkeys((setting.headline, "hpte")):
            errors = draws.errors(estimator, reference)
            held = estimator == setting.headline
            if reference in RAW and not setting.imported:
                value, figure, bar = _cut, "rmse_cut_percent", MUCH_BETTER
            else:
                value, figure, bar = _ratio, "rmse_ratio", BELOW if setting.imported else NO_WORSE
            held &= not (setting.case.scenario in ANCOVA_KNOWS and reference.startswith("ancova"))
            args = (figures.compare(value, *errors), bar, held, errors[0], reference)
            yield _figure(setting, figure, estimator, "relative", *args)


def rmse(errors: NDArray[np.float64]) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean(errors**2)))


def _cut(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return 100.0 * (1.0 - rmse(ours) / rmse(theirs))


def _ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return rmse(ours) / rmse(theirs)


def _figure(
    setting: Setting,
    figure: str,
    estimator: str,
    scale: str,
    found: figures.Bounded,
    bar: Bar,
    held: bool,
    draws: Any,
    reference: str = "",
) -> dict[str, Any]:
    """Return a row; only a figure that is `held` against its bar has one."""
    return {
        "scenario": setting.case.scenario,
        "design": setting.case.design,
        "products": setting.size.n_products,
        "figure": figure,
        "estimator": estimator,
        "scale": scale,
        "reference": reference,
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "bar": str(bar) if held else "",
        "reached": verdict(found, bar) if held else "",
        "draws": len(draws),
    }


def _row(scale: str, estimator: str, effect: hpte.Effect, planted: Planted, *, interval: bool) -> dict[str, Any]:
    numbers = {name: getattr(effect, name) for name in ("effect", "se", "ci_lower", "ci_upper")}
    known = ("effect", *(numbers if interval else ()))
    defined = {name: float(value) if name in known and np.isfinite(value) else None for name, value in numbers.items()}
    return {"scale": scale, "estimator": estimator, "truth": planted.truth[0][scale]["same_day"], **defined}


PARTS = {MAIN: replicate, PEERS: replicate_peers}


def _replicate_all(job: Job, *, settings: tuple[Setting, ...]) -> list[dict[str, Any]]:
    replication, due = job
    return [PARTS[part](one, replication) for one in settings for name, part in due if one.name == name]
