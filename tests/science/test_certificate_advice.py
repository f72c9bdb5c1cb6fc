"""Choices of a certificate beside each other: standard errors of designs, what is told apart, and the words for it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse, stats

from pricelab_dagster.science import certificate
from pricelab_dagster.science._draws import draw_arms

EXACT = 1e-9
WEEKS = 52
# Systematic draws run over pairs otherwise than strata do: by .15 in one history, a third of that over eight.
SD_SLACK = 0.15


def choice(
    max_size: int | None = None, *, bias: float, errors: tuple[float, ...], **other: object
) -> certificate.Choice:
    """A choice whose bias is known to a hundredth of a point."""
    se = float(np.sqrt(np.mean(np.square(errors))))
    stated = certificate.Choice(
        assignment="product" if max_size is None else "cluster",
        max_size=max_size,
        n_units=40,
        bias=bias,
        bias_se=1e-4,
        ci_lower=bias - 2e-4,
        ci_upper=bias + 2e-4,
        kept_share=0.5,
        identified_share=1.0,
        se=se,
        se_cost=0.0,
        mde=2.8 * se,
        rmse=float(np.hypot(bias, se)),
        reason=None,
        se_by_window=errors,
        bias_drawn=bias + 1e-4 * np.array([-1.0, 1.0]),
    )
    return replace(stated, **other)  # type: ignore[arg-type]  # any of the fields


UNKNOWN = {"bias": np.nan, "rmse": np.nan, "ci_lower": np.nan, "ci_upper": np.nan, "bias_drawn": np.empty(0)}
TOO_SHORT = "not identified: too few weeks to form clusters."


@pytest.mark.parametrize(("share", "n_arms"), [(0.2, 1), (0.5, 2), (0.75, 3)])
@pytest.mark.parametrize("block", [2, 4])
def test_standard_error_of_a_share_and_of_one_of_several_arms_is_that_of_redrawn_arms(share, n_arms, block):
    rng, strata = np.random.default_rng(1), np.arange(96) // block
    squares = []
    for _ in range(8):
        # neighbouring strata are alike, as they are where they are cut from an order of sizes
        D = rng.normal(size=96) + np.linspace(0, 2, 96)
        draws = np.stack([draw_arms(strata, share, n_arms, rng) for _ in range(200)])
        spread = np.var([D[arm == 1].mean() - D[arm == 0].mean() for arm in draws])
        error = certificate.standard_error(D, strata=strata, share=share, n_arms=n_arms)
        squares.append((error**2, spread, certificate.standard_error(D, strata=strata) ** 2))
    found, drawn, halves = np.sqrt(np.mean(squares, axis=0))
    assert found == pytest.approx(drawn, rel=SD_SLACK)
    assert halves < (1 - SD_SLACK) * drawn


def test_standard_error_of_a_share_by_hand():
    # four units in one stratum: S = 1, 3, -1, -3, n / (n - 1) 20 = 80 / 3; 1 / .25 + 1 / .75 = 16 / 3
    found = certificate.standard_error([1.0, 3.0, -1.0, -3.0], share=0.25)
    assert found == pytest.approx(np.sqrt(80 / 3 * 16 / 3) / 4, rel=EXACT)


def test_strata_join_until_the_smallest_arm_has_a_unit_in_each():
    pairs = np.repeat(np.arange(5), 2)
    assert certificate.joined(pairs).tolist() == pairs.tolist()
    assert certificate.joined(pairs, share=0.25).tolist() == [0] * 4 + [1] * 6
    assert certificate.joined(pairs, share=0.5, n_arms=2).tolist() == [0] * 4 + [1] * 6
    assert certificate.joined(pairs, share=0.01).tolist() == [0] * 10


@pytest.mark.parametrize(
    ("options", "message"), [({"share": 1.0}, "share == 1.0, must be in"), ({"n_arms": 0}, "n_arms == 0, must be 1")]
)
def test_standard_errors_refuse_what_is_no_design(options, message):
    with pytest.raises(ValueError, match=message):
        certificate.standard_error([1.0, 2.0, 3.0, 4.0], **options)


def test_told_apart_by_hand():
    best = choice(8, bias=0.0, errors=(0.05, 0.05, 0.05), bias_drawn=np.zeros(2))
    near = choice(12, bias=0.0, errors=(0.05, 0.06, 0.07), bias_drawn=np.zeros(2))
    # differences 0, .01, .02: mean .01, standard error .01 / sqrt 3, t with two degrees of freedom 4.30
    edge = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert near.rmse - best.rmse < edge
    assert not certificate.told_apart(near, best)
    shift = edge - (near.rmse - best.rmse)
    further = replace(near, rmse=near.rmse + 1.01 * shift)
    assert certificate.told_apart(further, best)
    assert certificate.told_apart(best, further)
    # the weeks move the bias: .05 and -.05 about a bias of .1 are noise of more than that
    assert not certificate.told_apart(replace(further, bias_drawn=np.array([0.0, 0.15])), best)
    assert not certificate.told_apart(best, best)
    one_window = [replace(one, se_by_window=one.se_by_window[:1]) for one in (best, further)]
    assert not certificate.told_apart(*one_window)


def test_choices_within_their_noise_are_not_ranked_and_the_planned_one_is_taken():
    product = choice(bias=0.10, errors=(0.05, 0.051, 0.05))
    four, eight = choice(4, bias=0.03, errors=(0.05, 0.07, 0.06)), choice(8, bias=0.03, errors=(0.07, 0.05, 0.061))
    assert four.rmse < eight.rmse
    free = certificate.recommend([product, four, eight])
    assert free.choice is four
    assert "As good for all that is known: by clusters of at most 8 products; over 3 windows" in free.sentence
    assert certificate.recommend([product, four, eight], planned=eight).choice is eight
    assert certificate.recommend([product, four, eight], planned=product).choice is four
    clear = choice(8, bias=0.08, errors=(0.07, 0.07, 0.07))
    assert certificate.recommend([product, four, clear], planned=clear).choice is four
    assert "As good" not in certificate.recommend([product, four, clear]).sentence


def test_products_are_not_advised_where_they_are_biased_and_clusters_unknown():
    biased = choice(bias=0.07, errors=(0.05, 0.05))
    unknown = replace(choice(4, bias=0.0, errors=(0.06, 0.06)), reason=TOO_SHORT, **UNKNOWN)
    refused = certificate.recommend([biased, unknown])
    assert refused.choice is None
    assert refused.sentence.startswith("No recommendation: by product spillover bias 7.0 points (7.0 to 7.0), standard")
    assert refused.sentence.endswith("Clusters could not be judged: too few weeks to form clusters.")
    unsure = replace(biased, ci_lower=-0.01, ci_upper=0.15)
    taken = certificate.recommend([unsure, unknown])
    assert taken.choice is unsure
    assert "Clusters could not be judged: too few weeks" in taken.sentence
    some = certificate.recommend([biased, unknown, choice(8, bias=0.01, errors=(0.06, 0.06))])
    assert some.choice.max_size == 8
    assert "Some clusters could not be judged" in some.sentence
    assert certificate.recommend([biased]).choice is biased


def test_without_a_bias_one_standard_error_is_said_in_one_clause():
    nothing = replace(
        choice(bias=0.0, errors=(0.019, 0.019)), reason="not identified: 25 weeks of history, needs 26.", **UNKNOWN
    )
    assert certificate.recommend([nothing]).sentence == (
        "No recommendation, the bias is not identified: 25 weeks of history, needs 26. "
        "By product the standard error is 1.9 points."
    )


def history(n: int, season: int, weeks: int) -> tuple[np.ndarray, np.ndarray]:
    """Demand that answers prices in pairs of substitutes, theta .5."""
    rng = np.random.default_rng(2)
    log_price = 0.1 * rng.normal(size=(n, season * weeks))
    theta = 0.5 * np.kron(np.eye(n // 2), 1 - np.eye(2))
    return 200 * np.exp(theta.T @ log_price + 0.01 * rng.normal(size=log_price.shape)), np.exp(log_price)


def known(n: int, season: int, weeks: int, categories: list[str], **options: object) -> certificate.Evidence:
    return certificate.evidence(range(n), *history(n, season, weeks), categories, season=season, **options)


@pytest.mark.parametrize(
    ("season", "weeks", "reason"),
    [
        (
            7,
            40,
            "not identified: too few weeks to form clusters from half of them and judge them by the other half, 40",
        ),
        (1, 70, "not identified: 100 % of the pairs are in categories with too many prices for a quarter of 70 weeks."),
        (1, 104, "not identified: 100 % of the pairs are in categories with too many prices for a quarter of 104 we"),
        (1, 112, None),
        (7, 52, None),
    ],
)
def test_clusters_whose_weeks_held_out_are_too_short_are_not_judged(season, weeks, reason):
    """Eight prices need quarters of 3 x 15 days or 3 x 9 weeks."""
    found = known(8, season, weeks, ["a"] * 8)
    formed = certificate.form_clusters(found, max_size=2, rng=np.random.default_rng(3))
    assert formed.label.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    told = certificate.predict(found, formed, rng=np.random.default_rng(4))
    by_product = certificate.predict(found, sparse.csr_array((8, 8)), rng=np.random.default_rng(4))
    # 70 weeks of eight prices leave an error of .03
    assert by_product.total == pytest.approx(0.5, abs=0.1)
    if reason is None:
        assert told.reason is None
        # all of the links are found from half of the weeks
        assert told.kept_share == pytest.approx(1, abs=0.05)
    else:
        assert told.reason.startswith(reason)
        assert np.isnan([told.bias, told.ci_lower, told.kept_share]).all()
    alone = certificate.form_clusters(found, max_size=1, rng=np.random.default_rng(3))
    assert certificate.predict(found, alone, rng=np.random.default_rng(4)).bias == pytest.approx(by_product.bias)


def test_a_few_pairs_that_are_not_judged_count_as_not_kept():
    """A quarter of 52 weeks bears 23 prices: one category has 24, forty have 12."""
    sizes = {**{f"c{i:02d}": 12 for i in range(40)}, "big": 24}
    categories = [name for name, n in sizes.items() for _ in range(n)]
    found = known(len(categories), 7, 52, categories)
    unjudged = 24 * 23 / (24 * 23 + 40 * 12 * 11)
    assert found.judged_share == pytest.approx(1 - unjudged)
    formed = certificate.form_clusters(found, max_size=2, rng=np.random.default_rng(3))
    told = certificate.predict(found, formed, rng=np.random.default_rng(4))
    assert told.reason.startswith(
        "9 % of the pairs are in categories with too many prices for a quarter of 52 weeks, and"
    )
    # in sums of effects the category counts by its products
    assert 1 - told.kept_share == pytest.approx(24 / len(categories), abs=0.02)


def test_prices_out_of_scope_enter_and_pairs_out_of_scope_do_not_count():
    """Every effect of a category of four; two are assigned, the prices of all four move together in part."""
    rng = np.random.default_rng(5)
    common = 0.02 * rng.normal(size=(1, 7 * WEEKS))
    log_price = common + 0.02 * rng.normal(size=(4, 7 * WEEKS))
    theta = np.where(np.eye(4, dtype=bool), 0.0, 0.3)
    units = 50 * np.exp(theta.T @ log_price + 0.001 * rng.normal(size=log_price.shape))
    scope = np.array([True, False, True, False])
    args = (np.array(list("wxyz")), units, np.exp(log_price), ["a"] * 4)
    inside = certificate.evidence(*args, scope=scope)
    alone = certificate.evidence(*(np.asarray(part)[scope] for part in args))
    total, without = (
        certificate.predict(one, sparse.csr_array((2, 2)), rng=np.random.default_rng(0)).total
        for one in (inside, alone)
    )
    assert inside.product_id.tolist() == ["w", "y"]
    assert total == pytest.approx(0.3, rel=0.02)
    # what the others' prices do is taken for theirs where these are left out
    assert without > 0.4
    for wrong in ([True], [False] * 4, [1, 0, 1, 0]):
        with pytest.raises(ValueError, match=r"scope.shape == .*, must be \(4,\) bool, one or more True"):
            certificate.evidence(*args, scope=wrong)


def test_a_mixed_assignment_has_half_of_the_links_and_the_mean_of_the_squared_errors():
    found = known(16, 7, WEEKS, ["a"] * 8 + ["b"] * 8)
    D, route = np.random.default_rng(6).normal(size=(3, 16)), certificate.Route(2)
    choices = certificate.frontier(found, D, caps=(2,), planned=route, mixed=True, rng=np.random.default_rng(7))
    product, whole, mixed = choices
    assert [one.assignment for one in choices] == ["product", "cluster", "mixed"]
    # half of a sum of .5 in the exponent of .95: linear to a hundredth
    assert mixed.bias == pytest.approx((product.bias + whole.bias) / 2, rel=0.02)
    assert mixed.se**2 == pytest.approx((product.se**2 + whole.se**2) / 2, rel=EXACT)
    np.testing.assert_allclose(mixed.bias_drawn, (product.bias_drawn + whole.bias_drawn) / 2, rtol=0.02)
    assert certificate.recommend(choices).choice.assignment != "mixed"


def test_the_planned_route_stands_beside_the_caps_with_its_own_clusters():
    found = known(16, 7, WEEKS, ["a"] * 8 + ["b"] * 8)
    D, route = np.random.default_rng(8).normal(size=16), certificate.Route(3, "severing", True)
    label = np.repeat(np.arange(8), 2)[::-1]
    choices = certificate.frontier(
        found, D, caps=(2,), planned=route, planned_label=label, rng=np.random.default_rng(9)
    )
    assert [(one.max_size, one.route) for one in choices] == [(None, ""), (2, ""), (3, "severing, either sign")]
    assert choices[2].n_units == 8
    one = certificate.frontier(found, D, caps=(2, 3), planned=certificate.Route(3), rng=np.random.default_rng(9))
    assert [(c.max_size, c.route) for c in one] == [(None, ""), (2, ""), (3, "")]


def test_clusters_too_few_to_draw_have_a_reason_and_no_standard_error():
    found = known(8, 7, WEEKS, ["a"] * 4 + ["b"] * 4)
    label = np.repeat([0, 1], 4)
    choices = certificate.frontier(
        found,
        np.linspace(-1, 1, 8),
        caps=(),
        planned=certificate.Route(4),
        planned_label=label,
        rng=np.random.default_rng(0),
    )
    assert np.isnan(choices[1].se)
    assert choices[1].reason.startswith("not identified: 2 units, of which too few for a draw")
    assert certificate.recommend(choices).choice is None
