"""Second differences of a block of weight vectors: what `effects` shows for one and `hpte` repeats over replicates."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _kernels
from pricelab_dagster.science.affinity import Leaves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int_]

PROPENSITY_BOUNDS = (0.02, 0.98)
LEAF_WEIGHTS = {"ate": 0, "att": 1, "overlap": 2}

# From so many days with the same products on, the inner loop runs over days instead of replicates.
MANY_DAYS = 4

# Less arm variation than this, per unit of weight, is rounding: no leaf holds both arms.
NO_VARIATION = 1e-12


class Panel(NamedTuple):
    """Checked cells, (N, T) with T = 1 for one value per product, rows sorted by unit.

    `value` and `dose` are D and W, 0 where not `valid`, centred by product for cells. `push` is the direction in which
    a shift of the product's contrast moves its values.
    """

    order: NDArray[np.intp]
    start: NDArray[np.intp]
    value: FloatArray
    dose: FloatArray
    push: FloatArray
    treated: BoolArray
    valid: BoolArray
    leaf: NDArray[np.int32]
    in_honest: BoolArray
    single: bool
    cells: bool

    def in_given_order(self, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return values per row, sorted by unit, in the order in which products were given."""
        given = np.empty_like(rows)
        given[self.order] = rows
        return given

    def in_arm(self, treated: bool) -> BoolArray:
        """Return (N,), in the given order, whether the product has a valid cell in the arm."""
        return self.in_given_order((self.valid & (self.treated == treated)).sum(axis=1) > 0)


class Shift(NamedTuple):
    """What is added to D, along the push of the panel, and to W under each weight vector, (N, B) each or None."""

    value: FloatArray | None = None
    dose: FloatArray | None = None

    def in_order(self, panel: Panel) -> "Shift":
        """Return the shift with rows sorted by unit."""
        return Shift(*(None if part is None else part[panel.order] for part in self))


NO_SHIFT = Shift()


class Batch(NamedTuple):
    """Estimates of B weight vectors, each (B,)."""

    effect: FloatArray
    n_dropped: IntArray
    n_clipped: IntArray


class Means(NamedTuple):
    """Leaf means of the neighbours, (N, K, B), and whether there are any, (N, B)."""

    mean: FloatArray
    found: BoolArray


def prepare(
    first_difference: ArrayLike,
    arm: ArrayLike,
    leaves: Leaves | None,
    units: ArrayLike | None,
    *,
    linear: bool = False,
) -> Panel:
    """Return the checked panel; raise ValueError where shapes, arms or units break the rules.

    `linear`: the arm holds doses; those of 0, or without any the negative ones, count as control.
    """
    D, W = np.asarray(first_difference, dtype=float), np.asarray(arm, dtype=float)
    if D.ndim not in (1, 2) or W.shape != D.shape:
        raise ValueError(
            f"first_difference.shape == {D.shape}, arm.shape == {W.shape}, must be (N,) or (N, T) alike. "
            "Give one arm per first difference."
        )
    if not linear:
        check_arm(W)
    treated = W == 1.0 if not linear else W != 0.0 if (W == 0.0).any() else W > 0.0
    order, start = unit_order(len(D), units)
    cells = D.ndim == 2
    D, W = D.reshape(len(D), -1)[order], W.reshape(len(D), -1)[order]
    valid, treated = np.isfinite(D) & np.isfinite(W), treated.reshape(len(D), -1)[order]
    value, dose = np.where(valid, D, 0.0), np.where(valid, W, 0.0)
    if cells:
        value, dose = _centred(value, valid), _centred(dose, valid)
    push = dose if cells else np.ones_like(value)
    single = Leaves.single(len(D))
    panel = Panel(order, start, value, dose, push, treated, valid, single.leaf.T, single.in_honest.T, True, cells)
    return panel if leaves is None else with_leaves(panel, leaves)


