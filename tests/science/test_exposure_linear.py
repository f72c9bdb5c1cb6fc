from typing import Any

import numpy as np
import pytest
from scipy import sparse

from pricelab_dagster.science import designs, exposure, market, pair_probabilities

START = "2017-06-05"
EXACT = 1e-9  # least squares on some hundred rows
SIGMAS = 4.0


def random_theta(n: int, n_edges: int, rng: np.random.Generator) -> sparse.csr_array:
    i, j = rng.integers(0, n, (2, n_edges))
    kept = i != j
    return sparse.csr_array((rng.uniform(0.2, 0.6, kept.sum()), (i[kept], j[kept])), shape=(n, n))


def degrees(theta: Any) -> np.ndarray:
    return np.asarray(theta.sum(axis=0)).ravel()


def half(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.arange(n) % 2)


def test_by_hand():
    """A ring of eight: each product is exposed to the one before it."""
    ring = sparse.csr_array(2.0 * np.roll(np.eye(8), 1, axis=1))
    W = np.array([1, 1, 0, 0, 1, 1, 0, 0])
    before = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    e = np.array([1, 0, 0, -1, -1, 0, 0, 1]) * 0.1
    assert (e.sum(), e @ W, e @ before, np.cov(W, before)[0, 1]) == pytest.approx((0, 0, 0, 0))
    found = exposure.linear(3 + 0.1 * W - 0.04 * before + e, W, ring, probability=np.full(8, 0.5))
    assert found.slope == pytest.approx(-0.02)
    assert found.total.effect == pytest.approx(0.06)
    # Squares of W and of exposure 2 `before` sum to 2 and 8; an arm carries its own e and twice that of the next one.
    few = 8 / (8 - 4)
    assert found.direct.se == pytest.approx(np.sqrt(few * 0.25 * (e @ e)) / 2)
    assert found.spillover.se == pytest.approx(2 * np.sqrt(few * 0.25 * 4 * (e @ e)) / 8)


@pytest.mark.parametrize("factor", [1.0, 3.0, -0.5])
def test_a_linear_truth_is_found_whatever_the_degree_does(factor: float):
    """theta is known up to a factor; the outcome also hangs on the degree, which is not randomised."""
    rng = np.random.default_rng(1)
    theta, W = random_theta(120, 300, rng), half(120, rng)
    Y = 2.0 + 1.5 * degrees(theta) + 0.1 * W - 0.05 * (theta.T @ W)
    found = exposure.linear(Y, W, factor * theta, probability=np.full(120, 0.5))
    spill = -0.05 * degrees(theta).mean()
    assert found.direct.effect == pytest.approx(0.1, abs=EXACT)
    assert found.spillover.effect == pytest.approx(spill, abs=EXACT)
    assert found.total.effect == pytest.approx(0.1 + spill, abs=EXACT)
    assert found.slope == pytest.approx(-0.05 / factor, abs=EXACT)


def noisy(seed: int, n: int = 120) -> Any:
    rng = np.random.default_rng(seed)
    theta, W = random_theta(n, 3 * n, rng), half(n, rng)
    return theta, W, 0.1 * W - 0.05 * (theta.T @ W) + rng.normal(0.0, 0.1, n)


def figures(found: Any) -> Any:
    parts = (found.direct, found.spillover, found.total)
    return [value for one in parts for value in (one.effect, one.se, one.ci_lower, one.p_value)]


def test_relabelled_shifted_and_scaled():
    theta, W, Y = noisy(2)
    p, rng = np.full(120, 0.5), np.random.default_rng(3)
    found = exposure.linear(Y, W, theta, probability=p)
    order = rng.permutation(120)
    moved = exposure.linear(Y[order], W[order], theta[order][:, order], probability=p)
    assert figures(moved) == pytest.approx(figures(found))
    assert figures(exposure.linear(Y + 5, W, theta, probability=p)) == pytest.approx(figures(found))
    assert figures(exposure.linear(Y, W, 4 * theta, probability=p)) == pytest.approx(figures(found))
    tripled = exposure.linear(3 * Y, W, theta, probability=p)
    assert tripled.total.effect == pytest.approx(3 * found.total.effect)
    np.testing.assert_allclose(tripled.covariance, 9 * found.covariance)
    np.testing.assert_allclose(found.covariance[2], found.covariance[0] + found.covariance[1])
    assert found.covariance[2, 2] == pytest.approx(found.total.se**2)


