"""The probabilities that designs state, against the whole mechanism: every path of chance, weighted exactly."""

from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import pairwise, permutations
from math import ceil, floor
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science import _draws, designs

START = "2017-06-05"
ROUNDING = 1e-12  # stated probabilities are floats of order one; one path that goes astray moves one by 1e-5 or more
HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
SHARES = [HALF, Fraction(3, 10), 2 * THIRD]
STRATA = {
    "one": [0, 0, 0, 0, 0, 0],
    "three, two, one": [0, 0, 1, 0, 1, 2],
    "pairs": [0, 1, 2, 2, 1, 0],
    "singles": [3, 1, 2, 0, 4, 5],
}


@cache
def all_orders(n: Any) -> Any:
    orders = list(permutations(range(n)))
    return orders, [Fraction(1, len(orders))] * len(orders)


class Chance:
    """A generator that follows one path of choices, and knows its probability and the number of options on the way."""

    def __init__(self, path: Any, share: Any, shuffle: Any = None, row: Any = None) -> None:
        self.path, self.share, self.shuffle, self.row = path, share, shuffle, row
        self.taken: Any = []
        self.options: Any = []
        self.odds = 1, 1

    def choose(self, weights: Any) -> Any:
        at = len(self.taken)
        self.taken.append(self.path[at] if at < len(self.path) else 0)
        self.options.append(len(weights))
        chosen = weights[self.taken[-1]]
        self.odds = self.odds[0] * chosen.numerator, self.odds[1] * chosen.denominator
        return self.taken[-1]

    def permutation(self, n: Any) -> Any:
        """All n! orders; a shuffle that is held comes first and is no choice."""
        if self.shuffle is not None and not self.taken:
            return np.array(self.shuffle)
        return np.array(self.order(n))

    def order(self, n: Any) -> Any:
        orders, weights = all_orders(n)
        return orders[self.choose(weights)]

    def permuted(self, x: Any, axis: Any) -> Any:
        """All orders of each row, or of one row while the others are held."""
        assert axis == 1
        rows = range(len(x)) if self.row is None else [self.row]
        found = x.copy()
        for i in rows:
            found[i] = x[i][list(self.order(x.shape[1]))]
        return found

    def random(self, size: Any = None) -> Any:
        """One number: an interval between the breakpoints of systematic sampling. Several: coins, heads by `share`."""
        if size is None:
            cuts = sorted({Fraction(0), Fraction(1)} | {-k * self.share % 1 for k in range(9)})
            at = self.choose([high - low for low, high in pairwise(cuts)])
            return float(cuts[at] + cuts[at + 1]) / 2
        coin = [self.share, 1 - self.share]
        coins = [self.choose(coin) for _ in range(np.prod(size))]
        return np.reshape([(float(self.share) + tail) / 2 for tail in coins], size)

    def integers(self, low: Any, high: Any, size: Any, endpoint: Any) -> Any:
        """All whole numbers in each cell, or in those of one row while the others are held."""
        n = high - low + endpoint
        found = np.full(size, low)
        for i in range(size[0]) if self.row is None else [self.row]:
            found[i] = [low + self.choose([Fraction(1, n)] * n) for _ in range(size[1])]
        return found


def paths(draw: Any, share: Any, **held: Any) -> Any:
    """Yield the probability and the result of every path of `draw(rng)`."""
    path: Any = []
    while path is not None:
        chance = Chance(path, share, **held)
        yield draw(chance), Fraction(*chance.odds)
        last = [i for i, n in enumerate(chance.options) if chance.taken[i] < n - 1]
        path = [*chance.taken[: last[-1]], chance.taken[last[-1]] + 1] if last else None


def law(draw: Any, share: Any, **held: Any) -> Any:
    """Return the probability of every matrix of arms that `draw(rng)` may return."""
    found: Any = Counter()
    for arm, weight in paths(draw, share, **held):
        found[tuple(map(tuple, np.atleast_2d(arm.T).T.tolist()))] += weight
    assert sum(found.values()) == 1
    return found


