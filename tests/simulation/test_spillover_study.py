"""The short form of `pricelab study spillover`: few worlds, each figure asked what it can carry."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.studies import interference, networks, spillover

CONFIDENCE = 0.999
# one true figure in a thousand is refused; the seeds are fixed
N_WORLDS = 3


@pytest.fixture(scope="module")
def worlds() -> pd.DataFrame:
    found = [
        {"market": market, **interference.measured(market, k)}
        for market in ("substitution_middle", "halo")
        for k in range(1, N_WORLDS + 1)
    ]
    return pd.DataFrame([*found, {"market": spillover.NULL, **interference.any_edge(1)}])


def test_clusters_cut_what_spills_over_and_the_oracle_most_of_it(worlds: pd.DataFrame) -> None:
    part = worlds[worlds["market"] == "substitution_middle"]
    product, leiden, oracle = (part[f"bias {name}"].to_numpy() for name in ("product", "leiden", "oracle"))
    assert (product > 0).all(), "a product assignment reads too much where substitutes lose buyers to each other"
    # 42 % is asked of the study
    assert stats.ttest_1samp(0.75 * product - leiden, 0.0, alternative="greater").pvalue < 0.05
    assert stats.ttest_1samp(0.3 * product - oracle, 0.0, alternative="greater").pvalue < 0.05


def test_a_halo_is_cut_by_pairs_of_either_sign(worlds: pd.DataFrame) -> None:
    part = worlds[worlds["market"] == "halo"]
    product, either = (part[f"bias {name}"].to_numpy() for name in ("product", interference.EITHER_SIGN))
    assert (product < 0).all()
    assert stats.ttest_1samp(either - 0.75 * product, 0.0, alternative="greater").pvalue < 0.05


def test_the_certificate_foretells_the_sign_and_size(worlds: pd.DataFrame) -> None:
    part = worlds[worlds["market"] != spillover.NULL]
    for name in ("product", "leiden"):
        bias, told = part[f"bias {name}"], part[f"foretold {name}"]
        assert (np.sign(bias) == np.sign(told)).all()
        half = (part[f"high {name}"] - part[f"low {name}"]) / 2
        # the interval is of the weeks; three of them would be a miss in a hundred worlds
        assert (np.abs(told - bias) < 3 * half).all()


def test_figures_of_worlds_by_hand() -> None:
    columns = [f"{kind} {name}" for kind in ("bias", "se") for name in ("product", "leiden", "louvain", "severing")]
    columns += [f"{kind} {name}" for kind in ("bias", "se") for name in (interference.EITHER_SIGN, "oracle")]
    columns += [f"{kind} {name} + exposure" for kind in ("bias", "se") for name in ("product", "leiden")]
    numbers = dict.fromkeys(columns, 1.0) | {"bias product": 0.05, "bias leiden": -0.02, "se leiden": 1.2}
    for name in ("product", "leiden"):
        numbers |= {f"foretold {name}": 0.04, f"low {name}": 0.03, f"high {name}": 0.06}
    frame = pd.DataFrame(
        [{"market": "substitution_middle", **numbers, "false share": share, "found share": 0.5} for share in (0.0, 0.2)]
        + [{"market": "null", "any edge": edge} for edge in (0.0, 0.0, 0.0, 1.0)]
    )
    rows = {(row["market"], row["figure"], row["of"]): row for row in spillover.summary(frame)}
    assert rows["substitution_middle", "bias_cut_percent", "leiden"]["value"] == pytest.approx(60.0)
    assert rows["substitution_middle", "bias_cut_percent", "leiden"]["reached"] == "yes, unsure"
    assert rows["substitution_middle", "se_cost_percent", "leiden"]["value"] == pytest.approx(20.0)
    assert rows["substitution_middle", "foretold_ratio", "product"]["value"] == pytest.approx(0.8)
    assert rows["substitution_middle", "foretold_held", "product"]["value"] == 1.0
    assert rows["substitution_middle", "foretold_held", "leiden"]["value"] == 0.0
    assert rows["substitution_middle", "foretold_held", "leiden"]["reached"].startswith("no")
    assert rows["substitution_middle", "false_share", "graph, q <= .1"]["value"] == pytest.approx(0.1)
    assert rows["null", "worlds_with_an_edge", "graph, q <= .1"]["value"] == 0.25


def test_the_difference_of_arms_by_hand() -> None:
    arm = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=np.int8)
    outcome = np.array([[1.0, 3.0, 5.0, 0.0], [1.0, 3.0, 5.0, 0.0]])
    assert interference.difference(outcome, arm).tolist() == [2.0 - 2.5, 1.5 - 3.0]


def test_worlds_go_on_from_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spillover, "MARKETS", ())
    monkeypatch.setattr(networks, "rows", lambda: iter(()))
    out, said = tmp_path / "worlds.jsonl", []
    first = spillover.run(2, workers=1, out=out, report=said.append, real=False)
    written = out.read_bytes()
    again = spillover.run(2, workers=1, out=out, report=said.append, real=False)
    assert again.equals(first)
    assert out.read_bytes() == written
    assert "2 of 2 worlds are there already" in said


def test_graphs_and_exposures_with_known_answers() -> None:
    rows = list(networks.rows())
    assert {row["reached"] for row in rows if row["bar"]} == {"yes"}
    assert len({row["market"] for row in rows}) == 6


def test_the_milk_pair_is_found_in_real_sales() -> None:
    rows = {row["figure"]: row for row in networks.real_rows()}
    assert rows["price series of the half gallons"]["value"] == 1.0
    assert rows["elasticity of gallons to them"]["reached"].startswith("yes")
    assert rows["largest q-value of these"]["reached"] == "yes"
    assert rows["placebo pairs above the bound"]["n"] > 100
