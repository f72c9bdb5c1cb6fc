"""Affinity of products: an honest forest on attributes, in whose leaves products are compared with their like."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# An honest tree on .45 N products, half of them for the splits, has two leaves of four at the earliest here.
MIN_PRODUCTS = 40
MAX_SAMPLES = 10_000
SUBSAMPLE = 0.45
FEATURE_SHARE = 0.8
MAX_LEVELS = 20

Split = Literal["outcome", "joint", "effect"]


@dataclass(frozen=True, slots=True)
class Leaves:
    """Where every product falls in every tree.

    Attributes
    ----------
    leaf
        (N, n_trees) int32, codes 0, 1, ... per tree without gaps.
    in_honest
        (N, n_trees) bool, J_b: the product was not used for the splits of the tree, so it may be averaged there.
    n_trees
        Number of trees.
    reason
        Why there is a single leaf, or splits are not those that were asked for, or None.
    """

    leaf: NDArray[np.int32]
    in_honest: BoolArray
    n_trees: int
    reason: str | None

    @classmethod
    def single(cls, n: int, *, reason: str | None = None) -> "Leaves":
        """Return one tree with one leaf that holds all n products: every product is like every other."""
        return cls(np.zeros((n, 1), dtype=np.int32), np.ones((n, 1), dtype=bool), 1, reason)

    @property
    def is_single(self) -> bool:
        """True for one tree with one leaf in which all products are averaged."""
        return self.n_trees == 1 and not self.leaf.any() and bool(self.in_honest.all())


@dataclass(frozen=True, slots=True)
class Twins:
    """Products by the leaves that they share with one of them, most first.

    Attributes
    ----------
    product
        (k,) rows of the products.
    shared
        (k,) share of the trees in which they end in the same leaf.
    """

    product: NDArray[np.intp]
    shared: FloatArray


def fit_leaves(
    X: pd.DataFrame | ArrayLike | None,
    first_difference: ArrayLike,
    *,
    arm: ArrayLike | None = None,
    split: Split = "outcome",
    n_trees: int = 200,
    min_leaf: int = 4,
    rng: np.random.Generator,
) -> Leaves:
    """Return the leaves of an honest forest that predicts the first difference D from product attributes.

    Products that share leaves moved alike over the window for reasons that their attributes tell. Assumes that the
    attributes were fixed before the experiment. Where they tell nothing, leaves are random groups: estimates stay
    unbiased under a drawn assignment and lose a little precision. Each tree sees min(.45 N, 10,000) products, splits on
    one half of them and may average all others.

    Parameters
    ----------
    X
        Attributes (N, P), a frame (numeric, boolean or text columns, missing values allowed) or an array; None: one
        leaf, all products alike.
    first_difference
        D (N,); products without a finite D are not fitted on but get their leaves.
    arm
        (N,) 0 or 1; needed by `joint` and `effect`, whose fit leaves out products without it.
    split
        outcome: splits on D alone, the arm is not shown. joint: splits on (D / sd, W / sd), for assignments of unknown
        mechanism. effect: a causal forest, for effects by segment; as affinity it leaves most confounding in place.
    n_trees
        Trees in the forest.
    min_leaf
        Fewest products in a leaf, in the half for the splits and in the half beside it.
    rng
        Source of the forest's seed. Trees depend on the order of rows: pass rows in the order of product ids.

    Raises
    ------
    ValueError
        If shapes, split, counts or attributes break these rules.

    References
    ----------
    Athey, Tibshirani and Wager, "Generalized random forests", Annals of Statistics 47 (2019), sections 2.1 and 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> fit_leaves(None, np.zeros(3), rng=np.random.default_rng(0)).leaf.ravel()
    array([0, 0, 0], dtype=int32)
    """
    D = np.asarray(first_difference, dtype=float)
    W = None if arm is None else np.asarray(arm, dtype=float)
    _check(D, W, split, n_trees, min_leaf)
    if X is None:
        return Leaves.single(len(D))
    features, _ = encode(X)
    if len(features) != len(D):
        raise ValueError(f"X has {len(features)} rows, must have {len(D)}. Give one row of attributes per product.")
    usable = np.isfinite(D)
    if W is not None and split != "outcome":
        usable &= np.isfinite(W)
    if usable.sum() < MIN_PRODUCTS:
        reason = f"{usable.sum()} usable products are fewer than {MIN_PRODUCTS}: one leaf, attributes are not used."
        return Leaves.single(len(D), reason=reason)
    if features.shape[1] == 0:
        return Leaves.single(len(D), reason="No attribute varies over the products: one leaf.")
    # Alone, D is not divided by its sd: rounding would let averaged products break ties between splits.
    targets = D[:, None] if W is None or split != "joint" else _standardised(np.column_stack([D, W]), usable)
    shown_arm = W if split == "effect" else None
    return _grow(features, targets, shown_arm, usable, n_trees, min_leaf, int(rng.integers(2**31 - 1)))


def twins(leaves: Leaves, product: int, *, k: int = 10) -> Twins:
    """Return the k products that share most leaves with one product: those it is compared with most.

    The share of trees is the random-forest proximity. It says which products moved alike for reasons that their
    attributes tell; of equal shares the first row comes first. With one leaf all products share it.

    Parameters
    ----------
    leaves
        From `fit_leaves`, N products.
    product
        Row of the product, 0 to N - 1.
    k
        Twins to return; N - 1 at most.

    Raises
    ------
    ValueError
        If the product is no row of the leaves, or k is below 1.

    References
    ----------
    Breiman, "Random forests", Machine Learning 45 (2001); proximities in Breiman and Cutler, "Random forests" (2004).

    Examples
    --------
    >>> leaf = np.array([[0, 0], [0, 1], [0, 0], [1, 1]], dtype=np.int32)
    >>> found = twins(Leaves(leaf, np.ones((4, 2), dtype=bool), 2, None), 0, k=2)
    >>> found.product.tolist(), found.shared.tolist()
    ([2, 1], [1.0, 0.5])
    """
    n = len(leaves.leaf)
    if not 0 <= product < n:
        raise ValueError(f"product == {product}, must be in 0 to {n - 1}. Give the row of a product with leaves.")
    if k < 1:
        raise ValueError(f"k == {k}, must be at least 1. 10 serve most questions.")
    shared = (leaves.leaf == leaves.leaf[product]).mean(axis=1)
    ranked = np.argsort(-shared, kind="stable")
    others = ranked[ranked != product][:k]
    return Twins(others, shared[others])


def encode(X: pd.DataFrame | ArrayLike) -> tuple[FloatArray, list[str]]:
    """Return attributes as finite numbers, and the name of each column.

    Numbers and booleans stay as they are, a missing value becomes the column's median and is flagged in a column
    `<name> missing`. Text becomes one 0/1 column per level, up to 20 levels; beyond that the 20 most frequent and
    `<name> other`. Levels stand by frequency, then by first appearance, so that their spelling does not matter. Columns
    with a single value are left out.

    Parameters
    ----------
    X
        Frame or array (N, P), or (N,) for one attribute.

    Returns
    -------
    features : (N, P')
    names : P' names

    Raises
    ------
    ValueError
        If a column is neither numeric, boolean nor text, or holds an infinite number.

    Examples
    --------
    >>> import pandas as pd
    >>> features, names = encode(pd.DataFrame({"size": [1.0, None, 3.0], "brand": ["a", "b", "a"]}))
    >>> names
    ['size', 'size missing', 'brand=a', 'brand=b']
    >>> features[1].tolist()
    [2.0, 1.0, 0.0, 1.0]
    """
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X)).infer_objects()
    columns: list[tuple[str, FloatArray]] = []
    for position, name in enumerate(frame.columns):
        columns += _encode_column(str(name), frame.iloc[:, position])
    varying = [(name, values) for name, values in columns if (values[1:] != values[:1]).any()]
    features = np.column_stack([values for _, values in varying]) if varying else np.empty((len(frame), 0))
    return features, [name for name, _ in varying]


def _encode_column(name: str, column: pd.Series) -> list[tuple[str, FloatArray]]:
    """Return the numeric columns of one attribute with their names."""
    missing = column.isna().to_numpy()
    if pd.api.types.is_any_real_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(dtype=float, na_value=np.nan)
        if np.isinf(values).any():
            raise ValueError(
                f"X[{name!r}] has {np.isinf(values).sum()} infinite values, must have none. Leave them empty."
            )
        middle = np.median(values[~missing]) if not missing.all() else 0.0
        encoded = [(name, np.where(missing, middle, values))]
    elif pd.api.types.infer_dtype(column, skipna=True) in ("string", "boolean", "categorical", "empty"):
        encoded = _one_hot(name, column)
    else:
        raise ValueError(f"X[{name!r}].dtype == {column.dtype}, must be numeric, boolean or text. Convert the column.")
    return [*encoded, (f"{name} missing", missing.astype(float))]


def _one_hot(name: str, column: pd.Series) -> list[tuple[str, FloatArray]]:
    """Return one 0/1 column for each of the most frequent levels and one for all others."""
    codes, levels = pd.factorize(column)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(levels)), kind="stable")
    shown = [(f"{name}={levels[code]}", (codes == code).astype(float)) for code in order[:MAX_LEVELS]]
    return [*shown, (f"{name} other", np.isin(codes, order[MAX_LEVELS:]).astype(float))]


def _grow(
    features: FloatArray,
    targets: FloatArray,
    W: FloatArray | None,
    usable: BoolArray,
    n_trees: int,
    min_leaf: int,
    seed: int,
) -> Leaves:
    """Return the leaves of all rows in a forest fitted on the usable ones, causal where W is given."""
    from econml.grf import CausalForest, RegressionForest

    n = int(usable.sum())
    options = {
        "n_estimators": n_trees,
        "max_samples": min(int(SUBSAMPLE * n), MAX_SAMPLES),
        "min_samples_leaf": min_leaf,
        "min_samples_split": 2 * min_leaf,
        "max_features": FEATURE_SHARE,
        "honest": True,
        "inference": False,
        "n_jobs": 1,
        "random_state": seed,
    }
    y = targets[usable]
    if W is None:
        forest = RegressionForest(**options).fit(features[usable], y)
    else:
        forest = CausalForest(**options).fit(features[usable], W[usable, None], y)
    node = forest.apply(features)
    leaf = np.column_stack([np.unique(node[:, tree], return_inverse=True)[1] for tree in range(n_trees)])
    in_honest = np.ones(leaf.shape, dtype=bool)
    rows = np.flatnonzero(usable)
    for tree, (grown, drawn) in enumerate(zip(forest, forest.get_subsample_inds(), strict=True)):
        in_honest[rows[drawn[grown.get_train_test_split_inds()[0]]], tree] = False
    return Leaves(leaf.astype(np.int32), in_honest, n_trees, None)


def _standardised(targets: FloatArray, usable: BoolArray) -> FloatArray:
    """Return the targets over their standard deviations, so that each has a say in the splits."""
    spread = targets[usable].std(axis=0)
    return targets / np.where(spread > 0, spread, 1.0)


def _check(D: FloatArray, W: FloatArray | None, split: str, n_trees: int, min_leaf: int) -> None:
    """Raise ValueError for arguments of `fit_leaves` that break its rules."""
    if D.ndim != 1:
        raise ValueError(f"first_difference.shape == {D.shape}, must be (N,). Give one first difference per product.")
    if split not in get_args(Split):
        raise ValueError(
            f"split == {split!r}, must be 'outcome', 'joint' or 'effect'. Use 'outcome' for drawn assignments."
        )
    if split != "outcome" and W is None:
        raise ValueError(f"arm == None, must be given for split {split!r}. Give the arm (0 or 1) of each product.")
    if W is not None and W.shape != D.shape:
        raise ValueError(f"arm.shape == {W.shape}, must be {D.shape}. Give one arm per product.")
    if n_trees < 1:
        raise ValueError(f"n_trees == {n_trees}, must be at least 1. 200 trees serve most experiments.")
    if min_leaf < 1:
        raise ValueError(f"min_leaf == {min_leaf}, must be at least 1. 4 serves most experiments.")
