"""Drawing units: who moves together, systematic samples, balanced days, arms among the treated, rules of a draw."""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

MIN_UNITS, MAX_ARMS = 4, 127
WEEK, CYCLE = 7, 14


@dataclass(frozen=True, slots=True)
class Frame:
    """Who is drawn: products, the unit of each and the stratum of each unit, coded in order of first appearance."""

    product_id: NDArray[np.object_]
    unit_id: NDArray[np.object_]
    unit: NDArray[np.int64]
    stratum: NDArray[np.int64]
    labels: str

    @classmethod
    def of(cls, product_ids: ArrayLike, units: ArrayLike | None, strata: ArrayLike | None, n_arms: int = 1) -> "Frame":
        """Return the checked frame for `n_arms` arms and control; a unit is in the stratum of its first product."""
        ids = text("product_ids", product_ids)
        repeated = pd.Series(ids).duplicated().to_numpy()
        if repeated.any():
            found = f"{repeated.sum()} repeated ids, such as {ids[repeated][0]}"
            raise ValueError(f"product_ids has {found}; ids must be distinct. Give each product once.")
        unit_id = ids if units is None else text("units", units, len(ids))
        unit = pd.factorize(unit_id)[0]
        first = np.unique(unit, return_index=True)[1]
        needed = max(MIN_UNITS, 2 * (n_arms + 1))
        if len(first) < needed:
            rule = f"{needed} or more" + (f" for n_arms == {n_arms}" if n_arms > 1 else "")
            raise ValueError(f"number of units == {len(first)}, must be {rule}. Widen the scope or give smaller units.")
        stratum = np.zeros(len(ids)) if strata is None else text("strata", strata, len(ids))
        labels = f"units={units if units is None else 'units'}, strata={strata if strata is None else 'strata'}"
        return cls(ids, unit_id, unit, pd.factorize(stratum[first])[0], labels)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The drawn arms of N products over T periods.

    Attributes
    ----------
    product_id
        Text (N,), in the order given.
    date
        First day of each period (T,), datetime64[D]; steps of 7 days in a weekly grain.
    arm
        int8 (N, T), the arm whose price is in force: 0 control, 1..n_arms treatment, also during a blackout.
    in_analysis
        Boolean (N, T), False where the data are left out (blackout; outside the window of a triggered unit).
    probability
        Float (N, T), the exact marginal probability that the cell is treated by any arm; each arm has
        `probability` / n_arms. In a triggered design that of the unit's draw, so of a cell that is in force.
    unit_id
        Text (N,): the unit that was drawn; all products of a unit carry the same arm.
    mechanism
        The call that made the draw, one line. With `product_ids`, `units`, `strata`, `triggered_on` and an `rng` bound
        to those names it replays.
    drawn
        int8 (N,), the arm that the unit was drawn for in advance. time_bound, triggered: its arm, 0 for control.
        crossover: its treatment arm 1..n_arms, whether it starts treated or not. random_days: 0, nothing is fixed.
    in_force
        Boolean (N, T), cells that belong to the experiment: in a triggered design the unit's window, else all.
    """

    product_id: NDArray[np.object_]
    date: NDArray[np.datetime64]
    arm: NDArray[np.int8]
    in_analysis: NDArray[np.bool_]
    probability: NDArray[np.float64]
    unit_id: NDArray[np.object_]
    mechanism: str
    drawn: NDArray[np.int8]
    in_force: NDArray[np.bool_]

    @property
    def sequence(self) -> NDArray[np.int8]:
        """Whether the first period is treated, by any arm (N,): in a crossover 1 starts treated, 0 as control."""
        return (self.arm[:, 0] > 0).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all designs have in common: who is drawn, from which day and by which grain, into how many arms."""

    frame: Frame
    start: np.datetime64
    grain: str
    share: float
    n_arms: int

    @classmethod
    def of(
        cls,
        product_ids: ArrayLike,
        start: Any,
        grain: str,
        units: ArrayLike | None,
        strata: ArrayLike | None,
        share: float,
        n_arms: int,
    ) -> "Setting":
        """Return the checked setting."""
        check_arms(n_arms)
        frame = Frame.of(product_ids, units, strata, n_arms)
        check_share(share)
        check_grain(grain)
        return cls(frame, np.datetime64(start, "D"), grain, float(share), int(n_arms))

    @property
    def stratum(self) -> NDArray[np.int64]:
        """Stratum of each unit (G,)."""
        return self.frame.stratum

    def assignment(
        self,
        call: str,
        arm: NDArray,
        drawn: NDArray[np.int8],
        counted: NDArray[np.bool_],
        probability: NDArray[np.float64] | float,
        *,
        date: NDArray[np.datetime64] | None = None,
        in_force: NDArray[np.bool_] | None = None,
    ) -> Assignment:
        """Return the draw of units (G, T) spread over products; a row (T,) holds for all units.

        `call` is the name and the lengths of the design; `date` None is the periods from the start on, `in_force` None
        is everywhere.
        """

        def spread(cells: NDArray | float) -> NDArray:
            return np.broadcast_to(cells, arm.shape)[self.frame.unit]

        if date is None:
            date = self.start + np.arange(arm.shape[1]) * step(self.grain)
        name, lengths = call.split("(")
        arms = f", n_arms={self.n_arms}" if self.n_arms > 1 else ""
        common = f"grain='{self.grain}', {self.frame.labels}, share={self.share}{arms}, rng=rng"
        return Assignment(
            product_id=self.frame.product_id,
            date=date,
            arm=spread(arm.astype(np.int8)),
            in_analysis=spread(counted),
            probability=spread(probability),
            unit_id=self.frame.unit_id,
            mechanism=f"{name}(product_ids, '{self.start}', {lengths}, {common})",
            drawn=drawn[self.frame.unit],
            in_force=spread(np.ones(arm.shape, dtype=bool) if in_force is None else in_force),
        )


