"""The panel of several arms, of triggered products in event time, and of designs that HPTE refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science import affinity, bootstrap, designs, detrend, panel

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


def exact(kind: str, n_arms: int = 3) -> panel.Panel:
    """A panel without noise: every product sells 10 and answers each arm by SLOPE times its dose."""
    ids = np.array([f"p{i:03}" for i in range(N)], dtype=object)
    drawn = getattr(designs, kind)(ids, START, **LENGTHS[kind], n_arms=n_arms, rng=np.random.default_rng(1))
    t = len(drawn.date)
    return panel.Panel(
        product_id=ids,
        date=drawn.date,
        unit_id=ids,
        category=np.array(["a"] * N, dtype=object),
        arm=drawn.arm.astype(float),
        in_analysis=drawn.in_analysis,
        probability=drawn.probability,
        phase=np.arange(t) // 14 + 1 if kind == "crossover" else np.ones(t, dtype=int),
        history={"units": np.full((N, T0), 10.0)},
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
