"""Regression adjustment, CUPED and double machine learning beside HPTE."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from pricelab_dagster.science import affinity, bootstrap, designs, hpte, market, panel, peers

FloatArray = NDArray[np.float64]

EXACT = 1e-12  # a few hundred doubles of size 1
SOLVED = 1e-9  # systems of a dozen equations, solved in two ways
N_WORLDS = 150
N_PRODUCTS, N_REPLICATES = 80, 60


def draw(n: int = 200, *, p: int = 3, effect: float = 0.5, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return D, W and X: D moves with X, and the effect with the first column."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    W = rng.permutation(np.arange(n) % 2).astype(float)
    D = X @ np.linspace(1, 2, p) + W * (effect + 0.3 * X[:, 0]) + rng.normal(size=n)
    return D, W, X


def ancova(D: Any, W: Any, X: Any = None, **options: Any) -> hpte.Effect:
    return peers.ancova(D, W, X, **{"trim": "none", "n_replicates": 50, "rng": np.random.default_rng(1), **options})


def cuped(D: Any, W: Any, x: Any, **options: Any) -> hpte.Effect:
    return peers.cuped(D, W, x, **{"trim": "none", "n_replicates": 50, "rng": np.random.default_rng(1), **options})


def by_matrix(D: FloatArray, W: FloatArray, X: FloatArray, w: FloatArray, centre: FloatArray) -> float:
    """Return the slope on W of the interacted regression, from its matrix."""
    columns = np.column_stack([np.ones(len(W)), W, X, W[:, None] * (X - centre)])
    root = np.sqrt(w)
    return float(np.linalg.lstsq(columns * root[:, None], D * root, rcond=None)[0][1])


def test_by_hand() -> None:
    """Slopes 1 among controls and 2 among treated; their lines at the mean of x, 2.5, are 2.5 and 6."""
    x = np.tile([1.0, 2.0, 3.0, 4.0], 5)
    D, W = np.r_[x, 1 + 2 * x], np.repeat([0.0, 1.0], 20)
    assert ancova(D, W, np.r_[x, x]).effect == pytest.approx(3.5, abs=SOLVED)
    shifted = np.r_[x, x + 1]  # treated at 2, 3, 4, 5, on the line 2 x - 1; mean of all x is 3
    found = ancova(D, W, shifted)
    assert found.effect == pytest.approx((2 * 3 - 1) - 3, abs=SOLVED)
    assert ancova(D, W, shifted, estimand="att").effect == pytest.approx((2 * 3.5 - 1) - 3.5, abs=SOLVED)


def test_cuped_by_hand() -> None:
    """x moves D by 2 in both arms and lies alike in them: theta is 2 and the difference stays 3."""
    x = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    W = np.repeat([0.0, 1.0], 3)
    assert cuped(2 * x + 3 * W, W, x).effect == pytest.approx(3.0, abs=EXACT)
    # theta = cov / var over both arms: x = 0, 1 | 1, 2 and D = 0, 1 | 2, 3 give 2.5 / 2
    assert cuped([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1], [0.0, 1.0, 1.0, 2.0]).effect == pytest.approx(
        2.0 - 1.5 * 1.0, abs=EXACT
    )


def test_without_covariates_it_is_the_difference_of_means_and_hajek() -> None:
    D, W, _ = draw()
    weights = bootstrap.poisson_weights(np.arange(200), n_replicates=40, rng=np.random.default_rng(2))
    options: dict[str, Any] = {"trim": "trim", "weights": weights}
    found = ancova(D, W, **options)
    half = np.full(200, 0.5)
    plain = hpte.estimate(D, W, method="hajek", probability=half, rng=np.random.default_rng(0), **options)
    constant = cuped(D, W, np.ones(200), **options)
    for one in (found, constant):
        assert one.effect == pytest.approx(plain.effect, abs=EXACT)
        np.testing.assert_allclose(one.draws, plain.draws, atol=EXACT)
        np.testing.assert_array_equal(one.kept, plain.kept)
        assert (one.n_treated, one.n_control, one.n_trimmed) == (plain.n_treated, plain.n_control, plain.n_trimmed)


@pytest.mark.parametrize("estimand", ["ate", "att"])
def test_it_is_ordinary_least_squares_with_interactions(estimand: Any) -> None:
    D, W, X = draw()
    weights = bootstrap.poisson_weights(np.arange(200), n_replicates=10, rng=np.random.default_rng(2))
    found = ancova(D, W, X, estimand=estimand, weights=weights)
    for w, effect in zip([np.ones(200), *weights.T.astype(float)], [found.effect, *found.draws], strict=True):
        over = w * (W if estimand == "att" else 1.0)
        assert effect == pytest.approx(by_matrix(D, W, X, w, over @ X / over.sum()), abs=SOLVED)


def test_blocks_are_dummies_in_the_regression() -> None:
    D, W, X = draw(p=2)
    block = np.arange(200) % 3
    D = D + 5.0 * block
    columns = np.column_stack([np.eye(3)[block], W, X, W[:, None] * (X - X.mean(axis=0))])
    expected = np.linalg.lstsq(columns, D, rcond=None)[0][3]
    assert ancova(D, W, X, within=block).effect == pytest.approx(expected, abs=SOLVED)
    assert ancova(D, W, X, within=block).estimand.endswith("arms compared within their blocks")


def test_one_binary_covariate_is_post_stratification() -> None:
    D, W, X = draw()
    g = X[:, 0] > 0.4
    strata = [(g == side) for side in (True, False)]
    gaps = [D[stratum & (W == 1)].mean() - D[stratum & (W == 0)].mean() for stratum in strata]
    assert ancova(D, W, g).effect == pytest.approx(np.average(gaps, weights=[s.sum() for s in strata]), abs=SOLVED)


def test_relative_effects_are_divided_by_the_untreated_mean_of_each_replicate() -> None:
    D, W, X = draw(effect=0.1)
    Z = 4.0 + D
    weights = bootstrap.poisson_weights(np.arange(200), n_replicates=10, rng=np.random.default_rng(2))
    plain = ancova(Z, W, X, weights=weights)
    found = ancova(Z, W, X, weights=weights, outcome=Z, exposure=W)
    for w, tau, effect in zip(weights.T.astype(float), plain.draws, found.draws, strict=True):
        assert effect == pytest.approx(tau / ((w @ Z - tau * (w @ W)) / w.sum()), abs=SOLVED)
    assert found.estimand == plain.estimand + "; relative to the mean without treatment"


def test_the_filter_is_redone_in_each_replicate() -> None:
    D, W, X = draw()
    D[:4] += np.array([50.0, -50.0, 80.0, -80.0])
    weights = bootstrap.poisson_weights(np.arange(200), n_replicates=30, rng=np.random.default_rng(2))
    found = ancova(D, W, X, trim="trim", weights=weights)
    assert found.se < 0.5 * ancova(D, W, X, weights=weights).se
    from pricelab_dagster.science import outliers

    for w, effect in zip(weights.T.astype(float), found.draws, strict=True):
        kept = w * outliers.keep_mask(D, W, weights=w)
        assert effect == pytest.approx(by_matrix(D, W, X, kept, kept @ X / kept.sum()), abs=SOLVED)


@pytest.mark.parametrize("winsorized", [False, True])
def test_row_order_does_not_matter(winsorized: bool) -> None:
    D, W, X = draw()
    order = np.random.default_rng(5).permutation(200)
    weights = bootstrap.poisson_weights(np.arange(200), n_replicates=30, rng=np.random.default_rng(2))
    rule = {"trim": "winsorize" if winsorized else "trim"}
    one, other = (
        ancova(D, W, X, weights=weights, **rule),
        ancova(D[order], W[order], X[order], weights=weights[order], **rule),
    )
    assert other.effect == pytest.approx(one.effect, abs=SOLVED)
    np.testing.assert_allclose(other.draws, one.draws, atol=SOLVED)


def test_affine_changes_of_covariates_do_not_matter() -> None:
    D, W, X = draw()
    one, other = ancova(D, W, X), ancova(D, W, X * np.array([1e-4, -3.0, 1e5]) + np.array([7.0, -1e3, 1e6]))
    assert other.effect == pytest.approx(one.effect, abs=1e-7)  # 1e6 beside a spread of 1e5 costs digits
    np.testing.assert_allclose(other.draws, one.draws, atol=1e-7)
    two, three = cuped(D, W, X[:, 0]), cuped(D, W, 5.0 - 3.0 * X[:, 0])
    np.testing.assert_allclose(two.draws, three.draws, atol=SOLVED)


def test_swapped_arms_flip_the_sign_and_scale_scales() -> None:
    D, W, X = draw()
    for peer in (lambda D, W: ancova(D, W, X), lambda D, W: cuped(D, W, X[:, 0])):
        one, swapped, scaled = peer(D, W), peer(D, 1 - W), peer(10 * D + 3, W)
        assert swapped.effect == pytest.approx(-one.effect, abs=SOLVED)
        assert swapped.se == pytest.approx(one.se, rel=SOLVED)
        assert scaled.effect == pytest.approx(10 * one.effect, abs=10 * SOLVED)


def test_ten_copies_of_each_product_leave_the_standard_error() -> None:
    D, W, X = draw(n=80)
    one = ancova(D, W, X, n_replicates=200)
    copies = np.repeat(np.arange(80), 10)
    other = ancova(D[copies], W[copies], X[copies], units=copies, n_replicates=200)
    assert other.effect == pytest.approx(one.effect, abs=SOLVED)
    assert other.se == pytest.approx(one.se, rel=SOLVED)


def test_covariates_that_say_nothing_are_left_out() -> None:
    D, W, X = draw()
    one = ancova(D, W, X)
    in_one_arm = np.where((W == 1) & (np.arange(200) % 3 == 0), 1.0, 0.0)
    other = ancova(D, W, np.column_stack([X, X @ [1.0, 2.0, 3.0], np.ones(200), in_one_arm]))
    np.testing.assert_array_equal(other.draws, one.draws)
    assert one.reason is None
    assert other.reason == "Covariates left out: 1 vary in one arm only."


def test_units_limit_the_covariates_and_first_ones_stay() -> None:
    D, W, X = draw(n=50, p=5)
    found = ancova(D, W, X)
    np.testing.assert_array_equal(found.draws, ancova(D, W, X[:, :2]).draws)
    assert found.reason == "Covariates left out: 3 are more than the units allow."
    pairs = ancova(D, np.repeat(W[::2], 2), X, units=np.arange(50) // 2)
    assert pairs.reason == "Covariates left out: 4 are more than the units allow."


def test_missing_values_and_text_are_encoded() -> None:
    D, W, X = draw()
    frame = pd.DataFrame(
        {"x": np.where(np.arange(200) % 9 == 0, np.nan, X[:, 0]), "brand": np.where(X[:, 1] > 0, "a", "b")}
    )
    found = ancova(D, W, frame)
    np.testing.assert_array_equal(found.draws, ancova(D, W, affinity.encode(frame)[0]).draws)
    gaps = np.where(np.arange(200) % 9 == 0, np.nan, X[:, 0])
    filled = np.where(np.isnan(gaps), np.nanmedian(gaps), gaps)
    np.testing.assert_array_equal(cuped(D, W, gaps).draws, cuped(D, W, filled).draws)


def test_a_replicate_without_variation_in_a_covariate_is_not_adjusted_for_it() -> None:
    D, W, _ = draw(n=40, p=1)
    rare = np.zeros(40)
    rare[[np.flatnonzero(W == 1)[0], np.flatnonzero(W == 0)[0]]] = 1.0
    weights = np.ones((40, 1)) * np.where(rare > 0, 0.0, 1.0)[:, None]
    found = ancova(D, W, rare, weights=np.column_stack([weights, weights]))
    kept = rare == 0
    assert found.draws[0] == pytest.approx(D[kept & (W == 1)].mean() - D[kept & (W == 0)].mean(), abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimand": "overlap"}, "estimand == 'overlap', must be one of"),
        ({"W": np.ones((200, 2))}, "arm.shape == "),
        ({"W": np.full(200, 2.0)}, "arm == 2, must be 0, 1 or nan"),
        ({"X": np.ones((7, 1))}, "X has 7 rows, must have 200"),
        ({"weights": np.ones((7, 2))}, "weights.shape == "),
        ({"outcome": np.ones(200)}, "one of outcome, exposure == None"),
    ],
)
def test_what_breaks_the_rules_is_refused(change: dict[str, Any], message: str) -> None:
    D, W, X = draw()
    with pytest.raises(ValueError, match=message):
        ancova(**{"D": D, "W": W, "X": X, **change})
    if "X" in change:
        with pytest.raises(ValueError, match=r"covariate.shape == "):
            cuped(D, W, np.ones(7))


def test_empty_arms_have_a_reason_and_no_number() -> None:
    D, W, X = draw()
    for one in (ancova(D, np.zeros(200), X), cuped(D, np.ones(200), X[:, 0])):
        assert np.isnan([one.effect, one.se, one.p_value]).all()
        assert "nothing to compare" in str(one.reason)
    alone = ancova(np.full(200, np.nan), W, X)
    assert np.isnan(alone.effect)
    assert alone.reason


def test_adjustment_shortens_the_interval_and_covers_as_often_as_it_says() -> None:
    """Effects vary with the covariate, arms are unequal; both sides of the binomial 99.9 % interval."""
    hits, shorter = {"ancova": 0, "cuped": 0}, []
    for seed in range(N_WORLDS):
        rng = np.random.default_rng([seed, 3])
        x = rng.normal(size=(90, 1))
        W = rng.permutation(np.arange(90) % 3 == 0).astype(float)
        D = 1.5 * x[:, 0] + W * (0.5 + 0.5 * x[:, 0]) + rng.normal(size=90)
        options: dict[str, Any] = {"n_replicates": 100, "rng": rng}
        found = {"ancova": ancova(D, W, x, **options), "cuped": cuped(D, W, x[:, 0], **options)}
        shorter.append(found["ancova"].se / ancova(D, W, **options).se)
        for name, one in found.items():
            hits[name] += one.ci_lower <= 0.5 <= one.ci_upper
    assert 0.45 < np.mean(shorter) < 0.75  # 1 / sqrt(1 + 1.5^2) is .55, with another part of the effect's spread
    for n_hits in hits.values():
        bounds = stats.binomtest(n_hits, N_WORLDS).proportion_ci(0.999)
        assert bounds.low <= 0.95 <= bounds.high


def test_adjustment_removes_linear_confounding() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=2000)
    W = (rng.random(2000) < 1 / (1 + np.exp(-x))).astype(float)
    D = 2.0 * x + 0.5 * W + rng.normal(size=2000)
    plain, adjusted = ancova(D, W), ancova(D, W, x)
    assert abs(plain.effect - 0.5) > 10 * plain.se
    assert abs(adjusted.effect - 0.5) < 4 * adjusted.se


def forest(D: Any, W: Any, X: Any, **options: Any) -> hpte.Effect:
    return peers.causal_forest_dml(D, W, X, **{"trim": "none", "rng": np.random.default_rng(1), **options})


def test_the_causal_forest_finds_the_effect_with_an_honest_interval() -> None:
    D, W, X = draw(n=300, effect=1.0)
    found = forest(D, W, X)
    assert abs(found.effect - 1.0) < 4 * found.se
    assert found.effect - found.ci_lower == pytest.approx(stats.norm.ppf(0.975) * found.se, rel=EXACT)
    # between the noise that is left when X is known, 2 / sqrt(300), and the plain difference's
    assert 2 / np.sqrt(300) * 0.9 < found.se < ancova(D, W).se
    assert found.n_replicates == 0
    assert len(found.draws) == 0
    again = forest(D, W, X)
    assert (again.effect, again.se) == (found.effect, found.se)


def test_the_causal_forest_estimates_the_effect_on_the_treated_where_asked() -> None:
    """Treated products have large x and large effects."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, size=600)
    W = (rng.random(600) < 0.5 + 0.4 * x).astype(float)
    D = W * (1.0 + 2.0 * x) + 0.3 * rng.normal(size=600)
    all_of_them, treated = forest(D, W, x), forest(D, W, x, estimand="att")
    assert abs(treated.effect - (1.0 + 2.0 * x[W == 1].mean())) < 4 * treated.se
    assert abs(all_of_them.effect - (1.0 + 2.0 * x.mean())) < 4 * all_of_them.se
    assert treated.effect - all_of_them.effect > 0.2