def with_leaves(panel: Panel, leaves: Leaves) -> Panel:
    """Return the panel with other leaves; raise ValueError where they are of other products."""
    if len(leaves.leaf) != len(panel.order):
        raise ValueError(
            f"leaves has {len(leaves.leaf)} rows, must have {len(panel.order)}. Fit the leaves on the same products."
        )
    return panel._replace(
        leaf=np.ascontiguousarray(leaves.leaf[panel.order].T),
        in_honest=np.ascontiguousarray(leaves.in_honest[panel.order].T),
        single=leaves.is_single,
    )


def _centred(values: FloatArray, valid: BoolArray) -> FloatArray:
    """Return the valid values less their row mean, 0 elsewhere."""
    n_valid = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return np.where(valid, values - values.sum(axis=1, keepdims=True) / n_valid, 0.0)


def cell_contrasts(panel: Panel) -> FloatArray:
    """Return sum_t (W - Wbar) R / sum_t (W - Wbar)^2 by product, (N,) in the given order, nan where W is constant."""
    spread = (panel.dose**2).sum(axis=1)
    spread[spread <= NO_VARIATION * panel.valid.sum(axis=1)] = 0.0
    return panel.in_given_order(ratio((panel.dose * panel.value).sum(axis=1), spread))


def unit_order(n: int, units: ArrayLike | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows sorted by unit, and where each unit starts (units + 1,)."""
    if units is None:
        return np.arange(n), np.arange(n + 1)
    labels = np.asarray(units)
    if labels.shape != (n,):
        raise ValueError(f"units.shape == {labels.shape}, must be ({n},). Give one unit label per product.")
    codes, uniques = pd.factorize(labels)
    if (codes < 0).any():
        raise ValueError(f"units has {(codes < 0).sum()} missing labels, must have none. Give each product its unit.")
    return np.argsort(codes, kind="stable"), np.r_[0, np.cumsum(np.bincount(codes, minlength=len(uniques)))]


def check_arm(W: FloatArray) -> None:
    """Raise ValueError for arms other than 0, 1 and nan."""
    strange = W[~(np.isnan(W) | (W == 0.0) | (W == 1.0))]
    if strange.size:
        raise ValueError(
            f"arm == {strange[0]:g}, must be 0, 1 or nan. Estimate each treatment arm against control apart."
        )


def batch(panel: Panel, w: FloatArray, *, method: str, estimand: str, shift: Shift = NO_SHIFT) -> Batch:
    """Return the estimates for weights (N, B), rows in the given order.

    `shift.value` is added to the products' contrasts: to D itself, or to a product's values along its centred arm;
    `shift.dose`, for one value per product, to W.
    """
    w = w[panel.order]
    moved = shift.in_order(panel)
    if method == "leaf":
        found = _leaf(panel, w, moved, LEAF_WEIGHTS[estimand])
    elif method == "doubly_robust":
        found = _doubly_robust(panel, w, moved, estimand)
    else:
        found = _residual(panel, w, moved)
    mass = [(w * panel.in_arm(arm)[panel.order, None]).sum(axis=0) for arm in (True, False)]
    return found._replace(effect=np.where((mass[0] > 0) & (mass[1] > 0), found.effect, np.nan))


def two_arm_share(panel: Panel, w: FloatArray) -> float:
    """Return the mean over trees of the weight share of cells whose leaf and day average both arms."""
    n_days = panel.value.shape[1]
    rows, days = np.nonzero(panel.valid & (w[panel.order] > 0)[:, None])
    mass, treated = w[panel.order][rows], panel.treated[rows, days]
    if len(rows) == 0:
        return float("nan")
    shares = []
    for leaf, honest in zip(panel.leaf, panel.in_honest, strict=True):
        code = leaf[rows].astype(np.int64) * n_days + days
        size = code.max() + 1
        arms = [np.bincount(code[honest[rows] & side], minlength=size) > 0 for side in (treated, ~treated)]
        shares.append(mass[(arms[0] & arms[1])[code]].sum() / mass.sum())
    return float(np.mean(shares))


def _neighbours(panel: Panel, w: FloatArray, *values: FloatArray) -> Means:
    """Return the leaf means (N, K, B) of K values, each (N, B) or (N, 1), under weights w (N, B)."""
    return _means(panel, w, np.stack(np.broadcast_arrays(*values), axis=1))


def _means(panel: Panel, w: FloatArray, values: FloatArray) -> Means:
    """Return the leaf means of values (N, K, B or 1) under weights w (N, B); with one leaf, the means over all."""
    channels = np.concatenate([w[:, None], w[:, None] * values], axis=1)
    if panel.single:
        total = channels.sum(axis=0)
        mean = ratio(total[1:], np.broadcast_to(total[0], total[1:].shape))
        return Means(np.broadcast_to(mean, (len(w), *mean.shape)), np.broadcast_to(total[0] > 0, w.shape))
    n_leaves = int(panel.leaf.max(initial=0)) + 1
    mean, n_used = _kernels.neighbour_means(panel.leaf, panel.in_honest, panel.start, n_leaves, channels)
    return Means(mean, n_used > 0)


def _day(panel: Panel, t: int, w: FloatArray, shift: Shift) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return for day t the weights (N, B), D (N, 1 or B), W (N, 1 or B) and the treated (N, 1)."""
    D, W = panel.value[:, t, None], panel.dose[:, t, None]
    if shift.value is not None:
        D = D + shift.value * panel.push[:, t, None]
    if shift.dose is not None:
        W = W + shift.dose
    return w * panel.valid[:, t, None], D, W, panel.treated[:, t, None].astype(float)


def _days(panel: Panel) -> list[int]:
    """Return the days with a valid cell."""
    return np.flatnonzero(panel.valid.sum(axis=0)).tolist()


def _like_days(panel: Panel) -> list[IntArray]:
    """Return the days with a valid cell, in groups whose valid products are the same: their leaf weights are shared."""
    days = np.array(_days(panel), dtype=int)
    if len(days) == 0:
        return []
    pattern = np.unique(panel.valid[:, days], axis=1, return_inverse=True)[1].ravel()
    return [days[pattern == k] for k in range(pattern.max() + 1)]


def _residual(panel: Panel, w: FloatArray, shift: Shift) -> Batch:
    """Return sum w (W - e)(D - m) / sum w (W - e)^2 over all cells with neighbours."""
    numerator, denominator, mass = np.zeros((3, w.shape[1]))
    n_dropped = np.zeros(w.shape[1], dtype=int)
    for days in _like_days(panel):
        w_t = w * panel.valid[:, days[0], None]
        means = _means_of_day if len(days) < MANY_DAYS else _means_of_days
        for part, D, W, m, e, found in means(panel, days, w_t, shift):
            used = np.where(found, w_t[:, part], 0.0)
            m, e = (np.where(found[:, None], mean, 0.0) for mean in (m, e))
            scaled = used[:, None] * (W - e)
            numerator[part] += (scaled * (D - m)).sum(axis=(0, 1))
            denominator[part] += (scaled * (W - e)).sum(axis=(0, 1))
            mass[part] += used.sum(axis=0) * len(days)
            n_dropped[part] += ((w_t[:, part] > 0) & ~found).sum(axis=0) * len(days)
    denominator[denominator <= NO_VARIATION * mass] = 0.0
    return Batch(ratio(numerator, denominator), n_dropped, np.zeros_like(n_dropped))


def _means_of_day(panel: Panel, days: IntArray, w: FloatArray, shift: Shift) -> Iterator[Any]:
    """Yield, day by day for all replicates, the columns and (N, 1, B) arrays D, W, m, e, and who has neighbours."""
    for t in days.tolist():
        _, D, W, _ = _day(panel, t, w, shift)
        mean, found = _neighbours(panel, w, D, W)
        yield slice(None), D[:, None], W[:, None], mean[:, :1], mean[:, 1:], found


def _means_of_days(panel: Panel, days: IntArray, w: FloatArray, shift: Shift) -> Iterator[Any]:
    """Yield, replicate by replicate for all days, the column, (N, days, 1) arrays D, W, m, e, and who has neighbours.

    The leaf weights are the same on all of the days, so that the innermost loop runs over days.
    """
    values, W, push = panel.value[:, days], panel.dose[:, days], panel.push[:, days]
    n_leaves = int(panel.leaf.max(initial=0)) + 1
    for b in range(w.shape[1]):
        D = values if shift.value is None else values + shift.value[:, b, None] * push
        pair = np.concatenate([D, W], axis=1)
        if panel.single:
            mean, found = _means(panel, w[:, b, None], pair[:, :, None])
            mean = mean[:, :, 0]
        else:
            mean, n_used = _kernels.neighbour_means_of_days(
                panel.leaf, panel.in_honest, panel.start, n_leaves, np.ascontiguousarray(w[:, b]), pair
            )
            found = (n_used > 0)[:, None]
        m, e = mean[:, : len(days)], mean[:, len(days) :]
        yield slice(b, b + 1), D[:, :, None], W[:, :, None], m[:, :, None], e[:, :, None], found


def _leaf(panel: Panel, w: FloatArray, shift: Shift, leaf_weight: int) -> Batch:
    """Return the mean over trees of the weighted gap between arms in two-arm leaves, over the gap in W itself."""
    gap, dose = np.zeros((2, len(panel.leaf), w.shape[1]))
    n_leaves = int(panel.leaf.max(initial=0)) + 1
    for t in _days(panel):
        w_t, D, W, treated = _day(panel, t, w, shift)
        sides = (w_t * treated, w_t * (1.0 - treated))
        channels = np.stack([part for side in sides for part in (side, side * D, side * W)], axis=1)
        _kernels.arm_gaps(panel.leaf, panel.in_honest, n_leaves, channels, leaf_weight, gap, dose)
    found = dose > 0.0
    by_tree = np.where(found, ratio(gap, dose), 0.0)
    zero = np.zeros(w.shape[1], dtype=int)
    return Batch(ratio(by_tree.sum(axis=0), found.sum(axis=0).astype(float)), zero, zero)


def _doubly_robust(panel: Panel, w: FloatArray, shift: Shift, estimand: str) -> Batch:
    """Return the augmented inverse-probability estimate over all products with neighbours in the arms it needs.

    The means by arm are those of all neighbours, m, less or plus what the residual effect tau makes of their arms:
    m0 = m - e tau, m1 = m + (1 - e) tau. Means over the neighbours of one arm alone stand on fewer products, which lie
    to one side where the arms are unlike.
    """
    w, D, W, _ = _day(panel, 0, w, shift)
    means, found = _neighbours(panel, w, D, W)
    m, raw = np.where(found, means[:, 0], 0.0), np.where(found, means[:, 1], 0.5)
    part = np.where(found, w, 0.0) * (W - raw)
    spread = (part * (W - raw)).sum(axis=0)
    spread[spread <= NO_VARIATION * np.where(found, w, 0.0).sum(axis=0)] = 0.0
    tau = ratio((part * (D - m)).sum(axis=0), spread)
    found = found & (raw < 1.0) & ((raw > 0.0) | (estimand == "att"))
    used = np.where(found, w, 0.0)
    e, m0 = np.clip(raw, *PROPENSITY_BOUNDS), m - raw * tau
    if estimand == "att":
        effect = ratio((used * (W - (1.0 - W) * e / (1.0 - e)) * (D - m0)).sum(axis=0), (used * W).sum(axis=0))
    else:
        scores = tau + W * (D - m0 - tau) / e - (1.0 - W) * (D - m0) / (1.0 - e)
        effect = ratio((used * scores).sum(axis=0), used.sum(axis=0))
    n_clipped = ((used > 0) & (raw != e)).sum(axis=0)
    return Batch(effect, ((w > 0) & ~found).sum(axis=0), n_clipped)


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Return the quotient, nan where the denominator is not positive."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0.0)
