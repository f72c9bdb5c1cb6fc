"""One estimate under given weights: filter, second difference, division by the untreated mean; a block at a time."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _leaf_sums, effects, outliers
from pricelab_dagster.science._leaf_sums import ratio

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Method = Literal["residual", "leaf", "doubly_robust", "hajek"]
Trim = Literal["trim", "winsorize", "none"]

HAJEK_WORDS = "mean effect over products, inverse-probability-weighted"


class Filtered(NamedTuple):
    """What the filter makes of weights (N, B).

    `weights` are 0 for products cut, `shift` is what was added to the contrasts, or None, `passed` tells who was
    neither cut nor held at a bound, `alone` who is left out because its block has one arm only.
    """

    weights: FloatArray
    shift: FloatArray | None
    passed: BoolArray
    alone: BoolArray | None = None


class Problem(NamedTuple):
    """All that is fixed over replicates; columns (N,) in the given order."""

    panel: _leaf_sums.Panel
    contrast: FloatArray
    group: NDArray[np.generic]
    trim: str
    trim_c: float
    method: str
    estimand: str
    inverse_probability: FloatArray | None
    outcome: FloatArray | None
    exposure: FloatArray | None
    factor: float
    within: NDArray[np.intp] | None

    def filtered(self, w: FloatArray) -> Filtered:
        """Return what the outlier filter makes of weights (N, B); blocks with one arm only are left out after it."""
        found = self._outliers(w)
        if self.within is None:
            return found
        treated = self.panel.in_arm(True)[:, None]
        masses = [self.block_sums(found.weights * side) for side in (treated, ~treated)]
        alone = ((masses[0] > 0) != (masses[1] > 0))[self.within] & (found.weights > 0)
        return found._replace(weights=np.where(alone, 0.0, found.weights), alone=alone)

    def block_sums(self, values: FloatArray) -> FloatArray:
        """Return the sums of values (N, B) over each block, (blocks, B)."""
        assert self.within is not None
        members = self.within == np.arange(self.within.max(initial=-1) + 1)[:, None]
        return members.astype(float) @ values

    def demeaned(self, kept: FloatArray, shift: FloatArray | None) -> _leaf_sums.Shift:
        """Return what takes the block means under weights (N, B) from D and W, `shift` included."""
        if self.within is None:
            return _leaf_sums.Shift(shift)
        D, W = (self.panel.in_given_order(part) for part in (self.panel.value, self.panel.dose))
        moved = D if shift is None else D + shift
        mass = self.block_sums(kept)
        means = [np.nan_to_num(ratio(self.block_sums(kept * part), mass))[self.within] for part in (moved, W)]
        return _leaf_sums.Shift(moved - D - means[0], -means[1])

    def _outliers(self, w: FloatArray) -> Filtered:
        finite = np.isfinite(self.contrast)[:, None]
        if self.trim == "trim":
            passed = outliers.keep_mask(self.contrast, self.group, c=self.trim_c, weights=w)
            return Filtered(w * passed, None, passed)
        if self.trim == "winsorize":
            held = outliers.winsorize(self.contrast, self.group, c=self.trim_c, weights=w)
            shift = np.where(finite, held - self.contrast[:, None], 0.0)
            return Filtered(w * finite, shift, finite & (shift == 0.0))
        return Filtered(w * finite, None, np.broadcast_to(finite, w.shape))

    def forest_target(self, D: FloatArray, filtered: Filtered) -> FloatArray:
        """Return what the forest predicts, (N,): D after the filter, for cells its mean over analysed periods."""
        if self.panel.cells:
            valid = self.panel.in_given_order(self.panel.valid)
            D = ratio(np.where(valid, D, 0.0).sum(axis=1), valid.sum(axis=1).astype(float))
        elif filtered.shift is not None or self.within is not None:
            moved = self.demeaned(filtered.weights, filtered.shift).value
            D = D if moved is None else D + moved[:, 0]
        return np.where(filtered.weights[:, 0] > 0, D, np.nan)

    def words(self) -> str:
        """Return what the number estimates, in words."""
        panel = self.panel
        if self.method == "hajek":
            words = HAJEK_WORDS
        else:
            words = effects.estimand_words(self.method, self.estimand, single=panel.single, cells=panel.cells)
        if self.within is not None:
            words += "; arms compared within their blocks"
        return words if self.outcome is None else f"{words}; relative to the mean without treatment"


def effects_under(problem: Problem, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the effects (B,) under weights (N, B), and the untreated means behind them, nan for absolute effects."""
    kept, held, *_ = problem.filtered(w)
    shift = problem.demeaned(kept, held)
    if problem.inverse_probability is None:
        found = _leaf_sums.batch(problem.panel, kept, method=problem.method, estimand=problem.estimand, shift=shift)
    else:
        # The weighted difference of arm means in the single leaf is the Hajek estimate.
        inverse = kept * problem.inverse_probability[:, None]
        found = _leaf_sums.batch(problem.panel, inverse, method="leaf", estimand="ate", shift=shift)
    tau = problem.factor * found.effect
    if problem.outcome is None or problem.exposure is None:
        return tau, np.full_like(tau, np.nan)
    mass = kept.sum(axis=0)
    mu0 = ratio(problem.outcome @ kept, mass) - tau * ratio(problem.exposure @ kept, mass)
    return ratio(tau, mu0), mu0


