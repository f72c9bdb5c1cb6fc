import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from pricelab_dagster.science import affinity
from pricelab_dagster.science.effect_scores import Scores, doubly_robust
from pricelab_dagster.science.projection import ANY, MEAN, PER_STEP, RELATIVE_WORDS, best_linear_projection

ROUNDING = 1e-9  # sums of a few hundred doubles
N, R = 150, 400
ODDS = 0.001  # of a sound simulation that its count falls outside the bounds


def scores_of(psi: np.ndarray, *, weight: np.ndarray | None = None, unit: np.ndarray | None = None) -> Scores:
    n = len(psi)
    treated = np.arange(n) % 2 == 1
    codes = np.arange(n) if unit is None else unit
    return Scores(psi, np.ones(n) if weight is None else weight, codes, treated, ~treated, 0, "words")


def bounds(p: float) -> tuple[float, float]:
    return tuple(stats.binom.ppf([ODDS / 2, 1 - ODDS / 2], R, p) / R)


def test_coefficient_and_jackknife_by_hand():
    """One attribute: the slope is cov / sd, its error the jackknife over units."""
    rng = np.random.default_rng(1)
    n = 24
    size, unit = rng.normal(size=n), np.arange(n) // 2
    psi = 1.0 + 0.5 * size + rng.normal(size=n)

    found = best_linear_projection(scores_of(psi, unit=unit), pd.DataFrame({"size": size}), confidence=0.9)

    z = (size - size.mean()) / size.std(ddof=1)
    b = np.polyfit(z, psi, 1)[::-1]
    without = np.array([np.polyfit(z[unit != g], psi[unit != g], 1)[::-1] for g in range(12)])
    se = np.sqrt(11 / 12 * ((without - b) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.coefficient[:2], b, atol=ROUNDING)
    np.testing.assert_allclose(found.se[:2], se, atol=ROUNDING)
    half = stats.t(10).ppf(0.95) * se
    np.testing.assert_allclose(found.ci_lower[:2], b - half, atol=ROUNDING)
    assert found.term == (MEAN, "size, one standard deviation up", ANY)
    # the joint test of one coefficient is its t test
    assert found.p_value[2] == pytest.approx(found.p_value[1], abs=ROUNDING)
    assert found.statistic == pytest.approx((b[1] / se[1]) ** 2)


def test_relative_coefficients_are_over_the_mean_without_treatment_also_without_each_unit():
    rng = np.random.default_rng(8)
    n = 24
    size, unit = rng.normal(size=n), np.arange(n) // 2
    psi, Z, W = 0.4 + 0.2 * size + rng.normal(size=n), rng.uniform(1, 2, n), rng.uniform(0, 1, n)
    X = pd.DataFrame({"size": size})

    found = best_linear_projection(scores_of(psi, unit=unit), X, outcome=Z, exposure=W)

    z = (size - size.mean()) / size.std(ddof=1)

    def share(rows: np.ndarray) -> np.ndarray:
        b = np.polyfit(z[rows], psi[rows], 1)[::-1]
        return b / (Z[rows].mean() - b[0] * W[rows].mean())

    expected = share(np.ones(n, dtype=bool))
    without = np.array([share(unit != g) for g in range(12)])
    np.testing.assert_allclose(found.coefficient[:2], expected, atol=ROUNDING)
    np.testing.assert_allclose(found.se[:2], np.sqrt(11 / 12 * ((without - expected) ** 2).sum(axis=0)), atol=ROUNDING)
    assert found.estimand == f"words{PER_STEP}{RELATIVE_WORDS}"
    assert best_linear_projection(scores_of(psi, unit=unit), X).estimand == f"words{PER_STEP}"
    # a metric in cents has the same relative coefficients
    cents = best_linear_projection(scores_of(100 * psi, unit=unit), X, outcome=100 * Z, exposure=W)
    np.testing.assert_allclose(cents.coefficient[:2], expected, atol=ROUNDING)
    np.testing.assert_allclose(cents.se[:2], found.se[:2], atol=ROUNDING)


def test_without_a_level_there_is_no_relative_coefficient():
    psi, X = np.arange(24.0), pd.DataFrame({"size": np.random.default_rng(9).normal(size=24)})
    found = best_linear_projection(scores_of(psi), X, outcome=np.ones(24), exposure=np.ones(24))
    assert np.isnan(found.coefficient).all()
    assert set(found.reason) == {"The mean without treatment is -11, not positive: no relative effect."}
    with pytest.raises(ValueError, match="must be both or neither"):
        best_linear_projection(scores_of(psi), X, outcome=np.ones(24))


def test_matches_weighted_least_squares_with_hc3():
    rng = np.random.default_rng(2)
    X = pd.DataFrame({"size": rng.normal(size=N), "age": rng.exponential(size=N)})
    weight, psi = rng.uniform(0.5, 2, N), rng.normal(size=N)

    found = best_linear_projection(scores_of(psi, weight=weight), X)

    z = (X - np.average(X, axis=0, weights=weight)) / X.std(ddof=1)
    known = sm.WLS(psi, sm.add_constant(z.to_numpy()), weights=weight).fit(cov_type="HC3")
    np.testing.assert_allclose(found.coefficient[:3], known.params, atol=ROUNDING)
    np.testing.assert_allclose(found.se[:3], known.bse * np.sqrt((N - 1) / N), rtol=1e-9)


def test_rows_units_and_scale_of_attributes_do_not_matter():
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"size": rng.normal(size=N), "brand": rng.choice(["a", "b", "c"], N)})
    psi = rng.normal(size=N)
    order = rng.permutation(N)
    plain = best_linear_projection(scores_of(psi), X)
    treated = scores_of(psi).treated[order]
    moved = Scores(psi[order], np.ones(N), order, treated, ~treated, 0, "words")
    again = best_linear_projection(moved, X.iloc[order].assign(size=5.0 + 100.0 * X["size"].iloc[order]))
    np.testing.assert_allclose(again.coefficient[:2], plain.coefficient[:2], atol=ROUNDING)
    np.testing.assert_allclose(again.se[:2], plain.se[:2], atol=ROUNDING)
    assert again.p_value[-1] == pytest.approx(plain.p_value[-1], abs=ROUNDING)


