from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise, permutations, product
from math import comb
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science import _exposure_designs, designs, pair_probabilities
from pricelab_dagster.science.pair_probabilities import CONTROL, OUT, TREATMENT, closed_form, monte_carlo, of_scope
from tests.science.test_design_probabilities import law

START = "2017-06-05"
EXACT = 1e-12  # probabilities of order one, from sums of a few thousand terms
# Of a sound frequency 6 in 100,000 leave 4 standard errors; those of edges come in groups that share their draws.
SIGMAS, SHARE_BEYOND, LARGEST = 4.0, 5e-4, 6.5
HALF = Fraction(1, 2)
SHARES = [HALF, Fraction(3, 10), Fraction(2, 3)]


def all_pairs(n: int) -> np.ndarray:
    return np.array([(i, j) for i in range(n) for j in range(n)])


def state_tables(found: Any, n: int, period: int) -> np.ndarray:
    """Return (n * n, 3, 3) from the exact law of arms (n, T)."""
    table = np.zeros((n, n, 3, 3))
    for arm, weight in found.items():
        state = [TREATMENT if row[period] else CONTROL for row in arm]
        for i, j in product(range(n), repeat=2):
            table[i, j, state[i], state[j]] += float(weight)
    return table.reshape(-1, 3, 3)


CASES = {
    "time_bound": {"duration": 1},
    "crossover": {"phase": 1, "phases": 2, "blackout": 0},
    "triggered": {"duration": 1, "horizon": START, "triggered_on": [START] * 6},
    "coins": {"duration": 1, "balance": "none"},
}