def state(
    D: FloatArray,
    W: FloatArray,
    *,
    units: ArrayLike | None,
    contrast: ArrayLike | None,
    group: ArrayLike | None,
    filter_rule: tuple[str, float],
    method: str,
    estimand: str,
    probability: ArrayLike | None,
    outcome: ArrayLike | None,
    exposure: ArrayLike | None,
    factor: float,
    within: ArrayLike | None = None,
    linear: bool = False,
) -> Problem:
    """Return the checked arguments of `hpte.estimate`, with one leaf; raise ValueError where they break the rules."""
    panel = _leaf_sums.prepare(D, W, None, units, linear=linear)
    trim, trim_c = filter_rule
    _check_blocks(method, within, len(D), cells=panel.cells, linear=linear)
    _check(method, estimand, trim, factor, cells=panel.cells, has_probability=probability is not None)
    if (outcome is None) != (exposure is None):
        raise ValueError("one of outcome, exposure == None, must be both or neither. A relative effect needs both.")
    ranked = _ranked(panel, D, contrast)
    needed = np.isfinite(ranked)
    return Problem(
        panel,
        contrast=ranked,
        group=_groups(W, group),
        trim=trim,
        trim_c=trim_c,
        method=method,
        estimand=estimand,
        inverse_probability=_inverse(W, _column("probability", probability, needed), needed),
        outcome=_column("outcome", outcome, needed),
        exposure=_column("exposure", exposure, needed),
        factor=factor,
        within=None if within is None else pd.factorize(np.asarray(within))[0],
    )


def _inverse(W: FloatArray, p: FloatArray | None, needed: BoolArray) -> FloatArray | None:
    """Return one over the probability of the arm each product is in, 0 where it is not needed."""
    if p is None:
        return None
    if not ((p[needed] > 0) & (p[needed] < 1)).all():
        raise ValueError("probability has values outside (0, 1), must be inside. Leave out products of certain arm.")
    return np.where(needed, ratio(np.ones_like(p), np.where(W == 1.0, p, 1.0 - p)), 0.0)


def _ranked(panel: _leaf_sums.Panel, D: FloatArray, contrast: ArrayLike | None) -> FloatArray:
    """Return what the filter ranks, (N,), nan for products with nothing in the analysis."""
    if contrast is None and panel.cells:
        return _leaf_sums.cell_contrasts(panel)
    ranked = D if contrast is None else np.asarray(contrast, dtype=float)
    if ranked.shape != (len(D),):
        raise ValueError(f"contrast.shape == {ranked.shape}, must be ({len(D)},). Give one contrast per product.")
    return np.where(panel.in_arm(True) | panel.in_arm(False), ranked, np.nan)


def _groups(W: FloatArray, group: ArrayLike | None) -> NDArray[np.generic]:
    """Return the labels (N,) of what the filter cuts apart."""
    if group is not None:
        return np.asarray(group)
    return np.nan_to_num(W) if W.ndim == 1 else np.zeros(len(W))


def _column(name: str, values: ArrayLike | None, needed: BoolArray) -> FloatArray | None:
    """Return values (N,), 0 where not needed; raise ValueError where one that is needed is missing."""
    if values is None:
        return None
    column = np.asarray(values, dtype=float)
    if column.shape != needed.shape:
        raise ValueError(f"{name}.shape == {column.shape}, must be {needed.shape}. Give one value per product.")
    n_lacking = int((needed & ~np.isfinite(column)).sum())
    if n_lacking:
        raise ValueError(f"{name} is missing for {n_lacking} products with a first difference. Give it or drop them.")
    return np.where(needed, column, 0.0)


def _check_blocks(method: str, within: ArrayLike | None, n: int, *, cells: bool, linear: bool) -> None:
    """Raise ValueError for blocks and doses that do not go with the shapes or the method."""
    if within is not None:
        labels = np.asarray(within)
        if labels.shape != (n,) or pd.isna(labels).any():
            raise ValueError(
                f"within.shape == {labels.shape}, must be ({n},) without gaps. Give each product its block."
            )
        if cells or method not in ("residual", "leaf"):
            raise ValueError(
                f"method == {method!r}, must be 'residual' or 'leaf' with within, for (N,). Leave out one."
            )
    if linear and method != "residual":
        raise ValueError(f"method == {method!r}, must be 'residual' for doses. The others compare two arms.")


def _check(method: str, estimand: str, trim: str, factor: float, *, cells: bool, has_probability: bool) -> None:
    """Raise ValueError for options that are unknown or do not go together."""
    if method != "hajek":
        effects.check_method(method, estimand, cells=cells)
    elif cells:
        raise ValueError("method == 'hajek', must be another for cells (N, T). Use 'residual'.")
    if (method == "hajek") != has_probability:
        raise ValueError(f"method == {method!r}: probability must be given for 'hajek' and for no other. Change one.")
    if trim not in get_args(Trim):
        raise ValueError(f"trim == {trim!r}, must be one of {get_args(Trim)}. 'trim' serves relative effects.")
    if not np.isfinite(factor) or factor == 0.0:
        raise ValueError(f"factor == {factor}, must be finite and not 0. 1 for all designs but the crossover (.5).")