def test_the_relative_effect_of_the_causal_forest_is_over_the_untreated_mean() -> None:
    D, W, X = draw(n=120)
    plain, found = forest(D, W, X), forest(D, W, X, outcome=4.0 + D, exposure=W)
    untreated = np.mean(4.0 + D) - plain.effect * W.mean()
    assert found.effect == pytest.approx(plain.effect / untreated, rel=EXACT)
    step = 1e-6  # the slope of tau / (mean - tau part) in tau
    slope = ((plain.effect + step) / (np.mean(4.0 + D) - (plain.effect + step) * W.mean()) - found.effect) / step
    assert found.se == pytest.approx(plain.se * slope, rel=1e-4)
    below = forest(D, W, X, outcome=D - 50.0, exposure=W)
    assert np.isnan([below.effect, below.se, below.p_value]).all()
    assert "not positive" in str(below.reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"units": np.arange(120) // 2}, "Clusters are assigned"),
        ({"X": None}, "No attribute varies"),
        ({"W": np.r_[np.ones(19), np.zeros(101)]}, "19 treated and 101 control products, at least 20"),
        ({"W": np.zeros(120)}, "0 treated and 120 control products with a first difference: nothing to compare"),
    ],
)
def test_without_a_causal_forest_there_is_a_reason(change: dict[str, Any], reason: str) -> None:
    D, W, X = draw(n=120)
    found = forest(**{"D": D, "W": W, "X": X, **change})
    assert np.isnan([found.effect, found.se, found.ci_lower]).all()
    assert str(found.reason).startswith(reason)


