import numpy as np
import pytest
from scipy import stats

from pricelab_dagster.science import meta_experiment
from pricelab_dagster.science.market import simulate

EXACT = 1e-12
N_DRAWS, N_STRONG = 1000, 300
# Nominal 5 % over 1,000 draws has a standard error of .7 %; conservative by design, never much.
REJECTION = (0.025, 0.07)
# 300 draws: .024 at a power of a fifth, three of them.
POWER_SLACK = 0.075
# Price changes of 10 %: what others' prices add to the answer of one product.
SECOND_ORDER = 0.05
# Standard errors of a mean over draws.
N_ERRORS = 4.0


def products(n_clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    cluster = np.repeat(np.arange(n_clusters), size)
    return cluster, cluster // 2 % 7


def test_halves_and_interference_by_hand():
    cluster = np.repeat(np.arange(8), 2)
    whole = cluster < 4
    arm = np.r_[0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    D = np.r_[1.0, 1, 3, 3, 2, 2, 4, 4, 1, 4, 2, 5, 1, 4, 2, 5]
    found = meta_experiment.estimate(D, arm, cluster, whole)
    # By cluster 3.5 - 1.5, by product 4.5 - 1.5; wholes read 1 and 2, and 3 and 4: two means of two with variance 1/2.
    assert (found.by_cluster.effect, found.by_product.effect, found.interference) == (2.0, 3.0, 1.0)
    assert found.by_cluster.se == pytest.approx(np.sqrt(0.5 / 2 + 0.5 / 2), rel=EXACT)
    assert found.by_product.se == pytest.approx(0, abs=EXACT)
    assert found.df == pytest.approx(2, rel=EXACT)
    t = 1 / found.se
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, 2), rel=1e-9)
    assert found.ci_lower == pytest.approx(1 - stats.t.ppf(0.975, 2) * found.se, rel=1e-9)


def test_a_draw_halves_clusters_and_arms():
    cluster, category = products(101, 3)
    n = len(cluster)
    draws = [meta_experiment.assign(cluster, category=category, rng=np.random.default_rng(k)) for k in range(400)]
    for draw in draws[:20]:
        n_whole = np.unique(cluster[draw.by_cluster]).size
        assert n_whole in (50, 51)
        assert draw.by_cluster.sum() == 3 * n_whole
        arms = [set(draw.arm[cluster == c]) for c in np.unique(cluster[draw.by_cluster])]
        assert all(len(one) == 1 for one in arms)
        assert abs(draw.arm[draw.by_cluster].sum() / 3 - n_whole / 2) <= 1
    whole, arm = (np.mean([getattr(d, name) for d in draws], axis=0) for name in ("by_cluster", "arm"))
    # 400 coins have a standard error of .025 each; the largest of 303 stays within four and a half.
    assert np.abs(whole - 0.5).max() < 0.115
    assert np.abs(arm - 0.5).max() < 0.115
    assert len({d.arm.tobytes() for d in draws}) == 400
    assert n == len(arm)


def test_clusters_of_like_size_go_to_different_halves():
    cluster = np.repeat(np.arange(8), [9, 9, 6, 6, 3, 3, 1, 1])
    for k in range(20):
        whole = meta_experiment.assign(cluster, rng=np.random.default_rng(k)).by_cluster
        first = np.array([whole[cluster == c][0] for c in range(8)])
        assert (first[::2] != first[1::2]).all()


def test_shift_scale_and_copies():
    rng = np.random.default_rng(1)
    cluster, _ = products(40, 3)
    draw = meta_experiment.assign(cluster, rng=rng)
    D = rng.normal(size=120)
    plain = meta_experiment.estimate(D, draw.arm, cluster, draw.by_cluster)
    other = meta_experiment.estimate(5 - 2 * D, draw.arm, cluster, draw.by_cluster)
    assert other.interference == pytest.approx(-2 * plain.interference, rel=1e-9)
    assert other.se == pytest.approx(2 * plain.se, rel=1e-9)
    copies = np.repeat(np.arange(120), 10)
    ten = meta_experiment.estimate(D[copies], draw.arm[copies], cluster[copies], draw.by_cluster[copies])
    assert (ten.interference, ten.se) == pytest.approx((plain.interference, plain.se), rel=1e-9)


def test_single_products_take_no_part():
    rng = np.random.default_rng(2)
    cluster = np.r_[np.repeat(np.arange(20), 3), np.arange(20, 50)]
    draw = meta_experiment.assign(cluster, rng=rng)
    D = rng.normal(size=90)
    found = meta_experiment.estimate(D, draw.arm, cluster, draw.by_cluster)
    assert found.by_product.n_products + found.by_cluster.n_products == 60
    moved = meta_experiment.estimate(D + 9 * (cluster >= 20), draw.arm, cluster, draw.by_cluster)
    assert moved.interference == found.interference
    everyone = meta_experiment.estimate(D, draw.arm, cluster, draw.by_cluster, min_size=1)
    assert everyone.by_product.n_products + everyone.by_cluster.n_products == 90


def _chance(D0: np.ndarray, draw: meta_experiment.MetaDraw, cluster: np.ndarray) -> float:
    """What the same arms read on untreated sales."""
    return meta_experiment.estimate(D0, draw.arm, cluster, draw.by_cluster).interference


