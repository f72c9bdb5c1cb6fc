from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from pricelab_dagster.science import certificate, designs
from pricelab_dagster.science._certificate_regressions import parts
from pricelab_dagster.science._draws import draw_arms
from pricelab_dagster.science.market import Market, simulate

EXACT = 1e-9
WEEKS = 52
# The bias left by strong substitution is some .05 by product; at these sizes its own error is a tenth of that.
SHOWN = 0.03
# Frequencies over 4,000 draws have a standard error of .016 in a correlation; five of them.
DRAWN = 0.08
# Standard deviation over 2,000 draws: 1.6 %, three of them; the linear approximation adds less.
SD_SLACK = 0.05


def history(n: int, rng: np.random.Generator, theta: np.ndarray, weeks: int = WEEKS) -> tuple[np.ndarray, np.ndarray]:
    """Demand of 50 that answers prices in logs, with noise of a thousandth; small price movements."""
    log_price = 0.02 * rng.normal(size=(n, 7 * weeks))
    return 50 * np.exp(theta.T @ log_price + 0.001 * rng.normal(size=log_price.shape)), np.exp(log_price)


def names(n: int) -> np.ndarray:
    return np.array([f"p{i:02d}" for i in range(n)], dtype=object)


def observed(market: Market) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    past = np.s_[:, : market.n_history]
    return market.product_id, market.untreated_units[past], market.incumbent_price[past], market.category


@pytest.fixture(scope="module")
def strong() -> Market:
    return simulate(scenario="substitution_strong", n_products=600, rng=np.random.default_rng(7000))


@pytest.fixture(scope="module")
def evidence(strong) -> certificate.Evidence:
    return certificate.evidence(*observed(strong))


@pytest.fixture(scope="module")
def small() -> tuple[certificate.Evidence, np.ndarray]:
    """Six products of two categories, an exact history, and theta."""
    theta = np.zeros((6, 6))
    theta[0, 1], theta[1, 0], theta[2, 1], theta[3, 4], theta[5, 3] = 0.4, 0.2, 0.3, 0.6, -0.3
    units, price = history(6, np.random.default_rng(1), theta)
    return certificate.evidence(names(6), units, price, list("aaabbb")), theta


def test_bias_by_hand_and_by_brute_force_over_pairs(small):
    found, theta = small
    rng = np.random.default_rng(2)
    half = rng.uniform(-1, 1, (6, 6))
    rho = (half + half.T) / 2
    prediction = certificate.predict(found, sparse.csr_array(rho), rng=rng)
    s = sum(theta[i, j] for i in range(6) for j in range(6) if i != j) / 6
    apart = sum(theta[i, j] * (1 - rho[i, j]) for i in range(6) for j in range(6) if i != j) / 6
    # Movements of 2 %: logs and parts differ by some .005 of the effect, the centred mean by less.
    assert prediction.total == pytest.approx(s, rel=0.02)
    assert s == pytest.approx(1.2 / 6)
    assert prediction.apart == pytest.approx(apart, rel=0.02)
    assert prediction.first_order == pytest.approx(-np.log(0.95) * prediction.apart, rel=EXACT)
    exact = 0.95**found.own_elasticity * (0.95 ** (prediction.total - prediction.apart) - 0.95**prediction.total)
    assert prediction.bias == pytest.approx(exact, rel=EXACT)
    assert found.identified_share == 1.0


def test_no_bias_where_all_move_together_and_twice_where_they_move_against_each_other(small):
    found, _ = small
    plain = certificate.predict(found, sparse.csr_array((6, 6)), rng=np.random.default_rng(0))
    whole = certificate.predict(found, certificate.same_unit(list("aaabbb")), rng=np.random.default_rng(0))
    against = certificate.predict(found, sparse.csr_array(-np.ones((6, 6))), rng=np.random.default_rng(0))
    assert plain.first_order == pytest.approx(-np.log(0.95) * plain.total, rel=EXACT)
    assert whole.bias == pytest.approx(0, abs=EXACT)
    assert whole.kept_share == pytest.approx(1, abs=EXACT)
    assert against.first_order == pytest.approx(2 * plain.first_order, rel=EXACT)


