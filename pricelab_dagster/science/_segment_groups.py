"""How products are put into segments: levels and thirds of attributes, and thirds of a prediction from other units."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science._leaf_sums import NO_VARIATION
from pricelab_dagster.science.affinity import MAX_LEVELS, MIN_PRODUCTS, Leaves, Split, fit_leaves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Groups = list[tuple[str, BoolArray]]

MISSING, OTHER = "missing", "other"
FOLDS, FIRST_FOLDS = 5, 2
MIN_UNITS = 2 * FOLDS


def levels(column: pd.Series, treated: BoolArray, control: BoolArray, min_per_arm: int) -> Groups:
    """Return a group for each frequent level that has enough products in both arms, one for others, one for gaps."""
    codes, names = pd.factorize(column)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(names)), kind="stable")
    groups: Groups = []
    rest = codes >= 0
    for code in order[:MAX_LEVELS]:
        member = codes == code
        if min((member & treated).sum(), (member & control).sum()) >= min_per_arm:
            groups.append((_name(names[code]), member))
            rest &= ~member
    return groups + [(name, member) for name, member in ((OTHER, rest), (MISSING, codes < 0)) if member.any()]


def thirds(column: pd.Series, scored: BoolArray) -> Groups:
    """Return the products up to the first third of the scored ones, up to the second, above it, and without value."""
    missing = column.isna().to_numpy()
    dated = pd.api.types.is_datetime64_any_dtype(column)
    values = (
        column.to_numpy().astype("datetime64[s]").astype(float) if dated else column.to_numpy(float, na_value=np.nan)
    )
    values = np.where(missing, np.nan, values)
    if not (scored & ~missing).any():
        return []
    low, high = np.quantile(values[scored & ~missing], [1 / 3, 2 / 3], method="inverted_cdf").tolist()
    first, second = (_date(end) if dated else f"{end:.4g}" for end in (low, high))
    names = (f"up to {first}", f"above {first}, up to {second}", f"above {second}")
    bounds = (-np.inf, low, high, np.inf)
    groups = [(name, (values > lo) & (values <= hi)) for name, (lo, hi) in zip(names, pairwise(bounds), strict=True)]
    return [(name, member) for name, member in [*groups, (MISSING, missing)] if (member & scored).any()]


def predicted_thirds(
    X: pd.DataFrame,
    D: FloatArray,
    W: FloatArray | None,
    unit: IntArray,
    n_trees: int,
    min_leaf: int,
    rng: np.random.Generator,
) -> tuple[IntArray, str | None]:
    """Return the third (N,), 0 to 2, of each product by the effect predicted from earlier folds; -1 without."""
    usable = np.isfinite(D) if W is None else np.isfinite(D) & np.isfinite(W)
    n_units = len(np.unique(unit[usable]))
    third = np.full(len(D), -1, dtype=np.int64)
    if n_units < MIN_UNITS:
        return third, f"{n_units} assignment units are fewer than {MIN_UNITS}: no folds to predict effects from."
    fold = (rng.permutation(unit.max() + 1) % FOLDS)[unit]
    n_first = int((usable & (fold < FIRST_FOLDS)).sum())
    if n_first < MIN_PRODUCTS:
        n = usable.sum()
        return third, f"{n} usable products leave {n_first} to predict from at first, {MIN_PRODUCTS} are needed."
    for k in range(FIRST_FOLDS, FOLDS):
        train = np.where(usable & (fold < k), D, np.nan)
        split: Split = "outcome" if W is None else "effect"
        leaves = fit_leaves(X, train, arm=W, split=split, n_trees=n_trees, min_leaf=min_leaf, rng=rng)
        if leaves.reason is not None:
            return third, leaves.reason
        predicted = predict(leaves, train, W)
        rows = np.flatnonzero(usable & (fold == k) & np.isfinite(predicted))
        ranked = rows[np.argsort(predicted[rows], kind="stable")]
        third[ranked] = 3 * np.arange(len(ranked)) // max(len(ranked), 1)
    return third, None


def predict(leaves: Leaves, D: FloatArray, W: FloatArray | None) -> FloatArray:
    """Return the forest's effect at every product (N,): the slope of D on W under its leaf weights, or their mean D.

    The weights are those of a generalised random forest, over the products of J_b with a finite D.
    """
    arm = np.zeros(len(D)) if W is None else W
    valid = np.isfinite(D) & np.isfinite(arm)
    D, arm = np.where(valid, D, 0.0), np.where(valid, arm, 0.0)
    parts = np.column_stack([np.ones(len(D)), arm, D, arm * D, arm**2])
    total = np.zeros(parts.shape)
    for leaf, honest in zip(leaves.leaf.T, leaves.in_honest.T, strict=True):
        used = honest & valid
        sums = np.column_stack([np.bincount(leaf, np.where(used, part, 0.0)) for part in parts.T])
        total += (sums / np.maximum(sums[:, :1], 1.0))[leaf]
    with np.errstate(divide="ignore", invalid="ignore"):
        share, w, d, wd, ww = total.T
        spread = share * ww - w * w if W is not None else share
        slope = (share * wd - w * d) / spread if W is not None else d / share
    return np.where(spread > NO_VARIATION * share**2, slope, np.nan)


def _date(seconds: float) -> str:
    """Return a time since 1970 as a date, with the time of day where it is not midnight."""
    text = str(np.datetime64(int(seconds), "s"))
    return text.removesuffix("T00:00:00")


def _name(level: object) -> str:
    if isinstance(level, bool | np.bool_):
        return "yes" if level else "no"
    text = str(level)
    return f"{text} (level)" if text in (MISSING, OTHER) else text
