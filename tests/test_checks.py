"""The checks that hold the arms of an experiment against each other, and those that rest on its effects."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster import checks
from pricelab_dagster.lab import DOSE_LINE, Experiment
from pricelab_dagster.science import affinity, diagnostics
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.diagnostics import ALPHA, Diagnostic
from tests.science.test_panel import make

Make = Callable[..., Experiment]
N = 60
ARMS = [{"name": "deep", "price_multiplier": 0.8}, {"name": "light", "price_multiplier": 0.9}]
THIRD = np.repeat([0, 1, 2], N // 3)
"""Twenty products of control, deep and light."""


def of_arms(code: np.ndarray, *, since: dict[int, int] | None = None, kind: str = "time_bound") -> science.Panel:
    """Return a panel whose products have the arms of `code`, the arms of `since` only from a period on."""
    one = make(kind, n=N)
    arm = np.repeat(code[:, None].astype(float), one.arm.shape[1], axis=1)
    for late, period in (since or {}).items():
        arm[code == late, :period] = 0.0
    return replace(one, arm=arm, imported=True)


def primary_of(one: science.Panel, **fields: Any) -> science.Trimmed:
    return replace(science.trimmed(one, science.forecasts(one, method="mean"), method="mean")[0], **fields)


def between(
    experiment: Experiment, one: science.Panel, primary: science.Trimmed, X: pd.DataFrame
) -> dict[str, Diagnostic]:
    found = list(checks._between_products(experiment, one, primary, X, np.random.default_rng(1)))
    assert [check.check_name for check in found] == list(checks.BETWEEN_PRODUCTS)
    return {check.check_name: check for check in found}


def sizes(seed: int = 2) -> pd.DataFrame:
    return pd.DataFrame({"size": np.random.default_rng(seed).normal(size=N)})


def test_an_arm_that_starts_late_is_no_control(make_experiment: Make) -> None:
    """Deep switches on the sixth day. Its products are big; half of light's are: light against all others is even."""
    one = of_arms(THIRD, since={1: 5})
    big = (THIRD == 1) | ((THIRD == 2) & (np.arange(N) % 2 == 0))
    X = sizes().assign(size=lambda known: 0.01 * known["size"] + big)
    gone = (THIRD == 1) & (np.arange(N) < 30)
    primary = primary_of(one)
    primary = replace(primary, first_difference=np.where(gone, np.nan, primary.first_difference))
    found = between(make_experiment("time_bound", treatment=ARMS), one, primary, X)
    balance, missing = found["covariate_balance"], found["missing_by_arm"]
    assert (balance.status, balance.threshold) == ("failed", ALPHA / 2)
    assert balance.message.startswith("Arm deep, the worst of 2 against control: Attributes of treated")
    assert missing.status == "failed"
    assert missing.message == (
        "Arm deep, the worst of 2 against control: Missing: 10 of 20 treated (50.0%), 0 of 20 control products (0.0%)."
    )


def test_a_drift_of_one_arm_is_found_and_the_arm_is_named(make_experiment: Make) -> None:
    """Deep drifts up and light down: together they do not."""
    one, experiment = of_arms(THIRD), make_experiment("time_bound", treatment=ARMS)
    noise = np.random.default_rng(3).normal(size=(N, 4))
    slope = np.array([0.0, 1.0, -1.2])[THIRD]
    drifting = noise - slope[:, None] * np.arange(4)  # the latest window stands first
    pooled = diagnostics.pre_trend(drifting[:, ::-1], (THIRD > 0).astype(float))
    assert pooled.status == "passed"
    found = between(experiment, one, primary_of(one, placebo=drifting), sizes())["pre_trend"]
    assert (found.status, found.threshold) == ("failed", ALPHA / 2)
    assert found.message.startswith("Arm light, the worst of 2 against control: Treated minus control slope over 4")
    assert found.value == pytest.approx(-1.2, abs=0.5)
    even = between(experiment, one, primary_of(one, placebo=noise), sizes())["pre_trend"]
    assert even.status == "passed"


def test_of_one_arm_the_checks_are_those_of_the_arm(make_experiment: Make) -> None:
    one, X = make("time_bound", n=N), sizes()
    primary = primary_of(one)
    found = between(make_experiment("time_bound"), one, primary, X)
    W = one.sequence
    balance = diagnostics.covariate_balance(affinity.encode(X)[0], W, units=one.unit_id, rng=np.random.default_rng(1))
    assert found["covariate_balance"] == balance
    assert found["pre_trend"] == diagnostics.pre_trend(primary.placebo[:, ::-1], W, one.unit_id)
    assert found["missing_by_arm"] == diagnostics.missing_by_arm(~np.isfinite(primary.first_difference), W)


