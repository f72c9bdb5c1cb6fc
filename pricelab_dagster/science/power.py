"""The design chooser: what each candidate design would read on a lab's own untreated history, and which one to take."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from pricelab_dagster.science import bootstrap, placebo, replay
from pricelab_dagster.science._power_blackout import Blackout as Blackout
from pricelab_dagster.science._power_blackout import blackout as blackout
from pricelab_dagster.science._power_carryover import expected_missed as expected_missed
from pricelab_dagster.science._power_carryover import missed_part as missed_part
from pricelab_dagster.science._power_choice import Advice as Advice
from pricelab_dagster.science._power_choice import Assumed as Assumed
from pricelab_dagster.science._power_choice import Ranked as Ranked
from pricelab_dagster.science._power_choice import Spillover as Spillover
from pricelab_dagster.science._power_choice import rank as rank
from pricelab_dagster.science._power_choice import recommend as recommend
from pricelab_dagster.science._power_designs import Candidate as Candidate
from pricelab_dagster.science._power_designs import FloatArray, draw
from pricelab_dagster.science._power_designs import candidates as candidates
from pricelab_dagster.science._power_windows import MIN_UNITS, Windows, draw_order, mean_over_windows
from pricelab_dagster.science._power_windows import History as History
from pricelab_dagster.science._replay import Fixed
from pricelab_dagster.science._windows import by_window

Mode = Literal["instant", "exact"]

MDE = 2.8
"""Standard errors of the effect that a two-sided 5 % test finds with probability .8."""
INFLATION = {"time_bound": 1.05, "triggered": 1.05, "random_days": 1.1, "crossover": 1.1}
"""k: realised over predicted standard error in the market `base`, whose breaks fall on any date (METHODS.md)."""
HALF_LIVES, CARRYOVERS = (1.0, 2.0, 4.0, 7.0), (0.2, 0.4)
"""Days in which carryover halves, and carried-over over same-day effect, of the table of what each design misses."""
WINDOWS, TREES = {"instant": 3, "exact": 6}, {"instant": 24, "exact": 48}
DRAWS, DRAWS_OF_CELLS = {"instant": 4, "exact": 200}, {"instant": 8, "exact": 60}
PRODUCTS_AT_ONCE = 2_000
"""Instant draws of cells are fewer where products are many: these are drawn and read in a tenth of a second."""
CALIBRATING, CALIBRATING_CELLS = 200, 30
"""Bootstrap replicates by which exact coverage is that of the interval of an effect."""
NO_WINDOW = "the history has no room for a window of {n} {unit} with four weeks of sales before it"
FEW_UNITS = f"an arm would have fewer than {MIN_UNITS} units, so no standard error"
NO_EVENTS = "no window of the history has enough products with an event"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a candidate design is predicted to do; effects in parts of mean untreated sales, .01 is a point.

    Attributes
    ----------
    candidate
        The design.
    se
        Standard error of the effect, not inflated.
    se_by_window
        (K,) the same in each window, latest first.
    inflation, mde
        k, and the minimum detectable effect 2.8 k se.
    coverage, coverage_lower, coverage_upper
        Share of draws on untreated windows whose 95 % interval holds 0, with its own 95 % interval; nan in instant
        mode.
    missed
        (H, K) part of the long-run effect that carryover hides, over `HALF_LIVES` and `CARRYOVERS`.
    n_units
        Assignment units in the estimate, mean over windows.
    n_windows, n_draws, mode
        Behind the standard error.
    reason
        Why it is nan, or None.
    """

    candidate: Candidate
    se: float
    se_by_window: FloatArray
    inflation: float
    mde: float
    coverage: float
    coverage_lower: float
    coverage_upper: float
    missed: FloatArray
    n_units: float
    n_windows: int
    n_draws: int
    mode: Mode
    reason: str | None

    @property
    def days(self) -> int:
        """Days on the calendar."""
        return self.candidate.days


def evaluate(history: History, candidate: Candidate, *, mode: Mode = "instant", rng: np.random.Generator) -> Prediction:
    """Return what a design would do on windows of the history in which nothing was done; see `evaluations`."""
    return next(evaluations(history, [candidate], mode=mode, rng=rng))