def wrong_marginals(found: Any, probability: Any, n_arms: Any) -> Any:
    """Return the cells and arms whose exact probability is not the stated one: (k, unit, period, exact)."""
    stated = np.broadcast_to(probability, np.shape(next(iter(found))))
    arms = {arm: np.array(arm) for arm in found}
    wrong = []
    for k in range(1, n_arms + 1):
        for i, t in np.ndindex(stated.shape):
            exact = sum(weight for arm, weight in found.items() if arms[arm][i, t] == k)
            if abs(float(exact) - stated[i, t] / n_arms) > ROUNDING:
                wrong.append((k, i, t, exact))
    return wrong


def uneven(arm: Any, strata: Any, share: Any, n_arms: Any) -> Any:
    """Return the groups of units, strata and all, without floor or ceil of n share treated or with uneven arms."""
    arm, strata = np.array(arm), np.array(strata)
    groups = {"all": strata >= 0} | {label: strata == label for label in set(strata.tolist())}
    wrong = []
    for name, group in groups.items():
        counts = np.bincount(arm[group], minlength=n_arms + 1)
        expected = group.sum() * share
        treated = counts[1:].sum()
        if not floor(expected) <= treated <= ceil(expected) or np.ptp(counts[1:]) > 1:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize(
    ("n_units", "n_arms", "strata", "share"),
    [(n, k, name, share) for n, k in [(4, 1), (5, 1), (5, 2)] for name in STRATA for share in SHARES]
    + [(6, 2, "three, two, one", HALF), (6, 2, "three, two, one", 2 * THIRD)],
    ids=str,
)
def test_units_and_arms_in_advance(n_units: Any, n_arms: Any, strata: Any, share: Any) -> None:
    stratum = np.unique(STRATA[strata][:n_units], return_inverse=True)[1]
    found = law(lambda rng: _draws.draw_arms(stratum, float(share), n_arms, rng), share)
    assert wrong_marginals(found, float(share), n_arms) == []
    assert [arm for arm in found if uneven(np.ravel(arm), stratum, share, n_arms)] == []


@pytest.mark.parametrize("share", SHARES, ids=str)
def test_units_of_a_stratum_are_exchangeable(share: Any) -> None:
    stratum = np.array([0, 0, 0, 1, 1])
    found = law(lambda rng: _draws.draw_arms(stratum, float(share), 2, rng), share)
    joint = {}
    for i, j in [(0, 1), (0, 2), (1, 2), (2, 1)]:
        both: Any = Counter()
        for arm, weight in found.items():
            both[arm[i][0], arm[j][0]] += weight
        joint[i, j] = both
    assert all(both == joint[0, 1] for both in joint.values())
    if share == HALF:
        # Three units, one or two treated alike often: 1/2 x 1/3 that both of two are, and never by the same arm.
        assert joint[0, 1][1, 2] == joint[0, 1][2, 1] == Fraction(1, 12)
        assert joint[0, 1][1, 1] == 0


@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("strata", [STRATA["one"], STRATA["three, two, one"]], ids=["one", "strata"])
@pytest.mark.parametrize("n_arms", [1, 2])
def test_crossover_units(n_arms: Any, strata: Any, share: Any) -> None:
    stratum = np.unique(strata[:5], return_inverse=True)[1]

    def draw(rng: Any) -> Any:
        first, arm = _draws.draw_sequences(stratum, float(share), n_arms, rng)
        return np.stack([first * arm, ~first * arm], axis=1)

    found = law(draw, share, shuffle=None if n_arms == 1 else [3, 0, 4, 1, 2])
    assert wrong_marginals(found, np.array([float(share), 1 - float(share)]), n_arms) == []
    for arm in found:
        first, second = np.array(arm).T
        assert uneven(first, stratum, share, n_arms) == uneven(second, stratum, 1 - share, n_arms) == []
        assert np.ptp(np.bincount(first + second, minlength=n_arms + 1)[1:]) <= 1


