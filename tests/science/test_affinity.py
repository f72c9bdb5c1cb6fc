import numpy as np
import pandas as pd
import pytest

from pricelab_dagster.science.affinity import Leaves, encode, fit_leaves, twins

N = 120
N_TREES = 8


def attributes(rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        {"size": rng.normal(size=N), "brand": rng.choice(["a", "b", "c"], N), "own": rng.random(N) < 0.5}
    )


def test_encode_by_hand():
    X = pd.DataFrame({"size": [1.0, np.nan, 4.0], "own": [True, False, True], "brand": ["y", None, "x"], "same": 1})

    features, names = encode(X)

    assert names == ["size", "size missing", "own", "brand=y", "brand=x", "brand missing"]
    expected = [[1.0, 0, 1, 1, 0, 0], [2.5, 1, 0, 0, 0, 1], [4.0, 0, 1, 0, 1, 0]]
    np.testing.assert_array_equal(features, expected)


def test_encode_keeps_the_twenty_most_frequent_levels():
    text = [f"rare {i}" for i in range(5)] + [f"common {i}" for i in range(20) for _ in range(2)]

    features, names = encode(pd.DataFrame({"brand": text}))

    assert names == [f"brand=common {i}" for i in range(20)] + ["brand other"]
    np.testing.assert_array_equal(features[:, -1], [1.0] * 5 + [0.0] * 40)


@pytest.mark.parametrize(
    "X", [np.arange(6.0).reshape(3, 2), np.arange(3.0), np.array([["a", 1], ["b", 2], ["a", 3]], object)]
)
def test_encode_takes_arrays(X):
    features, names = encode(X)

    assert features.shape == (3, len(names))
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("column", "said"),
    [(pd.to_datetime(["2020-01-01", "2020-01-02"]), "datetime"), ([1.0, np.inf], "1 infinite"), ([1.0, "a"], "object")],
)
def test_encode_refuses_what_it_cannot_number(column, said):
    with pytest.raises(ValueError, match=said):
        encode(pd.DataFrame({"x": column}))


def test_tree_does_not_look_at_the_products_it_averages():
    rng = np.random.default_rng(1)
    X = attributes(rng)
    D = X["size"].to_numpy() + rng.normal(size=N)
    before = fit_leaves(X, D, n_trees=N_TREES, rng=np.random.default_rng(2))
    n_moved = 0
    for tree in range(N_TREES):
        averaged = before.in_honest[:, tree]
        changed = [D + 5.0 * rng.normal(size=N) * rows for rows in (averaged, ~averaged)]

        after = [fit_leaves(X, d, n_trees=N_TREES, rng=np.random.default_rng(2)).leaf[:, tree] for d in changed]

        np.testing.assert_array_equal(after[0], before.leaf[:, tree])
        n_moved += int((after[1] != before.leaf[:, tree]).any())
    assert n_moved > N_TREES / 2


def test_split_half_is_half_of_the_subsample_and_fills_every_leaf():
    rng = np.random.default_rng(3)
    X = attributes(rng)

    leaves = fit_leaves(X, rng.normal(size=N), n_trees=N_TREES, min_leaf=4, rng=rng)

    # .45 N = 54 products in a subsample, 27 of them for the splits.
    np.testing.assert_array_equal((~leaves.in_honest).sum(axis=0), 27)
    for tree in range(N_TREES):
        n_split = np.bincount(leaves.leaf[~leaves.in_honest[:, tree], tree], minlength=leaves.leaf[:, tree].max() + 1)
        assert n_split.min() >= 4


def share_explained(side: np.ndarray, leaves: Leaves) -> float:
    """Mean over trees of the share of the variance of a 0/1 attribute that lies between leaves."""
    between = [pd.Series(side * 1.0).groupby(leaves.leaf[:, t]).transform("mean").var() for t in range(leaves.n_trees)]
    return float(np.mean(between) / side.var(ddof=1))


def test_leaves_follow_the_attribute_that_matters():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 3))
    D = 3.0 * (X[:, 1] > 0) + 0.1 * rng.normal(size=400)

    leaves = fit_leaves(X, D, n_trees=N_TREES, rng=rng)

    # Deep trees cut the other attributes too once they are done with the one that matters.
    assert share_explained(X[:, 1] > 0, leaves) > share_explained(X[:, 0] > 0, leaves) + 0.2


def test_spelling_of_levels_does_not_matter():
    rng = np.random.default_rng(5)
    X = attributes(rng)
    D = rng.normal(size=N)
    renamed = X.assign(brand=X["brand"].map({"a": "zz", "b": "m", "c": "aa"}))

    one, other = (fit_leaves(x, D, n_trees=N_TREES, rng=np.random.default_rng(6)) for x in (X, renamed))

    np.testing.assert_array_equal(one.leaf, other.leaf)


