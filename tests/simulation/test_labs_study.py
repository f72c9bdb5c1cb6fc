"""The study of labs played through Dagster: one small lab, and the figures by hand."""

from pathlib import Path

import numpy as np
import pytest

from pricelab_dagster.studies import labs, resume


def row(lab: int, design: str, *, effect: float, metric: str = "units") -> dict[str, object]:
    numbers = {"effect": effect, "se": 0.01, "ci_lower": effect - 0.02, "ci_upper": effect + 0.02, "truth": 0.1}
    return {"lab": lab, "design": design, "metric": metric, "scale": "relative", **numbers}


def test_coverage_is_by_design_and_of_all_designs_of_a_lab_together() -> None:
    rows = [row(1, "time_bound", effect=0.11), row(1, "crossover", effect=0.09)]
    rows += [row(2, "time_bound", effect=0.15), row(2, "crossover", effect=0.1)]
    rows += [row(1, "time_bound", effect=0.1, metric="price"), row(2, "time_bound", effect=0.1, metric="price")]
    found = {(one["design"], one["metric"]): one for one in labs.summary(rows).to_pylist()}
    assert {key: one["coverage"] for key, one in found.items()} == {
        ("time_bound", "units"): 0.5,
        ("crossover", "units"): 1.0,
        ("time_bound", "price"): 1.0,
        ("all together", "units"): 0.5,
    }
    assert found["all together", "units"]["expected"] == pytest.approx(0.95**2)
    assert found["time_bound", "units"]["error_over_se"] == pytest.approx(3.0)
    assert found["crossover", "units"]["error_over_se"] == pytest.approx(-0.5)
    # 1 of 2: the exact binomial interval reaches from .013 to .987
    assert found["time_bound", "units"]["lower"] == pytest.approx(0.0126, abs=1e-4)
    assert found["time_bound", "units"]["holds"] == "yes"


def test_labs_that_are_there_are_not_played_again(tmp_path: Path) -> None:
    out, seen = tmp_path / "labs.jsonl", []
    resume.append([1, 2], known, out=out, workers=1, report=seen.append, title=str)
    found = labs.run(2, workers=1, out=out, report=seen.append)
    assert seen[-1] == "2 labs are there already"
    assert found["labs"].to_pylist() == [2, 2]


def known(seed: int) -> list[dict[str, object]]:
    """Return the row of a lab as if it had been played."""
    return [row(seed, "time_bound", effect=0.1)]


@pytest.mark.study
def test_a_lab_is_played_from_the_draw_to_the_readout() -> None:
    rows = labs.play(1)
    found = {(one["design"], one["metric"]): one for one in rows if one["scale"] == "relative"}
    assert {design for design, _ in found} == {"time_bound", "random_days", "crossover", "triggered"}
    for (_, metric), one in found.items():
        # four standard errors fail one time in ten thousand
        assert abs(one["effect"] - one["truth"]) < 4 * one["se"]
        assert (metric != "price") or np.isclose(one["truth"], -0.05)
