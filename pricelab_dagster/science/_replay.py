"""Estimates under replayed arms, a block at a time: outlier filter, second difference, and the scores behind it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import _leaf_sums, outliers
from pricelab_dagster.science._leaf_sums import MANY_DAYS, NO_VARIATION, ratio
from pricelab_dagster.science.affinity import Leaves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fixed:
    """What stays as it is when the arms of N products are drawn again.

    Attributes
    ----------
    value
        First differences D (N,), or residuals (N, T) where arms change within the product. A product that was in
        another arm, or in none, has its value too: another draw may put it here.
    unit_id
        (N,) labels of what was assigned together.
    leaves
        From `affinity.fit_leaves`; None: all products in one leaf.
    within
        (N,) labels of blocks inside which arms are compared, for values (N,); None: one block.
    probability
        (N,) P(W = 1), for values (N,): the estimate is then the Hajek difference. None: the residual form.
    trim, trim_c
        Rule (trim, winsorize, none) and constant of the outlier filter, as in `hpte.estimate`.
    factor
        Effect per unit of second difference: .5 for a crossover.
    outcome
        (N,) mean of the scaled metric over the analysed periods, for relative effects; None: absolute ones.
    exposure
        (2, N) mean treatment over a product's analysed periods where W is 0, and where it is 1; for cells the mean of W
        goes from one to the other. None: 0 and 1.
    """

    value: FloatArray
    unit_id: NDArray[np.generic]
    leaves: Leaves | None = None
    within: NDArray[np.generic] | None = None
    probability: FloatArray | None = None
    trim: str = "trim"
    trim_c: float = 5.0
    factor: float = 1.0
    outcome: FloatArray | None = None
    exposure: FloatArray | None = None

    @property
    def cells(self) -> bool:
        """Whether arms change within the product."""
        return self.value.ndim == 2

    def treated_part(self, W: FloatArray) -> FloatArray:
        """Return the mean treatment over analysed periods, from W (N, B) or its mean over a product's periods."""
        if self.exposure is None:
            return W
        return self.exposure[0][:, None] + (self.exposure[1] - self.exposure[0])[:, None] * W


class Under(NamedTuple):
    """Under B draws: effects and instant standard errors (B,).

    `kept` and `dose` (N, B) tell who takes part and the mean W of each product, in the given order.
    """

    effect: FloatArray
    se: FloatArray
    kept: FloatArray
    dose: FloatArray


class _Cut(NamedTuple):
    """What the filter makes of B draws, (N, B) each.

    `D` has products that are cut at the bound of their group, `kept` is 1 for those in the estimate and `scored` for
    those of its standard error: a product that is cut still moves where the cut falls.
    """

    D: FloatArray
    kept: FloatArray
    scored: FloatArray


class _Second(NamedTuple):
    """Second differences (B,), their scores (N, B), and who is kept, scored, with which mean W, (N, B) each."""

    effect: FloatArray
    score: FloatArray
    kept: FloatArray
    scored: FloatArray
    dose: FloatArray


def gain(W: FloatArray, factor: float) -> FloatArray:
    """Return what a value moves by for an effect of one: W, or for a phase contrast 1 or -1 by the sequence."""
    return np.where(W >= 0.0, (W - (1.0 - factor)) / factor, 0.0)


def under(fixed: Fixed, arm: NDArray[np.generic]) -> Under:
    """Return the estimates under arms (N, B), or under one draw of cells (N, T); nan or below 0: not in the analysis.

    A unit's score is the sum over its cells of (W - e)(D - m - tau (W - e)) / sum (W - e)^2, of the Hajek difference
    its part of either mean's error, of relative effects what the delta method makes of both; the variance is the sum of
    their squares times G / (G - 1) over G units. Products that the filter cuts have the score of the bound, as in the
    influence function of a trimmed mean.
    """
    W = np.asarray(arm, dtype=float)
    W = np.where(W >= 0.0, W, np.nan)
    found = _of_cells(fixed, W) if fixed.cells else _of_products(fixed, W)
    effect, score = fixed.factor * found.effect, fixed.factor * found.score
    if fixed.outcome is not None:
        effect, score = _relative(fixed, effect, score, found)
    return Under(effect, _standard_error(fixed, effect, score, found.scored), found.kept, found.dose)


