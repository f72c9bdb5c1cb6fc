import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science.market import Market, simulate
from pricelab_dagster.science.substitutes import category_edges, finish_edges, graph_edges, null_scale, placebo_rate

EXACT = 1e-10
DAYS = 364


def panel(n: int, rng: np.random.Generator, days: int = DAYS) -> tuple[np.ndarray, np.ndarray]:
    """Demand of about 50 a day that answers only its own price, and prices with promotions."""
    log_price = 0.02 * rng.normal(size=(n, days)) + np.where(rng.random((n, days)) < 0.15, -0.2, 0.0)
    units = rng.poisson(50 * np.exp(-2 * log_price))
    return units.astype(float), np.exp(log_price)


def all_edges(market: Market) -> pd.DataFrame:
    history = np.s_[:, : market.n_history]
    units, price = market.untreated_units[history], market.incumbent_price[history]
    parts = []
    for category in np.unique(market.category):
        own = market.category == category
        parts.append(category_edges(market.product_id[own], units[own], price[own]).frame())
    return pd.concat(parts, ignore_index=True)


def names(n: int) -> np.ndarray:
    return np.array([f"p{i}" for i in range(n)], dtype=object)


def test_z_is_the_symmetric_sum_of_both_t():
    units, price = panel(4, np.random.default_rng(1))
    frame = category_edges(names(4), units, price).frame().set_index(["product_id", "on_price_of"])
    t = frame["effect"] / frame["se"]
    for i, j in [("p0", "p1"), ("p2", "p3")]:
        assert frame.loc[(i, j), "z"] == pytest.approx((t[i, j] + t[j, i]) / np.sqrt(2), rel=EXACT)
        assert frame.loc[(i, j), "z"] == frame.loc[(j, i), "z"]
    assert len(frame) == 12
    assert (frame["history_weeks"] == 52).all()


def test_known_cross_effects_are_recovered_with_sign_and_direction():
    rng = np.random.default_rng(2)
    log_price = np.where(rng.random((3, DAYS)) < 0.2, -0.2, 0.0) + 0.02 * rng.normal(size=(3, DAYS))
    theta = np.array([[-2.0, 0.6, -0.5], [0.0, -2.0, 0.0], [0.0, 0.0, -2.0]])
    units = rng.poisson(400 * np.exp(theta.T @ log_price)).astype(float)
    frame = category_edges(names(3), units, np.exp(log_price)).frame().set_index(["product_id", "on_price_of"])
    # Demand relative to its mean answers within .1 of the log effect at these depths; errors are about .04.
    assert frame.loc[("p1", "p0"), "effect"] == pytest.approx(0.6, abs=0.15)
    assert frame.loc[("p2", "p0"), "effect"] == pytest.approx(-0.5, abs=0.15)
    assert frame.loc[("p0", "p1"), "effect"] == pytest.approx(0.0, abs=0.15)


def test_joint_regression_is_not_misled_by_correlated_prices():
    rng = np.random.default_rng(3)
    promotion = rng.random(DAYS) < 0.2
    shared = np.where(promotion, -0.2, 0.0)
    log_price = shared + 0.08 * rng.normal(size=(3, DAYS))
    units = rng.poisson(400 * np.exp(np.array([[-2.0, 0.0, 0.0], [0.6, -2.0, 0.0], [0.0, 0.0, -2.0]]) @ log_price))
    frame = category_edges(names(3), units, np.exp(log_price)).frame().set_index(["product_id", "on_price_of"])
    assert abs(frame.loc[("p1", "p2"), "effect"]) < 3 * frame.loc[("p1", "p2"), "se"]
    assert frame.loc[("p1", "p0"), "effect"] > 0.3


def test_rows_scale_of_units_and_scale_of_prices_do_not_matter():
    units, price = panel(5, np.random.default_rng(4))
    plain = category_edges(names(5), units, price).frame()
    order = np.random.default_rng(5).permutation(5)
    scale = np.array([1.0, 2, 3, 4, 5])[:, None]
    other = category_edges(names(5)[order], (units * scale)[order], (price * scale)[order]).frame()
    pd.testing.assert_frame_equal(plain, other, rtol=1e-8)


