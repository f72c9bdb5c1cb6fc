from typing import Any, Protocol

import pytest

from pricelab_dagster.lab import Experiment

DESIGNS: dict[str, dict[str, Any]] = {
    "time_bound": {"kind": "time_bound", "duration": 14, "blackout": 2},
    "random_days": {"kind": "random_days", "duration": 14},
    "crossover": {"kind": "crossover", "phase": 4, "phases": 2, "blackout": 1},
}


class MakeExperiment(Protocol):
    """Makes an experiment of one of the designs; `design` adds to its design, further keys to its file."""

    def __call__(self, kind: str = "crossover", *, design: dict[str, Any] | None = None, **keys: Any) -> Experiment: ...


@pytest.fixture
def make_experiment() -> MakeExperiment:
    """An experiment that starts on Monday, 2024-01-08."""

    def make(kind: str = "crossover", *, design: dict[str, Any] | None = None, **keys: Any) -> Experiment:
        stated = {
            "id": "milk",
            "design": {"start": "2024-01-08"} | DESIGNS[kind] | (design or {}),
            "scope": {"where": "true"},
            "treatment": {"price_multiplier": 0.9},
        }
        return Experiment.model_validate(stated | keys)

    return make
