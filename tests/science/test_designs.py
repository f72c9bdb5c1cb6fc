"""The drawn designs: exact probabilities by Monte Carlo, exact balance in every draw, blackout, replay and refusals."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science import designs
from pricelab_dagster.science.designs import crossover, paired_strata, random_days, size_strata, time_bound

START = "2017-06-05"
MONTE_CARLO_SD = 4.5  # two-sided p = 7e-6 a cell: some 500 cells are looked at


def ids(n: Any) -> Any:
    return [f"p{i}" for i in range(n)]


def within_monte_carlo(frequency: Any, probability: Any, n_draws: Any) -> Any:
    return np.abs(frequency - probability) <= MONTE_CARLO_SD * np.sqrt(probability * (1 - probability) / n_draws)


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("strata", [None, [0, 0, 0, 1, 2, 2, 1]])
def test_time_bound_probability_is_the_share(share: Any, strata: Any) -> None:
    rng = np.random.default_rng(1)
    draws = np.array(
        [time_bound(ids(7), START, duration=1, strata=strata, share=share, rng=rng).sequence for _ in range(1_500)]
    )
    assert within_monte_carlo(draws.mean(axis=0), share, 1_500).all()
    assert set(draws.sum(axis=1)) == {np.floor(7 * share), np.ceil(7 * share)}


def test_time_bound_visits_every_half_alike() -> None:
    rng = np.random.default_rng(2)
    counts = Counter(tuple(time_bound(ids(4), START, duration=1, rng=rng).sequence) for _ in range(2_000))
    assert len(counts) == 6
    assert within_monte_carlo(np.array(list(counts.values())) / 2_000, 1 / 6, 2_000).all()


@pytest.mark.parametrize("share", [0.5, 0.3, 0.1])
def test_strata_and_total_get_floor_or_ceil(share: Any) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        strata = rng.integers(0, 6, 53)
        arm = time_bound(ids(53), START, duration=1, strata=strata, share=share, rng=rng).sequence
        size, treated = np.bincount(strata, minlength=6), np.bincount(strata, arm, minlength=6)
        # Products such as 10 x .3 may miss the whole number by an ulp.
        assert (treated >= np.floor(size * share - 1e-9)).all()
        assert (treated <= np.ceil(size * share + 1e-9)).all()
        assert arm.sum() in (np.floor(53 * share), np.ceil(53 * share))


def test_pairs_as_strata_split_every_pair() -> None:
    size = np.random.default_rng(4).lognormal(size=40)
    strata = paired_strata(size)
    for seed in range(20):
        arm = time_bound(ids(40), START, duration=1, strata=strata, rng=np.random.default_rng(seed)).sequence
        assert (np.bincount(strata, arm) == 1).all()


@pytest.mark.parametrize("n_products", [4, 5, 9])
def test_balanced_days_in_every_draw(n_products: Any) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        draw = random_days(ids(n_products), START, duration=28, strata=rng.integers(0, 3, n_products), rng=rng)
        cycles = draw.arm.reshape(n_products, 2, 2, 7)
        assert (cycles.sum(axis=2) == 1).all()
        complements = (draw.arm[:, None] + draw.arm[None] == 1).all(axis=2).sum(axis=1)
        assert (complements == 0).sum() == n_products % 2


def test_partners_are_neighbours_in_their_stratum_and_leftovers_meet() -> None:
    strata = ["a", "b", "a", "c", "b", "c", "a", "d"]
    draw = random_days(ids(8), START, duration=140, strata=strata, rng=np.random.default_rng(6))
    for i, j in [(0, 2), (1, 4), (3, 5), (6, 7)]:
        np.testing.assert_array_equal(draw.arm[i] + draw.arm[j], 1)
    # Pairs of different strata share no coins: 70 coins agree all or none with probability 2^-69.
    assert 0 < (draw.arm[0] == draw.arm[1]).sum() < 140


def test_random_days_probability_and_independence_of_weekdays() -> None:
    rng = np.random.default_rng(7)
    draws = np.array([random_days(ids(5), START, duration=14, rng=rng).arm for _ in range(1_200)])
    assert within_monte_carlo(draws.mean(axis=0), 0.5, 1_200).all()
    week = 2.0 * draws[:, 0, :7] - 1.0
    covariance = week.T @ week / 1_200 - np.eye(7)
    assert (np.abs(covariance[~np.eye(7, dtype=bool)]) < MONTE_CARLO_SD / np.sqrt(1_200)).all()


def test_coin_flip_blocks() -> None:
    rng = np.random.default_rng(8)
    draws = np.array(
        [random_days(ids(4), START, duration=12, block=3, balance="none", share=0.2, rng=rng).arm for _ in range(1_200)]
    )
    blocks = draws.reshape(1_200, 4, 4, 3)
    assert (blocks == blocks[..., :1]).all()
    assert within_monte_carlo(draws.mean(axis=0), 0.2, 1_200).all()
    cells = blocks[..., 0].reshape(1_200, 16) - 0.2
    correlation = cells.T @ cells / (1_200 * 0.16)
    assert (np.abs(correlation[~np.eye(16, dtype=bool)]) < MONTE_CARLO_SD / np.sqrt(1_200)).all()


def test_crossover_swaps_after_each_phase() -> None:
    draw = crossover(ids(10), START, phase=3, phases=4, blackout=1, rng=np.random.default_rng(9))
    phases = draw.arm.reshape(10, 4, 3)
    assert (phases == phases[..., :1]).all()
    np.testing.assert_array_equal(phases[:, ::2, 0], np.tile(draw.sequence[:, None], 2))
    np.testing.assert_array_equal(phases[:, 1::2, 0], 1 - np.tile(draw.sequence[:, None], 2))
    assert draw.sequence.sum() == 5


def test_crossover_probability_by_phase() -> None:
    rng = np.random.default_rng(10)
    draws = [crossover(ids(5), START, phase=2, blackout=0, share=0.3, rng=rng) for _ in range(1_200)]
    np.testing.assert_allclose(draws[0].probability, np.tile([0.3, 0.3, 0.7, 0.7], (5, 1)))
    assert within_monte_carlo(np.mean([d.arm for d in draws], axis=0), draws[0].probability, 1_200).all()


def test_blackout_leaves_out_data_and_keeps_the_arm() -> None:
    rng = np.random.default_rng(11)
    window = time_bound(ids(4), START, duration=5, blackout=2, rng=rng)
    blocks = random_days(ids(4), START, duration=6, block=3, balance="none", blackout=1, rng=rng)
    phases = crossover(ids(4), START, phase=4, blackout=3, rng=rng)
    assert window.in_analysis[0].tolist() == [False, False, True, True, True]
    assert blocks.in_analysis[0].tolist() == [False, True, True] * 2
    assert phases.in_analysis[0].tolist() == [False, False, False, True] * 2
    assert window.arm[:, 0].sum() == 2
    assert all((draw.in_analysis == draw.in_analysis[0]).all() for draw in (window, blocks, phases))


DRAWS = {
    "time_bound": lambda products, rng, **labels: time_bound(products, START, duration=3, rng=rng, **labels),
    "random_days": lambda products, rng, **labels: random_days(products, START, duration=14, rng=rng, **labels),
    "coin_flip": lambda products, rng, **labels: random_days(
        products, START, duration=3, balance="none", rng=rng, **labels
    ),
    "crossover": lambda products, rng, **labels: crossover(
        products, START, phase=2, blackout=1, share=0.4, rng=rng, **labels
    ),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_products_of_a_unit_move_together(draw: Any) -> None:
    units = np.random.default_rng(12).integers(0, 6, 30)
    arms = draw(ids(30), np.random.default_rng(12), units=units).arm
    for unit in range(6):
        assert (arms[units == unit] == arms[units == unit][0]).all()
    assert len(np.unique(arms, axis=0)) > 1


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_same_generator_same_draw_whatever_the_names(draw: Any) -> None:
    units, strata = np.arange(12) // 2, np.arange(12) // 4
    first = draw(ids(12), np.random.default_rng(13), units=units, strata=strata)
    renamed = draw(
        list("lkjihgfedcba"), np.random.default_rng(13), units=9 - units, strata=np.array(list("zyx"))[strata]
    )
    other = draw(ids(12), np.random.default_rng(14), units=units, strata=strata)
    np.testing.assert_array_equal(first.arm, renamed.arm)
    assert (first.arm != other.arm).any()


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("labelled", [True, False])
def test_mechanism_replays(draw: Any, labelled: Any) -> None:
    product_ids, units, strata = ids(12), np.arange(12) // 2, np.arange(12) // 4
    labels = {"units": units, "strata": strata} if labelled else {}
    first = draw(product_ids, np.random.default_rng(15), **labels)
    names = vars(designs) | {"product_ids": product_ids, "units": units, "strata": strata}
    again = eval(first.mechanism, names | {"rng": np.random.default_rng(15)})
    for field in ("product_id", "date", "arm", "in_analysis", "probability", "unit_id"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert again.mechanism == first.mechanism
    assert "\n" not in first.mechanism


def test_unit_is_in_the_stratum_of_its_first_product() -> None:
    # Units a and b are both in stratum 0 by their first products, so exactly one of them is treated; so c and d.
    units, strata = list("abcdabcd"), [0, 0, 1, 1, 1, 1, 0, 0]
    for seed in range(20):
        arm = time_bound(
            ids(8), START, duration=1, units=units, strata=strata, rng=np.random.default_rng(seed)
        ).sequence
        assert arm[0] + arm[1] == 1
        assert arm[2] + arm[3] == 1


def test_fields_and_dates() -> None:
    week = crossover([11, 12, 13, 14], START, phase=2, blackout=1, grain="week", rng=np.random.default_rng(16))
    assert week.date.astype(str).tolist() == ["2017-06-05", "2017-06-12", "2017-06-19", "2017-06-26"]
    assert week.date.dtype == "datetime64[D]"
    assert week.product_id.tolist() == week.unit_id.tolist() == ["11", "12", "13", "14"]
    assert week.arm.dtype == np.int8
    assert week.arm.shape == week.in_analysis.shape == week.probability.shape == (4, 4)


def test_size_strata_by_hand() -> None:
    category = ["a"] * 7 + ["b"] * 2
    size = [70, 10, 60, 20, 50, 30, 40, 5, 6]
    assert size_strata(category, size, block=3).tolist() == [0, 1, 0, 1, 0, 1, 1, 2, 2]
    assert size_strata(["a"] * 4, [1, 1, 1, 1], block=2).tolist() == [0, 0, 1, 1]


def test_strata_follow_row_order_and_size_alone() -> None:
    rng = np.random.default_rng(17)
    category, size = rng.integers(0, 4, 101), rng.lognormal(size=101)
    labels = size_strata(category, size)
    order = rng.permutation(101)
    shuffled = size_strata(category[order], 3.0 * size[order])
    same = labels[order][:, None] == labels[order]
    np.testing.assert_array_equal(shuffled[:, None] == shuffled, same)
    counts = np.bincount(labels)
    assert counts.min() >= 4
    assert counts.max() <= 7
    assert all(len(set(category[labels == label])) == 1 for label in range(len(counts)))
    assert np.bincount(paired_strata(size)).tolist() == [2] * 49 + [3]
    assert set(paired_strata(size)[np.argsort(size)[:3]]) == {49}


def call(function: Any, **change: Any) -> Any:
    arguments = {"product_ids": ids(4), "start": START, "rng": np.random.default_rng(0)}
    arguments |= {} if function is crossover else {"duration": 14}
    arguments |= change
    return function(arguments.pop("product_ids"), arguments.pop("start"), **arguments)


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (time_bound, {"product_ids": ids(3)}, "number of units == 3, must be 4 or more"),
        (crossover, {"units": [1, 1, 2, 3]}, "number of units == 3, must be 4 or more"),
        (time_bound, {"product_ids": ["a", "b", "c", "d", "a"]}, r"1 repeated ids, such as a"),
        (time_bound, {"product_ids": ["a", "b", "c", None]}, "product_ids has 1 missing values"),
        (time_bound, {"units": [1, 2, 3]}, r"units.shape == \(3,\), must be \(4,\)"),
        (time_bound, {"strata": [1, 2, 3, np.nan]}, "strata has 1 missing values"),
        (time_bound, {"share": 1.2}, r"share == 1.2, must be in \(0, 1\). Give the part"),
        (time_bound, {"share": 0.0}, "share == 0.0"),
        (time_bound, {"duration": 0}, "duration == 0, must be 1 or more"),
        (time_bound, {"blackout": 14}, r"blackout == 14, must be in \[0, duration == 14\)"),
        (time_bound, {"grain": "month"}, "grain == 'month'"),
        (random_days, {"blackout": 1}, r"blackout == 1, must be in \[0, block == 1\)"),
        (random_days, {"grain": "week"}, "grain == 'week', must be 'day' for balance 'day_of_week'"),
        (
            random_days,
            {"block": 2},
            "block == 2, must be 1 for balance .* give balance 'none'",
        ),
        (random_days, {"share": 0.4}, "share == 0.4, must be 0.5 for balance"),
        (random_days, {"duration": 21}, "duration == 21, must be a multiple of 14 for balance"),
        (
            random_days,
            {"duration": 15, "block": 2, "balance": "none"},
            "multiple of block == 2. Give 14 or 16",
        ),
        (random_days, {"balance": "weekday"}, "balance == 'weekday', must be 'day_of_week' or 'none'"),
        (crossover, {"phases": 3}, "phases == 3, must be a multiple of 2. Give 2 or 4"),
        (crossover, {"phases": 0}, "phases == 0, must be a multiple of 2. Give 2 or 4"),
        (crossover, {"phase": 7}, r"blackout == 7, must be in \[0, phase == 7\)"),
    ],
)
def test_refusals(function: Any, change: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(function, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], [np.nan]), "size has 1 values that are not finite"),
        ((["a", "b"], [1.0]), r"category.shape == \(2,\), must be \(1,\)"),
    ],
)
def test_size_strata_refusals(arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        size_strata(*arguments)
    with pytest.raises(ValueError, match="block == 0, must be 1 or more"):
        size_strata(["a"], [1.0], block=0)