def test_renaming_products_renames_rows_only():
    units, price = panel(4, np.random.default_rng(6))
    new = {"p0": "z", "p1": "y", "p2": "x", "p3": "w"}
    plain = category_edges(names(4), units, price).frame().set_index(["product_id", "on_price_of"])["effect"]
    renamed = category_edges(np.array(list(new.values()), dtype=object), units, price).frame()
    renamed = renamed.set_index(["product_id", "on_price_of"])["effect"]
    for i, j in plain.index:
        assert renamed[new[i], new[j]] == pytest.approx(plain[i, j], rel=1e-8)


def test_one_price_series_is_one_regressor():
    rng = np.random.default_rng(7)
    units, price = panel(4, rng)
    price[2] = 3 * price[1]
    frame = category_edges(names(4), units, price).frame().set_index(["product_id", "on_price_of"])
    assert frame.loc[("p0", "p1"), "series_group"] == frame.loc[("p0", "p2"), "series_group"] == "p1"
    assert frame.loc[("p0", "p1"), "effect"] == frame.loc[("p0", "p2"), "effect"]
    assert np.isnan(frame.loc[("p1", "p2"), "effect"])
    assert frame.loc[("p1", "p2"), "reason"].startswith("not identified: one price series")
    assert frame.loc[("p0", "p3"), "series_group"] == "p3"


def test_what_cannot_be_identified_says_so():
    units, price = panel(4, np.random.default_rng(8))
    units[1] = np.arange(DAYS) % 50 == 0
    price[2] = 2.0
    frame = category_edges(names(4), units, price).frame().set_index(["product_id", "on_price_of"])
    assert frame.loc[("p1", "p0"), "reason"].startswith("not identified: thin demand of p1")
    assert frame.loc[("p0", "p1"), "reason"].startswith("not identified: thin demand of p1")
    assert frame.loc[("p0", "p2"), "reason"].startswith("not identified: no price movement of p2")
    assert frame.loc[("p2", "p0"), "reason"] == ""
    one_way = frame.loc[("p2", "p0")]
    assert one_way["z"] == pytest.approx(one_way["effect"] / one_way["se"], rel=EXACT)
    assert (np.isnan(frame["effect"].astype(float)) == (frame["reason"] != "")).all()
    assert (np.isnan(frame["z"].astype(float)) == (frame["reason"] != "")).all()


def test_alone_short_or_overfull_categories_identify_nothing():
    rng = np.random.default_rng(9)
    units, price = panel(1, rng)
    alone = category_edges(names(1), units, price).frame()
    assert alone["reason"].tolist() == ["not identified: the only product of its category"]
    assert alone["on_price_of"].tolist() == [None]
    units, price = panel(3, rng, days=181)
    short = category_edges(names(3), units, price).frame()
    assert set(short["reason"]) == {"not identified: 25 weeks of history, needs 26"}
    assert category_edges(names(3), *panel(3, rng, days=182)).frame()["reason"].tolist() == [""] * 6
    units, price = panel(60, rng, days=190)
    full = category_edges(names(60), units, price).frame()
    assert set(full["reason"]) == {"not identified: 60 price series are more than 190 periods bear"}
    assert full["effect"].isna().all()
    weekly = category_edges(names(3), *panel(3, rng, days=52), season=1).frame()
    assert weekly["effect"].notna().all()


def test_same_history_in_weeks_agrees_with_days():
    market = simulate(scenario="substitution_strong", n_products=600, n_history=728, rng=np.random.default_rng(10))
    own = market.category == "category_01"
    units, price = market.untreated_units[own, :728], market.incumbent_price[own, :728]
    weekly_units = units.reshape(own.sum(), 104, 7).sum(axis=2)
    weekly_price = price.reshape(own.sum(), 104, 7).mean(axis=2)
    frame = category_edges(market.product_id[own], weekly_units, weekly_price, season=1).frame()
    theta = market.theta.toarray()[np.ix_(own, own)]
    true = pd.DataFrame(theta.T, market.product_id[own], market.product_id[own]).stack()
    wanted = true[[(a, b) for a, b in zip(frame["product_id"], frame["on_price_of"], strict=True)]].to_numpy()
    known = frame["effect"].notna().to_numpy()
    assert known.mean() > 0.8
    assert np.corrcoef(frame["effect"][known], wanted[known])[0, 1] > 0.15