@pytest.fixture(scope="module")
def rejections() -> dict[str, np.ndarray]:
    """Estimates, standard errors and p-values over draws in the null market and in the strong one."""
    found = {}
    for scenario, n_draws in (("null", N_DRAWS), ("substitution_strong", N_STRONG)):
        market = simulate(scenario=scenario, treatment_multiplier=0.9, rng=np.random.default_rng(3))
        past, window = market.untreated_units[:, : market.n_history], market.expected_demand[:, market.n_history :]
        size = past.mean(axis=1)
        D0 = market.untreated_units[:, market.n_history :].mean(axis=1) / size - past[:, -28:].mean(axis=1) / size
        D0 = np.clip(D0, *np.quantile(D0, (0.01, 0.99)))
        lm, scale = np.log(market.treatment_multiplier), window.mean(axis=1) / size
        cluster = np.unique(market.subcategory, return_inverse=True)[1]
        rows = []
        for k in range(n_draws):
            draw = meta_experiment.assign(
                cluster, size=size, category=market.category, rng=np.random.default_rng((4, k))
            )
            ratio = np.exp(lm * (market.own_elasticity * draw.arm + market.theta.T @ draw.arm.astype(float)))
            one = meta_experiment.estimate(D0 + scale * (ratio - 1), draw.arm, cluster, draw.by_cluster)
            chance = _chance(D0, draw, cluster) if scenario != "null" else 0.0
            rows.append((one.interference, one.se, one.p_value, chance))
        inside = np.asarray(market.theta.multiply(cluster[:, None] == cluster).sum(axis=0)).ravel()
        found[scenario] = np.array(rows)
        expected = np.mean(scale * np.exp(lm * market.own_elasticity) * (1 - np.exp(lm * inside)))
        found[f"{scenario} expected"] = expected
        found[f"{scenario} power"] = np.array([meta_experiment.power(D0, cluster, expected=float(expected)).power])
    return found


def test_null_market_is_rejected_at_the_nominal_rate(rejections):
    assert REJECTION[0] < (rejections["null"][:, 2] < 0.05).mean() < REJECTION[1]


def test_strong_market_shows_the_expected_interference(rejections):
    effect, se, p, chance = rejections["substitution_strong"].T
    expected = rejections["substitution_strong expected"]
    # Measured against the same arms on untreated sales, whose mean is zero; what is left is of second order in prices.
    slack = N_ERRORS * (effect - chance).std() / np.sqrt(N_STRONG) + SECOND_ORDER * expected
    assert expected > 0.05
    assert (effect - chance).mean() == pytest.approx(expected, abs=slack)
    assert 0.9 < se.mean() / effect.std() < 1.2
    power = rejections["substitution_strong power"][0]
    assert power > 0.15
    assert (p < 0.05).mean() == pytest.approx(power, abs=POWER_SLACK)


def test_power_by_hand_and_against_draws():
    rng = np.random.default_rng(5)
    cluster, _ = products(100, 4)
    D = rng.normal(size=100)[cluster] + rng.normal(size=400)
    found = meta_experiment.power(D, cluster, expected=0.5)
    draws = [meta_experiment.assign(cluster, rng=np.random.default_rng((6, k))) for k in range(500)]
    spread = np.std([meta_experiment.estimate(D, d.arm, cluster, d.by_cluster).interference for d in draws])
    # 500 draws: 3 %, three of them; the halves' mean of D varies with the clusters in them, which arms do not see.
    assert found.se == pytest.approx(spread, rel=0.1)
    assert found.mde == pytest.approx(2.8 * found.se)
    assert found.n_needed == pytest.approx(400 * (found.mde / 0.5) ** 2)
    assert meta_experiment.power(D, cluster, expected=found.mde).power == pytest.approx(0.8, abs=0.005)
    assert np.isnan(meta_experiment.power(D, cluster, expected=0.0).n_needed)


def test_an_arm_without_clusters_gives_a_reason():
    cluster, _ = products(8, 2)
    whole = cluster < 4
    arm = np.where(whole, cluster == 0, np.arange(16) % 2)
    found = meta_experiment.estimate(np.arange(16.0), arm, cluster, whole)
    assert np.isnan(found.interference)
    assert found.reason == "not identified: an arm of the half by cluster has fewer than 2 clusters."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": [0, 1] * 8}, r"by_cluster has 4 clusters in both halves or with both arms"),
        ({"by_cluster": [True] * 7 + [False] * 9}, r"by_cluster has 1 clusters"),
        ({"arm": [2] * 16}, r"arm.shape == \(16,\), must be \(16,\) of 0 and 1"),
        ({"by_cluster": [True]}, r"by_cluster.shape == \(1,\)"),
        ({"cluster": [0]}, r"units.shape == \(1,\)"),
        ({"confidence": 2.0}, r"confidence == 2.0"),
    ],
)
def test_errors_name_value_and_rule(change, message):
    cluster, _ = products(8, 2)
    arm = np.where(cluster < 4, cluster % 2, np.arange(16) % 2)
    given = {"first_difference": np.ones(16), "arm": arm, "cluster": cluster, "by_cluster": cluster < 4}
    with pytest.raises(ValueError, match=message):
        meta_experiment.estimate(**(given | change))


def test_few_clusters_are_refused():
    with pytest.raises(ValueError, match="cluster has 7 labels, must have 8"):
        meta_experiment.assign(np.arange(7), rng=np.random.default_rng(0))