PUBLIC = {
    "time_bound": lambda n, **more: designs.time_bound(range(n), START, duration=1, **more),
    "crossover": lambda n, **more: designs.crossover(range(n), START, phase=1, blackout=0, **more),
    "coin flip": lambda n, **more: designs.random_days(range(n), START, duration=1, balance="none", **more),
    "triggered": lambda n, **more: designs.triggered(
        range(n),
        START,
        duration=1,
        horizon="2017-06-06",
        triggered_on=[START, "2017-06-06", "NaT", *[START] * (n - 3)],
        **more,
    ),
}


def check_public(draw: Any, share: Any, n_arms: Any, **held: Any) -> Any:
    """Check each cell of a public design against the probability that the same draw states."""
    seen: Any = []

    def arms(rng: Any) -> Any:
        drawn = draw(share=float(share), n_arms=n_arms, rng=rng)
        seen.append(drawn)
        return drawn.arm

    found = law(arms, share, **held)
    assert all((one.probability == seen[0].probability).all() for one in seen)
    assert wrong_marginals(found, seen[0].probability * seen[0].in_force, n_arms) == []
    return seen


@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("name", PUBLIC)
def test_four_units_by_the_public_designs(name: Any, share: Any) -> None:
    check_public(lambda **more: PUBLIC[name](4, strata=[0, 0, 1, 1], **more), share, 1)


@pytest.mark.parametrize("name", PUBLIC)
def test_five_units_of_two_sizes_by_the_public_designs(name: Any) -> None:
    units = [0, 1, 0, 2, 3, 4, 4]
    for drawn in check_public(lambda **more: PUBLIC[name](7, units=units, **more), Fraction(3, 10), 1):
        assert (drawn.arm[0] == drawn.arm[2]).all()
        assert (drawn.arm[5] == drawn.arm[6]).all()


@pytest.mark.parametrize("shuffle", [range(6), [4, 2, 0, 5, 1, 3]], ids=["in order", "shuffled"])
@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("name", ["time_bound", "crossover", "triggered"])
def test_two_arms_by_the_public_designs_whatever_the_shuffle(name: Any, share: Any, shuffle: Any) -> None:
    """The start and the arms make the marginals exact, so that they hold for each shuffle alone."""
    strata = STRATA["three, two, one"]
    for drawn in check_public(lambda **more: PUBLIC[name](6, strata=strata, **more), share, 2, shuffle=shuffle):
        treated = drawn.drawn if name != "crossover" else drawn.arm[:, 0]
        assert uneven(treated, strata, share, 2) == []


@pytest.mark.parametrize("share", [Fraction(3, 10), 2 * THIRD], ids=str)
@pytest.mark.parametrize("row", [0, 5])
def test_two_arms_by_coin(row: Any, share: Any) -> None:
    """All coins, and the arm of one unit while those of the others are held."""

    def draw(rng: Any) -> Any:
        options: Any = {"balance": "none", "share": float(share), "n_arms": 2}
        return designs.random_days(range(6), START, duration=2, block=2, **options, rng=rng).arm[[row]]

    found = law(draw, share, row=row)
    assert wrong_marginals(found, float(share), 2) == []
    assert {arm[0] for arm in found} == {(0, 0), (1, 1), (2, 2)}


def test_blocks_by_coin() -> None:
    def draw(**more: Any) -> Any:
        return designs.random_days(range(4), START, duration=4, block=2, balance="none", **more)

    for drawn in check_public(draw, 2 * THIRD, 1):
        assert (drawn.arm[:, ::2] == drawn.arm[:, 1::2]).all()


def test_balanced_days_of_a_whole_week() -> None:
    """Two pairs in different strata, all 2^14 paths of seven weekdays."""
    stratum = np.array([0, 1, 1, 0])
    heads = np.zeros((4, 14))
    for arm, weight in paths(lambda rng: _draws.balanced_days(stratum, 1, rng), HALF):
        assert (arm[:, :7] ^ arm[:, 7:]).all()
        assert (arm[[0, 1]] ^ arm[[3, 2]]).all()
        heads += arm * float(weight)
    # Sums of 2^-14 are exact in floats.
    np.testing.assert_array_equal(heads, 0.5)