def test_copies_of_products_do_not_move_the_errors():
    rng = np.random.default_rng(4)
    X, psi = pd.DataFrame({"size": rng.normal(size=40)}), rng.normal(size=40)
    ten = np.repeat(np.arange(40), 10)
    once = best_linear_projection(scores_of(psi), X)
    many = best_linear_projection(scores_of(psi[ten], unit=ten), X.iloc[ten])
    # the standard deviation with n - 1 differs by rows: per unit of it the ratio is the same
    np.testing.assert_allclose(many.coefficient[1] / many.se[1], once.coefficient[1] / once.se[1], rtol=1e-9)
    assert many.se[0] == pytest.approx(once.se[0], rel=1e-9)


def test_columns_that_add_up_are_left_out_with_the_reason():
    rng = np.random.default_rng(5)
    X = pd.DataFrame({"brand": np.repeat(["a", "b", "c"], 50), "size": rng.normal(size=N)})
    X["twice"] = 2 * X["size"] + 1

    found = best_linear_projection(scores_of(rng.normal(size=N)), X)

    named = dict(zip(found.term, found.reason, strict=True))
    assert named["brand=c, one standard deviation up"] == "left out: other terms add up to it."
    assert named["twice, one standard deviation up"] == "left out: other terms add up to it."
    kept = [term for term, why in named.items() if why is None]
    assert kept == [MEAN, *(f"{name}, one standard deviation up" for name in ("brand=a", "brand=b", "size"))]
    assert np.isnan(found.coefficient[[3, 5]]).all()
    assert named[ANY] is not None
    assert named[ANY].startswith("F(3, 146) = ")


def test_rare_levels_share_a_column():
    brand = np.array(["a"] * 70 + ["b"] * 72 + ["c"] * 4 + ["d"] * 4)
    found = best_linear_projection(scores_of(np.arange(150.0)), pd.DataFrame({"brand": brand}))
    assert [term.split(",")[0] for term in found.term[1:-1]] == ["brand=b", "brand=a", "brand other"]


