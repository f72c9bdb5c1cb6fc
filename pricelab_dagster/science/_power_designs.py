"""Candidate designs of an experiment, and their arms drawn over products."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import designs
from pricelab_dagster.science._draws import CYCLE, MAX_ARMS, WEEK, check_grain, check_lengths, check_share, step

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Kind = Literal["time_bound", "triggered", "random_days", "crossover"]
Grain = Literal["day", "week"]

KINDS: tuple[Kind, ...] = ("time_bound", "triggered", "random_days", "crossover")
DURATIONS = {"day": (14, 28, 56), "week": (2, 4, 8)}
BLACKOUTS = {"day": (0, 3, 7), "week": (0, 1)}
RECRUITING_WEEKS = 4
START = "2024-01-01"
"""A Monday; draws do not depend on it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One design that an experiment could have. Lengths count periods of the grain.

    Attributes
    ----------
    kind
        time_bound, triggered, random_days or crossover.
    duration
        Periods in which a product is in the experiment, blackouts included; of a triggered design from its event on.
    blackout
        First periods of each stretch (the window, a block, a phase) that are left out.
    block, balance
        Of random days, as in `designs.random_days`.
    phase
        Of a crossover, which has `duration` / `phase` of them; 0 otherwise.
    recruiting
        Of a triggered design, the periods in which an event may start a product; 0 otherwise.
    unit
        What is assigned together: product or cluster.
    n_arms, share
        Treatment arms, and the part of the units that is treated, over all of them.
    grain
        day or week.
    """

    kind: Kind
    duration: int
    blackout: int = 0
    block: int = 1
    balance: Literal["day_of_week", "none"] = "none"
    phase: int = 0
    recruiting: int = 0
    unit: Literal["product", "cluster"] = "product"
    n_arms: int = 1
    share: float = 0.5
    grain: Grain = "day"

    def __post_init__(self) -> None:
        """Refuse what no design has."""
        if self.kind not in KINDS:
            raise ValueError(f"kind == {self.kind!r}, must be one of {KINDS}. Give the name of a design.")
        check_grain(self.grain)
        check_share(self.share)
        check_lengths(*self.stretch, self.blackout)
        if self.duration % self._shortest:
            name = "2 phases" if self.kind == "crossover" else "block"
            wanted = f"a multiple of {self._shortest}, its {name}"
            raise ValueError(f"duration == {self.duration}, must be {wanted}. Give another length.")
        if (self.kind == "triggered") != (self.recruiting > 0):
            rule = "1 or more for triggered" if self.kind == "triggered" else f"0 for {self.kind}"
            raise ValueError(
                f"recruiting == {self.recruiting}, must be {rule}. Give the periods in which events start."
            )
        if not 1 <= self.n_arms <= MAX_ARMS:
            raise ValueError(f"n_arms == {self.n_arms}, must be in [1, {MAX_ARMS}]. Give the treatment arms.")
        if self.unit not in ("product", "cluster"):
            raise ValueError(f"unit == {self.unit!r}, must be product or cluster. Give what is assigned together.")

    @property
    def stretch(self) -> tuple[str, int]:
        """The name and length of what a blackout begins: the window, a block or a phase."""
        lengths = {"random_days": ("block", self.block), "crossover": ("phase", self.phase)}
        return lengths.get(self.kind, ("duration", self.duration))

    @property
    def _shortest(self) -> int:
        whole = {"random_days": CYCLE if self.balance == "day_of_week" else self.block, "crossover": 2 * self.phase}
        return whole.get(self.kind, 1)

    @property
    def n_periods(self) -> int:
        """Periods from the start to the end of the last product."""
        return self.duration + self.recruiting

    @property
    def days(self) -> int:
        """Days on the calendar, from the start to the end of the last product."""
        return self.n_periods * step(self.grain)

    @property
    def counted(self) -> BoolArray:
        """Which periods of a product enter its estimate, (duration,)."""
        return np.arange(self.duration) % self.stretch[1] >= self.blackout

    @property
    def phase_index(self) -> NDArray[np.int64]:
        """The phase of each period, counted from 1, (duration,)."""
        return np.arange(self.duration) // (self.phase or self.duration) + 1

    @property
    def name(self) -> str:
        """The design in words.

        Examples
        --------
        >>> Candidate("crossover", 28, blackout=7, phase=14).name
        'crossover of 2 x 14 days, blackout 7'
        >>> Candidate("random_days", 28, balance="day_of_week", unit="cluster").name
        'random days, balanced, 28 days, by cluster'
        """
        unit = f"{self.grain}s"
        words = {
            "time_bound": f"time-bound, {self.duration} {unit}",
            "triggered": f"triggered, {self.duration} {unit} from an event in {self.recruiting}",
            "random_days": f"random {unit}, {self._drawn_by}, {self.duration} {unit}",
            "crossover": f"crossover of {self.duration // max(self.phase, 1)} x {self.phase} {unit}",
        }[self.kind]
        words += f", blackout {self.blackout}" if self.blackout else ""
        words += ", by cluster" if self.unit == "cluster" else ""
        words += f", {self.n_arms} arms" if self.n_arms > 1 else ""
        return words + (f", share {self.share:g}" if self.share != 0.5 else "")

    @property
    def _drawn_by(self) -> str:
        if self.balance == "day_of_week":
            return "balanced"
        return "coin flip" if self.block == 1 else f"blocks of {self.block}"


def candidates(
    *,
    grain: Grain = "day",
    durations: Sequence[int] | None = None,
    blackouts: Sequence[int] | None = None,
    clusters: bool = False,
    events: bool = False,
    n_arms: int = 1,
    share: float = 0.5,
) -> list[Candidate]:
    """Return the designs worth comparing, of the lengths given, shortest first.

    Of each length: time-bound; random days balanced over weekdays (grain day, multiples of 14, share one half), by coin
    flip and in blocks of a week; crossovers of two and of four phases; each with every blackout that takes no more than
    half of the stretch that it begins. By product, and with `clusters` by cluster too.

    Parameters
    ----------
    grain
        day or week.
    durations, blackouts
        Lengths in periods; None: 14, 28 and 56 days or 2, 4 and 8 weeks, and 0, 3 and 7 days or 0 and 1 week.
    clusters
        Whether units can be clusters.
    events
        Whether there are outside events: triggered designs too, which wait four weeks for them.
    n_arms, share
        As for `Candidate`.

    Raises
    ------
    ValueError
        If a length, share or number of arms is out of its range.

    Examples
    --------
    >>> found = candidates(durations=[14], blackouts=[0])
    >>> [one.name for one in found if one.kind == "random_days"]
    ['random days, balanced, 14 days', 'random days, coin flip, 14 days', 'random days, blocks of 7, 14 days']
    """
    check_grain(grain)
    found = []
    for duration in sorted(set(durations or DURATIONS[grain])):
        for one in _of_length(int(duration), grain, n_arms, share, events):
            for blackout in sorted(set(blackouts or BLACKOUTS[grain])):
                if blackout <= one.stretch[1] // 2 or blackout == 0:
                    found.append(replace(one, blackout=int(blackout)))
    if clusters:
        found += [replace(one, unit="cluster") for one in found if one.kind != "triggered"]
    return found


def _of_length(duration: int, grain: Grain, n_arms: int, share: float, events: bool) -> Iterator[Candidate]:
    """Yield the designs of one length, without blackouts."""
    common: dict[str, Any] = {"n_arms": n_arms, "share": share, "grain": grain}
    week = WEEK // step(grain)
    yield Candidate("time_bound", duration, **common)
    if events:
        yield Candidate("triggered", duration, recruiting=RECRUITING_WEEKS * week, **common)
    if grain == "day" and duration % CYCLE == 0 and share == 0.5:
        yield Candidate("random_days", duration, balance="day_of_week", **common)
    yield Candidate("random_days", duration, **common)
    if week > 1 and duration % week == 0:
        yield Candidate("random_days", duration, block=week, **common)
    for phases in (2, 4):
        if duration % phases == 0 and duration // phases >= (week if phases == 2 else max(week, 2)):
            yield Candidate("crossover", duration, phase=duration // phases, **common)


def draw(
    candidate: Candidate,
    product_id: NDArray[Any],
    unit: NDArray[Any],
    stratum: NDArray[Any],
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Return draws of the first arm against control as `replay.instant` takes them; -1 elsewhere.

    (N, R), of a crossover 1 for who starts treated, or (R, N, T) on random days. Products stand in the order of the
    draw, in which consecutive ones of a stratum are partners.
    """
    common: dict[str, Any] = {"grain": candidate.grain, "units": unit, "strata": stratum}
    common |= {"share": candidate.share, "n_arms": candidate.n_arms, "blackout": candidate.blackout, "rng": rng}

    def once() -> NDArray[np.int8]:
        if candidate.kind == "random_days":
            lengths: dict[str, Any] = {"duration": candidate.duration, "block": candidate.block}
            drawn = designs.random_days(product_id, START, balance=candidate.balance, **lengths, **common)
            return drawn.arm
        if candidate.kind == "crossover":
            phases = candidate.duration // candidate.phase
            drawn = designs.crossover(product_id, START, phase=candidate.phase, phases=phases, **common)
            return np.where(drawn.drawn == 1, drawn.sequence, -1)
        return designs.time_bound(product_id, START, duration=candidate.duration, **common).drawn

    found = np.stack([once() for _ in range(n_draws)], axis=0 if candidate.kind == "random_days" else 1)
    return np.where(found > 1, -1, found).astype(np.int8)
