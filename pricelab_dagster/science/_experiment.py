"""What is known of one experiment, as arrays: the panel, and the first differences of its metrics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DAYS_OF_A_BLOCK = 7
SIGNED_METRICS = {"profit": "revenue"}


@dataclass(frozen=True, slots=True)
class Panel:
    """What is known of one experiment: N products, T0 periods before the start, T periods since.

    A triggered experiment stands in event time: its T periods are counted from each product's own start.

    Attributes
    ----------
    product_id, unit_id, category
        Text (N,), products sorted.
    date
        The periods (T,), datetime64[D]; (N, T) for a triggered experiment, NaT where a product has none.
    arm
        Float (N, T): 0 control, 1 and up the treatment arms, nan where not assigned.
    in_analysis
        Boolean (N, T): False in a blackout.
    probability
        Float (N, T), the design's probability of treatment; nan for imported assignments.
    phase
        Integer (T,): the phase of each period, counted from 1.
    history
        By metric, float (N, T0): nan before a product's first sale.
    observed
        By metric, float (N, T): nan where the metric was not observed, such as the price of a period without sales.
    kind
        time_bound, triggered, random_days or crossover.
    grain
        day or week.
    imported
        Whether the assignment was drawn elsewhere.
    drawn
        (N,) the treatment arm that a product has in any period of the experiment, also of one that is still to come;
        0 for products that are control throughout. None: as seen in `arm`.
    eve
        (N,) history columns before the product's own start; None: all of them. Later columns of `history` are nan.
    block
        (N,) start week of a triggered product: arms are compared inside it. None: one block.
    incumbent
        Float (N, T): the price that was planned for the period without treatment, nan where not known. With it and
        `history["price"]` the forecast knows how prices move. None: it does not.
    """

    product_id: NDArray[np.object_]
    date: NDArray[np.datetime64]
    unit_id: NDArray[np.object_]
    category: NDArray[np.object_]
    arm: FloatArray
    in_analysis: BoolArray
    probability: FloatArray
    phase: NDArray[np.int64]
    history: Mapping[str, FloatArray]
    observed: Mapping[str, FloatArray]
    kind: str
    grain: Literal["day", "week"] = "day"
    imported: bool = False
    drawn: NDArray[np.int64] | None = None
    eve: NDArray[np.int64] | None = None
    block: NDArray[np.int64] | None = None
    incumbent: FloatArray | None = None

    @property
    def season(self) -> int:
        """Periods of the weekly season: 7 by day, 1 by week."""
        return 7 if self.grain == "day" else 1

    @property
    def n_history(self) -> int:
        """T0, the periods before the start."""
        return next(iter(self.history.values())).shape[1]

    @property
    def through(self) -> str:
        """The last period, as an ISO date."""
        return str(np.max(self.date[~np.isnat(self.date)]))

    @property
    def dates(self) -> NDArray[np.datetime64]:
        """The date of each cell (N, T), NaT where a product has none."""
        return np.broadcast_to(self.date, self.arm.shape)

    @property
    def treated(self) -> FloatArray:
        """Whether a cell is treated by any arm (N, T): 1 or 0, nan where not assigned."""
        return np.where(np.isfinite(self.arm), self.arm > 0, np.nan)

    @property
    def drawn_arm(self) -> NDArray[np.int64]:
        """The treatment arm of each product (N,), 0 for those that are control throughout."""
        if self.drawn is not None:
            return self.drawn
        return np.nan_to_num(self.arm).max(axis=1, initial=0).astype(np.int64)

    def cohorts(self) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Yield the rows that start at the same time, and how many history columns lie before that."""
        if self.eve is None:
            yield np.arange(len(self.product_id)), self.n_history
            return
        for eve in np.unique(self.eve):
            yield np.flatnonzero(self.eve == eve), int(eve)

    def against(self, arm: int) -> "Panel":
        """Return the panel in which treatment is one arm and the others are not assigned.

        On random days its cells stand against the control cells of all products. In other designs whole products do:
        those drawn for that arm against those that are control throughout, so that a product that waits for another arm
        is no control. Of a crossover the products that alternate between that arm and control stay; the others never
        were in it.
        """
        kept = np.isin(self.arm, (0.0, float(arm)))
        if self.kind != "random_days":
            compared = (arm,) if self.kind == "crossover" else (0, arm)
            kept &= np.isin(self.drawn_arm, compared)[:, None]
        return replace(self, arm=np.where(kept, np.minimum(self.arm, 1.0), np.nan))

    def dosed(self, doses: FloatArray) -> "Panel":
        """Return the panel whose arm is a dose; `doses` (K + 1,) by arm, 0 for control."""
        known = np.isfinite(self.arm)
        return replace(self, arm=np.where(known, doses[np.nan_to_num(self.arm).astype(int)], np.nan))

    def analysed(self, values: FloatArray) -> BoolArray:
        """Cells (N, T) that enter an estimate on `values`: assigned, outside blackouts and observed."""
        return self.in_analysis & np.isfinite(self.arm) & np.isfinite(values)

    @property
    def sequence(self) -> FloatArray:
        """What a product was drawn for (N,): its arm in the first period in which it has one, nan without."""
        first = np.argmax(np.isfinite(self.arm), axis=1)
        return self.arm[np.arange(len(self.arm)), first]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The first differences of one metric on one scale, and what the filter does with them.

    Attributes
    ----------
    metric, scale
        Names.
    first_difference
        D (N,): nan where the product has none.
    placebo
        (N, K): the same on windows before the start.
    product_scale
        s (N,): what relative values are divided by; 1 on the level scale.
    kept
        Boolean (N,).
    reason
        (N,) text or None: why a product is not kept, or how it is changed.
    residual
        (N, T): observed minus predicted on this scale.
    outcome
        (N, T): observed on this scale.
    """

    metric: str
    scale: str
    first_difference: FloatArray
    placebo: FloatArray
    product_scale: FloatArray
    kept: BoolArray
    reason: NDArray[np.object_]
    residual: FloatArray
    outcome: FloatArray