def test_too_few_units_are_refused():
    rng = np.random.default_rng(6)
    X = pd.DataFrame(rng.normal(size=(60, 5)), columns=list("abcde"))
    unit = np.arange(60) % 29
    found = best_linear_projection(scores_of(rng.normal(size=60), unit=unit), X)
    assert set(found.reason) == {"not identified: 29 assignment units for 6 coefficients, 5 for each are needed."}
    assert np.isnan(found.coefficient).all()
    enough = best_linear_projection(scores_of(rng.normal(size=60), unit=np.arange(60) % 30), X)
    assert np.isfinite(enough.coefficient[:-1]).all()


def test_a_unit_that_alone_fixes_a_coefficient_is_refused():
    odd = np.zeros(40)
    odd[7] = 1.0
    found = best_linear_projection(scores_of(np.arange(40.0)), pd.DataFrame({"odd": odd}))
    assert set(found.reason) == {"not identified: one assignment unit alone fixes a coefficient."}


def test_without_attributes_there_is_a_mean_and_nothing_to_test():
    found = best_linear_projection(scores_of(np.arange(40.0)), pd.DataFrame({"same": ["x"] * 40}))
    assert found.coefficient[0] == pytest.approx(19.5)
    assert found.reason == (None, "no attribute to test.")


def test_no_scores_at_all():
    found = best_linear_projection(scores_of(np.full(4, np.nan), weight=np.zeros(4)), pd.DataFrame({"x": range(4)}))
    assert found.reason[0] is not None
    assert found.reason[0].startswith("not identified: 0 assignment units")


@pytest.mark.parametrize(
    ("X", "confidence", "said"),
    [(pd.DataFrame({"x": [1.0]}), 0.95, "X has 1 rows"), (pd.DataFrame({"x": [1.0, 2.0]}), 0.0, "confidence == 0")],
)
def test_projection_refuses(X, confidence, said):
    with pytest.raises(ValueError, match=said):
        best_linear_projection(scores_of(np.ones(2)), X, confidence=confidence)


@pytest.fixture(scope="module")
def worlds() -> dict[str, np.ndarray]:
    """Projections over worlds whose effect is .3 + .5 size, and over the same with one effect for all."""
    rng = np.random.default_rng(7)
    slope, none, others = [], [], []
    for _ in range(R):
        X = pd.DataFrame(
            {"size": rng.normal(size=N), "brand": rng.choice(["a", "b", "c"], N), "age": rng.normal(size=N)}
        )
        W = rng.permutation(np.repeat([0.0, 1.0], N // 2))
        control = 0.5 * X["size"].to_numpy() + rng.normal(size=N)
        leaves = affinity.fit_leaves(X, control, n_trees=4, rng=rng)
        for effect, into in ((0.3 + 0.5 * X["size"].to_numpy(), slope), (np.full(N, 0.3), none)):
            s = doubly_robust(control + effect * W, W, leaves, probability=np.full(N, 0.5))
            found = best_linear_projection(s, X)
            truth = 0.5 * X["size"].std(ddof=1) if into is slope else 0.0
            into.append((found.ci_lower[1] <= truth <= found.ci_upper[1], found.p_value[-1] < 0.05))
        others.append(found.p_adjusted[1:-1][np.isfinite(found.p_adjusted[1:-1])].min() < 0.05)
    return {"slope": np.array(slope), "none": np.array(none), "others": np.array(others)}


@pytest.mark.parametrize("name", ["slope", "none"])
def test_interval_of_a_coefficient_covers(worlds, name):
    low, high = bounds(0.95)
    assert low <= worlds[name][:, 0].mean() <= high


def test_joint_test_keeps_its_level_and_finds_what_is_there(worlds):
    low, high = bounds(0.05)
    assert low <= worlds["none"][:, 1].mean() <= high
    assert worlds["slope"][:, 1].mean() > 0.4


def test_holm_over_attributes_keeps_the_family_wise_error(worlds):
    assert 0.0 < worlds["others"].mean() <= bounds(0.05)[1]