def step(grain: str) -> int:
    """Return the days of one period."""
    return WEEK if grain == "week" else 1


def draw_arms(stratum: NDArray[np.int64], share: float, n_arms: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return the arm of each unit (G,): 0 control, 1..n_arms with probability `share` / `n_arms` each."""
    order = shuffled(stratum, rng)
    on = order[systematic(len(order), share, rng)]
    arm = np.zeros(len(order), dtype=np.int8)
    arm[on] = deal(stratum[on], n_arms, rng)
    return arm


def draw_sequences(
    stratum: NDArray[np.int64], share: float, n_arms: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
    """Return who starts treated (G,) and the treatment arm of each unit (G,), even among those who start alike."""
    order = shuffled(stratum, rng)
    taken = systematic(len(order), share, rng)
    first = np.empty(len(order), dtype=bool)
    first[order] = taken
    arm = np.zeros(len(order), dtype=np.int8)
    arm[order[taken]] = deal(stratum[order[taken]], n_arms, rng)
    dealt = np.bincount(arm, minlength=n_arms + 1)[1:]
    arm[order[~taken]] = deal(stratum[order[~taken]], n_arms, rng, before=dealt)
    return first, arm


def shuffled(stratum: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the units (G,) stratum by stratum, in random order inside each."""
    order = rng.permutation(len(stratum))
    return order[np.argsort(stratum[order], kind="stable")]


def systematic(n: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which positions of a list are taken (n,): each with probability `share`, evenly spread over the list."""
    steps = np.floor(rng.random() + np.arange(n + 1) * share)
    return np.diff(steps) > 0


def deal(
    stratum: NDArray[np.int64], n_arms: int, rng: np.random.Generator, before: NDArray[np.int64] | None = None
) -> NDArray[np.int8]:
    """Return arms 1..n_arms (m,) of units in stratum order: counts differ by at most one, in each stratum too.

    A short round, then rounds that have each arm once, all in random order; arms that an unfinished stratum has had
    more often come last in its next round. The short round levels the arms dealt `before` (n_arms,).
    """
    arm = np.ones(len(stratum), dtype=np.int8)
    if n_arms == 1:
        return arm
    short = len(stratum) % n_arms
    had = np.zeros(n_arms, dtype=np.int64)
    key = before if before is not None and short else had
    for low, high in pairwise(np.unique(np.r_[0, np.arange(short, len(stratum) + 1, n_arms)])):
        order = rng.permutation(n_arms)
        order = order[np.argsort(key[order], kind="stable")][: high - low]
        arm[low:high] = order + 1
        if high < len(stratum):
            had = had if stratum[low] == stratum[high] else np.zeros_like(had)
            key = had = had + np.bincount(order[stratum[low:high] == stratum[high]], minlength=n_arms)
    return arm


def rotating_arms(n_units: int, n_cycles: int, n_arms: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return the arm that a treated day would have (G, 14 n_cycles): one per unit, cycle and weekday.

    Over `n_arms` cycles each weekday of a unit has each arm once; inside a cycle the arms' counts differ by at most
    one.
    """
    if n_arms == 1:
        return np.ones((n_units, n_cycles * CYCLE), dtype=np.int8)
    weekday = rng.permuted(np.tile(np.arange(WEEK), (n_units, 1)), axis=1)
    label = rng.permuted(np.tile(np.arange(1, n_arms + 1, dtype=np.int8), (n_units, 1)), axis=1)
    turn = (weekday[:, None, :] + np.arange(n_cycles)[:, None]) % n_arms
    arm = np.take_along_axis(label, turn.reshape(n_units, -1), axis=1).reshape(n_units, n_cycles, 1, WEEK)
    return np.repeat(arm, CYCLE // WEEK, axis=2).reshape(n_units, -1)


def balanced_days(stratum: NDArray[np.int64], n_cycles: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return who is treated when (G, 14 n_cycles): each weekday once in each arm, partners opposite."""
    order = np.argsort(stratum, kind="stable")
    n = np.bincount(stratum)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(n) - n, n)
    # The last unit of an odd stratum waits for the leftover of the next one: all leftovers go to the end.
    left_over = (rank == np.repeat(n, n) - 1) & (rank % 2 == 0)
    order = np.r_[order[~left_over], order[left_over]]
    coins = rng.random(((len(order) + 1) // 2, n_cycles, 1, WEEK)) < 0.5
    pair = np.concatenate([coins, ~coins], axis=2).reshape(len(coins), -1)
    arm = np.empty((len(order), n_cycles * CYCLE), dtype=bool)
    arm[order] = np.stack([pair, ~pair], axis=1).reshape(-1, arm.shape[1])[: len(order)]
    return arm


def pairs_across(category: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pair labels (N,) of units in their order: each with the next free one of another category.

    Those who wait for a partner are always of one category, so the first of them takes whoever is of another.
    """
    labels = np.empty(len(category), dtype=np.int64)
    waiting: deque[int] = deque()
    n_pairs = 0
    for position, own in enumerate(category.tolist()):
        if waiting and category[waiting[0]] != own:
            labels[[waiting.popleft(), position]] = n_pairs
            n_pairs += 1
        else:
            waiting.append(position)
    left_over = np.array(waiting, dtype=np.int64)
    labels[left_over] = n_pairs + np.arange(len(left_over)) // 2
    return np.minimum(labels, max(len(category) // 2 - 1, 0))


def text(name: str, values: ArrayLike, n: int | None = None) -> NDArray[np.object_]:
    array = np.asarray(values, dtype=object)
    if array.ndim != 1 or (n is not None and len(array) != n):
        rule = "(N,)" if n is None else f"({n},)"
        raise ValueError(f"{name}.shape == {array.shape}, must be {rule}. Give one value per product.")
    missing = pd.isna(array)
    if missing.any():
        raise ValueError(f"{name} has {missing.sum()} missing values, must have none. Leave those products out.")
    return np.array([str(value) for value in array] + [None], dtype=object)[:-1]


def check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise ValueError(f"share == {share}, must be in (0, 1). Give the part of the units to treat.")


def check_arms(n_arms: int) -> None:
    if n_arms < 1:
        raise ValueError(f"n_arms == {n_arms}, must be 1 or more. Give the number of treatment arms.")
    if n_arms > MAX_ARMS:
        raise ValueError(f"n_arms == {n_arms}, must be {MAX_ARMS} or fewer. Give the number of treatment arms.")


def check_grain(grain: str) -> None:
    if grain not in ("day", "week"):
        raise ValueError(f"grain == {grain!r}, must be 'day' or 'week'. Give the grain of the sales data.")


def check_lengths(name: str, length: int, blackout: int) -> None:
    if length < 1:
        raise ValueError(f"{name} == {length}, must be 1 or more. Give it in periods of the grain.")
    if not 0 <= blackout < length:
        raise ValueError(f"blackout == {blackout}, must be in [0, {name} == {length}). Shorten the blackout.")


def check_multiple(name: str, value: int, divisor: int, of: str) -> None:
    if value < divisor or value % divisor:
        nearest = max(divisor, value - value % divisor)
        raise ValueError(f"{name} == {value}, must be a multiple of {of}. Give {nearest} or {nearest + divisor}.")


def check_balanced(duration: int, block: int, grain: str, share: float) -> None:
    wrong = {
        f"grain == {grain!r}, must be 'day'": grain != "day",
        f"block == {block}, must be 1": block != 1,
        f"share == {share}, must be 0.5": share != 0.5,
        f"duration == {duration}, must be a multiple of {CYCLE}": duration < CYCLE or duration % CYCLE > 0,
    }
    for problem, found in wrong.items():
        if found:
            raise ValueError(f"{problem} for balance 'day_of_week'. Change it, or give balance 'none'.")