def make(
    kind: str, *, n: int = N_PRODUCTS, seed: int = 0, scenario: Any = "clean"
) -> tuple[panel.Panel, pd.DataFrame, float]:
    """Return a panel of a simulated market, its attributes and the planted relative effect."""
    rng = np.random.default_rng([seed, 11])
    world = market.simulate(scenario=scenario, n_products=n, n_history=112, n_window=28, rng=rng)
    lengths: dict[str, Any] = {"time_bound": {"duration": 28}, "random_days": {"duration": 28}}
    lengths["crossover"] = {"phase": 14, "blackout": 0}
    drawn = getattr(designs, kind)(world.product_id, world.date[112], **lengths[kind], rng=rng)
    seen = world.observe(drawn.arm)
    one = panel.Panel(
        product_id=world.product_id,
        date=drawn.date,
        unit_id=drawn.unit_id,
        category=world.category,
        arm=drawn.arm.astype(float),
        in_analysis=drawn.in_analysis,
        probability=drawn.probability,
        phase=np.arange(28) // 14 + 1 if kind == "crossover" else np.ones(28, dtype=int),
        history={"units": seen.units[:, :112].astype(float)},
        observed={"units": seen.units[:, 112:].astype(float)},
        kind=kind,
    )
    return one, world.attributes.assign(category=world.category), seen.truth.relative["units"]


