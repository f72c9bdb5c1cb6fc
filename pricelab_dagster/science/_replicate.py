"""One estimate under given weights: filter, second difference, division by the untreated mean; a block at a time."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _leaf_sums, effects, outliers

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Method = Literal["residual", "leaf", "doubly_robust", "hajek"]
Trim = Literal["trim", "winsorize", "none"]

HAJEK_WORDS = "mean effect over products, inverse-probability-weighted"


class Filtered(NamedTuple):
    """What the filter makes of weights (N, B).

    `weights` are 0 for products cut, `shift` is what was added to the contrasts, or None, `passed` tells who was
    neither cut nor held at a bound.
    """

    weights: FloatArray
    shift: FloatArray | None
    passed: BoolArray


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

    def filtered(self, w: FloatArray) -> Filtered:
        """Return what the outlier filter makes of weights (N, B)."""
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
            D = _leaf_sums.ratio(np.where(valid, D, 0.0).sum(axis=1), valid.sum(axis=1).astype(float))
        elif filtered.shift is not None:
            D = D + filtered.shift[:, 0]
        return np.where(filtered.weights[:, 0] > 0, D, np.nan)

    def words(self) -> str:
        """Return what the number estimates, in words."""
        panel = self.panel
        if self.method == "hajek":
            words = HAJEK_WORDS
        else:
            words = effects.estimand_words(self.method, self.estimand, single=panel.single, cells=panel.cells)
        return words if self.outcome is None else f"{words}; relative to the mean without treatment"


def effects_under(problem: Problem, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the effects (B,) under weights (N, B), and the untreated means behind them, nan for absolute effects."""
    kept, shift, _ = problem.filtered(w)
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
    mu0 = _leaf_sums.ratio(problem.outcome @ kept, mass) - tau * _leaf_sums.ratio(problem.exposure @ kept, mass)
    return _leaf_sums.ratio(tau, mu0), mu0


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
) -> Problem:
    """Return the checked arguments of `hpte.estimate`, with one leaf; raise ValueError where they break the rules."""
    panel = _leaf_sums.prepare(D, W, None, units)
    trim, trim_c = filter_rule
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
    )


def _inverse(W: FloatArray, p: FloatArray | None, needed: BoolArray) -> FloatArray | None:
    """Return one over the probability of the arm each product is in, 0 where it is not needed."""
    if p is None:
        return None
    if not ((p[needed] > 0) & (p[needed] < 1)).all():
        raise ValueError("probability has values outside (0, 1), must be inside. Leave out products of certain arm.")
    return np.where(needed, _leaf_sums.ratio(np.ones_like(p), np.where(W == 1.0, p, 1.0 - p)), 0.0)


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
