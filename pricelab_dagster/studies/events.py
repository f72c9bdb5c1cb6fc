"""The triggered design on the simulated market: outside events that move demand, and the panel in event time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import designs, market
from pricelab_dagster.science.panel import Panel
from pricelab_dagster.studies import cases
from pricelab_dagster.studies.cases import UNITS, Case, Planted

SHOCK = 0.6
"""What an event leaves of demand in the window after it, in either arm."""
P_EVENT, P_SECOND = 0.5, 0.5
NEVER = -1
DAYS_OF_A_WEEK = 7

IntArray = NDArray[np.int64]


def in_event_time(case: Case, world: market.Market, drawn: NDArray[np.int8], *, rng: np.random.Generator) -> Planted:
    """Return a draw whose treated products start after their own event, and the comparison that is refused beside it.

    Parameters
    ----------
    drawn : (N,) arms, drawn before any event.
    """
    event = _events(len(drawn), case.lengths["horizon"], rng)
    first = np.where(event == NEVER, case.n_days, event).min(axis=1)
    has_event = first < case.n_days
    start = world.date[world.n_history]
    occurred = np.where(has_event, start + first, np.datetime64("NaT", "D"))
    begin = np.where(has_event, (designs.event_start(occurred, start) - start).astype(np.int64), case.n_days)
    in_force = _windows(begin[:, None], case)
    untreated, units = _sales(world, in_force & (drawn == 1)[:, None], _windows(event + 1, case), rng)
    rows = np.flatnonzero(has_event)
    counted = in_force & (np.arange(case.n_days) >= begin[:, None] + case.lengths["blackout"])
    truth = cases.truth(world, counted)
    truth["level"] = {estimand: SHOCK * value for estimand, value in truth["level"].items()}
    mixed = np.flatnonzero(has_event == (drawn == 1))
    pretended = np.where(has_event, begin, rng.integers(0, case.lengths["horizon"], len(drawn)) + 1)
    panel = _panel(case, world, rows, begin[rows], drawn, units)
    return Planted(
        panel=panel,
        untreated=_panel(case, world, rows, begin[rows], drawn, untreated).observed[UNITS],
        attributes=cases.attributes(world).iloc[rows].reset_index(drop=True),
        truth=(truth,),
        refused=_panel(case, world, mixed, pretended[mixed], drawn, units),
    )


def _events(n: int, horizon: int, rng: np.random.Generator) -> IntArray:
    """Return the days of up to two events of each product (N, 2), NEVER for none; the arms have no part in them."""
    event = rng.integers(0, horizon, (n, 2))
    has_event = rng.random(n) < P_EVENT
    event[~has_event] = NEVER
    event[rng.random(n) >= P_SECOND, 1] = NEVER
    return event


def _windows(begin: IntArray, case: Case) -> NDArray[np.bool_]:
    """Return the days (N, T) inside any of the windows that begin on the days (N, K); none begin on day 0."""
    day = np.arange(case.n_days)
    inside = np.zeros((len(begin), case.n_days), dtype=bool)
    for first in begin.T[:, :, None]:
        inside |= (first > 0) & (day >= first) & (day < first + case.lengths["duration"])
    return inside


def _sales(
    world: market.Market, arm: NDArray[np.bool_], shocked: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return the units (N, T0 + T) without treatment and under the arms, thinned where an event left less demand."""
    share = np.ones(world.untreated_units.shape)
    share[:, world.n_history :] = np.where(shocked, SHOCK, 1.0)
    gained = world.observe(arm).units - world.untreated_units
    untreated = rng.binomial(world.untreated_units, share)
    return untreated, untreated + rng.binomial(gained, share)


def _panel(
    case: Case, world: market.Market, rows: NDArray[np.intp], begin: IntArray, drawn: NDArray[np.int8], units: IntArray
) -> Panel:
    """Return the panel of products in their own time from the day each begins; later history is nan."""
    column = world.n_history + begin[:, None] + np.arange(case.lengths["duration"])
    past = units[rows, : world.n_history + begin.max()].astype(float)
    past[np.arange(past.shape[1]) >= world.n_history + begin[:, None]] = np.nan
    arm = np.repeat(drawn[rows, None].astype(float), column.shape[1], axis=1)
    shared: dict[str, Any] = {"product_id": world.product_id[rows], "unit_id": world.product_id[rows]}
    return Panel(
        **shared,
        category=world.category[rows],
        date=world.date[column],
        arm=arm,
        in_analysis=np.broadcast_to(np.arange(column.shape[1]) >= case.lengths["blackout"], arm.shape),
        probability=np.full(arm.shape, 0.5),
        phase=np.ones(column.shape[1], dtype=np.int64),
        history={UNITS: past, "price": world.incumbent_price[rows, : past.shape[1]]},
        observed={UNITS: units[rows[:, None], column].astype(float)},
        kind="triggered",
        drawn=drawn[rows].astype(np.int64),
        eve=world.n_history + begin,
        block=begin // DAYS_OF_A_WEEK,
        incumbent=world.incumbent_price[rows[:, None], column],
    )