def rows(one: panel.Panel, X: pd.DataFrame | None, **options: Any) -> dict[tuple[str, str], hpte.Effect]:
    trimmed = panel.trimmed(one, panel.forecasts(one))
    leaves = affinity.Leaves.single(len(one.product_id))
    options = {"n_replicates": N_REPLICATES, "rng": np.random.default_rng(1), **options}
    return {(scale, name): effect for _, scale, name, effect in panel.estimates(one, trimmed, leaves, X=X, **options)}


def test_the_panel_offers_peers_by_design_scale_and_attributes() -> None:
    names = {"ancova", "cuped", "causal_forest_dml"}
    for kind, expected in {"time_bound": names, "crossover": names, "random_days": set()}.items():
        one, X, _ = make(kind)
        found = rows(one, X, n_replicates=4)
        assert {name for scale, name in found if scale == "relative"} & names == expected
        assert {name for scale, name in found if scale == "level"} & names == expected - {"causal_forest_dml"}
        assert not {name for _, name in rows(one, None, n_replicates=4)} & names


@pytest.mark.parametrize("kind", ["time_bound", "crossover"])
def test_peers_of_a_panel_lie_near_the_planted_effect(kind: str) -> None:
    one, X, truth = make(kind, n=200)
    found = rows(one, X, estimators=panel.ESTIMATORS + tuple(f"{name}_raw" for name in ("ancova", "cuped")))
    for name in ("ancova", "cuped", "causal_forest_dml", "ancova_raw", "cuped_raw"):
        effect = found["relative", name]
        assert abs(effect.effect - truth) < 4 * effect.se
        assert 0.7 < effect.se / found["relative", "hajek"].se < 3.0, name


