"""Windows of a lab's history without any treatment, as values on which a candidate design is drawn again."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import affinity, designs, detrend, outliers, placebo
from pricelab_dagster.science._draws import WEEK, step
from pricelab_dagster.science._power_designs import Candidate, FloatArray, Grain
from pricelab_dagster.science._replay import Fixed

MIN_UNITS = 4
PRODUCTS_NEEDED = 0.5
"""Part of the products that must have a value in a window; of a triggered design, of those with an event."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of N products before an experiment: T periods in which nobody experimented.

    Attributes
    ----------
    product_id
        Distinct ids (N,).
    value
        The metric (N, T), nan before a product is on sale.
    category
        Labels (N,).
    price
        Positive shelf prices (N, T), nan where unknown; the forecast knows those of a window as planned. None: not
        known.
    attributes
        N rows, what the forest may split on; None: one leaf.
    cluster
        Labels (N,) of what would be assigned en masse; None: no clusters.
    events
        Boolean (N, T): an outside event of the kind that would trigger; None: no events.
    grain
        day or week.
    method, window
        The forecast, as for `detrend.forecast`; window None is all of the history.
    trim, trim_c
        Rule and constant of the outlier filter.
    min_leaf
        Of the forest.
    """

    product_id: NDArray[Any]
    value: FloatArray
    category: NDArray[Any]
    price: FloatArray | None = None
    attributes: pd.DataFrame | None = None
    cluster: NDArray[Any] | None = None
    events: NDArray[np.bool_] | None = None
    grain: Grain = "day"
    method: detrend.Method = "pooled_ridge"
    window: int | None = 28
    trim: str = "trim"
    trim_c: float = 5.0
    min_leaf: int = 4

    def __post_init__(self) -> None:
        """Refuse arrays that do not go together."""
        shape = np.shape(self.value)
        if len(shape) != 2 or shape[0] != len(self.product_id) or not shape[1]:
            rule = f"({len(self.product_id)}, T)"
            raise ValueError(f"value.shape == {shape}, must be {rule}. Give one row per product.")
        for name, wanted in {"price": shape, "events": shape, "category": shape[:1], "cluster": shape[:1]}.items():
            given = getattr(self, name)
            if given is not None and np.shape(given) != wanted:
                raise ValueError(f"{name}.shape == {np.shape(given)}, must be {wanted}. Give what goes with the value.")
        if self.attributes is not None and len(self.attributes) != shape[0]:
            raise ValueError(f"attributes has {len(self.attributes)} rows, must have {shape[0]}. Give one per product.")

    @property
    def season(self) -> int:
        """Periods of a week."""
        return WEEK // step(self.grain)

    @property
    def size(self) -> FloatArray:
        """Mean of the metric by product (N,)."""
        known = np.isfinite(self.value)
        return np.where(known, self.value, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


class _Values(NamedTuple):
    """Values (N,) or (N, T) of one window, outcomes (N,), and start weeks (N,) of a triggered design."""

    value: FloatArray
    outcome: FloatArray
    block: NDArray[np.int64] | None

    def at(self, rows: NDArray[np.intp]) -> "_Values":
        """Return the rows in another order."""
        return _Values(self.value[rows], self.outcome[rows], None if self.block is None else self.block[rows])


@dataclass(slots=True)
class Windows:
    """The windows of one history, forecast once for each length.

    Attributes
    ----------
    history
        What they are windows of.
    n_windows
        At most this many, latest first.
    n_trees
        Trees of the forest of each.
    seed
        Of the forests: designs that read a window alike have the same leaves in it.
    """

    history: History
    n_windows: int
    n_trees: int
    seed: int = 0
    _leaves: dict[str, affinity.Leaves] = field(default_factory=dict)
    _seen: dict[tuple[int, int], tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    def values(self, candidate: Candidate, order: NDArray[np.intp]) -> list[Fixed]:
        """Return the windows as a candidate contrasts them, products in the order of the draw.

        On the relative scale: what divides is known before the window, and the mean of the window is the outcome.
        Windows with values for too few products are left out.
        """
        read = self._triggered if candidate.kind == "triggered" else self._on_calendar
        parts = ((k, read(candidate, k)) for k in range(self.n_windows))
        return [self._fixed(candidate, k, part.at(order), order) for k, part in parts if part is not None]

    def _on_calendar(self, candidate: Candidate, k: int) -> _Values | None:
        """Return the values and outcomes of a window for a design that starts by the calendar, None without one."""
        part = self._residuals(candidate.duration, k * candidate.duration)
        if part is None:
            return None
        residual, observed = part
        counted = np.broadcast_to(candidate.counted, residual.shape)
        known = np.asarray(np.isfinite(residual).all(axis=1))
        if float(np.mean(known)) < PRODUCTS_NEEDED:
            return None
        outcome = np.where(known, observed[:, candidate.counted].mean(axis=1), np.nan)
        if candidate.kind == "random_days":
            value = np.where(known[:, None] & counted, residual, np.nan)
        elif candidate.kind == "crossover":
            value = detrend.phase_contrast(residual, candidate.phase_index, candidate.counted)
        else:
            value = detrend.first_difference(residual, np.zeros_like(residual), candidate.counted)
        return _Values(value, outcome, None)

    def _triggered(self, candidate: Candidate, k: int) -> _Values | None:
        """Return values, outcomes and start weeks of the products with an event in a window, None without one.

        A product is forecast from what lies before its start week, which is up to six days less than its own eve.
        """
        events, season = self.history.events, self.history.season
        T = self.history.value.shape[1]
        first = T - (k + 1) * candidate.n_periods
        if events is None or first < detrend.MIN_PLACEBO_WEEKS * season:
            return None
        inside = events[:, first : first + candidate.recruiting]
        # the product's own experiment starts in the period after the event
        start = np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, -1)
        value, outcome = np.full((2, len(start)), np.nan)
        block = start // season
        for week in np.unique(block[start >= 0]):
            origin, rows = first + week * season, np.flatnonzero((block == week) & (start >= 0))
            late = start - week * season
            length = candidate.duration + int(late[rows].max())
            part = self._residuals(length, T - origin - length)
            if part is None:
                continue
            for i in rows:
                used = slice(late[i] + candidate.blackout, late[i] + candidate.duration)
                value[i], outcome[i] = part[0][i, used].mean(), part[1][i, used].mean()
        known = np.isfinite(value)
        if known.sum() < max(2 * MIN_UNITS, PRODUCTS_NEEDED * (start >= 0).sum()):
            return None
        return _Values(value, outcome, block)

    def _residuals(self, horizon: int, back: int) -> tuple[FloatArray, FloatArray] | None:
        """Return scaled residuals and observed values (N, horizon) of a window that ends `back` periods before the end.

        None where four weeks do not lie before it.
        """
        key = (horizon, back)
        if key not in self._seen:
            history, T = self.history, self.history.value.shape[1] - back
            Y, origin = history.value[:, :T], T - horizon
            if origin < detrend.MIN_PLACEBO_WEEKS * history.season:
                return None
            price = None if history.price is None else history.price[:, :T]
            width = T if history.window is None else history.window
            residual = placebo.residuals(
                Y,
                horizon,
                n_windows=1,
                groups=history.category,
                season=history.season,
                method=history.method,
                window=width,
                prices=price,
            )[0]
            s = detrend.product_scale(Y[:, :origin], grain=history.grain)
            s = np.where(s > 0, s, np.nan)[:, None]
            self._seen[key] = residual / s, Y[:, origin:] / s
        return self._seen[key]

    def _fixed(self, candidate: Candidate, k: int, part: _Values, order: NDArray[np.intp]) -> Fixed:
        """Return the value with what the design compares by: leaves or none, units, blocks, probabilities."""
        history, clustered = self.history, candidate.unit == "cluster"
        value, block = part.value, part.block
        unit = history.product_id if not clustered or history.cluster is None else history.cluster
        leaves = None
        if history.attributes is not None and not clustered:
            X = history.attributes.iloc[order].reset_index(drop=True)
            leaves = self._leaves_of(candidate, k, part, X)
        by_probability = clustered and candidate.kind in ("time_bound", "crossover")
        return Fixed(
            value,
            np.asarray(unit)[order],
            leaves=leaves,
            within=block,
            probability=np.full(len(value), candidate.share) if by_probability else None,
            trim=history.trim,
            trim_c=history.trim_c,
            factor=0.5 if candidate.kind == "crossover" else 1.0,
            outcome=part.outcome,
        )

    def _leaves_of(self, candidate: Candidate, k: int, part: _Values, X: pd.DataFrame) -> affinity.Leaves:
        """Return the leaves of a window, fitted once for all designs that take the same mean or contrast of it."""
        whole = candidate.counted.all()
        alike = (candidate.duration, candidate.phase, candidate.recruiting, k, whole or candidate.stretch[1])
        key = repr((*alike, candidate.blackout))
        if key not in self._leaves:
            history, target = self.history, part.value
            if target.ndim == 2:
                target = target[:, candidate.counted].mean(axis=1)
            if part.block is not None:
                target = target - pd.Series(target).groupby(part.block).transform("mean").to_numpy()
            c = history.trim_c if history.trim == "trim" else 0.0
            target = np.where(outliers.keep_mask(target, np.zeros(len(target)), c=c), target, np.nan)
            rng = np.random.default_rng([self.seed, zlib.crc32(key.encode())])
            self._leaves[key] = affinity.fit_leaves(X, target, n_trees=self.n_trees, min_leaf=history.min_leaf, rng=rng)
        return self._leaves[key]


def draw_order(history: History, unit: str) -> tuple[NDArray[np.intp], NDArray[Any], NDArray[np.int64]]:
    """Return the order in which products are drawn, and in that order their units (N,) and strata (N,).

    Products in strata of like size inside categories; clusters in pairs of like size, counted in products and then in
    demand, across categories.
    """
    ids, size, category = (np.asarray(part) for part in (history.product_id, history.size, history.category))
    if unit == "product":
        order = np.lexsort((ids.astype(str), size, category.astype(str)))
        return order, ids[order], designs.size_strata(category[order], size[order])
    if history.cluster is None:
        raise ValueError("history.cluster == None, must be labels for unit == 'cluster'. Give the clusters.")
    names, first, row, count = np.unique(
        np.asarray(history.cluster).astype(str), return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(names))
    rank[np.lexsort((np.bincount(row, weights=size), count))] = np.arange(len(names))
    strata = designs.paired_strata(rank, category=category[first])
    return np.arange(len(ids)), np.asarray(history.cluster), strata[row]


def mean_over_windows(values: Iterable[float]) -> float:
    """Return the root mean square, nan where there is none."""
    known = np.array([value for value in values if np.isfinite(value)])
    return float(np.sqrt((known**2).mean())) if len(known) else float("nan")
