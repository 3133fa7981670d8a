"""Score formulas against scoringrules, definitions and brute force."""

import numpy as np
import pytest
import scoringrules
from scipy.stats import norm

from plusultra_core.errors import ContractError
from plusultra_core.evaluation import scores

LEVELS = np.array([0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95])
RANDOM = np.random.default_rng(11)
Y = RANDOM.normal(size=400)
QUANTILES = np.sort(RANDOM.normal(size=(400, 7)), axis=1)


def test_pinball_equals_scoringrules_at_every_level() -> None:
    found = scores.pinball(Y, QUANTILES, LEVELS)
    for index, level in enumerate(LEVELS):
        assert np.allclose(found[:, index], scoringrules.quantile_score(Y, QUANTILES[:, index], float(level)), atol=1e-15)


def test_crps_of_many_levels_is_the_closed_form_of_the_normal() -> None:
    levels = np.arange(1, 1000) / 1000.0
    grid = np.broadcast_to(norm.ppf(levels), (400, levels.size))
    assert np.allclose(scores.crps(Y, grid, levels), scoringrules.crps_normal(Y, 0.0, 1.0), atol=2e-3)


def test_crps_of_seven_levels_is_close_and_prefers_the_truth() -> None:
    y = RANDOM.normal(size=20_000)
    true, wide, off = (np.broadcast_to(norm.ppf(LEVELS) * scale + shift, (y.size, 7)) for scale, shift in ((1, 0), (2, 0), (1, 0.5)))
    exact = scoringrules.crps_normal(y, 0.0, 1.0).mean()
    assert 0.95 * exact < scores.crps(y, true, LEVELS).mean() < exact
    assert scores.crps(y, true, LEVELS).mean() < min(scores.crps(y, wide, LEVELS).mean(), scores.crps(y, off, LEVELS).mean())


def test_crps_weights_are_trapezoids_over_all_levels() -> None:
    assert scores.crps_weights(np.array([0.25, 0.5, 0.75])) == pytest.approx([0.5, 0.5, 0.5])
    assert scores.crps_weights(LEVELS) == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.4, 0.2, 0.1])


def test_ties_between_quantiles_count_as_crossings() -> None:
    assert scores.crossings(np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0], [1.0, 0.0, 2.0]])) == 2


def test_pit_shares_of_the_truth_are_the_differences_of_the_levels() -> None:
    y = RANDOM.normal(size=50_000)
    shares = scores.pit_shares(y, np.broadcast_to(norm.ppf(LEVELS), (y.size, 7)))
    assert shares == pytest.approx(np.diff([0.0, *LEVELS, 1.0]), abs=0.006)
    assert shares.sum() == pytest.approx(1.0)


def test_newey_west_is_the_plain_error_without_lags_and_larger_under_autocorrelation() -> None:
    noise = RANDOM.normal(size=5000)
    smooth = np.convolve(noise, np.ones(5) / 5, mode="valid")
    assert scores.newey_west_se(noise, 0) == pytest.approx(noise.std() / np.sqrt(noise.size))
    true = 1.0 / np.sqrt(smooth.size)
    assert scores.newey_west_se(smooth, 20) == pytest.approx(true, rel=0.15)
    assert scores.newey_west_se(smooth, 0) < 0.6 * true
    assert np.isnan(scores.newey_west_se(noise[:1], 3))


def test_newey_west_equals_its_definition() -> None:
    value = RANDOM.normal(size=30)
    centred = value - value.mean()
    brute = sum(max(0.0, 1 - abs(i - j) / 4) * centred[i] * centred[j] for i in range(30) for j in range(30) if abs(i - j) <= 3)
    assert scores.newey_west_se(value, 3) == pytest.approx(np.sqrt(brute) / 30)


def test_direction_scores_equal_hand_made_numbers() -> None:
    probability = np.array([[0.7, 0.1, 0.2], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3]])
    happened = np.array([0, 2, 1])
    assert scores.brier(probability, happened) == pytest.approx((0.14 + 0.24 + 0.74) / 3)
    assert scores.negative_log_likelihood(probability, happened) == pytest.approx(-np.log([0.7, 0.6, 0.3]).mean())
    assert scores.expected_calibration_error(probability, happened, 10) == pytest.approx((0.3 + 0.4 + 0.4) / 3)


def test_a_zero_probability_of_what_happened_is_finite() -> None:
    assert scores.negative_log_likelihood(np.array([[1.0, 0.0, 0.0]]), np.array([2])) == pytest.approx(-np.log(1e-12))


def test_a_calibrated_confidence_has_a_small_error() -> None:
    confidence = RANDOM.uniform(0.4, 0.9, size=40_000)
    probability = np.stack([confidence, (1 - confidence) / 2, (1 - confidence) / 2], axis=1)
    drawn = RANDOM.uniform(size=confidence.size)
    happened = np.where(drawn < confidence, 0, 1)
    assert scores.expected_calibration_error(probability, happened, 15) < 0.02


@pytest.mark.parametrize(("row", "words"), [([0.5, 0.2, 0.2], "sum to 1"), ([np.nan, 0.5, 0.5], "finite"), ([-0.5, 1.0, 0.5], ">= 0")])
def test_what_is_no_probability_is_refused(row: list[float], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        scores.check_probabilities(np.array([row]), "forecasts")
