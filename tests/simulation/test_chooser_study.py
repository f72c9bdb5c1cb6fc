"""The study of the design chooser: figures by hand, realised errors against a design drawn by hand, one market."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science.power import Candidate
from pricelab_dagster.studies import chooser, resume

N_DRAWS = 6


def row(market: int, *, scenario: str = "base", chosen: str = "a") -> dict[str, Any]:
    errors = {"a": 0.02, "b": 0.0215, "c": 0.0221}
    designs = [
        {"design": name, "kind": "crossover", "se": 0.011, "sd": 0.01, "rmse": rmse, "bias": 0.0}
        for name, rmse in errors.items()
    ]
    return {
        "scenario": scenario,
        "market": market,
        "designs": designs,
        "chosen": dict.fromkeys((chooser.NOTHING, chooser.LEARNED, chooser.TOLD), chosen),
    }


def test_a_choice_is_right_when_none_is_a_tenth_better() -> None:
    rows = [row(1, chosen="a"), row(2, chosen="b"), row(3, chosen="c"), row(1, scenario="carryover", chosen="c")]
    found = {(one["market"], one["of"]): one for one in chooser.summary(rows).to_pylist()}
    assert found["base", chooser.NOTHING]["value"] == pytest.approx(2 / 3)
    assert found["carryover", chooser.TOLD]["value"] == 0.0
    assert found["base", "crossover"]["value"] == pytest.approx(1.1)
    assert found["base", "crossover"]["n"] == 3
    # where nothing is known of carryover that is there, nothing is asked of the choice
    assert found["carryover", chooser.NOTHING]["bar"] == ""
    assert found["carryover", chooser.TOLD]["bar"] == found["base", chooser.NOTHING]["bar"] == ">= 0.8"


def test_markets_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    out, seen = tmp_path / "chooser.jsonl", []
    jobs = [("base", 1), ("carryover", 1)]
    resume.append(jobs, known, out=out, workers=1, report=seen.append, title=str)
    chooser.run(1, workers=1, out=out, report=seen.append, real=False)
    assert seen[-1] == "2 of 2 markets are there already"


def known(job: tuple[str, int]) -> list[dict[str, Any]]:
    """Return the row of a market as if it had been drawn."""
    return [row(job[1], scenario=job[0])]


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("time_bound", 28, blackout=3),
        Candidate("random_days", 28, balance="day_of_week"),
        Candidate("crossover", 28, phase=14, blackout=7),
    ],
    ids=lambda one: one.kind,
)
def test_without_an_answer_to_prices_the_errors_are_those_of_untreated_sales(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chooser, "N_DRAWS", N_DRAWS)
    monkeypatch.setattr(chooser, "N_PRODUCTS", 80)
    monkeypatch.setattr(chooser, "N_TREES", 8)
    world = chooser.World.of("base", 1)
    still = replace(world, simulated=replace(world.simulated, treatment_multiplier=1.0))
    found, treated = (chooser.realised(one, candidate, rng=np.random.default_rng(0)) for one in (still, world))
    assert found.shape == (N_DRAWS,)
    # the effect of .10 is taken off: what is left is the same luck, give or take the noise of what is sold more
    assert np.corrcoef(found, treated)[0, 1] > 0.9
    assert abs(treated.mean() - found.mean()) < 0.05