def evaluations(
    history: History,
    designs: Sequence[Candidate],
    *,
    mode: Mode = "instant",
    report: Callable[[str], None] | None = None,
    rng: np.random.Generator,
) -> Iterator[Prediction]:
    """Yield what each design would do on windows of the history in which nothing was done.

    The estimand of `se` is the standard deviation of the estimate of an effect over draws of the arms and over windows,
    on the relative scale, by the estimator of an effect: forecast from what lies before the window, outlier filter,
    leaves, residual second difference; clusters by the Hajek difference. `exact` takes the root mean square of the
    estimates themselves, over many draws in up to six windows; `instant` the instant standard error of a few draws in
    up to three, which knows nothing of strata and pairs. Windows end where the history does and do not overlap. Assumes
    sales like those of the windows: a break or a season that they have not seen is not in it, and of an experiment that
    sells more the error is a little larger. Coverage is of the interval of an effect, bootstrap included.

    Parameters
    ----------
    history
        Of the products in scope, up to the eve of the experiment.
    designs
        Candidates; each has a generator of its own, so that its draws do not depend on the others.
    mode
        instant or exact.
    report
        Called with the name of each design before its turn.
    rng
        Seeds the draws and the forests.

    Raises
    ------
    ValueError
        If the mode is unknown, or a candidate has another grain than the history.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> history = History(np.arange(40), rng.poisson(20.0, (40, 200)).astype(float), np.zeros(40))
    >>> found = evaluate(history, Candidate("time_bound", 28), rng=rng)
    >>> 0.01 < found.se < 0.02, found.n_windows
    (True, 3)
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode == {mode!r}, must be one of {get_args(Mode)}. 'instant' takes seconds.")
    seed = int(rng.integers(2**63))
    windows = Windows(history, WINDOWS[mode], TREES[mode], seed)
    for one in designs:
        if one.grain != history.grain:
            raise ValueError(f"candidate.grain == {one.grain!r}, must be {history.grain!r}, as the history has it.")
        if report is not None:
            report(one.name)
        own = np.random.default_rng([seed, zlib.crc32(one.name.encode())])
        yield _evaluated(windows, one, mode, own)


def _evaluated(windows: Windows, candidate: Candidate, mode: Mode, rng: np.random.Generator) -> Prediction:
    """Return the prediction for one design."""
    history = windows.history
    order, unit, stratum = draw_order(history, candidate.unit)
    n_units = len(pd.unique(unit))
    if _smallest_arm(candidate, n_units) < MIN_UNITS:
        return _nothing(candidate, mode, n_units, FEW_UNITS)
    fixed = windows.values(candidate, order)
    if not fixed:
        absent = NO_WINDOW.format(n=candidate.n_periods, unit=f"{candidate.grain}s")
        return _nothing(candidate, mode, n_units, NO_EVENTS if candidate.kind == "triggered" else absent)
    n_draws = (DRAWS_OF_CELLS if candidate.kind == "random_days" else DRAWS)[mode]
    if mode == "instant" and candidate.kind == "random_days":
        n_draws = min(n_draws, max(1, PRODUCTS_AT_ONCE // len(order)))
    arms = draw(candidate, np.asarray(history.product_id)[order], unit, stratum, n_draws=n_draws, rng=rng)
    found = [replay.instant(one, arms) for one in fixed]
    se = np.array([mean_over_windows(one.effect if mode == "exact" else one.se) for one in found])
    total, coverage = mean_over_windows(se), (np.nan, np.nan, np.nan)
    if mode == "exact":
        coverage = _coverage(fixed, arms, found, rng)
    inflation = INFLATION[candidate.kind]
    return Prediction(
        candidate,
        se=total,
        se_by_window=se,
        inflation=inflation,
        mde=MDE * inflation * total,
        coverage=coverage[0],
        coverage_lower=coverage[1],
        coverage_upper=coverage[2],
        missed=_missed(candidate),
        n_units=float(np.mean([_units_with_value(one) for one in fixed])),
        n_windows=int(np.isfinite(se).sum()),
        n_draws=n_draws,
        mode=mode,
        reason=None if np.isfinite(total) else FEW_UNITS,
    )


def _coverage(
    fixed: list[Fixed], arms: np.ndarray, found: list[replay.Instant], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the share of draws whose interval holds 0, with its interval over windows and draws.

    Standard errors are the instant ones, carried to the bootstrap's by the mean ratio of the two, as `calibrated` has
    it in `placebo.aa_rejections`.
    """
    n_replicates = CALIBRATING_CELLS if fixed[0].cells else CALIBRATING
    ratio = placebo._ratio(fixed, arms, found, n_replicates, rng)
    t = np.stack([one.t for one in found]) / ratio
    W = arms[0] if fixed[0].cells else arms[:, 0]
    sides = [np.equal(W, code) for code in (0, 1)]
    sides = [side.any(axis=1) for side in sides] if fixed[0].cells else sides
    n = [len(pd.unique(fixed[0].unit_id[side])) for side in sides]
    df = bootstrap.freedom(n_units_smaller_arm=min(n), n_units=len(pd.unique(fixed[0].unit_id)))
    quantile = float((stats.t(df) if np.isfinite(df) else stats.norm()).ppf(0.975))
    held = np.where(np.isnan(t), np.nan, np.abs(t) <= quantile)
    _, lower, upper = by_window(held)
    return float(np.nanmean(held)) if np.isfinite(held).any() else np.nan, float(lower), float(upper)


def _missed(candidate: Candidate) -> FloatArray:
    return np.array(
        [[missed_part(candidate, carryover=kappa, half_life=days) for kappa in CARRYOVERS] for days in HALF_LIVES]
    )


def _smallest_arm(candidate: Candidate, n_units: int) -> float:
    """Return the units that the arm, or the sequence of a crossover, with fewest of them is expected to have."""
    if candidate.kind == "random_days":
        return float(n_units)
    share, n_arms = candidate.share, candidate.n_arms
    if candidate.kind == "crossover":
        return n_units / n_arms * min(share, 1.0 - share)
    return n_units * min(share / n_arms, 1.0 - share)


def _units_with_value(one: Fixed) -> int:
    known = np.isfinite(one.value).any(axis=1) if one.cells else np.isfinite(one.value)
    return len(pd.unique(one.unit_id[known]))


def _nothing(candidate: Candidate, mode: Mode, n_units: int, reason: str) -> Prediction:
    nothing = (np.nan,) * 3
    empty, k = np.empty(0), INFLATION[candidate.kind]
    missed = _missed(candidate)
    return Prediction(candidate, np.nan, empty, k, np.nan, *nothing, missed, float(n_units), 0, 0, mode, reason)
