import numpy as np
import pytest

from pricelab_dagster.science import _edge_statistics as statistics

EXACT = 1e-10


def test_centred_mean_by_hand_in_weeks():
    series = np.array([[1.0, 2.0, 6.0, 4.0, 5.0, 9.0]])
    centred = np.array([[3.0, 3.25, 3.6, 5.2, 6.0, 6.0]])
    expected = series - centred - (series - centred).mean()
    np.testing.assert_allclose(statistics.detrend(series, 1), expected, rtol=EXACT)


def test_centred_mean_spans_28_days_and_weekdays_are_removed():
    t = np.arange(140.0)
    weekday = np.array([3.0, -1, 0, 2, -2, 1, -3])[np.arange(140) % 7]
    inner = np.s_[0, 14:-14]
    left = statistics.detrend((0.5 * t + weekday)[None], 7)[inner]
    plain = statistics.detrend((0.5 * t)[None], 7)[inner]
    # Weekdays go but for the ends, where the centred mean no longer holds whole weeks.
    np.testing.assert_allclose(left, plain, atol=0.15)
    impulse = np.zeros((1, 141))
    impulse[0, 70] = 1.0
    smooth = statistics.detrend(impulse, 7) - statistics.detrend(np.zeros((1, 141)), 7)
    same_weekday = smooth[0, 70 % 7 :: 7]
    # 14 and 21 days off lie inside and outside of the window; half a day's weight falls on day 14.
    assert same_weekday[10 + 3] - same_weekday[10 + 1] == pytest.approx(1 / 28, rel=EXACT)
    assert same_weekday[10 + 3] - same_weekday[10 + 2] == pytest.approx(0.5 / 28, rel=EXACT)


def test_regression_and_newey_west_against_explicit_sums():
    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(3, 60)).cumsum(axis=1), rng.normal(size=(2, 60))
    beta, se = statistics.regress(Y, X, 1)
    for i in range(3):
        expected = np.linalg.lstsq(X.T, Y[i], rcond=None)[0]
        np.testing.assert_allclose(beta[i], expected, rtol=EXACT)
        score = X * (Y[i] - expected @ X)
        meat = score @ score.T
        lagged = score[:, 1:] @ score[:, :-1].T
        meat = meat + 0.5 * (lagged + lagged.T)
        bread = np.linalg.inv(X @ X.T)
        freedom = 60 * (1 - 1 / 5) - 1 - 2
        np.testing.assert_allclose(se[i], np.sqrt(np.diag(bread @ meat @ bread) * 60 / freedom), rtol=EXACT)


def test_shrinkage_beats_raw_on_normal_effects_and_stays_between_prior_and_raw():
    rng = np.random.default_rng(13)
    truth = rng.normal(0.1, 0.2, 3000)
    effect = truth + rng.normal(0, 0.3, 3000)
    shrunk = statistics.shrink(effect, np.full(3000, 0.09), np.ones((3000, 1)))
    slope = np.polyfit(effect, shrunk, 1)[0]
    # tau² / (tau² + v) = .04 / .13.
    assert slope == pytest.approx(0.04 / 0.13, abs=0.04)
    assert np.mean((shrunk - truth) ** 2) < 0.4 * np.mean((effect - truth) ** 2)


def test_hands_never_pair_a_category():
    category = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    hands = statistics.hands(category, np.random.default_rng(19))
    assert all(len(set(category[hand])) == len(hand) > 1 for hand in hands)
    dealt = np.concatenate(hands)
    assert len(set(dealt)) == len(dealt) >= 15
