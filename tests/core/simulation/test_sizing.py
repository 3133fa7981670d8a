"""The sizing rule and the no-trade band."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusultra_core.simulation.sizing import IQR_OF_NORMAL, raw_weight, request_single, request_weights

LEVELS = (0.25, 0.5, 0.75)


@given(median=st.floats(-5, 5), risk=st.floats(0.01, 10), gain=st.floats(0.1, 10))
def test_the_part_is_gain_times_median_over_risk_between_minus_one_and_one(median: float, risk: float, gain: float) -> None:
    half = risk * IQR_OF_NORMAL / 2
    part = raw_weight([median - half, median, median + half], LEVELS, gain)
    assert part == pytest.approx(np.clip(gain * median / risk, -1, 1), rel=1e-6, abs=1e-6)


def test_quantiles_without_spread_give_a_full_part_and_missing_ones_none() -> None:
    assert raw_weight([0.1, 0.1, 0.1], LEVELS, 1.0) == 1.0
    assert np.isnan(raw_weight([np.nan, np.nan, np.nan], LEVELS, 1.0))


@pytest.mark.parametrize(
    "quantiles", [(0.2, 0.1, 0.0), (0.0, 0.3, 0.2), (0.0, np.inf, np.inf), (-np.inf, 0.1, 0.2), (np.nan, 0.1, 0.2), (0.1, np.nan, 0.2)]
)
def test_a_forecast_that_is_none_holds_nothing_rather_than_the_limit(quantiles: tuple[float, ...]) -> None:
    assert np.isnan(raw_weight([quantiles, (0.0, 0.1, 0.2)], LEVELS, 1.0)).tolist() == [True, False]


def test_a_wish_within_the_band_or_without_a_forecast_is_a_hold() -> None:
    part = np.array([[0.5, 0.5, 0.5, np.nan]])
    present = np.array([[True, True, False, True]])
    held = np.array([[0.12, 0.05, 0.0, 0.0]])
    request = request_weights(part, present, held, np.zeros((1, 4)), 0.2, 0.2)
    assert np.isnan(request[0]).tolist() == [True, False, True, True]
    assert request[0, 1] == pytest.approx(0.1)


def test_an_order_that_leads_out_of_the_band_is_called_back_and_one_that_leads_into_it_works_on() -> None:
    """Held 0.02 of a limit of 0.2, band 0.04; the wish is 0, 0.05 and 0.1, an order of 0.08 is at work."""
    part, held, working = np.array([[0.0, 0.25, 0.5]]), np.full((1, 3), 0.02), np.full((1, 3), 0.08)
    request = request_weights(part, np.ones((1, 3), np.bool_), held, working, 0.2, 0.2)
    assert request[0, 0] == 0.02
    assert request[0, 1] == 0.02
    assert request[0, 2] == pytest.approx(0.1)
    kept = request_weights(part[:, :1], np.ones((1, 1), np.bool_), held[:, :1], np.array([[0.01]]), 0.2, 0.2)
    assert np.isnan(kept[0, 0])


def test_the_compiled_wish_is_that_of_the_plain_rule() -> None:
    rng = np.random.default_rng(5)
    part, weight, held, mark = rng.uniform(-1, 1, 200), rng.uniform(-1, 1, 200), rng.normal(0, 0.3, 200), rng.uniform(1, 2, 200)
    working, equity, peak = np.where(rng.random(200) < 0.5, held, 0.0), rng.uniform(0.5, 1, 200), np.ones(200)
    part[:3], equity[3], weight[4:60] = (np.nan, np.inf, 0.1), -1.0, part[4:60] + 0.05
    present, t, asset = rng.random((7, 3)) < 0.8, rng.integers(0, 7, 200), rng.integers(0, 3, 200)
    share = np.where((working != 0) & (equity > 0), working * mark / np.abs(equity), 0.0)
    request, before = np.empty(200), np.empty((200, 2))
    request_single(part, present, t, asset, weight, working, mark, equity, peak, 0.2, request, before)
    expected = request_weights(part[:, None], present[t, asset][:, None], weight[:, None], share[:, None], 1.0, 0.2)[:, 0]
    assert np.array_equal(request, expected, equal_nan=True)
    assert len({np.isnan(x) for x in expected}) == 2
    assert np.array_equal(before, np.stack((equity, 1.0 - equity), axis=1))
