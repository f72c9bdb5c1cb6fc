"""The randomised designs: which product carries which arm on which date, and with what probability."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._draws import (
    CYCLE,
    Assignment,
    Setting,
    balanced_days,
    check_balanced,
    check_lengths,
    check_multiple,
    draw_arms,
    draw_sequences,
    pairs_across,
    rotating_arms,
    text,
)
from pricelab_dagster.science._triggered import event_start as event_start
from pricelab_dagster.science._triggered import triggered as triggered


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
    n_arms: int = 1,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which a part of the units is treated from `start` to the end, the others never.

    The units are sorted by stratum, shuffled inside each, and taken by systematic sampling from a random start: every
    unit is treated with probability `share` exactly, and each stratum, and the whole, has floor or ceil of n x share
    treated units. Arms are then dealt among the treated: each unit has each of them with probability `share` / `n_arms`
    exactly, and their counts differ by at most one in each stratum and in the whole.

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
        Part of the units to treat over all arms together, in (0, 1).
    n_arms
        Treatment arms, 1 to 127. `probability` is that of any of them; each has `probability` / `n_arms`. An arm may
        have no unit where n x share is below `n_arms`.
    rng
        The only source of chance. Same generator state and row order: same draw, whatever the labels are called.

    Raises
    ------
    ValueError
        If there are fewer than max(4, 2 (`n_arms` + 1)) units or a parameter is out of its range.

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
    setting = Setting.of(product_ids, start, grain, units, strata, share, n_arms)
    check_lengths("duration", duration, blackout)
    drawn = draw_arms(setting.stratum, share, n_arms, rng)
    return setting.assignment(
        f"time_bound(duration={duration}, blackout={blackout}",
        arm=np.repeat(drawn[:, None], duration, axis=1),
        drawn=drawn,
        counted=np.arange(duration) >= blackout,
        probability=share,
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
    n_arms: int = 1,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which every unit changes between the arms at random, from day to day or block to block.

    `balance="day_of_week"`: in each cycle of 14 days every unit has every weekday once treated and once not, a fair
    coin per weekday says in which order; units are paired and the partner takes the complement. Consecutive units of a
    stratum are partners, in the order given, so give products of like size next to each other; units left over in their
    strata are paired with each other, and at most one unit is alone. `balance="none"`: an independent coin with
    probability `share` for each unit and block; strata play no part.

    Several arms: a unit's treated days change between them. Balanced, each weekday goes through all arms in `n_arms`
    cycles, and inside a cycle their counts differ by at most one, from a random offset for each weekday and unit;
    otherwise each treated block has an arm at random.

    Parameters
    ----------
    product_ids, start, grain, units, strata, share, n_arms, rng
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
    setting = Setting.of(product_ids, start, grain, units, strata, share, n_arms)
    check_lengths("block", block, blackout)
    n_units = len(setting.stratum)
    if balance == "day_of_week":
        check_balanced(duration, block, grain, share)
        treated = balanced_days(setting.stratum, duration // CYCLE, rng)
        arm = treated * rotating_arms(n_units, duration // CYCLE, n_arms, rng)
    elif balance == "none":
        check_multiple("duration", duration, block, f"block == {block}")
        coins = rng.random((n_units, duration // block)) < share
        arms = rng.integers(1, n_arms, coins.shape, endpoint=True) if n_arms > 1 else 1
        arm = np.repeat(coins * arms, block, axis=1)
    else:
        raise ValueError(f"balance == {balance!r}, must be 'day_of_week' or 'none'. 'none' is an independent coin.")
    return setting.assignment(
        f"random_days(duration={duration}, block={block}, balance='{balance}', blackout={blackout}",
        arm=arm,
        drawn=np.zeros(n_units, dtype=np.int8),
        counted=np.arange(duration) % block >= blackout,
        probability=share,
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
    n_arms: int = 1,
    rng: np.random.Generator,
) -> Assignment:
    """Return a draw in which a part of the units starts treated, the others as control, and all swap after each phase.

    Who starts treated is drawn as in `time_bound`. The probability of a treated cell is `share` in the odd phases and
    1 - `share` in the even ones. With several arms each unit has its own, k, and alternates between k and control; the
    arms' counts differ by at most one over all units, over those that start alike, and over those of each stratum.

    Parameters
    ----------
    product_ids, start, grain, units, strata, n_arms, rng
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
    setting = Setting.of(product_ids, start, grain, units, strata, share, n_arms)
    check_lengths("phase", phase, blackout)
    check_multiple("phases", phases, 2, "2")
    first, drawn = draw_sequences(setting.stratum, share, n_arms, rng)
    period = np.arange(phase * phases)
    even = period // phase % 2 == 1
    return setting.assignment(
        f"crossover(phase={phase}, phases={phases}, blackout={blackout}",
        arm=(first[:, None] ^ even) * drawn[:, None],
        drawn=drawn,
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
    sizes = _finite(size)
    codes = pd.factorize(text("category", category, len(sizes)))[0]
    if block < 1:
        raise ValueError(f"block == {block}, must be 1 or more. Give the number of units of a stratum.")
    order = np.lexsort((-sizes, codes))
    n = np.bincount(codes)
    blocks = np.maximum(n // block, 1)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(n) - n, n)
    labels = np.empty(len(codes), dtype=np.int64)
    labels[order] = np.minimum(rank // block, np.repeat(blocks - 1, n)) + np.repeat(np.cumsum(blocks) - blocks, n)
    return labels


def paired_strata(size: ArrayLike, *, category: ArrayLike | None = None) -> NDArray[np.int64]:
    """Return stratum labels (N,): pairs of units of like size, from different categories where that is possible.

    For clusters of substitutes: partners that compete would blur the contrast. Without `category`, consecutive pairs in
    falling order of size, ties in the order given. With it, in that order each unit takes the nearest free one of
    another category; units left over, all of one category, are paired with each other. With an odd number the last
    stratum, at the small end, has three.

    Raises
    ------
    ValueError
        If a size is not finite, or a category is missing.

    Examples
    --------
    >>> paired_strata([10, 1, 9, 2, 3])
    array([0, 1, 0, 1, 1])
    >>> paired_strata([10, 9, 8, 7], category=["a", "a", "b", "c"])
    array([0, 1, 0, 1])
    """
    if category is None:
        return size_strata(np.zeros(len(np.asarray(size))), size, block=2)
    sizes = _finite(size)
    codes = pd.factorize(text("category", category, len(sizes)))[0]
    order = np.argsort(-sizes, kind="stable")
    labels = np.empty(len(sizes), dtype=np.int64)
    labels[order] = pairs_across(codes[order])
    return labels


def _finite(size: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(size, dtype=float)
    if not np.isfinite(sizes).all():
        count = (~np.isfinite(sizes)).sum()
        raise ValueError(f"size has {count} values that are not finite, must have none. Give 0 where nothing was sold.")
    return sizes