def test_a_rise_of_prices_turns_the_sign(small):
    found, _ = small
    independent = sparse.csr_array((6, 6))
    cut, rise = (
        certificate.predict(found, independent, multiplier=m, rng=np.random.default_rng(0)) for m in (0.9, 1.1)
    )
    assert cut.bias > 0 > rise.bias


def test_row_order_names_and_scales_do_not_matter():
    rng = np.random.default_rng(3)
    theta = np.where(rng.random((6, 6)) < 0.4, 0.4, 0.0)
    np.fill_diagonal(theta, -2.0)
    units, price = history(6, rng, theta)
    units = rng.poisson(units).astype(float)
    order, scale = rng.permutation(6), np.array([1.0, 2, 3, 4, 5, 6])[:, None]
    labels = np.array(list("aaabbb"))
    plain = certificate.evidence(names(6), units, price, labels)
    other = certificate.evidence(names(6)[::-1], (scale * units)[order], (scale * price)[order], labels[order])
    rho = np.full((6, 6), 0.25)
    first, second = (
        certificate.predict(e, sparse.csr_array(rho), rng=np.random.default_rng(4)) for e in (plain, other)
    )
    assert first.bias == pytest.approx(second.bias, rel=1e-6)
    assert first.se == pytest.approx(second.se, rel=1e-6)
    assert first.se > 0


def test_products_of_one_price_series_count_once():
    theta = np.zeros((4, 4))
    theta[0, 3] = theta[1, 3] = 0.2
    rng = np.random.default_rng(5)
    _, price = history(4, rng, theta)
    price[1] = price[0]
    units = 50 * np.exp(theta.T @ np.log(price) + 0.001 * rng.normal(size=price.shape))
    found = certificate.evidence(names(4), units, price, list("aaaa"))
    # Twelve pairs, of which (0, 1) and (1, 0) are not identified and count like the rest: .4 / 10 each.
    prediction = certificate.predict(found, sparse.csr_array((4, 4)), rng=rng)
    assert prediction.identified_share == pytest.approx(10 / 12)
    assert prediction.total == pytest.approx(0.4 * 12 / 10 / 4, rel=0.02)


def test_thin_products_count_like_the_rest_of_their_category():
    theta = np.where(np.eye(4, dtype=bool), 0.0, 0.3)
    units, price = history(4, np.random.default_rng(6), theta)
    units[3] *= 0.001
    found = certificate.evidence(names(4), units, price, list("aaaa"))
    prediction = certificate.predict(found, sparse.csr_array((4, 4)), rng=np.random.default_rng(0))
    assert prediction.identified_share == pytest.approx(6 / 12)
    # The thin product's price still moves the others: what three prices cannot explain is small here, not zero.
    assert prediction.total == pytest.approx(0.9, rel=0.1)


def test_draws_of_the_design_give_its_correlation(evidence, strong):
    strata = designs.size_strata(strong.category, evidence.mean_units)
    rng = np.random.default_rng(8)
    draws = np.stack([draw_arms(strata, 0.5, 1, rng) for _ in range(4000)])
    rho = certificate.same_stratum(strata).toarray()
    near = np.corrcoef(draws[:, :60].T.astype(float))
    assert np.abs(near - rho[:60, :60]).max() < DRAWN
    assert np.abs(near).max() > 1 - EXACT
    assert near.min() < -0.25
    by_draws, by_matrix = (
        certificate.predict(evidence, design, rng=np.random.default_rng(9)) for design in (draws, sparse.csr_array(rho))
    )
    # The errors of 11,400 correlations cancel in the sum.
    assert by_draws.bias == pytest.approx(by_matrix.bias, rel=0.01)
    assert by_matrix.apart > by_matrix.total


