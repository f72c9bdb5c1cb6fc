"""The panel of several arms, of triggered products in event time, and of designs that HPTE refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science import affinity, bootstrap, designs, detrend, outliers, panel

START = np.datetime64("2024-01-01")
EXACT = 1e-9  # sums of a few hundred doubles
DOSES = np.array([0.0, -10.0, -5.0, 5.0])
SLOPE = -0.02  # relative change per cent of price
N, T0 = 48, 84
LENGTHS: dict[str, dict[str, Any]] = {
    "time_bound": {"duration": 14},
    "random_days": {"duration": 28},
    "crossover": {"phase": 14, "blackout": 7},
}


def exact(kind: str, n_arms: int = 3, n: int = N) -> panel.Panel:
    """A panel without noise: every product sells 10 and answers each arm by SLOPE times its dose."""
    ids = np.array([f"p{i:03}" for i in range(n)], dtype=object)
    drawn = getattr(designs, kind)(ids, START, **LENGTHS[kind], n_arms=n_arms, rng=np.random.default_rng(1))
    t = len(drawn.date)
    return panel.Panel(
        product_id=ids,
        date=drawn.date,
        unit_id=ids,
        category=np.array(["a"] * n, dtype=object),
        arm=drawn.arm.astype(float),
        in_analysis=drawn.in_analysis,
        probability=drawn.probability,
        phase=np.arange(t) // 14 + 1 if kind == "crossover" else np.ones(t, dtype=int),
        history={"units": np.full((n, T0), 10.0)},
        observed={"units": 10.0 * (1 + SLOPE * DOSES[drawn.arm])},
        kind=kind,
        drawn=drawn.arm.max(axis=1).astype(np.int64),
    )


def triggered(*, seed: int = 2, lift: float = 0.3, noise: float = 0.0) -> panel.Panel:
    """Products in event time: twelve start on each of four days, weeks apart; weeks differ and products too."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:03}" for i in range(N)], dtype=object)
    cohort = np.arange(N) % 4
    arm = np.repeat((np.arange(N) // 4 % 2)[:, None], 10, axis=1).astype(float)
    level, eve = rng.uniform(5, 20, N), T0 + 7 * cohort
    history = np.tile(level[:, None], (1, T0 + 21))
    history[np.arange(T0 + 21)[None, :] >= eve[:, None]] = np.nan
    week = np.array([1.0, 1.5, 0.8, 1.2])[cohort]
    observed = level[:, None] * (week[:, None] + lift * arm) * (1 + noise * rng.normal(size=arm.shape))
    first = START + 7 * cohort
    return panel.Panel(
        product_id=ids,
        date=first[:, None] + np.arange(10)[None, :],
        unit_id=ids,
        category=np.array(["a"] * N, dtype=object),
        arm=arm,
        in_analysis=np.tile(np.arange(10) >= 1, (N, 1)),
        probability=np.full(arm.shape, 0.5),
        phase=np.ones(10, dtype=int),
        history={"units": history},
        observed={"units": observed},
        kind="triggered",
        eve=eve,
        block=cohort,
    )


def trimmed(one: panel.Panel, **options: Any) -> list[panel.Trimmed]:
    return panel.trimmed(one, panel.forecasts(one, method="mean"), **options)


def effects(one: panel.Panel, rows: list[panel.Trimmed], **options: Any) -> dict[tuple[str, str], Any]:
    leaves = affinity.Leaves.single(len(one.product_id))
    found = panel.estimates(one, rows, leaves, n_replicates=20, rng=np.random.default_rng(3), **options)
    return {(scale, estimator): effect for _, scale, estimator, effect in found}


@pytest.mark.parametrize("kind", LENGTHS)
def test_each_arm_stands_against_control(kind: str) -> None:
    one = exact(kind)
    rows = trimmed(one, trim="none")
    for code in (1, 2, 3):
        found = effects(one.against(code), rows, trim="none")
        for estimator in ("hpte", "hajek", "difference_in_differences"):
            assert found["relative", estimator].effect == pytest.approx(SLOPE * DOSES[code], abs=EXACT)
            assert found["level", estimator].effect == pytest.approx(10 * SLOPE * DOSES[code], abs=EXACT)


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_dose_line_finds_an_exact_line(kind: str) -> None:
    one = exact(kind)
    rows = trimmed(one, trim="none")
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=20, rng=np.random.default_rng(4))
    options = {"weights": weights, "trim": "none", "rng": np.random.default_rng(5)}
    found = {scale: effect for _, scale, effect in panel.dose_line(one, rows, None, DOSES, **options)}
    assert found["relative"].effect == pytest.approx(SLOPE, abs=EXACT)
    assert found["level"].effect == pytest.approx(10 * SLOPE, abs=EXACT)
    assert found["relative"].se == pytest.approx(0.0, abs=EXACT)


def test_an_arm_of_a_crossover_is_its_own_two_sequences() -> None:
    one = exact("crossover").against(2)
    kept = np.isfinite(one.arm).any(axis=1)
    assert kept.sum() == (exact("crossover").drawn_arm == 2).sum()
    assert set(one.sequence[kept]) == {0.0, 1.0}


def test_triggered_products_are_forecast_from_the_eve_of_their_own_start() -> None:
    one = triggered(noise=0.1)
    found = panel.forecasts(one, method="mean")["units"]
    for rows, eve in one.cohorts():
        by_hand = detrend.forecast(one.history["units"][:, :eve], 10, groups=one.category, method="mean", window=28)
        np.testing.assert_array_equal(found[rows], by_hand[rows])
    assert [eve for _, eve in one.cohorts()] == [T0, T0 + 7, T0 + 14, T0 + 21]
    assert one.through == "2024-01-31"


def test_triggered_products_are_compared_within_their_start_weeks() -> None:
    """Weeks that move both arms alike leave the effect as planted; arms are alike in each week."""
    one = triggered()
    rows = trimmed(one, trim="none")
    found = effects(one, rows, trim="none")
    scaled = rows[0].outcome
    control = scaled[one.sequence == 0][:, 1:].mean()
    expected = 0.3 * (scaled / (one.observed["units"] / 1.0))[:, :1].ravel()
    level = (one.observed["units"][:, 0] / (np.array([1.0, 1.5, 0.8, 1.2])[one.block] + 0.3 * one.sequence)) * expected
    for estimator in ("hpte", "hpte_leaf", "hajek", "difference_in_differences"):
        assert found["relative", estimator].effect == pytest.approx(level.mean() / control, rel=0.01)
    assert ("relative", "hpte_doubly_robust") not in found


def test_a_triggered_week_with_one_arm_is_left_out() -> None:
    one = triggered()
    arm = one.arm.copy()
    arm[one.block == 3] = 1.0
    rows = trimmed(replace(one, arm=arm), trim="none")
    found = effects(replace(one, arm=arm), rows, trim="none")["relative", "hpte"]
    assert found.reason == "12 products in blocks with one arm only are left out."
    assert (found.n_treated, found.n_control) == (18, 18)


def test_a_crossover_with_one_sequence_is_refused_and_has_a_paired_contrast() -> None:
    one = exact("crossover", n_arms=1)
    same = np.where(np.arange(28) < 14, 1.0, 0.0)[None, :].repeat(N, axis=0)
    one = replace(one, arm=same, observed={"units": 10.0 + same}, imported=True)
    found = effects(one, trimmed(one, trim="none"), trim="none")
    assert found["level", "paired"].effect == pytest.approx(1.0, abs=EXACT)
    assert found["relative", "paired"].effect == pytest.approx(0.1, abs=EXACT)
    others = {key: effect for key, effect in found.items() if key[1] != "paired"}
    assert all(np.isnan(effect.effect) and "same sequence" in effect.reason for effect in others.values())
    assert ("level", "paired") not in effects(exact("crossover", n_arms=1), trimmed(exact("crossover", n_arms=1)))


def test_staggered_starts_are_refused_and_have_group_time_averages() -> None:
    one = exact("time_bound", n_arms=1)
    start = np.where(np.arange(N) % 3 == 0, 99, np.arange(N) % 3 * 4)
    arm = (np.arange(14)[None, :] >= start[:, None]).astype(float)
    rng = np.random.default_rng(6)
    noise = 0.1 * rng.normal(size=(N, T0 + 14))
    values = {"units": 10.0 + noise[:, :T0]}, {"units": 10.0 + 2.0 * arm + noise[:, T0:]}
    one = replace(one, arm=arm, history=values[0], observed=values[1], imported=True)
    found = effects(one, trimmed(one, trim="none"), trim="none")
    for name in ("two_way_fixed_effects", "group_time_simple_never", "group_time_dynamic_not_yet"):
        effect = found["level", name]
        assert abs(effect.effect - 2.0) < 4 * effect.se
        assert 0 < effect.se < 0.1
        assert found["relative", name].effect == pytest.approx(effect.effect / (12 - effect.effect), rel=0.02)
    assert np.isnan(found["relative", "hpte"].effect)
    assert panel.headline(unit="product", kind="time_bound", imported=True, staggered=True) in {k for _, k in found}
    assert panel.headline(unit="product", kind="triggered", imported=True) == "hpte_leaf"


def two_arms_of_which_one_starts_late() -> panel.Panel:
    """Arm 2 from the first day on, arm 1 from the sixth, when all products sell half as much again; no effect."""
    rng = np.random.default_rng(7)
    arm = np.zeros((60, 14))
    arm[:20], arm[40:, 5:] = 2.0, 1.0
    observed = rng.poisson(100, arm.shape) * np.where(np.arange(14) >= 5, 1.5, 1.0)
    one = exact("time_bound", n_arms=1, n=60)
    history = rng.poisson(100, (60, T0)).astype(float)
    drawn = arm.max(axis=1).astype(np.int64)
    return replace(one, arm=arm, drawn=drawn, history={"units": history}, observed={"units": observed}, imported=True)


def test_products_that_wait_for_another_arm_are_no_controls() -> None:
    one = two_arms_of_which_one_starts_late()
    rows = trimmed(one, trim="none")
    found = effects(one.against(2), rows, trim="none")
    for estimator in ("hpte", "hpte_leaf", "hpte_doubly_robust", "hajek", "difference_in_differences"):
        effect = found["relative", estimator]
        assert (effect.n_treated, effect.n_control) == (20, 20)
        # products sell 100 a day for 14 days: a mean of 20 differs from another by 1 %; waiting products made it .16
        assert abs(effect.effect) < 0.04
        assert effect.ci_lower < 0.0 < effect.ci_upper
    late = effects(one.against(1), rows, trim="none")
    assert str(late["relative", "hpte"].reason).startswith("not identified by one before and after")
    for control in ("never", "not_yet"):
        effect = late["relative", f"group_time_simple_{control}"]
        assert (effect.n_treated, effect.n_control) == (20, 20)
        assert abs(effect.effect) < 0.04


def test_a_product_whose_arm_is_still_to_come_is_no_control_of_another_arm() -> None:
    """Seen through the fifth day, before arm 1 starts: `drawn` alone tells who waits."""
    whole = two_arms_of_which_one_starts_late()
    one = replace(
        whole,
        date=whole.date[:5],
        phase=whole.phase[:5],
        observed={"units": whole.observed["units"][:, :5]},
        **{name: getattr(whole, name)[:, :5] for name in ("arm", "in_analysis", "probability")},
    )
    found = effects(one.against(2), trimmed(one, trim="none"), trim="none")["relative", "hajek"]
    assert (found.n_treated, found.n_control) == (20, 20)
    waiting = effects(one.against(1), trimmed(one, trim="none"), trim="none")["relative", "hajek"]
    assert (waiting.n_treated, waiting.n_control) == (0, 40)


def test_cells_of_random_days_stand_against_all_control_cells() -> None:
    one = exact("random_days")
    for code in (1, 2, 3):
        cells = np.isfinite(one.against(code).arm)
        np.testing.assert_array_equal(cells, np.isin(one.arm, (0, code)))


@pytest.mark.parametrize("kind", ["crossover", "time_bound"])
def test_points_per_revenue_where_hpte_is_refused(kind: str) -> None:
    """Revenue is 10 in all cells and profit 3, under treatment 3.5: five points per revenue."""
    one = exact(kind, n_arms=1)
    t = one.arm.shape[1]
    starts = np.where(np.arange(N) % 3 == 0, t, np.arange(N) % 3 * 4) if kind == "time_bound" else np.zeros(N)
    arm = (np.arange(t) >= starts[:, None]) & ((np.arange(t) < 14) | (kind == "time_bound"))
    level = np.full((N, t), 10.0)
    one = replace(
        one,
        arm=arm.astype(float),
        history={"profit": np.full((N, T0), 3.0), "revenue": np.full((N, T0), 10.0)},
        observed={"profit": 3.0 + 0.5 * arm, "revenue": level},
        imported=True,
    )
    rows = trimmed(one, trim="none", method="mean")
    for first in (rows, rows[::-1]):
        leaves = affinity.Leaves.single(N)
        options = {"estimators": ("hpte",), "n_replicates": 5, "rng": np.random.default_rng(3)}
        found = {(m, s, e): x for m, s, e, x in panel.estimates(one, first, leaves, **options)}
        offered = [key for key in found if key[:2] == ("profit", "relative") and key[2] != "hpte"]
        assert len(offered) == (1 if kind == "crossover" else 7)
        for key in offered:
            effect = found[key]
            assert effect.effect == pytest.approx(0.05, abs=EXACT)
            assert found["profit", "level", key[2]].effect == pytest.approx(0.5, abs=EXACT)
            assert effect.estimand.endswith("relative to the mean revenue")
            assert effect.reason is None or "not positive" not in effect.reason


def test_no_points_without_a_revenue() -> None:
    one = exact("crossover", n_arms=1)
    arm = np.repeat(np.where(np.arange(28) < 14, 1.0, 0.0)[None, :], N, axis=0)
    one = replace(
        one,
        arm=arm,
        history={"profit": np.full((N, T0), 3.0), "revenue": np.full((N, T0), 10.0)},
        observed={"profit": 3.0 + 0.5 * arm, "revenue": np.zeros((N, 28))},
        imported=True,
    )
    leaves, options = affinity.Leaves.single(N), {"n_replicates": 5, "rng": np.random.default_rng(3)}
    rows = trimmed(one, trim="none", method="mean")
    found = {(m, s, e): x for m, s, e, x in panel.estimates(one, rows, leaves, **options)}
    paired = found["profit", "relative", "paired"]
    assert np.isnan(paired.effect)
    assert paired.reason == "The mean revenue is 0, not positive: no relative effect."


def of_sizes(sizes: tuple[int, ...]) -> panel.Panel:
    """Products of control and each arm in turn, whose relative first differences are 0, .1, .2, ... within each."""
    n = sum(sizes)
    code = np.repeat(np.arange(len(sizes)), sizes)
    one = exact("time_bound", n_arms=1, n=n)
    D = np.concatenate([np.arange(size) / 10 for size in sizes])
    arm = np.repeat(code[:, None].astype(float), 14, axis=1)
    return replace(one, arm=arm, drawn=code, observed={"units": np.repeat(10.0 * (1 + D)[:, None], 14, axis=1)})


def test_of_several_arms_each_is_filtered_against_control() -> None:
    """c = 1: against arm one k = floor(40 / 60 + 1/2) = 1 of control, 0 of the arm; against arm two 0 and 1."""
    relative, level = trimmed(of_sizes((40, 20, 60)), arms=["small", "large"], c=1.0)[:2]
    expected = {0: "(small)", 39: "(small)", 60: "(large)", 119: "(large)"}
    assert {int(row): relative.reason[row] for row in np.flatnonzero(~relative.kept)} == {
        row: f"outlier: dropped {names}" for row, names in expected.items()
    }
    assert level.kept.all()
    assert level.reason[39] == "outlier: set to the nearest kept first difference (small)"
    both = trimmed(of_sizes((20, 20, 20)), c=1.0)[0]
    assert set(both.reason[[0, 19]]) == {"outlier: dropped (arm 1, arm 2)"}
    assert both.reason[20] == "outlier: dropped (arm 1)"
    assert (~both.kept).sum() == 6


def test_of_one_arm_the_reason_names_none() -> None:
    one = of_sizes((40, 20))
    found = trimmed(one, arms=["treatment"], c=1.0)[0]
    by_hand = outliers.keep_mask(found.first_difference, one.sequence, c=1.0)
    np.testing.assert_array_equal(found.kept, by_hand)
    assert {found.reason[row] for row in np.flatnonzero(~by_hand)} == {"outlier: dropped"}
    # of two arms of which one has no product, the other is still named
    assert trimmed(one, arms=["some", "none"], c=1.0)[0].reason[0] == "outlier: dropped (some)"


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_products_that_are_listed_are_those_that_the_estimates_drop(kind: str) -> None:
    one, names = exact(kind, n=240), ["deep", "light", "up"]
    rng = np.random.default_rng(8)
    noise = rng.standard_t(3, size=(240, 1)) * rng.uniform(size=one.arm.shape)
    one = replace(one, observed={"units": one.observed["units"] + noise})
    rows = trimmed(one, arms=names)
    dropped = np.zeros(240, dtype=bool)
    for code, name in enumerate(names, 1):
        against = one.against(code)
        found = effects(against, rows, estimators=("hpte",))
        D = panel.contrast(against, rows[0].residual)
        cut = np.isfinite(D) & ~found["relative", "hpte"].kept
        np.testing.assert_array_equal(cut, [name in _arms(reason) for reason in rows[0].reason])
        for row in rows[:2]:
            assert found[row.scale, "hpte"].n_trimmed == sum(name in _arms(reason) for reason in row.reason) > 0
        dropped |= cut
    np.testing.assert_array_equal(rows[0].kept, ~dropped)


def _arms(reason: str | None) -> list[str]:
    return str(reason).partition("(")[2].removesuffix(")").split(", ") if reason else []


@pytest.mark.parametrize(
    ("n_periods", "reason"),
    [
        (10, "only the first phase has counted periods; a crossover needs both"),
        (19, "only the first phase has counted periods; a crossover needs both"),
        (5, "no period is counted yet; a crossover needs both phases"),
    ],
)
def test_a_crossover_in_its_first_phase_has_one_reason(n_periods: int, reason: str) -> None:
    whole = exact("crossover", n_arms=1)
    one = replace(
        whole,
        date=whole.date[:n_periods],
        phase=whole.phase[:n_periods],
        observed={"units": whole.observed["units"][:, :n_periods]},
        **{name: getattr(whole, name)[:, :n_periods] for name in ("arm", "in_analysis", "probability")},
    )
    assert panel.missing_phase(one) == reason
    rows = trimmed(one)
    assert set(rows[0].reason) == {f"no first difference: {reason}"}
    assert not rows[0].kept.any()
    found = effects(one, rows)
    assert {effect.reason for effect in found.values()} == {f"not identified: {reason}."}
    assert "paired" not in {estimator for _, estimator in found}


def test_a_crossover_needs_an_odd_and_an_even_phase() -> None:
    one = exact("crossover", n_arms=1)
    assert panel.missing_phase(one) is None
    assert panel.missing_phase(exact("time_bound")) is None
    third = replace(one, phase=np.where(one.phase == 2, 3, 1))
    assert panel.missing_phase(third) == "only odd phases have counted periods; a crossover needs both"
    even = replace(one, phase=np.full(28, 2))
    assert panel.missing_phase(even) == "only even phases have counted periods; a crossover needs both"


def test_the_forecast_that_auto_takes_is_the_one_of_forecasts_and_placebos() -> None:
    rng = np.random.default_rng(11)
    one = exact("time_bound", 1)
    level = np.exp(0.1 * rng.normal(size=(N, 196)).cumsum(axis=1) / 3)
    one = replace(one, history={"units": rng.poisson(20 * level).astype(float)})
    found = panel.choices(one)["units"]
    assert found.method != "mean"
    auto, named = panel.forecasts(one, method="auto"), panel.forecasts(one, method={"units": found.method})
    np.testing.assert_array_equal(auto["units"], named["units"])
    placebos = [panel.trimmed(one, auto, method=method)[0].placebo for method in ("auto", found.method, "mean")]
    np.testing.assert_array_equal(placebos[0], placebos[1])
    assert not np.array_equal(placebos[0], placebos[2])


def test_triggered_products_have_one_forecast_chosen_before_the_first_of_them_starts() -> None:
    one = triggered(noise=0.1)
    history = one.history["units"].copy()
    history[:, T0:] *= 5.0
    later = replace(one, history={"units": history})
    assert panel.choices(later) == panel.choices(one)
    by_hand = detrend.choose(one.history["units"][:, :T0], 10, groups=one.category, window=28)
    assert panel.choices(one)["units"] == by_hand
    named = panel.forecasts(later, method={"units": by_hand.method})
    np.testing.assert_array_equal(panel.forecasts(later, method="auto")["units"], named["units"])