@pytest.mark.parametrize("share", SHARES[:2], ids=str)
@pytest.mark.parametrize("strata", [None, [0, 0, 1, 0, 1, 2], [0, 1, 2, 2, 1, 0]], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_path_of_the_designs_agrees(name: Any, strata: Any, share: Any) -> None:
    """Six products in five units, the whole mechanism gone through; both phases of the crossover."""
    units = [0, 1, 2, 3, 3, 4]
    design = designs.random_days if name == "coins" else getattr(designs, name)
    options: Any = {**CASES[name], "units": units, "strata": strata, "share": float(share)}

    def draw(rng: Any) -> Any:
        return design(range(6), START, **options, rng=rng)

    recorded = draw(np.random.default_rng(0))
    shift = recorded.arm.shape[1] - 1 if name == "triggered" else 0
    found = law(lambda rng: draw(rng).arm, share)
    for period in range(2 if name == "crossover" else 1):
        exact = state_tables(found, 6, period + shift)
        stated = closed_form(all_pairs(6), recorded, strata=strata, period=period + shift)
        np.testing.assert_allclose(stated.probability, exact, atol=EXACT)
        assert stated.n_draws == 0
        assert not stated.se.any()


@pytest.mark.parametrize(
    "stratum", [[0] * 8, [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2], [1, 0, 0, 2, 0, 0, 0, 2]]
)
@pytest.mark.parametrize("share", [*SHARES, Fraction(1, 7)], ids=str)
def test_systematic_samples_of_eight_units(stratum: Any, share: Any) -> None:
    """All orders inside the strata, and every interval of the random start."""
    stratum = np.array(stratum)
    blocks = [list(permutations(np.flatnonzero(stratum == s))) for s in range(stratum.max() + 1)]
    orders = np.array([np.concatenate(parts) for parts in product(*blocks)])
    cuts = sorted({Fraction(0), Fraction(1)} | {-k * share % 1 for k in range(9)})
    table = np.zeros((8, 8))
    for low, high in pairwise(cuts):
        steps = [(low + high) / 2 + k * share for k in range(9)]
        places = np.array([int(b) > int(a) for a, b in pairwise(steps)])
        taken = np.zeros(orders.shape)
        np.put_along_axis(taken, orders, np.broadcast_to(places, orders.shape).astype(float), axis=1)
        table += float(high - low) * (taken.T @ taken) / len(orders)
    of = _exposure_designs.Drawing(
        "systematic", np.arange(8), stratum, float(share), False, np.ones(8, dtype=bool), False
    )
    pairs = all_pairs(8)
    np.testing.assert_allclose(_exposure_designs.both_taken(of, *pairs.T), table.ravel(), atol=EXACT)


def test_two_halves_of_four_by_hand() -> None:
    """Half of four: two of them; of a pair in a stratum of two exactly one."""
    draw = designs.time_bound(list("abcd"), START, duration=1, rng=np.random.default_rng(0))
    both = closed_form([[0, 1]], draw).probability[0, TREATMENT, TREATMENT]
    assert both == pytest.approx(1 / comb(4, 2), abs=EXACT)
    paired = designs.time_bound(list("abcd"), START, duration=1, strata=[0, 0, 1, 1], rng=np.random.default_rng(0))
    table = closed_form([[0, 1], [0, 2], [1, -1]], paired, strata=[0, 0, 1, 1]).probability
    np.testing.assert_array_equal(table[0], [[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])
    assert table[1, TREATMENT, TREATMENT] == pytest.approx(0.25, abs=EXACT)
    np.testing.assert_array_equal(table[2], [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]])


def test_balanced_partners_are_opposites() -> None:
    strata = [0, 0, 0, 1, 1, 1, 1]
    draw = designs.random_days(range(7), START, duration=14, strata=strata, rng=np.random.default_rng(0))
    exact = closed_form(all_pairs(7), draw, strata=strata, period=3).probability.reshape(7, 7, 3, 3)
    rng = np.random.default_rng(1)
    options: Any = {"duration": 14, "strata": strata}
    drawn = np.array([designs.random_days(range(7), START, **options, rng=rng).arm[:, 3] for _ in range(600)])
    never = [(i, j) for i, j in combinations(range(7), 2) if not (drawn[:, i] & drawn[:, j]).any()]
    assert never == [(i, j) for i, j in combinations(range(7), 2) if exact[i, j, TREATMENT, TREATMENT] == 0.0]
    assert len(never) == 3


@pytest.mark.parametrize("design", ["time_bound", "crossover", "coins", "balanced"])
def test_a_hundred_thousand_edges_agree_with_monte_carlo(design: Any) -> None:
    n, rng = 2_000, np.random.default_rng(2)
    units, strata = np.arange(n) // 2, np.arange(n) // 7 % 200
    edges = rng.integers(0, n, (100_000, 2))
    edges[:10_000, 1] = (edges[:10_000, 0] + rng.integers(1, 4, 10_000)) % n
    options: Any = {"units": units, "strata": strata, "rng": rng}
    if design == "time_bound":
        draw = designs.time_bound(range(n), START, duration=1, share=0.3, **options)
    elif design == "crossover":
        draw = designs.crossover(range(n), START, phase=1, blackout=0, share=0.3, **options)
    else:
        balance: Any = {"coins": "none", "balanced": "day_of_week"}[design]
        draw = designs.random_days(range(n), START, duration=14, balance=balance, **options)
    period = draw.arm.shape[1] - 1
    exact = closed_form(edges, draw, strata=strata, period=period)
    drawn = pair_probabilities.draws(draw, strata=strata, period=period, n_draws=2_000, rng=rng)
    found = monte_carlo(edges, drawn)
    p = exact.probability
    se = np.sqrt(p * (1 - p) / 2_000)
    z = np.where(se > 0, (found.probability - p) / np.where(se > 0, se, 1.0), 0.0)[:, 1:, 1:]
    np.testing.assert_allclose(found.probability[se == 0], p[se == 0], atol=EXACT)
    assert (np.abs(z) > SIGMAS).mean() < SHARE_BEYOND
    assert np.abs(z).max() < LARGEST
    assert 0.9 < z[se[:, 1:, 1:] > 0].std() < 1.1
    wrong = np.where(se > 0, p + 0.02, p)
    assert (np.abs(found.probability - wrong) > SIGMAS * se).mean() > SHARE_BEYOND


def test_a_sample_before_the_draw_against_all_samples() -> None:
    """Four of five clusters of two are sampled, half of them treated; every sample and every order of it."""
    clusters = np.arange(10) // 2
    draw = designs.time_bound(range(8), START, duration=1, units=clusters[:8], rng=np.random.default_rng(0))
    exact = np.zeros((10, 10, 3, 3))
    for inside in combinations(range(5), 4):
        for treated in combinations(inside, 2):
            state = np.array([TREATMENT if c in treated else CONTROL if c in inside else OUT for c in clusters])
            exact[np.arange(10)[:, None], np.arange(10), state[:, None], state] += 1 / (5 * 6)
    stated = of_scope(all_pairs(10), draw, clusters, sample_share=0.8, units=clusters)
    np.testing.assert_allclose(stated.probability, exact.reshape(-1, 3, 3), atol=EXACT)


def test_a_sample_of_products_before_coins_for_clusters() -> None:
    clusters = np.arange(6) // 2
    draw = designs.random_days(range(8), START, duration=1, balance="none", share=0.3, rng=np.random.default_rng(0))
    table = of_scope([[0, 1], [0, 2]], draw, list("abcdef"), sample_share=0.5, units=clusters).probability
    both_in = 3 * 2 / (6 * 5)
    assert table[0, TREATMENT, TREATMENT] == pytest.approx(both_in * 0.3, abs=EXACT)
    assert table[1, TREATMENT, CONTROL] == pytest.approx(both_in * 0.21, abs=EXACT)
    assert table[1, TREATMENT, OUT] == pytest.approx((0.5 - both_in) * 0.3, abs=EXACT)
    np.testing.assert_allclose(table.sum(axis=(1, 2)), 1.0, atol=EXACT)


@pytest.mark.parametrize("design", list(CASES))
def test_rows_names_and_directions_do_not_matter(design: Any) -> None:
    rng = np.random.default_rng(3)
    strata = np.array([2, 0, 1, 0, 1, 2])
    make = designs.random_days if design == "coins" else getattr(designs, design)
    options: Any = {**CASES[design], "share": 0.3, "rng": rng}
    draw = make(range(6), START, strata=strata, **options)
    named = make(list("uvwxyz"), START, strata=np.array(["p", "q", "r"])[strata], **options)
    edges = all_pairs(6)
    one = closed_form(edges, draw, strata=strata).probability
    other = closed_form(edges, named, strata=np.array(["p", "q", "r"])[strata]).probability
    np.testing.assert_array_equal(one, other)
    flipped = closed_form(edges[::-1, ::-1], draw, strata=strata).probability
    np.testing.assert_allclose(flipped, one[::-1].transpose(0, 2, 1), atol=EXACT)


def test_monte_carlo_by_hand_and_by_counting() -> None:
    rng = np.random.default_rng(4)
    drawn = rng.integers(-1, 2, (75, 9))
    edges = all_pairs(9)
    found = monte_carlo(edges, np.where(drawn < 0, np.nan, drawn))
    code = np.array([CONTROL, TREATMENT, OUT])[drawn]
    for (i, j), table in zip(edges, found.probability, strict=True):
        for a, b in product(range(3), repeat=2):
            assert table[a, b] == pytest.approx(((code[:, i] == a) & (code[:, j] == b)).mean(), abs=EXACT)
    assert found.se[1, 1, 1] == pytest.approx(
        np.sqrt(found.probability[1, 1, 1] * (1 - found.probability[1, 1, 1]) / 75)
    )


def test_triggered_products_are_out_outside_their_window() -> None:
    events = ["2017-06-05", None, "2017-06-05", "2017-06-06"]
    options: Any = {"duration": 1, "horizon": "2017-06-07", "triggered_on": events}
    draw = designs.triggered(list("abcd"), START, **options, rng=np.random.default_rng(0))
    ever = closed_form([[0, 2], [0, 1], [0, 3]], draw).probability
    first_day = closed_form([[0, 2], [0, 1], [0, 3]], draw, period=0).probability
    assert ever[0, OUT].sum() == first_day[0, OUT].sum() == 0.0
    np.testing.assert_allclose(ever[1], [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0]], atol=EXACT)
    assert ever[2, TREATMENT, TREATMENT] > 0
    assert first_day[2, :, OUT].sum() == 1.0
    drawn = pair_probabilities.draws(draw, period=0, n_draws=5, rng=np.random.default_rng(1))
    assert (drawn[:, [1, 3]] == -1).all()
    assert (drawn[:, [0, 2]] >= 0).all()


