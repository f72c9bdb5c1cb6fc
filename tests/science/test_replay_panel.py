"""What a replay takes from an experiment's panel: under the arms in force it is the headline, whatever the design."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster.science import affinity, detrend, panel, placebo, replay, replay_panel
from tests.science.test_panel import make
from tests.science.test_panel_designs import exact, triggered

ROUNDING = 1e-9  # sums of a few hundred doubles


def noisy(kind: str, n_arms: int) -> panel.Panel:
    """Return a panel of any design whose sales have noise; of random days and crossovers with missing cells."""
    rng = np.random.default_rng(3)
    one = triggered(noise=0.3) if kind == "triggered" else exact(kind, n_arms)
    observed = one.observed["units"] * rng.lognormal(0, 0.3, one.arm.shape)
    history = {"units": one.history["units"] * rng.lognormal(0, 0.2, one.history["units"].shape)}
    if kind == "random_days":
        observed[4, 3:6] = np.nan
    cost = 0.2 * observed
    both = {"profit": (history["units"] * 0.8, observed - cost), "revenue": (history["units"], observed)}
    history |= {name: before for name, (before, _) in both.items()}
    return replace(
        one, observed={"units": observed, **{name: since for name, (_, since) in both.items()}}, history=history
    )


def prepared(one: panel.Panel) -> tuple[list[panel.Trimmed], affinity.Leaves]:
    rng = np.random.default_rng(4)
    trimmed = panel.trimmed(one, panel.forecasts(one, method="mean"), method="mean")
    X = pd.DataFrame(rng.normal(size=(len(one.product_id), 2)))
    return trimmed, panel.fit_leaves(one, X, trimmed[0], n_trees=8, rng=rng)


@pytest.mark.parametrize(
    ("kind", "n_arms"),
    [*((kind, n) for kind in ("time_bound", "crossover", "random_days") for n in (1, 2)), ("triggered", 1)],
)
def test_under_the_arms_in_force_it_is_the_headline_of_every_metric_and_scale(kind: str, n_arms: int) -> None:
    one = noisy(kind, n_arms)
    trimmed, leaves = prepared(one)
    for arm in range(1, n_arms + 1):
        found = {
            (metric, scale, estimator): effect.effect
            for metric, scale, estimator, effect in panel.estimates(
                one.against(arm),
                trimmed,
                leaves,
                n_replicates=2,
                estimators=("hpte", "hajek"),
                rng=np.random.default_rng(5),
            )
        }
        W = replay_panel.arm_in_force(one, arm)
        for part in trimmed:
            for estimator in ("hpte", "hajek"):
                fixed = replay_panel.fixed(one, trimmed, part, leaves, arm=arm, clustered=estimator == "hajek")
                quick = replay.instant(fixed, W)
                assert quick.effect[0] == pytest.approx(found[part.metric, part.scale, estimator], abs=ROUNDING)
                assert quick.se[0] > 0


def test_an_effect_is_taken_out_where_its_arm_is() -> None:
    one = exact("crossover", 2)
    trimmed, leaves = prepared(one)
    fixed = replay_panel.fixed(one, trimmed, trimmed[0], leaves, arm=1)
    W = replay_panel.arm_in_force(one, 2)
    lift = float(replay.instant(replace(fixed, outcome=None, trim="none"), W).effect[0])
    left = replay_panel.without_arm(fixed, W, lift)
    np.testing.assert_allclose(left.value[one.drawn_arm == 2], 0.0, atol=ROUNDING)
    np.testing.assert_array_equal(left.value[one.drawn_arm == 1], fixed.value[one.drawn_arm == 1])


def windows(one: panel.Panel, **options: Any) -> list[replay.Fixed]:
    primary = panel.trimmed(one, panel.forecasts(one, method="mean"), method="mean")[0]
    return replay_panel.own_history(one, primary, None, method="mean", rng=np.random.default_rng(6), **options)


def test_windows_are_contrasted_as_the_design_contrasts_the_experiment() -> None:
    for kind in ("time_bound", "crossover", "random_days"):
        one = make(kind, n_history=120)
        history = one.history["units"]
        R = placebo.residuals(history, 28, groups=one.category, method="mean", window=28)
        found = windows(one)
        assert len(found) == len(R) == 3
        for j, fixed in enumerate(found):
            s = detrend.product_scale(history[:, : 120 - 28 * (j + 1)])
            expected = R[j] / s[:, None]
            if kind != "random_days":
                expected = panel.contrast(one, expected)
            np.testing.assert_allclose(fixed.value, expected, atol=ROUNDING)
        assert found[0].factor == (0.5 if kind == "crossover" else 1.0)


def test_windows_of_clusters_have_no_leaves_and_probabilities() -> None:
    one = make("time_bound", n=60, n_history=120)
    X = pd.DataFrame({"size": np.arange(60.0)})
    primary = panel.trimmed(one, panel.forecasts(one, method="mean"), method="mean")[0]
    options: dict[str, Any] = {"method": "mean", "n_trees": 8, "rng": np.random.default_rng(7)}
    like, clustered = (replay_panel.own_history(one, primary, X, clustered=flag, **options) for flag in (False, True))
    assert {fixed.leaves.n_trees for fixed in like if fixed.leaves} == {8}
    assert {fixed.probability is None for fixed in like} == {True}
    assert [fixed.leaves for fixed in clustered] == [None] * 3
    assert {float(fixed.probability[0]) for fixed in clustered if fixed.probability is not None} == {0.5}


def test_triggered_windows_are_the_stored_placebo_differences() -> None:
    one = noisy("triggered", 1)
    trimmed, _ = prepared(one)
    found = replay_panel.own_history(one, trimmed[0], None, rng=np.random.default_rng(8))
    np.testing.assert_array_equal(np.stack([fixed.value for fixed in found], axis=1), trimmed[0].placebo)
    assert all(fixed.within is one.block for fixed in found)


def test_a_short_history_has_fewer_windows_or_none_and_late_products_lack_them() -> None:
    assert len(windows(make("time_bound", n_history=84))) == 2
    assert windows(make("time_bound", n_history=55)) == []
    assert len(windows(make("time_bound", n_history=300), n_windows=4)) == 4
    one = make("time_bound", n_history=84)
    history = one.history["units"].copy()
    history[:30, :20] = np.nan
    late = windows(replace(one, history={**one.history, "units": history}))
    assert len(late) == 1
    assert np.isfinite(late[0].value).all()
    history[0, :40] = np.nan
    assert (
        np.isnan(windows(replace(one, history={**one.history, "units": history}))[0].value).tolist()
        == [True] + [False] * 39
    )
