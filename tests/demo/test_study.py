import json
from dataclasses import replace
from pathlib import Path

import pytest

from pricelab_dagster.demo import data, play, study
from pricelab_dagster.lab import Lab, LabError


def row(seed: int, effect: float, truth: float = 0.2, half: float = 0.1) -> dict[str, object]:
    interval = {"ci_lower": effect - half, "ci_upper": effect + half}
    return {
        "experiment_id": "a",
        "metric": "units",
        "seed": seed,
        "truth": truth,
        "effect": effect,
        "se": half / 2,
        **interval,
    }


def test_summary_counts_the_intervals_that_hold_the_truth() -> None:
    found = study.summary([row(1, 0.2), row(2, 0.25), row(3, 0.31), row(4, 0.15)]).to_pylist()[0]
    assert found["draws"] == 4
    assert found["coverage"] == 0.75
    assert found["coverage_lower"] < 0.75 < found["coverage_upper"]
    assert found["mean_effect"] == pytest.approx(0.2275)
    assert found["median_se"] == pytest.approx(0.05)


def test_a_line_that_was_cut_short_is_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "demo.jsonl"
    out.write_text(json.dumps(row(1, 0.2)) + "\n" + json.dumps(row(2, 0.2))[:20])
    assert [one["seed"] for one in study._read(out)] == [1]


def test_a_draw_is_repeatable_and_differs_between_seeds() -> None:
    setting = next(one for one in study.settings() if one.experiment.id == "dairy-crossover")
    fast = setting.experiment.analysis.model_copy(
        update={
            "forest": setting.experiment.analysis.forest.model_copy(update={"n_trees": 20}),
            "bootstrap": setting.experiment.analysis.bootstrap.model_copy(update={"n_replicates": 50}),
        }
    )
    setting = replace(setting, experiment=setting.experiment.model_copy(update={"analysis": fast}))
    first, again, other = study.draw(setting, 1), study.draw(setting, 1), study.draw(setting, 2)
    assert first == again
    assert [one["metric"] for one in first] == ["units", "revenue"]
    assert first[0]["effect"] != other[0]["effect"]
    assert first[0]["truth"] == other[0]["truth"] > 0


def test_the_demo_does_not_replace_a_folder_that_no_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LabError, match="no demo wrote"):
        play.run(tmp_path, lambda step: None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_no_product_is_chosen_by_what_happens_after_the_first_start(tmp_path: Path) -> None:
    play.write_untreated(tmp_path / "lab", data.load(data.FIRST_START))
    lab = Lab.load(tmp_path / "lab")
    assert not lab.broken
    assert min(one.start for one in lab.experiments.values()) == data.FIRST_START
    kinds = {one.design.kind for one in lab.experiments.values()}
    assert kinds == {"time_bound", "triggered", "random_days", "crossover"}
    clustered = [one for one in lab.experiments.values() if one.assignment.unit == "cluster"]
    assert [(one.design.kind, one.start.month >= 7) for one in clustered] == [("crossover", True)]
    assert any(one.treatment.price_multiplier == 1.0 for one in lab.experiments.values())