def test_null_world_has_unit_z_and_few_edges():
    finished = finish_edges(all_edges(simulate(scenario="null", rng=np.random.default_rng(1000))))
    z = finished["z"].dropna()
    # 10,000 rows of scaled z: sd near 1, heavier tails allowed; nominal one-sided 5 %, bounded on both sides.
    assert 0.9 < z.std() < 1.15
    assert 0.03 < (z > 1.645).mean() < 0.08
    assert finished["effect"].mean() == pytest.approx(0, abs=0.03)


def test_planted_edges_are_nearly_unbiased_and_found():
    market = simulate(scenario="substitution_strong", rng=np.random.default_rng(11))
    finished = finish_edges(all_edges(market))
    true = pd.DataFrame(market.theta.toarray().T, market.product_id, market.product_id)
    place = {p: k for k, p in enumerate(market.product_id)}
    planted = true.to_numpy()[[place[p] for p in finished["product_id"]], [place[p] for p in finished["on_price_of"]]]
    known, edge = finished["effect"].notna().to_numpy(), planted > 0.01
    ratio = finished["effect"][known & edge].mean() / planted[known & edge].mean()
    # 500 edges with error about .3 each: .014 of .42; capping bulk days takes about 5 %.
    assert 0.85 < ratio < 1.08
    pairs = {frozenset(pair) for pair in graph_edges(finished).edges.tolist()}
    rows = zip(finished["product_id"][known & edge], finished["on_price_of"][known & edge], strict=True)
    assert np.mean([frozenset(pair) in pairs for pair in rows]) > 0.4


def test_halo_edges_are_negative():
    market = simulate(scenario="halo", rng=np.random.default_rng(12))
    finished = finish_edges(all_edges(market)).dropna(subset=["effect"])
    place = {p: k for k, p in enumerate(market.product_id)}
    theta = market.theta.toarray()
    planted = theta[[place[p] for p in finished["on_price_of"]], [place[p] for p in finished["product_id"]]]
    assert finished["effect"][planted < -0.01].mean() < -0.25
    assert finished["z"][planted < -0.01].mean() < -1


def edge_frame(z: list[float], effect: list[float], se: list[float]) -> pd.DataFrame:
    """Pairs (a, b), (a, c), (b, c) in both directions, as `category_edges` would give them."""
    ends = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    return pd.DataFrame(
        {
            "product_id": [i for i, _ in ends],
            "on_price_of": [j for _, j in ends],
            "effect": effect,
            "se": se,
            "z": z,
            "history_weeks": 52,
        }
    )


def test_q_values_by_hand_count_each_pair_once_and_both_signs():
    # Two-sided p in ascending order, times 3 / 1, 3 / 2, 3 / 3.
    frame = edge_frame([3, 3, -1, -1, 0, 0], [0.3, 0.3, -0.1, -0.1, 0, 0], [0.1] * 6)
    finished = finish_edges(frame)
    scale = null_scale(np.array([3, -1, 0]))
    p = 2 * stats.t.sf(np.array([3, 1, 0]) / scale, 52)
    expected = [p[0] * 3, p[1] * 1.5, 1.0]
    np.testing.assert_allclose(finished["q_value"], np.repeat(expected, 2), rtol=EXACT)
    np.testing.assert_allclose(finished["z"], np.array([3, 3, -1, -1, 0, 0]) / scale, rtol=EXACT)


