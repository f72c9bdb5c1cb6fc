import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster import elasticities
from pricelab_dagster.lake import shape
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab
from tests.defs.tiny_lab import CONCLUDED, ELASTICITY

EXACT = 1e-12
SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
# Squared errors pass through 50 draws once in the table and once here.
SQUARES = 1e-9
# The delta method on effects against the one on their logarithms, which bend over errors of some 10 %.
BENT = 0.25


def read(root, table, experiment_id=None):
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


def row_of(root, experiment_id):
    (row,) = Workbench.open(root).lake.read("experiment.elasticities", experiment_id).to_pylist()
    return row


def headlines(root, experiment_id):
    rows = read(root, "experiment.effects", experiment_id)
    return rows[rows["is_headline"]].set_index("metric")


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_the_elasticity_of_the_world_is_found(played, experiment_id):
    row = row_of(played, experiment_id)
    assert abs(row["elasticity"] - ELASTICITY) <= SIGMAS * row["se"]
    assert row["ci_lower"] < row["elasticity"] < row["ci_upper"]
    assert (row["arm"], row["n_replicates"], row["reason"]) == ("treatment", tiny_lab.N_REPLICATES, None)
    assert row["verdict_revenue"] == "more elastic than break-even: the cut pays in revenue"


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_it_is_the_quotient_of_the_headlines(played, experiment_id):
    row, quoted = row_of(played, experiment_id), headlines(played, experiment_id)
    units, price = quoted.loc["units"], quoted.loc["price"]
    assert row["elasticity"] == pytest.approx(np.log1p(units["effect"]) / np.log1p(price["effect"]), rel=EXACT)
    assert row["price_t"] == pytest.approx(price["effect"] / price["se"], rel=EXACT)


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_profit_breaks_even_at_the_margin_of_the_control_cells(played, experiment_id):
    cells = read(played, "experiment.assignments", experiment_id)
    days = read(played, "intermediate.int_product_days").set_index(["product_id", "date"])
    control = cells[(cells["arm"] == "control") & cells["in_analysis"]]
    sold = days.loc[list(zip(control["product_id"], control["date"], strict=True))]
    m = ((sold["price"] - sold["cost"]) * sold["units"]).sum() / (sold["price"] * sold["units"]).sum()
    d = headlines(played, experiment_id).loc["price", "effect"]
    row = row_of(played, experiment_id)
    assert row["break_even_profit"] == pytest.approx(np.log(m / (m + d)) / np.log1p(d), rel=1e-9)
    assert row["break_even_revenue"] == -1.0
    assert 0.4 < m < 0.5