def test_an_arm_of_a_crossover_is_held_against_its_own_sequence(make_experiment: Make) -> None:
    """The products of deep are big, whichever sequence they have: that is no imbalance."""
    whole = make("crossover", n=N)
    code = np.where(np.arange(N) < N // 2, 1, 2)
    one = replace(whole, arm=whole.arm * code[:, None], drawn=code)
    big = pd.DataFrame({"size": 0.1 * np.random.default_rng(4).normal(size=N) + (code == 1)})
    experiment = make_experiment("crossover", treatment=ARMS)
    assert between(experiment, one, primary_of(one), big)["covariate_balance"].status == "passed"
    first = (one.sequence > 0) & (code == 2)
    unlike = between(experiment, one, primary_of(one), big.assign(size=big["size"] + 2.0 * first))["covariate_balance"]
    assert unlike.status == "failed"
    assert unlike.message.startswith("Arm light, the worst of 2")


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (np.ones(N), "time_bound", "Not computed: no control product."),
        (np.zeros(N), "time_bound", "Not computed: no treated product."),
        (np.ones(N), "crossover", "Not computed: all products have the same sequence of arms."),
        (np.zeros(N), "crossover", "Not computed: no treated and no control product."),
    ],
)
def test_where_arms_cannot_be_compared_each_check_says_so(
    make_experiment: Make, code: np.ndarray, kind: str, said: str
) -> None:
    one = of_arms(code, kind=kind)
    if kind == "crossover":
        one = replace(one, arm=np.where(one.phase % 2 == 1, one.arm, 0.0))
    found = between(make_experiment(kind), one, primary_of(one), sizes())
    assert {(check.status, check.message) for check in found.values()} == {("informational", said)}


@pytest.mark.parametrize(
    ("n_windows", "status", "said"), [(3, "passed", "3 placebo"), (0, "informational", "Not comp")]
)
def test_a_short_history_still_has_a_pre_trend(make_experiment: Make, n_windows: int, status: str, said: str) -> None:
    one = make("time_bound", n=N, n_history=28 * (1 + n_windows) if n_windows else 20)
    primary = primary_of(one)
    assert np.isfinite(primary.placebo).any(axis=0).sum() == n_windows
    found = between(make_experiment("time_bound"), one, primary, sizes())["pre_trend"]
    assert found.status == status
    assert said in found.message


def shares(*rows: tuple[str, str, float, float, bool]) -> pd.DataFrame:
    """Return rows of effects: arm, estimator, effect, two-arm share, whether it is quoted."""
    frame = pd.DataFrame(rows, columns=["arm", "estimator", "effect", "two_arm_share", "is_headline"])
    return frame.assign(metric="units", scale="relative")


NAN = float("nan")
SHARES = {
    "quoted": ([("t", "hpte", 0.1, 0.9, True)], "passed", 0.9, "90.0% of products"),
    "too few": ([("t", "hpte", 0.1, 0.7, True)], "failed", 0.7, "70.0% of products"),
    "least of the arms": (
        [("deep", "hpte", 0.1, 0.9, True), ("light", "hpte", 0.1, 0.7, True)],
        *("failed", 0.7, "Arm light, the least: 70.0%"),
    ),
    "refused": (
        [
            *(("deep", "hpte", NAN, 0.0, False), ("deep", "group_time_simple_not_yet", 0.1, NAN, True)),
            *(("light", "hpte", 0.1, 0.0, False), ("light", "hpte_doubly_robust", 0.1, 0.9, True)),
        ],
        *("passed", 0.9, "Arm light, the least: 90.0%"),
    ),
    "not quoted": (
        [("t", "hpte", 0.1, 0.2, False), ("t", "hajek", 0.1, 1.0, True)],
        *("informational", 0.2, "20.0% of products share a leaf with the other arm; at least 80% should. The headline"),
    ),
    "line": (
        [("t", "hpte", 0.1, 0.9, True), (DOSE_LINE, "hpte", 0.1, 0.1, True)],
        *("passed", 0.9, "90.0% of products"),
    ),
    "nothing": ([("t", "hpte", NAN, 0.0, True)], "informational", NAN, "Not computed: no effect rests on"),
}


@pytest.mark.parametrize("case", SHARES)
def test_only_effects_that_rest_on_leaves_are_held_to_the_share(case: str) -> None:
    rows, status, value, said = SHARES[case]
    found = checks._two_arm_share(shares(*rows), "units")
    assert (found.check_name, found.status) == ("two_arm_share", status)
    np.testing.assert_equal(found.value, value)
    assert found.message.startswith(said)
    other = checks._two_arm_share(shares(*rows).assign(metric="price"), "units")
    assert other.status == "informational"
