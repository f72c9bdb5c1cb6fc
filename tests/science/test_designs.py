"""The drawn designs: probabilities by Monte Carlo, balance in every draw, arms, triggers, blackout, replay, refusals.

The exact probabilities are in test_design_probabilities.
"""

from collections import Counter
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster.science import designs
from pricelab_dagster.science.designs import (
    crossover,
    event_start,
    paired_strata,
    random_days,
    size_strata,
    time_bound,
    triggered,
)

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
    "triggered": lambda products, rng, **labels: triggered(
        products, START, duration=3, horizon=START, triggered_on=[START] * len(products), blackout=1, rng=rng, **labels
    ),
}
DRAWS |= {
    f"{name} of two arms": lambda products, rng, draw=draw, **labels: draw(products, rng, n_arms=2, **labels)
    for name, draw in DRAWS.items()
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
    names = vars(designs) | {"product_ids": product_ids, "units": units, "strata": strata, "triggered_on": [START] * 12}
    again = eval(first.mechanism, names | {"rng": np.random.default_rng(15)})
    for field in ("product_id", "date", "arm", "in_analysis", "probability", "unit_id", "drawn", "in_force"):
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


def test_draw_of_one_arm_by_its_formula() -> None:
    stratum = np.array([0, 1, 0, 2, 2, 0, 1, 0])
    draw = time_bound(ids(8), START, duration=1, strata=stratum, share=0.3, rng=np.random.default_rng(18))
    rng = np.random.default_rng(18)
    order = rng.permutation(8)
    order = order[np.argsort(stratum[order], kind="stable")]
    steps = np.floor(rng.random() + np.arange(9) * 0.3)
    np.testing.assert_array_equal(draw.arm[order, 0], np.diff(steps))


@pytest.mark.parametrize("name", ["time_bound", "random_days", "coin_flip", "crossover", "triggered"])
def test_number_of_arms_leaves_the_treated_as_they_are(name: Any) -> None:
    strata = np.arange(12) // 5
    one, three = (DRAWS[name](ids(12), np.random.default_rng(19), strata=strata, n_arms=k) for k in (1, 3))
    np.testing.assert_array_equal(one.arm, three.arm > 0)
    np.testing.assert_array_equal(one.sequence, three.sequence)
    np.testing.assert_array_equal(one.probability, three.probability)
    assert set(three.arm.ravel()) == {0, 1, 2, 3}


@pytest.mark.parametrize("n_arms", [2, 3, 5])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_arms_are_even_in_strata_and_in_all(n_arms: Any, share: Any) -> None:
    rng = np.random.default_rng(20)
    for _ in range(40):
        strata = rng.integers(0, 6, 53)
        options = {"strata": strata, "share": share, "n_arms": n_arms, "rng": rng}
        arm = time_bound(ids(53), START, duration=1, **options).drawn
        swapped = crossover(ids(53), START, phase=1, blackout=0, **options)
        groups = [arm, swapped.arm[:, 0], swapped.arm[:, 1]]
        for group in [*groups, swapped.drawn, *(one * (strata == label) for one in groups for label in range(6))]:
            assert np.ptp(np.bincount(group, minlength=n_arms + 1)[1:]) <= 1


def test_arms_rotate_over_cycles_and_weekdays() -> None:
    draw = random_days(ids(9), START, duration=42, n_arms=3, rng=np.random.default_rng(21))
    cycles = draw.arm.reshape(9, 3, 2, 7)
    assert (np.sort(cycles, axis=2)[:, :, 0] == 0).all()
    treated = cycles.max(axis=2)
    np.testing.assert_array_equal(np.sort(treated, axis=1), np.tile([[1], [2], [3]], (9, 1, 7)))
    counts = (treated[..., None] == [1, 2, 3]).sum(axis=2)
    assert set(counts.ravel()) == {2, 3}
    # Nine units with the same offsets out of 630 have probability 630^-8.
    assert len(np.unique(treated[:, 0], axis=0)) > 1
    assert not draw.drawn.any()


@pytest.mark.parametrize("phases", [2, 4, 6])
def test_crossover_alternates_between_its_arm_and_control(phases: Any) -> None:
    draw = crossover(ids(8), START, phase=3, phases=phases, blackout=1, n_arms=2, rng=np.random.default_rng(22))
    blocks = draw.arm.reshape(8, phases, 3)
    assert (blocks == blocks[..., :1]).all()
    assert ((blocks > 0).sum(axis=1) == phases / 2).all()
    np.testing.assert_array_equal(blocks.max(axis=(1, 2)), draw.drawn)
    np.testing.assert_array_equal(
        blocks[:, 1::2, 0], np.where(draw.sequence, 0, draw.drawn)[:, None].repeat(phases // 2, 1)
    )
    np.testing.assert_array_equal(draw.in_analysis, np.tile([False, True, True], (8, phases)))
    assert draw.in_force.all()


@pytest.mark.parametrize("n_products", [4, 5, 9])
def test_strata_of_one_product_keep_the_total(n_products: Any) -> None:
    for seed in range(20):
        strata = np.arange(n_products)
        arm = time_bound(ids(n_products), START, duration=1, strata=strata, rng=np.random.default_rng(seed)).drawn
        assert arm.sum() in {n_products // 2, (n_products + 1) // 2}
        pairs = random_days(ids(n_products), START, duration=14, strata=strata, rng=np.random.default_rng(seed)).arm
        assert (pairs[: n_products - 1 : 2] + pairs[1::2] == 1).all()


@pytest.mark.parametrize(
    ("draw", "first", "last"),
    [
        (lambda **more: time_bound(ids(4), START, duration=3, **more), "2017-06-05", "2017-06-19"),
        (lambda **more: random_days(ids(4), START, duration=4, balance="none", **more), "2017-06-05", "2017-06-26"),
        (lambda **more: crossover(ids(4), START, phase=2, blackout=1, **more), "2017-06-05", "2017-06-26"),
        (lambda **more: triggered(ids(4), START, duration=2, horizon="2017-06-18", **more), "2017-06-12", "2017-06-26"),
    ],
    ids=["time_bound", "random_days", "crossover", "triggered"],
)
def test_weeks(draw: Any, first: Any, last: Any) -> None:
    week = draw(grain="week", rng=np.random.default_rng(23))
    assert week.date[[0, -1]].astype(str).tolist() == [first, last]
    assert (np.diff(week.date) == np.timedelta64(7, "D")).all()
    assert week.arm.shape == (4, len(week.date))


EVENTS: Any = ["2017-06-05", "2017-06-07", "2017-06-04", "2017-06-10", "2017-06-09", None, "2017-06-07"]
DAYS: Any = {"duration": 3, "horizon": "2017-06-09", "blackout": 1}


def test_triggered_windows_by_hand() -> None:
    draw = triggered(ids(7), START, **DAYS, triggered_on=EVENTS, rng=np.random.default_rng(24))
    assert draw.date[[0, -1]].astype(str).tolist() == ["2017-06-06", "2017-06-12"]
    windows = ["1110000", "0011100", "0000000", "0000000", "0000111", "0000000", "0011100"]
    counted = ["0110000", "0001100", "0000000", "0000000", "0000011", "0000000", "0001100"]
    assert ["".join(map(str, row)) for row in draw.in_force.astype(int)] == windows
    assert ["".join(map(str, row)) for row in draw.in_analysis.astype(int)] == counted
    np.testing.assert_array_equal(draw.arm, draw.in_force * draw.drawn[:, None])
    assert (draw.probability == 0.5).all()


def test_ghost_triggers_are_in_force_with_arm_0() -> None:
    draw = triggered(ids(12), START, **DAYS, triggered_on=["2017-06-06"] * 12, n_arms=2, rng=np.random.default_rng(25))
    ghosts = draw.drawn == 0
    assert ghosts.sum() == 6
    assert not draw.arm[ghosts].any()
    assert draw.in_force[ghosts].sum(axis=1).tolist() == [3] * 6
    assert (draw.in_force == draw.in_force[0]).all()
    assert (draw.in_analysis == draw.in_analysis[0]).all()


def test_triggered_weeks_by_hand() -> None:
    events = ["2017-06-05", "2017-06-11", "2017-06-12", "2017-06-20"]
    options: Any = {"duration": 2, "horizon": "2017-06-20", "blackout": 1, "grain": "week", "triggered_on": events}
    draw = triggered(ids(4), START, **options, rng=np.random.default_rng(26))
    assert draw.date.astype(str).tolist() == ["2017-06-12", "2017-06-19", "2017-06-26", "2017-07-03"]
    assert draw.in_force.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert draw.in_analysis.astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_first_event_of_any_product_opens_the_only_window_of_its_unit() -> None:
    units = ["a", "b", "a", "c", "a", "d", "b"]
    events: Any = ["2017-06-08", "2017-06-03", "2017-06-06", None, None, "2017-06-10", "2017-06-09"]
    draw = triggered(ids(7), START, **DAYS, triggered_on=events, units=units, rng=np.random.default_rng(27))
    windows = {"a": "0111000", "b": "0000111", "c": "0000000", "d": "0000000"}
    assert ["".join(map(str, row)) for row in draw.in_force.astype(int)] == [windows[unit] for unit in units]
    assert len(set(draw.drawn[[0, 2, 4]])) == 1


@pytest.mark.parametrize("n_arms", [1, 2])
def test_events_never_touch_the_draw(n_arms: Any) -> None:
    strata, after = np.arange(12) // 4, []
    some = np.array([*["2017-06-05", "NaT", "2017-06-09"] * 4], dtype="datetime64[D]")
    for events in [None, some, some[::-1], np.full(12, "NaT"), ["2020-01-01"] * 12]:
        rng = np.random.default_rng(28)
        draw = triggered(ids(12), START, **DAYS, triggered_on=events, strata=strata, n_arms=n_arms, rng=rng)
        after.append((draw.drawn.tolist(), draw.date.tolist(), rng.random()))
    rng = np.random.default_rng(28)
    fixed = time_bound(ids(12), START, duration=1, strata=strata, n_arms=n_arms, rng=rng)
    assert all(one == after[0] for one in after)
    assert (fixed.arm[:, 0].tolist(), rng.random()) == (after[0][0], after[0][2])


@pytest.mark.parametrize(
    "events",
    [
        np.array(["2017-06-06", "NaT", "2017-06-08", "NaT"], dtype="datetime64[D]"),
        np.array(["2017-06-06T23:59", "NaT", "2017-06-08T00:00", "NaT"], dtype="datetime64[ns]"),
        pd.Series(pd.to_datetime(["2017-06-06", "NaT", "2017-06-08", "NaT"])),
        [date(2017, 6, 6), None, date(2017, 6, 8), np.nan],
        ["2017-06-06", pd.NaT, pd.Timestamp("2017-06-08 12:00"), "NaT"],
    ],
    ids=["days", "instants", "series", "dates", "mixed"],
)
def test_events_of_any_kind_of_date(events: Any) -> None:
    draw = triggered(ids(4), START, **DAYS, triggered_on=events, rng=np.random.default_rng(29))
    assert draw.date[draw.in_force.argmax(axis=1)].astype(str).tolist()[::2] == ["2017-06-07", "2017-06-09"]
    assert draw.in_force.sum(axis=1).tolist() == [3, 0, 3, 0]


@pytest.mark.parametrize(("grain", "days"), [("day", 1), ("week", 7)])
def test_event_start_is_the_first_label_later_than_the_event(grain: Any, days: Any) -> None:
    events = np.arange("2017-05-20", "2017-07-01", dtype="datetime64[D]")
    labels = np.datetime64(START) + days * np.arange(-40, 40)
    expected = [labels[labels > event].min() for event in events]
    np.testing.assert_array_equal(event_start(events, START, grain=grain), expected)
    assert np.isnat(event_start(np.array([None, "NaT"]), START, grain=grain)).all()


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


def test_pairs_across_categories_by_hand() -> None:
    # In falling order a a a b c b a a: the first three find b, c and b; two a are left over.
    assert paired_strata([8, 7, 6, 5, 4, 3, 2, 1], category=list("aaabcbaa")).tolist() == [0, 1, 2, 0, 1, 2, 3, 3]
    assert paired_strata([1, 9, 5, 5], category=["x", "x", "y", "x"]).tolist() == [1, 0, 0, 1]
    assert paired_strata([5, 4, 3, 2, 1], category=list("aabba")).tolist() == [0, 1, 0, 1, 1]
    assert paired_strata([5, 4, 3], category=list("abc")).tolist() == [0, 0, 0]


def nearest_of_another_category(size: Any, category: Any) -> Any:
    """Return the strata by the rule, word by word: each unit in falling order looks through all free ones."""
    order = sorted(range(len(size)), key=lambda i: -size[i])
    free, pairs, left_over = list(order), [], []
    while free:
        unit = free.pop(0)
        others = [other for other in free if category[other] != category[unit]]
        if others:
            free.remove(others[0])
            pairs.append([unit, others[0]])
        else:
            left_over.append(unit)
    pairs += [left_over[i : i + 2] for i in range(0, len(left_over), 2)]
    if len(pairs[-1]) == 1:
        pairs[-2:] = [pairs[-2] + pairs[-1]]
    return {frozenset(pair) for pair in pairs}


def groups_of(labels: Any) -> Any:
    return {frozenset(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)}


@pytest.mark.parametrize("n_categories", [1, 2, 3, 9])
def test_pairs_across_categories_by_the_rule_in_any_row_order(n_categories: Any) -> None:
    rng = np.random.default_rng(30)
    for n in [4, 5, 8, 31, 40]:
        size, category = rng.lognormal(size=n), rng.integers(0, n_categories, n)
        labels = paired_strata(size, category=category)
        assert groups_of(labels) == nearest_of_another_category(size, category)
        order = rng.permutation(n)
        shuffled = paired_strata(2.0 * size[order], category=np.array(list("zyxwvutsr"))[category[order]])
        np.testing.assert_array_equal(shuffled, labels[order])


def test_categories_that_bind_nothing_change_nothing() -> None:
    size = np.random.default_rng(31).integers(0, 9, 41)
    np.testing.assert_array_equal(paired_strata(size, category=["a"] * 41), paired_strata(size))
    np.testing.assert_array_equal(paired_strata(size, category=range(41)), paired_strata(size))


def call(function: Any, **change: Any) -> Any:
    arguments = {"product_ids": ids(4), "start": START, "rng": np.random.default_rng(0)}
    arguments |= {} if function is crossover else {"duration": 14}
    arguments |= {"horizon": START} if function is triggered else {}
    arguments |= change
    return function(arguments.pop("product_ids"), arguments.pop("start"), **arguments)


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (time_bound, {"product_ids": ids(3)}, "number of units == 3, must be 4 or more"),
        (crossover, {"units": [1, 1, 2, 3]}, "number of units == 3, must be 4 or more"),
        (random_days, {"product_ids": ids(3)}, "number of units == 3, must be 4 or more"),
        (triggered, {"product_ids": ids(3)}, "number of units == 3, must be 4 or more"),
        *(
            (function, {"product_ids": ids(5), "n_arms": 2}, "number of units == 5, must be 6 or more for n_arms == 2")
            for function in (time_bound, random_days, crossover, triggered)
        ),
        (crossover, {"n_arms": 0}, "n_arms == 0, must be 1 or more. Give the number of treatment arms"),
        (time_bound, {"n_arms": 128}, "n_arms == 128, must be 127 or fewer"),
        (triggered, {"horizon": "2017-06-04"}, "horizon == 2017-06-04, must be 2017-06-05 or later. Give the last"),
        (triggered, {"horizon": "NaT"}, "horizon == NaT, must be 2017-06-05 or later"),
        (triggered, {"duration": 0}, "duration == 0, must be 1 or more"),
        (triggered, {"blackout": 14}, r"blackout == 14, must be in \[0, duration == 14\)"),
        (triggered, {"triggered_on": [START] * 3}, r"triggered_on.shape == \(3,\), must be \(4,\). Give one date"),
        (triggered, {"triggered_on": [[START]] * 4}, r"triggered_on.shape == \(4, 1\), must be \(4,\)"),
        (triggered, {"triggered_on": [START, None, "soon", None]}, "triggered_on has the value 'soon', must be dates"),
        (triggered, {"triggered_on": [17_322, 17_323, 17_324, 17_325]}, "triggered_on has the value 17322"),
        (triggered, {"grain": "month"}, "grain == 'month'"),
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


def test_paired_strata_and_event_start_refusals() -> None:
    with pytest.raises(ValueError, match="category has 1 missing values"):
        paired_strata([1.0, 2.0], category=np.array(["a", None]))
    with pytest.raises(ValueError, match="size has 1 values that are not finite"):
        paired_strata([1.0, np.inf], category=["a", "b"])
    with pytest.raises(ValueError, match=r"occurred_on.shape == \(\), must be \(N,\)"):
        event_start("2017-06-05", START)
    month: Any = "month"
    with pytest.raises(ValueError, match="grain == 'month', must be 'day' or 'week'"):
        event_start([START], START, grain=month)