@pytest.mark.parametrize("experiment_id", CONCLUDED)
def test_the_stored_covariance_gives_the_errors_of_the_effects_and_of_the_elasticity(played, experiment_id):
    found = read(played, "experiment.effect_covariance", experiment_id)
    effects = read(played, "experiment.effects", experiment_id)
    own = found[found["metric"] == found["other_metric"]]
    both = own.merge(effects, on=["scale", "estimator", "arm", "metric"])
    assert len(both) == len(own)
    np.testing.assert_allclose(both["covariance"], both["se"] ** 2, rtol=SQUARES)
    n = effects["metric"].nunique()
    assert (found.groupby(["scale", "estimator", "arm"]).size() == n * (n + 1) // 2).all()
    quoted, row = headlines(played, experiment_id), row_of(played, experiment_id)
    of_headline = found[(found["estimator"] == quoted.loc["units", "estimator"]) & (found["scale"] == "relative")]
    V = of_headline.set_index(["metric", "other_metric"])["covariance"]
    a, b = (1 + quoted.loc[metric, "effect"] for metric in ("units", "price"))
    slope = row["elasticity"]
    squared = V["units", "units"] / a**2 - 2 * slope * V["price", "units"] / (a * b)
    squared += slope**2 * V["price", "price"] / b**2
    assert row["se"] == pytest.approx(np.sqrt(squared) / abs(np.log(b)), rel=BENT)


def test_a_running_experiment_says_so_and_a_planned_one_has_none(played):
    assert "running: periods through 2024-04-25 only." in row_of(played, "going")["reason"]
    lake = Workbench.open(played).lake
    for table in ("experiment.elasticities", "experiment.effect_covariance"):
        assert not lake.exists(table, "later")


def effects_of(arm="treatment", *, estimator="hpte", units=0.2, price=-0.1, se=(0.02, 0.004), q=1.96):
    return pd.DataFrame(
        [
            {
                **{"metric": metric, "scale": "relative", "estimator": estimator, "arm": arm, "is_headline": True},
                **{"effect": effect, "se": error, "ci_lower": effect - q * error, "ci_upper": effect + q * error},
            }
            for metric, effect, error in (("units", units, se[0]), ("price", price, se[1]))
        ]
    )


def draws_of(arm="treatment", *, estimator="hpte", n=200, seed=0):
    drawn = np.random.default_rng(seed).multivariate_normal([0.2, -0.1], [[4e-4, -4e-5], [-4e-5, 1.6e-5]], size=n)
    texts = {"scale": "relative", "estimator": estimator, "arm": arm}
    parts = [
        pd.DataFrame({"metric": metric, **texts, "replicate": np.arange(n), "effect": drawn[:, column]})
        for column, metric in enumerate(("units", "price"))
    ]
    return pd.concat(parts, ignore_index=True)


def rows_of(experiment, effects, draws, *, margin=0.5, so_far=None):
    found = elasticities.rows(experiment, effects, draws, margin=margin, so_far=so_far)
    assert shape("experiment.elasticities", found).schema.names == TABLES["experiment.elasticities"].schema.names
    return found.to_pylist()


def test_the_order_of_effects_and_draws_does_not_matter(make_experiment):
    (row,) = rows_of(make_experiment(), effects_of(), draws_of())
    (other,) = rows_of(make_experiment(), effects_of().iloc[::-1], draws_of().sample(frac=1, random_state=1))
    assert other == row
    assert row["reason"] is None


def test_draws_of_other_estimators_scales_and_arms_are_not_touched(make_experiment):
    experiment = make_experiment()
    alone = rows_of(experiment, effects_of(), draws_of())
    others = [draws_of(estimator="hajek", seed=1), draws_of(seed=2).assign(scale="level"), draws_of("other", seed=3)]
    level = effects_of(units=9.0).assign(scale="level", is_headline=False)
    peers = effects_of(units=0.9, estimator="hajek").assign(is_headline=False)
    assert rows_of(experiment, pd.concat([level, peers, effects_of()]), pd.concat([*others, draws_of()])) == alone


def test_each_treatment_arm_has_a_row_and_the_dose_line_none(make_experiment):
    arms = [{"name": name, "price_multiplier": price} for name, price in (("less", 0.9), ("more", 1.1))]
    effects = pd.concat([effects_of("less"), effects_of("more", units=-0.15, price=0.1), effects_of("dose_line")])
    less, more = rows_of(make_experiment(treatment=arms), effects, pd.concat([draws_of("less"), draws_of("more")]))
    assert (less["arm"], more["arm"]) == ("less", "more")
    assert less["elasticity"] < -1 < 0 < more["price_t"]
    assert "the raise" in more["verdict_profit"] or more["verdict_profit"].startswith("cannot be told")


def test_few_units_lengthen_the_interval_as_they_do_that_of_the_effects(make_experiment):
    t = stats.t(10).ppf(0.975)
    (normal,), (few,) = (rows_of(make_experiment(), effects_of(q=q), draws_of()) for q in (1.96, t))
    length = [row["ci_upper"] - row["ci_lower"] for row in (normal, few)]
    assert length[1] / length[0] == pytest.approx(t / 1.96, rel=0.01)


@pytest.mark.parametrize(
    ("effects", "draws", "words"),
    [
        (effects_of(estimator="group_time_simple"), draws_of(), "group_time_simple, has no bootstrap draws"),
        (effects_of().iloc[1:], draws_of(), "units are not among the metrics"),
        (effects_of(units=np.nan), draws_of(), "effect on units is not known"),
        (effects_of(units=-1.0), draws_of(), "-1 or less: no logarithm"),
        (
            effects_of(se=(np.nan, np.nan)).assign(reason="2 assignment units."),
            draws_of().assign(effect=np.nan),
            "The effect on units has no standard error: 2 assignment units.",
        ),
        (effects_of(), draws_of(n=29), "29 replicates"),
    ],
)
def test_without_an_elasticity_there_is_a_reason_and_no_verdict(make_experiment, effects, draws, words):
    (row,) = rows_of(make_experiment(), effects, draws)
    assert words in row["reason"]
    empty = ("elasticity", "se", "ci_lower", "ci_upper", "verdict_revenue", "verdict_profit")
    assert [row[name] for name in empty] == [None] * len(empty)


def test_a_weak_price_effect_has_no_elasticity_and_nothing_to_break_even_on(make_experiment):
    weak = effects_of(price=-0.01)
    (row,) = rows_of(make_experiment(), weak, draws_of(), so_far="2024-01-10")
    assert row["elasticity"] is None
    assert row["break_even_profit"] is None
    assert row["price_t"] == pytest.approx(-2.5)
    assert row["reason"].startswith("The effect on the price is 2.4")
    assert row["reason"].endswith("running: periods through 2024-01-10 only.")


def test_without_a_cost_the_elasticity_stands_and_profit_says_why_it_is_null(make_experiment):
    (row,) = rows_of(make_experiment(), effects_of(), draws_of(), margin=np.nan)
    assert row["elasticity"] < -1
    assert (row["break_even_profit"], row["verdict_profit"]) == (None, None)
    assert row["verdict_revenue"] is not None
    assert row["reason"] == "No margin: the control cells have no sales with a cost."


def cells(**columns):
    stated = {"product_id": "abcd", "arm": ["control", "control", "treatment", "control"], "in_analysis": True}
    known = {name: list(column) if isinstance(column, str) else column for name, column in (stated | columns).items()}
    return pd.DataFrame(known).assign(date=pd.Timestamp("2024-01-08"))


def days(profit, revenue=(10.0, 30.0, 1000.0, 50.0)):
    sold = {"product_id": list("abcd"), "revenue": revenue, "profit": profit}
    return pd.DataFrame(sold).assign(date=pd.Timestamp("2024-01-08"))


def test_the_margin_is_that_of_analysed_control_cells_with_a_cost():
    assert elasticities.margin(cells(), days([5.0, 3.0, 900.0, 20.0])) == pytest.approx(28 / 90, rel=EXACT)
    assert elasticities.margin(cells(), days([5.0, 3.0, 900.0, np.nan])) == pytest.approx(8 / 40, rel=EXACT)
    late = cells(in_analysis=[True, False, True, True])
    assert elasticities.margin(late, days([5.0, 3.0, 900.0, 20.0])) == pytest.approx(25 / 60, rel=EXACT)


def test_without_cost_or_sales_there_is_no_margin():
    assert np.isnan(elasticities.margin(cells(), days([np.nan] * 4)))
    assert np.isnan(elasticities.margin(cells(), days([0.0] * 4, revenue=(0.0,) * 4)))
    assert np.isnan(elasticities.margin(cells(arm=["treatment"] * 4), days([1.0] * 4)))


def test_the_web_ui_shows_interval_or_reason(make_experiment):
    for effects, words in ((effects_of(), " to "), (effects_of(price=-0.01), "too weak")):
        found = elasticities.rows(make_experiment(), effects, draws_of(), margin=0.5, so_far=None)
        *_, line = elasticities.markdown(found).splitlines()
        assert words in line
        assert line.count("|") == 6