def _of_products(fixed: Fixed, W: FloatArray) -> _Second:
    """Return the second differences of values (N,) under arms (N, B)."""
    known = np.isfinite(W) & np.isfinite(fixed.value)[:, None]
    W = np.where(known, W, 0.0)
    cut = _filtered(fixed, W, known)
    both = ((cut.kept * W).sum(axis=0) > 0) & ((cut.kept * (1.0 - W)).sum(axis=0) > 0)
    if fixed.probability is not None:
        p = np.where(W == 1.0, fixed.probability[:, None], 1.0 - fixed.probability[:, None])
        effect, score = _arm_means(cut, W, np.divide(cut.scored, p, out=np.zeros_like(p), where=cut.scored > 0))
    else:
        cut, dose = (cut, W) if fixed.within is None else _inside_blocks(fixed.within, cut, W)
        still = np.zeros(len(W))
        panel = _leaf_sums.prepare(still, still, fixed.leaves, fixed.unit_id)
        effect, score = _residual(panel, cut, _leaf_sums.Shift(cut.D, dose))
    return _Second(np.where(both, effect, np.nan), score, cut.kept, cut.scored, W)


def _of_cells(fixed: Fixed, W: FloatArray) -> _Second:
    """Return the second difference of residuals (N, T) under one draw of arms (N, T)."""
    panel = _leaf_sums.prepare(fixed.value, W, fixed.leaves, fixed.unit_id)
    in_arm = [panel.in_arm(side) for side in (True, False)]
    contrast = np.where(in_arm[0] | in_arm[1], _leaf_sums.cell_contrasts(panel), np.nan)
    cut = _ranked(fixed, contrast, np.zeros(len(contrast)), np.isfinite(contrast)[:, None].astype(float))
    shift = np.where(cut.scored > 0, cut.D - np.nan_to_num(contrast)[:, None], 0.0)
    effect, score = _residual(panel, cut, _leaf_sums.Shift(shift))
    valid = np.isfinite(fixed.value) & np.isfinite(W)
    dose = np.where(valid, W, 0.0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    kept = cut.kept[:, 0] > 0
    both = bool((kept & in_arm[0]).any() and (kept & in_arm[1]).any())
    return _Second(np.where(both, effect, np.nan), score, cut.kept, cut.scored, dose[:, None])


def _filtered(fixed: Fixed, W: FloatArray, known: BoolArray) -> _Cut:
    """Return what the filter makes of values (N,) under arms (N, B), which are ranked apart."""
    n = len(W)
    sides = np.concatenate([known * W, known * (1.0 - W)])
    cut = _ranked(fixed, np.tile(fixed.value, 2), np.repeat([1, 0], n), sides)
    D = np.where(W == 1.0, cut.D[:n], cut.D[n:])
    return _Cut(D, cut.kept[:n] + cut.kept[n:], known.astype(float))


def _ranked(fixed: Fixed, D: FloatArray, group: NDArray[np.generic], w: FloatArray) -> _Cut:
    """Return what the filter makes of contrasts (N,) under weights (N, B) of 0 and 1, ranked inside each group."""
    if fixed.trim == "none":
        return _Cut(np.where(w > 0, np.nan_to_num(D)[:, None], 0.0), w, w)
    held = np.where(w > 0, outliers.winsorize(D, group, c=fixed.trim_c, weights=w), 0.0)
    if fixed.trim == "winsorize":
        return _Cut(held, w, w)
    return _Cut(held, w * outliers.keep_mask(D, group, c=fixed.trim_c, weights=w), w)


def _inside_blocks(within: NDArray[np.generic], cut: _Cut, W: FloatArray) -> tuple[_Cut, FloatArray]:
    """Return D and W less their block means, without the products whose block has one arm only, (N, B) each."""
    code = pd.factorize(within)[0]
    members = (code == np.arange(code.max(initial=-1) + 1)[:, None]).astype(float)
    treated, everyone = members @ (cut.kept * W), members @ cut.kept
    has_both = ((treated > 0) & (treated < everyone))[code]
    kept, scored = (np.where(has_both, part, 0.0) for part in (cut.kept, cut.scored))
    mass = members @ kept
    D, dose = (part - np.nan_to_num(ratio(members @ (kept * part), mass))[code] for part in (cut.D, W))
    return _Cut(D, kept, scored), dose


def _arm_means(cut: _Cut, W: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the differences (B,) of the arms' means of the kept, and the scores (N, B), under weights (N, B)."""
    effect, score = np.zeros(w.shape[1]), np.zeros_like(w)
    for sign, side in ((1.0, w * W), (-1.0, w * (1.0 - W))):
        mass = (side * cut.kept).sum(axis=0)
        mean = ratio((side * cut.kept * cut.D).sum(axis=0), mass)
        effect += sign * mean
        score += sign * side * (cut.D - np.nan_to_num(mean)) / np.where(mass > 0, mass, 1.0)
    return effect, score


def _residual(panel: _leaf_sums.Panel, cut: _Cut, shift: _leaf_sums.Shift) -> tuple[FloatArray, FloatArray]:
    """Return sum (W - e)(D - m) / sum (W - e)^2 over kept cells with neighbours, and its scores in the given order."""
    kept, scored, moved = cut.kept[panel.order], cut.scored[panel.order], shift.in_order(panel)
    top, bottom, mass = np.zeros((3, *kept.shape))
    for days in _days_alike(panel):
        valid = panel.valid[:, days[0], None]
        means = _leaf_sums._means_of_day if len(days) < MANY_DAYS else _leaf_sums._means_of_days
        for part, D, W, m, e, has_any in means(panel, days, kept * valid, moved):
            used = np.where(has_any, (scored * valid)[:, part], 0.0)
            m, e = (np.where(has_any[:, None], mean, 0.0) for mean in (m, e))
            scaled = used[:, None] * (W - e)
            top[:, part] += (scaled * (D - m)).sum(axis=1)
            bottom[:, part] += (scaled * (W - e)).sum(axis=1)
            mass[:, part] += used * len(days)
    spread = (kept * bottom).sum(axis=0)
    spread[spread <= NO_VARIATION * (kept * mass).sum(axis=0)] = 0.0
    tau = ratio((kept * top).sum(axis=0), spread)
    return tau, panel.in_given_order(ratio(top - tau * bottom, np.broadcast_to(spread, top.shape)))


def _days_alike(panel: _leaf_sums.Panel) -> list[NDArray[np.int_]]:
    """Return the days in groups whose valid products are the same; all of them alike is the common and quick case."""
    days = np.flatnonzero(panel.valid.any(axis=0))
    if len(days) and (panel.valid[:, days] == panel.valid[:, days[:1]]).all():
        return [days]
    return _leaf_sums._like_days(panel)


def _relative(fixed: Fixed, tau: FloatArray, score: FloatArray, found: _Second) -> tuple[FloatArray, FloatArray]:
    """Return the effects as parts of the untreated mean, nan where that is not positive, and their scores."""
    assert fixed.outcome is not None
    mass = np.maximum(found.kept.sum(axis=0), 1.0)
    sides = (np.nan_to_num(fixed.outcome)[:, None], fixed.treated_part(found.dose))
    (level, moved), (exposed, shifted) = (
        (mean, found.kept * (part - mean) / mass) for part in sides for mean in [(found.kept * part).sum(axis=0) / mass]
    )
    mu0 = level - tau * exposed
    effect = ratio(tau, mu0)
    return effect, ratio(score - effect * (moved - exposed * score - tau * shifted), np.broadcast_to(mu0, score.shape))


def _standard_error(fixed: Fixed, effect: FloatArray, score: FloatArray, scored: FloatArray) -> FloatArray:
    """Return the root of the sum over units of squared scores (N, B), times G / (G - 1), nan below two units."""
    order, start = _leaf_sums.unit_order(len(score), fixed.unit_id)
    by_unit, present = (np.add.reduceat(part[order], start[:-1], axis=0) for part in (score, scored))
    n_units = (present > 0).sum(axis=0).astype(float)
    variance = (by_unit**2).sum(axis=0) * ratio(n_units, n_units - 1.0)
    return np.where(np.isfinite(effect), np.sqrt(variance), np.nan)