def test_certificate_meets_the_market(evidence, strong):
    """By product and by cluster the interval holds what re-drawn arms of the market read, and the sign is theirs."""
    rng = np.random.default_rng(10)
    formed = certificate.form_clusters(evidence, max_size=12, rng=rng)
    independent = sparse.csr_array((600, 600))
    product, cluster = (certificate.predict(evidence, design, rng=rng) for design in (independent, formed))
    for prediction, unit in ((product, np.arange(600)), (cluster, formed.label)):
        draws = rng.integers(0, 2, (400, int(unit.max()) + 1))[:, unit]
        truth = market_bias(strong, draws)
        assert prediction.ci_lower < truth < prediction.ci_upper
        assert truth > 0
    assert product.bias > SHOWN > cluster.bias
    assert 0.4 < cluster.kept_share < 0.95
    oracle = certificate.predict(evidence, certificate.same_unit(strong.category), rng=rng)
    assert oracle.bias == pytest.approx(0, abs=EXACT)


def market_bias(market: Market, draws: np.ndarray) -> float:
    """Mean over draws of the relative difference between arms, less the effect of treating every product."""
    W, lm = draws.astype(float), np.log(market.treatment_multiplier)
    own, spill = market.own_elasticity * lm, lm * np.asarray(W @ market.theta.toarray())
    alone, both = np.exp(W * own), np.exp(W * own + spill)

    def effect(Y: np.ndarray) -> np.ndarray:
        treated, control = (Y * W).sum(axis=1) / W.sum(axis=1), (Y * (1 - W)).sum(axis=1) / (1 - W).sum(axis=1)
        return treated / control - 1

    all_treated = np.exp(own + lm * np.asarray(market.theta.sum(axis=0)))
    # The effect with the arms alone is drawn beside it: its mean is known, and most of the chance goes with it.
    return float((effect(both) - effect(alone)).mean() + np.exp(own).mean() - all_treated.mean())


def test_clusters_are_judged_by_weeks_that_did_not_form_them():
    market = simulate(scenario="null", n_products=600, rng=np.random.default_rng(11))
    found = certificate.evidence(*observed(market))
    formed = certificate.form_clusters(found, max_size=12, rng=np.random.default_rng(12))
    honest = certificate.predict(found, formed, rng=np.random.default_rng(13))
    naive = certificate.predict(found, certificate.same_unit(formed.label), rng=np.random.default_rng(13))
    whole = certificate.predict(found, sparse.csr_array((600, 600)), rng=np.random.default_rng(13))
    # Chosen links look like .3 each where there is nothing; the same weeks take that for bias that clusters remove.
    assert whole.first_order - naive.first_order > 0.02
    assert abs(whole.bias - honest.bias) < 2.5 * honest.se
    assert np.isnan(honest.kept_share)


def test_frontier_and_recommendation(evidence, strong):
    strata = designs.size_strata(strong.category, evidence.mean_units)
    D = strong.untreated_units[:, -28:].mean(axis=1) / evidence.mean_units - 1
    choices = certificate.frontier(evidence, D, caps=(1, 12), strata=strata, rng=np.random.default_rng(14))
    product, alone, clusters = choices
    assert [one.max_size for one in choices] == [None, 1, 12]
    assert product.n_units == alone.n_units == 600 > clusters.n_units
    assert product.se_cost == 0
    assert clusters.mde == pytest.approx(2.8 * clusters.se)
    assert clusters.bias < alone.bias <= product.bias
    assert clusters.rmse == pytest.approx(np.hypot(clusters.bias, clusters.se))
    found = certificate.recommend(choices)
    assert found.choice is clusters
    assert found.sentence.startswith("Assign clusters of at most 12 products: spillover bias ")
    assert "not shown" not in found.sentence
    unsure = [replace(product, ci_lower=-0.01, identified_share=0.5), *choices[1:]]
    doubted = certificate.recommend(unsure).sentence
    assert "Interference is not shown" in doubted
    assert "50 % of the pairs are not identified" in doubted
    cheap = [replace(product, bias=0.0, rmse=product.se), *choices[1:]]
    assert certificate.recommend(cheap).choice is cheap[0]
    assert "By clusters of at most 12 products it would be" in certificate.recommend([cheap[0], clusters]).sentence
    assert "By pairs of products across categories it" in certificate.recommend([cheap[0], alone]).sentence
    with pytest.raises(ValueError, match="none by product"):
        certificate.recommend(choices[1:])