def test_rows_without_estimate_stay_nan():
    frame = edge_frame(
        [3, 3, np.nan, np.nan, 0, 0], [0.3, 0.3, np.nan, np.nan, 0, 0], [0.1, 0.1, np.nan, np.nan, 0.1, 0.1]
    )
    finished = finish_edges(frame)
    assert finished[["z", "q_value", "shrunk_effect"]].isna().to_numpy()[2:4].all()
    assert finished[["z", "q_value", "shrunk_effect"]].notna().to_numpy()[[0, 1, 4, 5]].all()
    empty = finish_edges(frame.iloc[2:4])
    assert empty["q_value"].isna().all()
    assert len(graph_edges(empty).edges) == 0


def test_attribute_distance_moves_the_prior():
    rng = np.random.default_rng(14)
    n = 40
    brand = np.array(["x", "y"])[np.arange(n) % 2]
    i, j = np.nonzero(~np.eye(n, dtype=bool))
    same = brand[i] == brand[j]
    effect = np.where(same, 0.5, 0.0) + rng.normal(0, 0.3, len(i))
    frame = pd.DataFrame(
        {
            "product_id": names(n)[i],
            "on_price_of": names(n)[j],
            "effect": effect,
            "se": 0.3,
            "z": 0.0,
            "history_weeks": 52,
        }
    )
    attributes = pd.DataFrame({"brand": brand, "size": np.where(np.arange(n) < 3, np.nan, 1.0)}, index=names(n))
    with_brand = finish_edges(frame, attributes)["shrunk_effect"]
    assert with_brand[same].mean() == pytest.approx(0.5, abs=0.05)
    assert with_brand[~same].mean() == pytest.approx(0.0, abs=0.05)
    assert np.std(with_brand[same]) < 0.1
    with pytest.raises(ValueError, match=r"attributes lack 1 products, such as \['p0'\]"):
        finish_edges(frame, attributes.iloc[1:])


def test_graph_keeps_strong_positive_pairs_once():
    frame = edge_frame([3, 3, 3, 3, -3, -3], [0.3, 0.1, 0.15, -0.05, -0.4, -0.4], [0.1] * 6)
    graph = graph_edges(frame)
    assert graph.edges.tolist() == [["a", "b"]]
    assert graph.weights.tolist() == [3.0]
    weak = edge_frame([1.6, 1.6, 0, 0, 0, 0], [0.3] * 6, [0.1] * 6)
    assert len(graph_edges(weak).edges) == 0


def test_placebo_rate_is_nominal_and_refuses_one_category():
    market = simulate(scenario="substitution_middle", rng=np.random.default_rng(15))
    history = np.s_[:, : market.n_history]
    units, price = market.untreated_units[history], market.incumbent_price[history]
    scale = null_scale(all_edges(market)["z"].to_numpy())
    placebo = placebo_rate(market.product_id, units, price, market.category, scale=scale, rng=np.random.default_rng(16))
    assert placebo.n_pairs > 3000
    assert 0.025 < placebo.rate < 0.08
    one = placebo_rate(
        names(3), *panel(3, np.random.default_rng(17)), np.zeros(3), scale=1.0, rng=np.random.default_rng(18)
    )
    assert np.isnan(one.rate)
    assert one.reason == "No pair of products from two categories is identified."


def test_same_input_same_bytes():
    units, price = panel(6, np.random.default_rng(20))
    first, second = (category_edges(names(6), units, price) for _ in range(2))
    assert first.effect.tobytes() == second.effect.tobytes()
    assert first.z.tobytes() == second.z.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": -1.0}, r"price == -1.0, must be above 0"),
        ({"price": np.nan}, r"must be finite"),
        ({"id": "p1"}, r"product_id == 'p1' twice"),
        ({"season": 5}, r"season == 5, must be 7 or 1"),
        ({"min_units": 0.0}, r"min_units == 0.0, must be above 0"),
    ],
)
def test_errors_name_value_and_rule(change, message):
    units, price = panel(2, np.random.default_rng(21))
    ids = names(2)
    price[0, 0] = change.get("price", 1.0)
    ids[0] = change.get("id", "p0")
    with pytest.raises(ValueError, match=message):
        category_edges(ids, units, price, season=change.get("season", 7), min_units=change.get("min_units", 1.0))
