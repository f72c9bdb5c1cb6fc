"""Drawing units: who moves together, systematic samples, balanced days, and the rules that a draw obeys."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

MIN_UNITS = 4
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
    def of(cls, product_ids: ArrayLike, units: ArrayLike | None, strata: ArrayLike | None) -> "Frame":
        """Return the checked frame; a unit is in the stratum of its first product."""
        ids = text("product_ids", product_ids)
        repeated = pd.Series(ids).duplicated().to_numpy()
        if repeated.any():
            found = f"{repeated.sum()} repeated ids, such as {ids[repeated][0]}"
            raise ValueError(f"product_ids has {found}; ids must be distinct. Give each product once.")
        unit_id = ids if units is None else text("units", units, len(ids))
        unit = pd.factorize(unit_id)[0]
        first = np.unique(unit, return_index=True)[1]
        if len(first) < MIN_UNITS:
            raise ValueError(
                f"number of units == {len(first)}, must be {MIN_UNITS} or more. Widen the scope or give smaller units."
            )
        stratum = np.zeros(len(ids)) if strata is None else text("strata", strata, len(ids))
        labels = f"units={units if units is None else 'units'}, strata={strata if strata is None else 'strata'}"
        return cls(ids, unit_id, unit, pd.factorize(stratum[first])[0], labels)


def systematic(stratum: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return who is taken (G,): every unit with probability `share`, floor or ceil of n x share in each stratum."""
    shuffled = rng.permutation(len(stratum))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    steps = np.floor(rng.random() + np.arange(len(order) + 1) * share)
    taken = np.empty(len(order), dtype=bool)
    taken[order] = np.diff(steps) > 0
    return taken


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
