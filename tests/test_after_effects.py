"""The effect by periods since a switch over a lab: rows, advice, evidence, and what later experiments read of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pricelab_dagster import after_effects
from pricelab_dagster.lab import Experiment
from pricelab_dagster.lake import shape
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.science import carryover
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

Make = Callable[..., Experiment]
N, PHASE = 80, 14
DELAY = np.repeat([0.0, 1.0], [3, PHASE - 3])
"""An effect that comes on the fourth day after each switch."""


def played(
    kind: str = "crossover", *, seed: int = 1, block: int = 1, n_arms: int = 1, **keys: Any
) -> tuple[Panel, Trimmed]:
    """Return a panel of two phases with an effect of .2 that comes late, and its residuals."""
    rng, T = np.random.default_rng(seed), 2 * PHASE
    first = np.tile(np.arange(n_arms + 1), N)[:N]
    if kind == "crossover":
        arm = np.repeat(np.column_stack([first, np.where(first == 0, 1, 0)]), PHASE, axis=1).astype(float)
    else:
        arm = np.repeat(first[:, None], T, axis=1).astype(float)
        if kind == "random_days":
            arm = np.repeat(rng.integers(0, 2, (N, T // block)), block, axis=1).astype(float)
    residual = 0.2 * (arm > 0) * np.tile(DELAY, 2) + rng.normal(0.0, 0.05, (N, T))
    names = np.array([f"p{k:02d}" for k in range(N)], dtype=object)
    days = np.arange(T) + np.datetime64("2024-04-01")
    panel = Panel(
        product_id=names,
        date=days,
        unit_id=names,
        category=names,
        arm=arm,
        in_analysis=np.ones(arm.shape, dtype=bool),
        probability=np.full(arm.shape, 0.5),
        phase=np.arange(T) // PHASE + 1,
        history={"units": np.ones((N, 28))},
        observed={"units": residual},
        kind=kind,
        **keys,
    )
    nothing = np.full(N, np.nan)
    told = Trimmed(
        "units",
        "relative",
        nothing,
        np.empty((N, 0)),
        np.ones(N),
        np.ones(N, dtype=bool),
        np.full(N, None),
        residual,
        residual,
    )
    return panel, told


def test_the_effect_stands_by_days_since_the_switch_with_the_blackout_that_it_needs(make_experiment: Make) -> None:
    experiment = make_experiment("crossover", design={"phase": PHASE})
    found = after_effects.found(experiment, *played(), status=Status.CONCLUDED)
    rows = shape(after_effects.TABLE, found.rows).to_pandas()
    assert rows["periods_since"].tolist() == list(range(PHASE))
    np.testing.assert_allclose(rows["effect"], 0.2 * DELAY, atol=0.05)  # four standard errors of a day
    assert (rows["ci_lower"] <= 0.2 * DELAY).sum() >= PHASE - 3
    np.testing.assert_allclose(rows["effect_after"].iloc[3:], 0.2, atol=0.05)
    assert rows.loc[rows["is_recommended"], "periods_since"].tolist() == [3]
    assert found.advice["treatment"].startswith("A blackout of 3 days is the shortest after which the next 2 are")
    svg = after_effects.picture(experiment, found.rows, found.advice["treatment"])
    texts = ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter() if one.tag.endswith("text")]
    assert "3 since the switch (blackout ends)" in texts
    assert "4 since the switch" in texts


@pytest.mark.parametrize(
    ("kind", "status", "keys", "reason"),
    [
        ("crossover", Status.RUNNING, {}, "the experiment is not finished"),
        ("time_bound", Status.CONCLUDED, {"imported": True}, "nobody drew the arms"),
        ("random_days", Status.CONCLUDED, {}, "nothing follows a switch, 1 day after which the arm is drawn again"),
    ],
)
def test_where_there_is_no_curve_a_row_says_why(
    make_experiment: Make, kind: str, status: Status, keys: dict[str, Any], reason: str
) -> None:
    experiment = make_experiment(kind)
    found = after_effects.found(experiment, *played(kind, **keys), status=status)
    (row,) = shape(after_effects.TABLE, found.rows).to_pylist()
    assert reason in row["reason"]
    assert row["effect"] is None
    assert reason in found.advice["treatment"]
    assert after_effects.picture(experiment, found.rows, "") is None
    # random days have no stretch to look along, and yet tell of carryover
    assert (found.facts["evidence"] is not None) == (kind == "random_days")


def test_blocks_of_random_days_are_looked_along(make_experiment: Make) -> None:
    experiment = make_experiment("random_days", design={"block": 7})
    found = after_effects.found(experiment, *played("random_days", block=7), status=Status.CONCLUDED)
    assert found.rows["periods_since"].to_pylist() == list(range(7))


def test_each_arm_has_its_rows(make_experiment: Make) -> None:
    arms = [{"name": "small", "price_multiplier": 0.95}, {"name": "large", "price_multiplier": 0.9}]
    experiment = make_experiment("time_bound", treatment=arms)
    found = after_effects.found(experiment, *played("time_bound", n_arms=2), status=Status.CONCLUDED)
    assert found.rows["arm"].to_pylist() == ["small"] * 2 * PHASE + ["large"] * 2 * PHASE
    assert list(found.advice) == ["small", "large"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    root = tmp_path_factory.mktemp("after")
    tiny_lab.write_lab(root, tiny_lab.EXPERIMENTS)
    return Workbench.open(root)


def test_later_experiments_hear_those_that_ended_before_they_start(bench: Workbench, make_experiment: Make) -> None:
    experiment = make_experiment("crossover", design={"phase": PHASE})
    found = after_effects.found(experiment, *played(), status=Status.CONCLUDED)
    one = bench.experiment("phases")
    assert after_effects.beliefs(bench).n_experiments == 0
    bench.lake.write(after_effects.TABLE, shape(after_effects.TABLE, found.rows), "phases", metadata=found.facts)
    known = after_effects.beliefs(bench)
    np.testing.assert_array_equal(known.probability, carryover.learn([found.evidence]).probability)
    assert known.n_experiments == 1

    def starting(day: date) -> Experiment:
        return one.model_copy(update={"design": one.design.model_copy(update={"start": day})})

    end = bench.window(one).end
    assert after_effects.beliefs(bench, starting(end)).n_experiments == 0
    assert after_effects.beliefs(bench, starting(end + timedelta(days=1))).n_experiments == 1


def test_what_is_known_is_said_with_the_blackouts_that_it_asks_for() -> None:
    nothing = after_effects.summary(carryover.learn([]), "day")
    assert nothing.startswith("No finished experiment tells of carryover. Beforehand nothing is taken to be carried")
    assert "probability 50%" in nothing
    certain = carryover.Beliefs.certain(0.4, 2.0)
    told = after_effects.summary(replace(certain, n_experiments=2), "day")
    assert told.startswith("After 2 finished experiments nothing is carried over with probability 0%;")
    assert "0.40 in the mean, with probability 90 % at most 0.40, halving in 2.0 days" in told
    # 1.5 kappa / (1 + kappa) times the mean of .5^(t / 2) from the blackout on: .0169 from 7 of 14 on, .0214 from 6
    assert "a crossover needs a blackout of 7 in phases of 14, 4 in phases of 28 days" in told
    assert "phases of 7 days are too short" in told
    none = after_effects.summary(replace(carryover.Beliefs.certain(0.0, 2.0), n_experiments=1), "week")
    assert "After 1 finished experiment nothing" in none
    assert none.endswith("a crossover needs a blackout of 0 in phases of 2, 0 in phases of 4, 0 in phases of 8 weeks.")