def test_the_raw_peer_is_the_mean_after_the_start_without_filter() -> None:
    one, X, _ = make("time_bound")
    metrics = panel.trimmed(one, panel.forecasts(one))
    level = metrics[1]
    before = pd.DataFrame(
        {
            "recent": one.history["units"][:, -28:].mean(axis=1),
            "ever": one.history["units"].mean(axis=1),
            "size": np.log(one.history["units"].mean(axis=1)),
        }
    )
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=10, rng=np.random.default_rng(1))
    after = one.observed["units"].mean(axis=1)
    expected = ancova(after, one.sequence, pd.concat([before, X], axis=1), weights=weights)
    found = rows(one, X, weights=weights, estimators=("ancova_raw", "cuped_raw"))
    np.testing.assert_array_equal(found["level", "ancova_raw"].draws, expected.draws)
    np.testing.assert_array_equal(
        found["level", "cuped_raw"].draws, cuped(after, one.sequence, before["recent"], weights=weights).draws
    )
    assert level.scale == "level"


def test_imported_arms_are_adjusted_at_the_treated() -> None:
    one, X, _ = make("time_bound")
    found = rows(replace(one, imported=True), X, n_replicates=4)
    for name in ("ancova", "causal_forest_dml"):
        assert found["relative", name].estimand.startswith("mean effect on treated products")


def test_a_refused_design_refuses_its_peers() -> None:
    one, X, _ = make("crossover")
    same = np.tile(np.where(np.arange(28) < 14, 1.0, 0.0), (N_PRODUCTS, 1))
    found = rows(replace(one, arm=same, imported=True), X, n_replicates=4)
    for scale, name in product(("relative", "level"), ("ancova", "cuped")):
        assert np.isnan(found[scale, name].effect)
        assert "same sequence" in str(found[scale, name].reason)
    assert "same sequence" in str(found["relative", "causal_forest_dml"].reason)