def test_standard_error_is_that_of_redrawn_arms():
    rng = np.random.default_rng(15)
    unit = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    D = rng.normal(size=60)[unit] + rng.normal(size=len(unit))
    strata = np.arange(60) // 4
    draws = np.stack([draw_arms(strata, 0.5, 1, rng)[unit] for _ in range(2000)]) == 1
    spread = np.std([D[w].mean() - D[~w].mean() for w in draws])
    assert certificate.standard_error(D, units=unit, strata=strata[unit]) == pytest.approx(spread, rel=SD_SLACK)
    assert certificate.standard_error(D) < 0.8 * spread


def test_standard_error_ignores_copies_shift_and_order():
    rng = np.random.default_rng(16)
    D, strata = rng.normal(size=12), np.arange(12) // 4
    plain = certificate.standard_error(D, strata=strata)
    copies = np.repeat(np.arange(12), 10)
    assert certificate.standard_error(D[copies], units=copies, strata=strata[copies]) == pytest.approx(plain, rel=EXACT)
    order = rng.permutation(12)
    assert certificate.standard_error(7 + D[order], strata=strata[order]) == pytest.approx(plain, rel=EXACT)
    assert certificate.standard_error(-3 * D, strata=strata) == pytest.approx(3 * plain, rel=EXACT)


def test_short_histories_say_what_they_cannot():
    theta = np.where(np.eye(4, dtype=bool), 0.0, 0.3)

    def known(weeks: int) -> certificate.Evidence:
        units, price = history(4, np.random.default_rng(17), theta, weeks)
        return certificate.evidence(names(4), units, price, list("aabb"))

    assert [known(w).levels for w in (52, 51, 34, 25)] == [(2, 4), (4,), (), ()]
    rng, independent = np.random.default_rng(18), sparse.csr_array((4, 4))
    short = certificate.predict(known(25), independent, rng=rng)
    assert np.isnan(short.bias)
    assert short.reason == "not identified: 25 weeks of history, needs 26."
    middle = known(34)
    formed = certificate.form_clusters(middle, max_size=2, rng=rng)
    assert certificate.predict(middle, independent, rng=rng).bias > 0
    assert certificate.predict(middle, formed, rng=rng).reason.startswith("not identified: too few weeks to form")
    found = certificate.recommend(certificate.frontier(known(25), [0.1, -0.2, 0.3, 0.0], caps=(2,), rng=rng))
    assert found.choice is None
    assert "25 weeks of history" in found.sentence
    alone = certificate.evidence(names(2), *history(2, rng, np.zeros((2, 2))), ["a", "b"])
    assert certificate.predict(alone, sparse.csr_array((2, 2)), rng=rng).reason.startswith(
        "not identified: no category"
    )


def test_parts_are_whole_weeks():
    assert np.bincount(parts(53, 4, 7)).tolist() == [91, 91, 91, 98]
    assert parts(2, 1, 1).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("design", "change", "message"),
    [
        (sparse.csr_array((5, 5)), {}, r"design.shape == \(5, 5\), must be \(6, 6\)"),
        (sparse.csr_array(2 * np.eye(6)), {}, r"must be \(6, 6\) in \[-1, 1\]"),
        (np.zeros((4, 5)), {}, r"must be \(R, 6\) of 0 and 1"),
        (np.full((4, 6), 0.5), {}, r"of 0 and 1"),
        (np.ones((4, 6)), {}, r"design has 6 products with one arm in all draws"),
        (sparse.csr_array((6, 6)), {"multiplier": 1.0}, r"multiplier == 1.0, must be above 0 and not 1"),
        (sparse.csr_array((6, 6)), {"confidence": 95.0}, r"confidence == 95.0"),
    ],
)
def test_errors_name_value_and_rule(small, design, change, message):
    with pytest.raises(ValueError, match=message):
        certificate.predict(small[0], design, rng=np.random.default_rng(0), **change)


def test_same_input_same_bytes(evidence):
    first, second = (
        certificate.predict(evidence, sparse.csr_array((600, 600)), rng=np.random.default_rng(19)) for _ in range(2)
    )
    assert first == second