def test_rotating_arms_of_a_whole_week() -> None:
    """One unit of three cycles, all 7! x 2! paths."""
    by_arm = np.zeros((3, 14))
    for arm, weight in paths(lambda rng: _draws.rotating_arms(1, 3, 2, rng), HALF):
        cycles = arm.reshape(3, 2, 7)
        assert (cycles[:, 0] == cycles[:, 1]).all()
        assert set(cycles[:2, 0].sum(axis=0)) == {3}
        assert set((cycles[:, 0] == 1).sum(axis=1)) <= {3, 4}
        by_arm += (arm.reshape(3, 14) == 1) / (5_040 * 2)
        assert weight == Fraction(1, 5_040 * 2)
    np.testing.assert_allclose(by_arm, 0.5, atol=ROUNDING)


@pytest.fixture
def short_week(monkeypatch: Any) -> None:
    """A week of two days, so that whole mechanisms can be gone through."""
    for module, name, value in [(_draws, "WEEK", 2), (_draws, "CYCLE", 4), (designs, "CYCLE", 4)]:
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("short_week")
@pytest.mark.parametrize(("n_units", "duration"), [(4, 8), (5, 4)])
def test_balanced_days_by_the_public_design(n_units: Any, duration: Any) -> None:
    def draw(**more: Any) -> Any:
        return designs.random_days(range(n_units), START, duration=duration, **more)

    for drawn in check_public(draw, HALF, 1):
        cycles = drawn.arm.reshape(n_units, -1, 2, 2)
        assert (cycles.sum(axis=2) == 1).all()
        assert (drawn.arm[:4:2] + drawn.arm[1:4:2] == 1).all()


@pytest.mark.usefixtures("short_week")
def test_balanced_days_of_clusters() -> None:
    units = [0, 1, 0, 2, 3, 3]
    for drawn in check_public(
        lambda **more: designs.random_days(range(6), START, duration=4, units=units, **more), HALF, 1
    ):
        assert (drawn.arm[0] == drawn.arm[2]).all()
        assert (drawn.arm[0] + drawn.arm[1] == 1).all()
        assert (drawn.arm[3] + drawn.arm[[4, 5]] == 1).all()


@pytest.mark.usefixtures("short_week")
@pytest.mark.parametrize("row", [0, 5])
def test_balanced_days_with_two_arms(row: Any) -> None:
    """All coins, and all arms of one unit while those of the others are held: rows are permuted independently."""
    found = law(
        lambda rng: designs.random_days(range(6), START, duration=4, n_arms=2, rng=rng).arm[[row]], HALF, row=row
    )
    assert wrong_marginals(found, 0.5, 2) == []
    for arm in found:
        assert sorted(arm[0]) == [0, 0, 1, 2]


def test_wrong_mechanisms_are_found() -> None:
    stratum = np.array([0, 0, 1, 1])

    def favours_the_first(rng: Any) -> Any:
        return (np.arange(4) < np.floor(4 * 0.5 + rng.random() * 0.5)) * 1

    def coins(rng: Any) -> Any:
        return (rng.random((4,)) < 0.5) * 1

    def first_arm_first(rng: Any) -> Any:
        arm = _draws.draw_arms(stratum, 0.5, 1, rng)
        return arm * np.cumsum(arm)

    assert len(wrong_marginals(law(favours_the_first, HALF), 0.5, 1)) == 4
    assert wrong_marginals(law(coins, HALF), 0.5, 1) == []
    assert any(uneven(np.ravel(arm), stratum, HALF, 1) for arm in law(coins, HALF))
    assert len(wrong_marginals(law(first_arm_first, HALF), 0.5, 2)) == 8
    assert uneven([1, 0, 1, 0], stratum, HALF, 2) == ["all"]
    assert uneven([1, 1, 0, 0], stratum, HALF, 1) == [0, 1]