def test_ten_copies_of_each_product():
    theta, W, Y = noisy(4, 40)
    found = exposure.linear(Y, W, theta, probability=np.full(40, 0.5))
    copies = np.repeat(np.arange(40), 10)
    again = exposure.linear(
        Y[copies],
        W[copies],
        sparse.csr_array(theta[copies][:, copies] / 10),
        probability=np.full(400, 0.5),
        units=copies,
    )
    assert figures(again) == pytest.approx(figures(found))


def coverage(n_draws: int, given: str) -> tuple[dict[str, int], dict[str, float]]:
    """Shocks common to categories, in which the edges are; effects that differ. Return hits, and mean SE over SD.

    Given draws, the design is one in strata, whose gain only the draws know.
    """
    rng = np.random.default_rng(5)
    n = 240
    category = np.arange(n) // 20
    inside = [rng.choice(np.flatnonzero(category == c), 2, replace=False) for c in rng.integers(0, 12, 700)]
    edges = np.array(inside)
    theta = sparse.csr_array((rng.uniform(0.2, 0.6, 700), tuple(edges.T)), shape=(n, n))
    base = rng.normal(0.0, 0.1, 12)[category] + rng.normal(0.0, 0.1, n)
    own = rng.normal(0.10, 0.03, n)
    truth = {"direct": own.mean(), "spillover": -0.05 * degrees(theta).mean()}
    truth["total"] = truth["direct"] + truth["spillover"]
    blocks: Any = {"strata": np.arange(n) // 4 if given == "draws" else None}
    draw = designs.time_bound(range(n), START, duration=1, **blocks, rng=rng)
    known: Any = {"probability": np.full(n, 0.5)}
    if given == "draws":
        known = {"draws": pair_probabilities.draws(draw, **blocks, n_draws=1_000, rng=rng)}
    hits, effects, errors = dict.fromkeys(truth, 0), {name: [] for name in truth}, {name: [] for name in truth}
    for W in pair_probabilities.draws(draw, **blocks, n_draws=n_draws, rng=rng):
        found = exposure.linear(base + own * W - 0.05 * (theta.T @ W), W, theta, **known)
        for name, value in truth.items():
            one = getattr(found, name)
            hits[name] += one.ci_lower <= value <= one.ci_upper
            effects[name].append(one.effect)
            errors[name].append(one.se)
    return hits, {name: float(np.mean(errors[name]) / np.std(effects[name])) for name in truth}


@pytest.mark.parametrize("given", ["probability", "draws"])
def test_coverage_with_common_shocks(given: str):
    hits, ratios = coverage(400, given)
    # Of 400 sound 95 % intervals 363 to 394 cover, but once in 1,000.
    for name, count in hits.items():
        assert 363 <= count <= 394, name
        assert 0.9 < ratios[name] < 1.15, name


@pytest.fixture(scope="module")
def substitution() -> market.Market:
    return market.simulate(scenario="substitution_middle", n_history=60, n_window=28, rng=np.random.default_rng(1))


def contrasts(drawn: market.Market, W: np.ndarray) -> np.ndarray:
    """What the assignment changed, relative to the untreated mean: the same draw of sales without it taken off."""
    observed = drawn.observe(np.repeat(W[:, None], drawn.n_window, axis=1))
    changed = (observed.units - drawn.untreated_units)[:, drawn.n_history :].mean(axis=1)
    scale = market._scale(drawn.untreated_units[:, : drawn.n_history])
    expected = drawn.expected_demand[:, drawn.n_history :].mean(axis=1)
    return changed / scale / (expected / scale).mean()


# Effects are exponentials, and the model is linear: of a tenth that is some three hundredths of an effect.
SECOND_ORDER = 0.04


@pytest.mark.parametrize("unit", ["product", "niche"])
def test_the_market_of_substitutes(substitution: market.Market, unit: str):
    """Direct, spillover and total of the planted truth, under product and under cluster assignment."""
    one, rng = substitution, np.random.default_rng(2)
    units = one.product_id if unit == "product" else one.subcategory
    direct, total = (one.truth(estimand=name).relative["units"] for name in ("direct", "same_day"))
    draw = designs.time_bound(one.product_id, START, duration=1, units=units, rng=rng)
    found = []
    for W in pair_probabilities.draws(draw, n_draws=12, rng=rng):
        known: Any = {"probability": np.full(len(W), 0.5), "units": units}
        result = exposure.linear(contrasts(one, W), W, one.theta, **known)
        found.append([result.direct.effect, result.spillover.effect, result.total.effect])
    mean, se = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(12)
    truth = np.array([direct, total - direct, total])
    assert (np.abs(mean - truth) < SIGMAS * se + SECOND_ORDER * np.abs(direct)).all()
    if unit == "product":
        assert (np.abs(mean - truth) < 0.1 * np.abs(truth)).all()
    naive = direct - total
    assert abs(mean[2] - total) < 0.4 * naive


def clustered(seed: int = 6) -> Any:
    """Forty clusters of three, all edges inside them."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(40), 3)
    weights = rng.uniform(0.2, 0.6, (120, 120)) * (unit[:, None] == unit) * (rng.random((120, 120)) < 0.7)
    np.fill_diagonal(weights, 0.0)
    return sparse.csr_array(weights), half(40, rng)[unit], unit, rng


def test_clusters_that_hold_all_edges_identify_the_total_only():
    theta, W, unit, rng = clustered()
    own = rng.normal(0.1, 0.02, 120) + 0.05 * degrees(theta)
    Y = own * W - 0.05 * (theta.T @ W) + rng.normal(0.0, 0.02, 120)
    found = exposure.linear(Y, W, theta, probability=np.full(120, 0.5), units=unit)
    for one in (found.direct, found.spillover):
        assert np.isnan([one.effect, one.se, one.p_value]).all()
        assert str(one.reason).startswith("not identified: all neighbours")
    assert found.total.reason is None
    assert abs(found.total.effect - (own - 0.05 * degrees(theta)).mean()) < SIGMAS * found.total.se
    assert np.isnan(found.slope)
    assert np.isfinite(found.covariance).sum() == 1


def test_a_graph_without_edges_shows_the_arms_only():
    theta, W, Y = noisy(7)
    found = exposure.linear(Y, W, 0.0 * theta, probability=np.full(120, 0.5))
    assert found.direct.effect == pytest.approx(Y[W == 1].mean() - Y[W == 0].mean())
    assert np.isnan([found.spillover.effect, found.total.effect]).all()
    assert str(found.total.reason).startswith("not identified: the graph has no edges")


def test_what_the_design_does_not_move_is_not_identified():
    theta, W, Y = noisy(8)
    p = np.full(120, 0.5)
    same = exposure.linear(Y, np.ones(120), theta, probability=p)
    assert "the own arm does not vary" in str(same.total.reason)
    outside = np.where(np.arange(120) < 60, W, -1)
    one_way = sparse.csr_array(sparse.block_array([[None, sparse.csr_array((60, 60))], [theta[:60, :60], None]]))
    fixed = exposure.linear(Y, outside, one_way, probability=p)
    assert "certain of their arm" in str(fixed.total.reason)
    assert fixed.direct.n_units == 60
    swap = np.arange(8) ^ 1
    pairs = sparse.csr_array(np.eye(8)[swap])
    opposite = exposure.linear(Y[:8], [1, 0, 0, 1, 1, 0, 0, 1], pairs, probability=p[:8])
    assert "collinear" in str(opposite.total.reason)
    few = exposure.linear(Y[:4], [1, 0, 1, 0], pairs[:4][:, :4], probability=p[:4])
    assert "fewer than 5 assignment units" in str(few.total.reason)
    for found in (same, fixed, opposite, few):
        assert np.isnan([found.direct.effect, found.spillover.effect, found.total.effect, found.total.se]).all()


def test_missing_outcomes_still_expose_others():
    theta, W, _ = noisy(9)
    exact = 0.1 * W - 0.05 * (theta.T @ W)
    exact[:30] = np.nan
    found = exposure.linear(exact, W, theta, probability=np.full(120, 0.5))
    assert found.direct.n_units == 90
    assert found.total.effect == pytest.approx(0.1 - 0.05 * degrees(theta)[30:].mean(), abs=EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": None}, "both None, must be exactly one"),
        ({"draws": np.zeros((3, 120))}, "both given, must be exactly one"),
        ({"probability": None, "draws": np.zeros((3, 7))}, r"draws.shape == \(3, 7\)"),
        ({"probability": np.full(120, 1.5)}, r"must be \(120,\) in \[0, 1\]"),
        ({"arm": np.full(120, 2.0)}, "arm has the value 2.0"),
        ({"outcome": np.zeros(7)}, r"outcome.shape == \(7,\)"),
        ({"units": np.zeros(7)}, r"units.shape == \(7,\)"),
        ({"confidence": 1.0}, "confidence == 1.0"),
        ({"adjacency": sparse.eye_array(120)}, "120 products that reach themselves"),
    ],
)
def test_what_has_no_meaning_is_refused(change: Any, message: str):
    theta, W, Y = noisy(10)
    options: Any = {"outcome": Y, "arm": W, "adjacency": theta, "probability": np.full(120, 0.5)} | change
    with pytest.raises(ValueError, match=message):
        exposure.linear(**options)
