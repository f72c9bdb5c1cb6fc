"""The randomised designs: which product carries which arm on which date, and with what probability."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._draws import (
    CYCLE,
    WEEK,
    Frame,
    balanced_days,
    check_balanced,
    check_lengths,
    check_multiple,
    check_share,
    systematic,
    text,
)


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
        int8 (N, T), the arm whose price is in force: 0 control, 1 and up treatment, also during a blackout.
    in_analysis
        Boolean (N, T), False where the data are left out (blackout).
    probability
        Float (N, T), the exact marginal probability that the cell is treated.
    unit_id
        Text (N,): the unit that was drawn; all products of a unit carry the same arm.
    mechanism
        The call that made the draw, one line. With `product_ids`, `units`, `strata` and an `rng` bound to those names
        it replays.
    """

    product_id: NDArray[np.object_]
    date: NDArray[np.datetime64]
    arm: NDArray[np.int8]
    in_analysis: NDArray[np.bool_]
    probability: NDArray[np.float64]
    unit_id: NDArray[np.object_]
    mechanism: str

    @property
    def sequence(self) -> NDArray[np.int8]:
        """Arm of the first period (N,): in a crossover 1 starts treated, 0 starts as control."""
        return self.arm[:, 0]


def time_bound(
    product_ids: ArrayLike,
    start: Any,
    *,
    duration: int,
    blackout: int = 0,
    grain: Literal["day", "week"] = "day",
    units: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which a part of the units is treated from `start` to the end, the others never.

    The units are sorted by stratum, shuffled inside each, and taken by systematic sampling from a random start: every
    unit is treated with probability `share` exactly, and each stratum, and the whole, has floor or ceil of n x share
    treated units.

    Parameters
    ----------
    product_ids
        Distinct ids (N,).
    start
        First date, anything that numpy reads as a day.
    duration
        Periods of the grain, the blackout included.
    blackout
        First periods that are left out of the analysis; the arm is in force in them.
    units
        Labels (N,), None for one unit per product.
    strata
        Labels (N,); a unit is in the stratum of its first product. None for one stratum.
    share
        Part of the units to treat, in (0, 1).
    rng
        The only source of chance. Same generator state and row order: same draw, whatever the labels are called.

    Raises
    ------
    ValueError
        If there are fewer than 4 units or a parameter is out of its range.

    References
    ----------
    Madow and Madow (1944), On the theory of systematic sampling, I. Annals of Mathematical Statistics 15.

    Examples
    --------
    >>> import numpy as np
    >>> draw = time_bound(list("abcd"), "2017-06-05", duration=3, blackout=1, rng=np.random.default_rng(1))
    >>> int(draw.sequence.sum()), draw.in_analysis[0].tolist()
    (2, [False, True, True])
    """
    frame = Frame.of(product_ids, units, strata)
    check_share(share)
    check_lengths("duration", duration, blackout)
    treated = systematic(frame.stratum, share, rng)
    return _assignment(
        frame,
        f"time_bound(duration={duration}, blackout={blackout}",
        start,
        grain,
        share,
        arm=np.repeat(treated[:, None], duration, axis=1),
        counted=np.arange(duration) >= blackout,
        probability=np.full(duration, share),
    )


def random_days(
    product_ids: ArrayLike,
    start: Any,
    *,
    duration: int,
    block: int = 1,
    balance: Literal["day_of_week", "none"] = "day_of_week",
    blackout: int = 0,
    grain: Literal["day", "week"] = "day",
    units: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which every unit changes between the arms at random, from day to day or block to block.

    `balance="day_of_week"`: in each cycle of 14 days every unit has every weekday once in each arm, a fair coin per
    weekday says in which order; units are paired and the partner takes the complement. Consecutive units of a stratum
    are partners, in the order given, so give products of like size next to each other; units left over in their strata
    are paired with each other, and at most one unit is alone. `balance="none"`: an independent coin with probability
    `share` for each unit and block; strata play no part.

    Parameters
    ----------
    product_ids, start, grain, units, strata, share, rng
        As in `time_bound`.
    duration
        Periods; a multiple of 14 for the balanced draw, of `block` otherwise.
    block
        Consecutive periods under one coin.
    blackout
        First periods of each block that are left out of the analysis; the arm is in force in them.

    Raises
    ------
    ValueError
        As `time_bound`; or if the balanced draw is asked for with weeks, with blocks, with a share other than one half
        or with a duration that is not a multiple of 14.

    Examples
    --------
    >>> import numpy as np
    >>> draw = random_days(list("abcd"), "2017-06-05", duration=14, rng=np.random.default_rng(1))
    >>> (draw.arm[:, :7] + draw.arm[:, 7:]).min(), (draw.arm[0] + draw.arm[1]).max()
    (np.int8(1), np.int8(1))
    """
    frame = Frame.of(product_ids, units, strata)
    check_share(share)
    check_lengths("block", block, blackout)
    if balance == "day_of_week":
        check_balanced(duration, block, grain, share)
        arm = balanced_days(frame.stratum, duration // CYCLE, rng)
    elif balance == "none":
        check_multiple("duration", duration, block, f"block == {block}")
        coins = rng.random((len(frame.stratum), duration // block)) < share
        arm = np.repeat(coins, block, axis=1)
    else:
        raise ValueError(f"balance == {balance!r}, must be 'day_of_week' or 'none'. 'none' is an independent coin.")
    return _assignment(
        frame,
        f"random_days(duration={duration}, block={block}, balance='{balance}', blackout={blackout}",
        start,
        grain,
        share,
        arm=arm,
        counted=np.arange(duration) % block >= blackout,
        probability=np.full(duration, share),
    )


def crossover(
    product_ids: ArrayLike,
    start: Any,
    *,
    phase: int = 14,
    phases: int = 2,
    blackout: int = 7,
    grain: Literal["day", "week"] = "day",
    units: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which a part of the units starts treated, the others as control, and all swap after each phase.

    Who starts treated is drawn as in `time_bound`. The probability of a treated cell is `share` in the odd phases and
    1 - `share` in the even ones.

    Parameters
    ----------
    product_ids, start, grain, units, strata, rng
        As in `time_bound`.
    phase
        Periods of one phase, its blackout included.
    phases
        Number of phases, even, so that every unit spends half of the time in each arm.
    blackout
        First periods of each phase that are left out of the analysis; the arm is in force in them.
    share
        Part of the units that starts treated.

    Raises
    ------
    ValueError
        As `time_bound`, or if `phases` is not an even number.

    Examples
    --------
    >>> import numpy as np
    >>> draw = crossover(list("abcd"), "2017-06-05", phase=2, blackout=1, rng=np.random.default_rng(1))
    >>> bool((draw.arm[:, :2] + draw.arm[:, 2:] == 1).all()), draw.in_analysis[0].tolist()
    (True, [False, True, False, True])
    """
    frame = Frame.of(product_ids, units, strata)
    check_share(share)
    check_lengths("phase", phase, blackout)
    check_multiple("phases", phases, 2, "2")
    first = systematic(frame.stratum, share, rng)
    period = np.arange(phase * phases)
    even = period // phase % 2 == 1
    return _assignment(
        frame,
        f"crossover(phase={phase}, phases={phases}, blackout={blackout}",
        start,
        grain,
        share,
        arm=first[:, None] ^ even,
        counted=period % phase >= blackout,
        probability=np.where(even, 1.0 - share, share),
    )


def size_strata(category: ArrayLike, size: ArrayLike, *, block: int = 4) -> NDArray[np.int64]:
    """Return stratum labels (N,): blocks of `block` units of like size inside each category.

    The units of a category are sorted by falling size, ties in the order given, and cut; what is left at the small end
    joins the last block, which has up to 2 `block` - 1 units. A category smaller than `block` is one stratum.

    Raises
    ------
    ValueError
        If shapes differ, a size is not finite, a category is missing or `block` is below 1.

    Examples
    --------
    >>> size_strata(["a", "a", "b", "a", "a", "a"], [5, 1, 9, 4, 3, 2], block=2)
    array([0, 1, 2, 0, 1, 1])
    """
    sizes = np.asarray(size, dtype=float)
    codes = pd.factorize(text("category", category, len(sizes)))[0]
    if not np.isfinite(sizes).all():
        count = (~np.isfinite(sizes)).sum()
        raise ValueError(f"size has {count} values that are not finite, must have none. Give 0 where nothing was sold.")
    if block < 1:
        raise ValueError(f"block == {block}, must be 1 or more. Give the number of units of a stratum.")
    order = np.lexsort((-sizes, codes))
    n = np.bincount(codes)
    blocks = np.maximum(n // block, 1)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(n) - n, n)
    labels = np.empty(len(codes), dtype=np.int64)
    labels[order] = np.minimum(rank // block, np.repeat(blocks - 1, n)) + np.repeat(np.cumsum(blocks) - blocks, n)
    return labels


def paired_strata(size: ArrayLike) -> NDArray[np.int64]:
    """Return stratum labels (N,): consecutive pairs of units in falling order of size, whatever their category.

    For clusters of substitutes: partners must come from different categories or they would compete, and their sizes
    should be like. With an odd number the last stratum, at the small end, has three.

    Raises
    ------
    ValueError
        If a size is not finite.

    Examples
    --------
    >>> paired_strata([10, 1, 9, 2, 3])
    array([0, 1, 0, 1, 1])
    """
    return size_strata(np.zeros(len(np.asarray(size))), size, block=2)


def _assignment(
    frame: Frame, call: str, start: Any, grain: str, share: float, arm: NDArray, counted: NDArray, probability: NDArray
) -> Assignment:
    """Return the draw of units (G, T) spread over products; `counted` and `probability` have one value a period."""
    if grain not in ("day", "week"):
        raise ValueError(f"grain == {grain!r}, must be 'day' or 'week'. Give the grain of the sales data.")
    day = np.datetime64(start, "D")
    n, n_periods = len(frame.unit), len(counted)
    name, lengths = call.split("(")
    common = f"grain='{grain}', {frame.labels}, share={float(share)}, rng=rng"
    return Assignment(
        product_id=frame.product_id,
        date=day + np.arange(n_periods) * (WEEK if grain == "week" else 1),
        arm=arm.astype(np.int8)[frame.unit],
        in_analysis=np.tile(counted, (n, 1)),
        probability=np.tile(probability, (n, 1)),
        unit_id=frame.unit_id,
        mechanism=f"{name}(product_ids, '{day}', {lengths}, {common})",
    )
