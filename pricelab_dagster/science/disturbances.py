"""What else happened in an experiment's window: empty shelves and price moves, and whether they fall on one arm."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science import _arm_statistics as arm_statistics
from pricelab_dagster.science.diagnostics import ALPHA, PRICE_TOLERANCE_MONEY, Diagnostic

__all__ = ["promotions_by_arm", "stockout_cells", "stockouts_by_arm"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

USUALLY = 0.9
HISTORY_WEEKS, MIN_HISTORY = 26, 8
CHANCE_OF_RUN = 0.001
SLACK_OF_DEMAND = 0.5
MIN_RUN = 2
MOVED = 0.01


@dataclass(frozen=True, slots=True)
class Cells:
    """Flagged cells of an experiment.

    Attributes
    ----------
    flag, counted, treated
        Boolean (N, T): the finding, where it could be made, and whether the cell (of designs within products) or the
        product's arm is a treatment.
    unit
        (N,) codes of assignment units.
    within
        Whether products change arms, so that each is its own comparison.
    """

    flag: BoolArray
    counted: BoolArray
    treated: BoolArray
    unit: NDArray[np.intp]
    within: bool

    def shares(self, treated: bool) -> FloatArray:
        """Return the flagged share of the counted cells of a side: (N,), of units (G,) within; nan without cells."""
        side = self.counted & (self.treated == treated)
        hit, seen = ((side & self.flag).sum(axis=1), side.sum(axis=1))
        if self.within:
            hit, seen = (np.bincount(self.unit, column) for column in (hit, seen))
        with np.errstate(invalid="ignore"):
            return hit / seen


def stockout_cells(
    sold: ArrayLike,
    history: ArrayLike,
    *,
    season: int,
    is_open: ArrayLike | None = None,
    was_open: ArrayLike | None = None,
) -> tuple[BoolArray, BoolArray]:
    """Return the cells (N, T) of runs without sales too long for chance, and which products (N,) could show one.

    Periods in which no product sold are closed, and left out: a run goes on over them. A product can show a stock-out
    if it sold in 90 % of its open periods of the last 26 weeks before the start, of which it has at least 8. With
    q = (periods sold + 1/2) / (periods + 1), a run is too long for chance from the length L on at which
    (1 - q)^(L / 2) <= .001: were demand half of what it was, Poisson sales would leave L periods empty once in a
    thousand. It errs towards finding nothing: short stock-outs, slow products, and shelves that are all empty at once,
    which look like a closed shop, are not seen.

    Parameters
    ----------
    sold
        (N, T) units or revenue since the start; nan, not observed, ends a run.
    history
        (N, T0) the same before it, nan before the first sale.
    season
        Periods in a week: 7 by day, 1 by week.
    is_open, was_open
        Boolean (N, T) or (T,), and (T0,): whether the shops were open since the start, and before it. None: where any
        of the products sold; columns of products that stand in event time are no periods, so give it for them.
    """
    Y, past = np.asarray(sold, dtype=float), np.asarray(history, dtype=float)
    now, before = _open(Y, is_open), _open(past, was_open)
    past = np.where(before, past, np.nan)[:, -HISTORY_WEEKS * season :]
    n, n_sold = np.isfinite(past).sum(axis=1), (past > 0).sum(axis=1)
    usual = (n >= MIN_HISTORY) & (n_sold >= USUALLY * n)
    log_empty = np.log(1.0 - (n_sold + 0.5) / (n + 1.0))
    shortest = np.maximum(np.ceil(np.log(CHANCE_OF_RUN) / (SLACK_OF_DEMAND * log_empty)), MIN_RUN)
    return (_run_length(Y <= 0, now) >= shortest[:, None]) & usual[:, None], usual


def stockouts_by_arm(
    sold: ArrayLike,
    history: ArrayLike,
    arm: ArrayLike,
    in_analysis: ArrayLike,
    *,
    season: int,
    is_open: ArrayLike | None = None,
    was_open: ArrayLike | None = None,
    units: ArrayLike | None = None,
    within: bool = False,
) -> Diagnostic:
    """Return whether stock-outs fall on one arm: treated minus control share of analysed cells inside one.

    Of products that usually sell, in open periods, as `stockout_cells` finds them. Fisher's exact p over units with and
    without a stock-out; within products the t of the units' own differences. A policy that sells shelves empty is cut
    short by it, and one whose control shelves are empty looks better than it is.

    Parameters
    ----------
    sold, history, season, is_open, was_open
        As `stockout_cells`.
    arm
        (N, T), 0 control, above 0 treated, nan not assigned; within False a product is treated if any of its cells is.
    in_analysis
        (N, T) Boolean.
    units
        (N,) assignment units; each product its own when None.
    within
        Whether products change arms.

    References
    ----------
    Fisher (1935), JRSS 98, 39-82.
    """
    flag, usual = stockout_cells(sold, history, season=season, is_open=is_open, was_open=was_open)
    Y = np.asarray(sold, dtype=float)
    seen = usual[:, None] & np.isfinite(Y) & _open(Y, is_open)
    cells = _cells(flag, seen, arm, in_analysis, units, within)
    return _judged("stockouts_by_arm", "In a stock-out", "of products that usually sell", cells, exact=True)


def promotions_by_arm(
    charged: ArrayLike,
    multiplier: ArrayLike,
    incumbent: ArrayLike,
    arm: ArrayLike,
    in_analysis: ArrayLike,
    *,
    units: ArrayLike | None = None,
    within: bool = False,
) -> Diagnostic:
    """Return whether prices moved beyond the treatment, and on one arm: treated minus control share of such cells.

    A cell moved where the price charged is off by more than 1 %, and half a cent, from the planned multiplier times the
    incumbent price of the product's start. Welch's t over units; within products the t of the units' own differences.
    Moves that fall on both arms alike add noise and do not bias the effect.

    Parameters
    ----------
    charged
        (N, T) prices, nan without sales.
    multiplier
        (N, T) planned price over the incumbent price of that period, nan where no price is planned.
    incumbent
        (N,) incumbent price at the start.
    arm, in_analysis, units, within
        As `stockouts_by_arm`.

    References
    ----------
    Welch (1947), Biometrika 34, 28-35.
    """
    expected = np.asarray(multiplier, dtype=float) * np.asarray(incumbent, dtype=float)[:, None]
    gap = np.abs(np.asarray(charged, dtype=float) - expected)
    seen = np.isfinite(gap)
    # a price on the bound has not moved, whatever its rounding to doubles
    flag = seen & (gap > np.maximum(MOVED * expected, PRICE_TOLERANCE_MONEY) + 1e-9)
    cells = _cells(flag, seen, arm, in_analysis, units, within)
    return _judged(
        "promotions_by_arm", "Over 1 % off the price of the start, treatment aside", "with sales", cells, exact=False
    )


def _open(sold: FloatArray, known: ArrayLike | None) -> BoolArray:
    """Return the cells of open periods, in the shape of `sold`; by default those in which any product sold."""
    found = (sold > 0).any(axis=0) if known is None else np.asarray(known, dtype=bool)
    if found.shape not in (sold.shape, sold.shape[1:]):
        raise ValueError(
            f"is_open or was_open has shape {found.shape}, must be {sold.shape[1:]} or {sold.shape}. Give one a period."
        )
    return np.broadcast_to(found, sold.shape)


def _run_length(empty: BoolArray, is_open: BoolArray) -> NDArray[np.int64]:
    """Return for each open empty cell how many there are in its run, which closed cells do not end; 0 elsewhere."""
    n, n_periods = empty.shape
    length, run = np.zeros((n, n_periods), dtype=np.int64), np.zeros(n, dtype=np.int64)
    hit = empty & is_open
    for t in range(n_periods):
        run = np.where(hit[:, t], run + 1, np.where(is_open[:, t], 0, run))
        length[:, t] = np.where(hit[:, t], run, 0)
    run[:] = 0
    for t in range(n_periods - 1, -1, -1):
        run = np.where(hit[:, t], np.maximum(run, length[:, t]), np.where(is_open[:, t], 0, run))
        length[:, t] = np.where(hit[:, t], run, 0)
    return length


def _cells(
    flag: BoolArray, seen: BoolArray, arm: ArrayLike, in_analysis: ArrayLike, units: ArrayLike | None, within: bool
) -> Cells:
    W, counted = np.asarray(arm, dtype=float), np.asarray(in_analysis, dtype=bool)
    if W.ndim != 2 or W.shape != flag.shape or counted.shape != flag.shape:
        raise ValueError(
            f"arm, in_analysis have shapes {W.shape}, {counted.shape}, must be {flag.shape}. Give one of each per cell."
        )
    treated = np.nan_to_num(W) > 0
    if not within:
        treated = np.broadcast_to(treated.any(axis=1, keepdims=True), W.shape)
    labels = np.arange(len(W)) if units is None else np.asarray(units)
    unit = np.unique(labels, return_inverse=True)[1]
    return Cells(flag, seen & counted & np.isfinite(W), treated, unit, within)


def _judged(name: str, what: str, which: str, cells: Cells, *, exact: bool) -> Diagnostic:
    """Return the verdict on flagged cells by arm."""
    shares = [cells.shares(side) for side in (True, False)]
    means = [float(np.nanmean(share)) if np.isfinite(share).any() else np.nan for share in shares]
    if not np.isfinite(means).all():
        sides = " and ".join(word for word, mean in zip(("treated", "control"), means, strict=True) if np.isnan(mean))
        return Diagnostic(
            name, "informational", np.nan, ALPHA, np.nan, f"Not computed: no {sides} cells {which} in the analysis."
        )
    value = means[0] - means[1]
    p = _paired_p(*shares) if cells.within else _fisher_p(cells) if exact else _welch_p(cells, *shares)
    message = f"{what}: {means[0]:.1%} of treated, {means[1]:.1%} of control cells {which}"
    n_hit = int((cells.flag & cells.counted).any(axis=1).sum())
    message += f" ({n_hit} of {int(cells.counted.any(axis=1).sum())} products have one)."
    if np.isnan(p):
        return Diagnostic(name, "informational", value, ALPHA, p, f"{message} {_no_p(cells, *shares)}")
    return Diagnostic(name, "failed" if p < ALPHA else "passed", value, ALPHA, p, message)


def _no_p(cells: Cells, treated: FloatArray, control: FloatArray) -> str:
    """Return why there is no p-value."""
    if not cells.within:
        return "Too few units for a p-value."
    known = np.isfinite(np.column_stack([treated, control]))
    both, either = int(known.all(axis=1).sum()), int(known.any(axis=1).sum())
    return f"No p-value: {both} of {either} units have such cells in both arms, 2 are needed."


def _fisher_p(cells: Cells) -> float:
    """Return the exact p of units with a flagged cell by arm."""
    rows = cells.counted.any(axis=1)
    present, first, code = np.unique(cells.unit[rows], return_index=True, return_inverse=True)
    flagged: BoolArray = np.asarray((cells.flag & cells.counted).any(axis=1))
    hits = np.bincount(code, flagged[rows], len(present))
    treated = cells.treated[rows, 0][first]
    table = [[np.sum(hits[treated == side] > 0), np.sum(hits[treated == side] == 0)] for side in (True, False)]
    return float(stats.fisher_exact(np.array(table)).pvalue)


def _welch_p(cells: Cells, treated: FloatArray, control: FloatArray) -> float:
    """Return Welch's p of the products' shares, clustered by unit; nan with fewer than two units in an arm."""
    rows = cells.counted.any(axis=1)
    W = cells.treated[rows, 0].astype(float)
    share = np.where(cells.treated[:, 0], treated, control)[rows]
    unit = np.unique(cells.unit[rows], return_inverse=True)[1]
    effect, se, freedom = arm_statistics.difference(share, W, unit)
    return _t_p(effect, se, freedom)


def _paired_p(treated: FloatArray, control: FloatArray) -> float:
    """Return the p of the units' own differences; nan with fewer than two units that have both."""
    own = (treated - control)[np.isfinite(treated) & np.isfinite(control)]
    if len(own) < 2:
        return np.nan
    return _t_p(float(own.mean()), float(own.std(ddof=1)) / np.sqrt(len(own)), len(own) - 1)


def _t_p(effect: float, se: float, freedom: Any) -> float:
    """Return the two-sided p; without any spread 1 for no difference and 0 for one."""
    if not np.isfinite(se):
        return np.nan
    if se == 0:
        return float(effect == 0)
    return float(2 * stats.t.sf(abs(effect) / se, freedom))