def test_products_without_first_difference_get_leaves_but_no_say():
    rng = np.random.default_rng(7)
    X = attributes(rng)
    D = rng.normal(size=N)
    D[:10] = np.nan

    leaves = fit_leaves(X, D, n_trees=N_TREES, rng=np.random.default_rng(8))
    without = fit_leaves(X[10:], D[10:], n_trees=N_TREES, rng=np.random.default_rng(8))

    assert leaves.leaf.shape == (N, N_TREES)
    assert leaves.in_honest[:10].all()
    np.testing.assert_array_equal(leaves.in_honest[10:], without.in_honest)


@pytest.mark.parametrize("split", ["joint", "effect"])
def test_other_splits_use_the_arm(split):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(400, 3))
    drawn = (rng.random(400) < 0.5).astype(float)
    W = (X[:, 0] > 0).astype(float) if split == "joint" else drawn
    D = 0.1 * rng.normal(size=400) + (W - 0.5) * np.sign(X[:, 0]) * (split == "effect")

    blind = fit_leaves(X, D, n_trees=N_TREES, rng=np.random.default_rng(10))
    shown = fit_leaves(X, D, arm=W, split=split, n_trees=N_TREES, rng=np.random.default_rng(10))

    # What the arm tells, D alone does not show: the mean of D is the same on both sides of the first attribute.
    assert share_explained(X[:, 0] > 0, shown) > share_explained(X[:, 0] > 0, blind) + 0.2


def test_single_leaf_and_its_reasons():
    rng = np.random.default_rng(10)
    small = fit_leaves(rng.normal(size=(39, 2)), rng.normal(size=39), rng=rng)
    constant = fit_leaves(np.ones((N, 2)), rng.normal(size=N), rng=rng)

    assert small.is_single
    assert small.reason == "39 usable products are fewer than 40: one leaf, attributes are not used."
    assert constant.is_single
    assert "No attribute varies" in str(constant.reason)
    assert fit_leaves(None, np.zeros(3), rng=rng).reason is None
    assert not Leaves(np.array([[0], [1]], np.int32), np.ones((2, 1), bool), 1, None).is_single
    assert not Leaves(np.zeros((2, 1), np.int32), np.array([[True], [False]]), 1, None).is_single


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "auto"}, "split == 'auto'"),
        ({"split": "joint"}, "arm == None"),
        ({"arm": np.zeros(3)}, "arm.shape"),
        ({"n_trees": 0}, "n_trees == 0"),
        ({"min_leaf": 0}, "min_leaf == 0"),
        ({"X": np.ones((3, 1))}, "X has 3 rows"),
        ({"first_difference": np.zeros((N, 2))}, "first_difference.shape"),
    ],
)
def test_refusals(change, said):
    given = {"X": np.ones((N, 1)), "first_difference": np.zeros(N), "rng": np.random.default_rng(0)} | change
    with pytest.raises(ValueError, match=said):
        fit_leaves(**given)


def leaves_of(rows: list[list[int]]) -> Leaves:
    leaf = np.array(rows, dtype=np.int32)
    return Leaves(leaf, np.ones(leaf.shape, dtype=bool), leaf.shape[1], None)


def test_twins_by_hand():
    leaves = leaves_of([[0, 0, 1, 2], [0, 1, 1, 2], [1, 0, 0, 0], [0, 0, 1, 2], [0, 1, 0, 2]])

    found = twins(leaves, 1, k=10)

    # row 4 shares trees 0, 1 and 3 with row 1, rows 0 and 3 share 0, 2 and 3: ties by row
    assert found.product.tolist() == [0, 3, 4, 2]
    assert found.shared.tolist() == [0.75, 0.75, 0.75, 0.0]


def test_twins_are_mutual_and_follow_their_rows():
    rng = np.random.default_rng(21)
    leaf = rng.integers(0, 5, (30, 40))
    shuffled = rng.permutation(30)
    share = np.eye(30)
    for i in range(30):
        found = twins(leaves_of(leaf), i, k=29)
        share[i, found.product] = found.shared

    np.testing.assert_array_equal(share, share.T)
    brute = (leaf[:, None] == leaf[None]).mean(axis=2)
    np.testing.assert_array_equal(share, brute)
    moved = twins(leaves_of(leaf[shuffled]), int(np.flatnonzero(shuffled == 3)[0]), k=29)
    np.testing.assert_array_equal(np.sort(moved.shared), np.sort(twins(leaves_of(leaf), 3, k=29).shared))


def test_twins_are_of_the_attribute_that_matters():
    rng = np.random.default_rng(22)
    X = pd.DataFrame({"size": rng.normal(size=N), "noise": rng.normal(size=N)})
    side = X["size"].to_numpy() > 0
    D = 5.0 * side + rng.normal(size=N)
    leaves = fit_leaves(X, D, n_trees=200, rng=rng)

    alike = [np.mean(side[twins(leaves, i).product] == side[i]) for i in range(N)]

    assert np.mean(alike) > 0.9  # chance gives one half


@pytest.mark.parametrize(("product", "k", "said"), [(4, 1, "product == 4"), (-1, 1, "product == -1"), (0, 0, "k == 0")])
def test_twins_refuse(product, k, said):
    with pytest.raises(ValueError, match=said):
        twins(Leaves.single(4), product, k=k)
