"""The triggered design: arms drawn before any event, each unit's window opened by its own event."""

from numbers import Number
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._draws import Assignment, Setting, check_grain, check_lengths, draw_arms, step


def triggered(
    product_ids: ArrayLike,
    start: Any,
    *,
    duration: int,
    horizon: Any,
    triggered_on: ArrayLike | None = None,
    blackout: int = 0,
    grain: Literal["day", "week"] = "day",
    units: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    n_arms: int = 1,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which the unit's own event starts its window, the arm having been drawn before any event.

    All units are drawn as in `time_bound`, whether they will have an event or not, and events never touch the draw. The
    first event of a unit in [`start`, `horizon`], of whichever of its products, opens one window of `duration` periods
    for all its products, from the first period after it. Treated units carry their arm in the window; control units
    have the window too, a ghost trigger: in force with arm 0. Later events, and those outside the dates, do not count.

    Parameters
    ----------
    product_ids, grain, units, strata, share, n_arms, rng
        As in `time_bound`; `probability` is `share` in every cell.
    start
        First date on which an event counts; in a weekly grain also the label of a week.
    duration
        Periods of a unit's window, the blackout included.
    horizon
        Last date on which an event counts.
    triggered_on
        Dates (N,), NaT or None where the product has had no event. None before any event.
    blackout
        First periods of each unit's window that are left out of the analysis; the arm is in force in them.

    Raises
    ------
    ValueError
        As `time_bound`; or if `horizon` is before `start`, or `triggered_on` has another shape or values that are no
        dates.

    Examples
    --------
    >>> import numpy as np
    >>> events = ["2017-06-06", None, "2017-06-07", None]
    >>> options = {"duration": 2, "horizon": "2017-06-07", "triggered_on": events}
    >>> draw = triggered(list("abcd"), "2017-06-05", **options, rng=np.random.default_rng(1))
    >>> draw.in_force[[0, 2]].astype(int).tolist(), bool(draw.in_force[[1, 3]].any())
    ([[0, 1, 1, 0], [0, 0, 1, 1]], False)
    """
    setting = Setting.of(product_ids, start, grain, units, strata, share, n_arms)
    check_lengths("duration", duration, blackout)
    last = check_horizon(horizon, setting.start)
    occurred = days("triggered_on", triggered_on, len(setting.frame.unit))
    drawn = draw_arms(setting.stratum, share, n_arms, rng)
    event = first_event(occurred, setting.frame.unit, setting.start, last)
    begin = period_after(event, setting.start, grain)[:, None]
    earliest, latest = period_after(np.array([setting.start, last]), setting.start, grain)
    date = np.arange(earliest, latest + duration * step(grain), step(grain))
    in_force = (date >= begin) & (date < begin + duration * step(grain))
    events = "None" if triggered_on is None else "triggered_on"
    return setting.assignment(
        f"triggered(duration={duration}, horizon='{last}', triggered_on={events}, blackout={blackout}",
        arm=in_force * drawn[:, None],
        drawn=drawn,
        counted=in_force & (date >= begin + blackout * step(grain)),
        probability=share,
        date=date,
        in_force=in_force,
    )


def event_start(occurred_on: ArrayLike, start: Any, *, grain: Literal["day", "week"] = "day") -> NDArray[np.datetime64]:
    """Return the first period after each event (N,), datetime64[D]: where the window of `triggered` begins.

    By day the day after; by week the first label `start` + 7 k that is later than the event, k of either sign. NaT for
    NaT.

    Raises
    ------
    ValueError
        If `occurred_on` is not one list of dates, or for an unknown grain.

    Examples
    --------
    >>> event_start(["2017-06-05", "2017-06-11", None], "2017-06-05", grain="week").astype(str)
    array(['2017-06-12', '2017-06-12', 'NaT'], dtype='<U28')
    """
    check_grain(grain)
    return period_after(days("occurred_on", occurred_on), np.datetime64(start, "D"), grain)


def period_after(day: NDArray[np.datetime64], start: np.datetime64, grain: str) -> NDArray[np.datetime64]:
    """Return the first period after each day, NaT for NaT; the grid of periods goes through `start` both ways."""
    missing = np.isnat(day)
    passed = np.where(missing, 0, (day - start).astype(np.int64)) // step(grain)
    return np.where(missing, np.datetime64("NaT", "D"), start + (passed + 1) * step(grain))


def first_event(
    occurred: NDArray[np.datetime64], unit: NDArray[np.int64], start: np.datetime64, horizon: np.datetime64
) -> NDArray[np.datetime64]:
    """Return the first event of each unit (G,) in [start, horizon], of whichever of its products; NaT without one."""
    never = horizon + np.timedelta64(1, "D")
    counts = (occurred >= start) & (occurred <= horizon)
    first = np.full(unit.max() + 1, never)
    np.minimum.at(first, unit[counts], occurred[counts])
    return np.where(first < never, first, np.datetime64("NaT", "D"))


def check_horizon(horizon: Any, start: np.datetime64) -> np.datetime64:
    """Return the last date of a trigger as a day."""
    last = np.datetime64(horizon, "D")
    if not last >= start:
        rule = f"{start} or later"
        raise ValueError(f"horizon == {last}, must be {rule}. Give the last date of a trigger, not before the start.")
    return last


def days(name: str, values: ArrayLike | None, n: int | None = None) -> NDArray[np.datetime64]:
    """Return dates (N,) as days, NaT where one is missing; None is no date at all."""
    if values is None and n is not None:
        return np.full(n, np.datetime64("NaT"), dtype="datetime64[D]")
    array = np.asarray(values)
    if array.ndim != 1 or (n is not None and len(array) != n):
        rule = "(N,)" if n is None else f"({n},)"
        raise ValueError(f"{name}.shape == {array.shape}, must be {rule}. Give one date per product, NaT for none.")
    if array.dtype.kind == "M":
        return array.astype("datetime64[D]")
    return np.array([_day(name, value) for value in np.asarray(values, dtype=object)], dtype="datetime64[D]")


def _day(name: str, value: Any) -> np.datetime64:
    if pd.isna(value):
        return np.datetime64("NaT", "D")
    try:
        if isinstance(value, Number):
            raise TypeError("a number is no date")
        return np.datetime64(value, "D")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has the value {value!r}, must be dates. Give ISO dates, NaT for none.") from error
