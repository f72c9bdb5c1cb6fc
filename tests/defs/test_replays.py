"""The mechanism that drew an experiment's arms, replayed by the assets of a played lab."""

import numpy as np
import pytest

from pricelab_dagster import replaying
from pricelab_dagster.workbench import Workbench
from tests.defs.tiny_lab import CONCLUDED


def read(root, table, experiment_id):
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


@pytest.mark.parametrize("experiment_id", [*CONCLUDED, "going"])
def test_a_randomization_test_stands_beside_the_headline_of_the_first_metric(played, experiment_id):
    rows = read(played, "experiment.effects", experiment_id)
    quoted = rows[rows["is_headline"] & (rows["metric"] == "units")].iloc[0]
    (one,) = rows[rows["estimator"] == replaying.ESTIMATOR].to_dict("records")
    assert (one["metric"], one["scale"], one["arm"], one["is_headline"]) == ("units", "relative", "treatment", False)
    assert one["effect"] == quoted["effect"]
    assert np.isnan(one["se"])
    # the shops' answer to a price a fifth lower is beyond what draws of the arms make
    assert 1 / (1 + one["n_replicates"]) <= one["p_value"] <= 0.05
    assert 0.0 < one["ci_lower"] < one["effect"] < one["ci_upper"]
    assert one["estimand"].startswith("sharp null of no effect on any product")
    days = experiment_id == "days"
    assert one["n_replicates"] == (replaying.TEST_DRAWS_OF_CELLS if days else replaying.TEST_DRAWS)


@pytest.mark.parametrize("experiment_id", [*CONCLUDED, "going"])
def test_the_recorded_draw_is_replayed_exactly(played, experiment_id):
    """Sales that came between the draw and the start of `going` have moved products between strata since."""
    rows = read(played, "experiment.effects", experiment_id)
    reason = rows.loc[rows["estimator"] == replaying.ESTIMATOR, "reason"].iloc[0]
    assert replaying.OTHER_ARMS not in str(reason)


def test_draws_of_the_mechanism_are_not_draws_of_the_bootstrap(played):
    assert replaying.ESTIMATOR not in set(read(played, "experiment.effect_draws", "cut")["estimator"])


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_the_arms_are_drawn_again_over_the_own_history(played, experiment_id):
    checks = read(played, "experiment.diagnostics", experiment_id).set_index("check_name")
    one = checks.loc["aa_own_history"]
    assert one["status"] in ("passed", "informational")
    assert 0.0 <= one["value"] < 0.15
    assert "windows before the start" in one["message"]