def plain(**options: Any) -> designs.Assignment:
    return designs.time_bound(list("abcd"), START, duration=1, **options, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: closed_form([[0, 1]], plain(strata=[0, 0, 1, 1])), r"strata == None, must be \(N,\)"),
        (lambda: closed_form([[0, 1]], plain(), strata=[0, 0, 1, 1]), "must be None for a draw without strata"),
        (lambda: closed_form([[0, 4]], plain()), r"edges has the position 4, must be in \[-1, 4\)"),
        (lambda: closed_form([[0, 1, 2]], plain()), r"edges.shape == \(1, 3\), must be \(M, 2\)"),
        (lambda: closed_form([[0, 1]], plain(), period=1), r"period == 1, must be in \[0, 1\)"),
        (lambda: monte_carlo([[0, 1]], [[0, 2], [1, 0]]), "draws has the value 2, must be"),
        (lambda: monte_carlo([[0, 1]], [[0, 1]]), r"draws.shape == \(1, 2\), must be"),
        (
            lambda: of_scope([[0, 1]], plain(strata=[0, 0, 1, 1]), list("abcde"), sample_share=0.8),
            "must be of coins, or without strata",
        ),
        (lambda: of_scope([[0, 1]], plain(), [0, 0, 1, 2, 3], sample_share=0.5), "must be of coins, or without strata"),
        (lambda: of_scope([[0, 1]], plain(), list("abcde"), sample_share=1.2), "share == 1.2, must be in"),
    ],
)
def test_what_has_no_meaning_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_imported_assignment_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the call of a design"):
        closed_form([[0, 1]], replace(plain(), mechanism="imported from arms.csv"))
