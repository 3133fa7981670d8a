"""The market's arrays: what is missing is filled from the past or the config, and says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plusultra_core import config
from plusultra_core.errors import ContractError
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.liquidity.rolling import rolling_sum
from plusultra_core.simulation.market import HALF_RANGE_SIGMAS, check_market, last_close, market_arrays
from plusultra_core.simulation.records import PROXY_DEPTH, PROXY_OPEN, PROXY_RANGE, PROXY_SIGMA, PROXY_SPREAD, PROXY_VOLUME, MarketArrays

N, T = 2, 12
QUOTES = PROXY_SPREAD | PROXY_DEPTH
"""What bars alone never say."""


@pytest.fixture
def forex(root: Path) -> MarketConfig:
    return config.load(MarketConfig, root / "configs" / "markets" / "forex.yaml")


def bars(seed: int = 0) -> dict[str, Any]:
    close = 1.0 + np.random.default_rng(seed).random((N, T))
    return {
        "open": close * 1.01,
        "high": close * 1.02,
        "low": close * 0.98,
        "close": close,
        "volume": np.full((N, T), 1e4),
        "funding": np.zeros((N, T)),
    }


def build(values: dict[str, Any], market: MarketConfig, tradable: Any = None, sigma: Any = None) -> MarketArrays:
    here = np.ones((N, T), bool) if tradable is None else tradable
    arrays = market_arrays(np.arange(T) * 10**9, values, np.full((N, T), 0.01) if sigma is None else sigma, here, market, 3, 0.05)
    check_market(arrays)
    return arrays


def test_complete_bars_pass_through_unflagged(forex: MarketConfig) -> None:
    values = bars()
    arrays = build(values, forex)
    assert set(arrays.proxy.flat) == {QUOTES}
    assert np.array_equal(arrays.close, values["close"].T)
    assert np.allclose(arrays.adv_ccy[5], 1e4 * values["close"][:, 3:6].mean(axis=1))
    assert set(arrays.half_spread_bps.flat) == {0.5}


def test_a_market_without_volume_trades_the_fallback_of_its_config(forex: MarketConfig) -> None:
    values = bars()
    values["volume"][0] = np.nan
    arrays = build(values, forex)
    assert np.allclose(arrays.volume[:, 0] * arrays.close[:, 0], forex.fallback_adv_ccy)
    assert set(arrays.proxy[:, 0]) == {PROXY_VOLUME | QUOTES}
    assert set(arrays.proxy[:, 1]) == {QUOTES}


def test_a_bar_without_range_gets_one_from_sigma(forex: MarketConfig) -> None:
    values = bars()
    for name in ("open", "high", "low"):
        values[name][0] = np.nan
    arrays = build(values, forex)
    assert np.allclose(np.log(arrays.high[:, 0] / arrays.close[:, 0]), HALF_RANGE_SIGMAS * 0.01)
    assert set(arrays.proxy[:, 0]) == {PROXY_OPEN | PROXY_RANGE | QUOTES}
    assert np.isnan(arrays.open[:, 0]).all()


def test_sigma_is_carried_and_falls_back_before_its_first(forex: MarketConfig) -> None:
    sigma = np.full((N, T), np.nan)
    sigma[0, 4] = 0.03
    arrays = build(bars(), forex, sigma=sigma)
    assert arrays.sigma[:4, 0].tolist() == [0.05] * 4
    assert arrays.sigma[4:, 0].tolist() == [0.03] * 8
    assert arrays.proxy[0, 0] == PROXY_SIGMA | QUOTES


@pytest.mark.parametrize("cut", [1, 6, 11])
def test_rows_up_to_t_do_not_know_what_comes(forex: MarketConfig, cut: int) -> None:
    now, later = bars(), bars(9)
    now["volume"][1, 3] = later["volume"][1, 3] = np.nan
    mixed = {name: np.hstack((now[name][:, :cut], later[name][:, cut:] * 3)) for name in now}
    for whole, part in zip(build(now, forex), build(mixed, forex), strict=True):
        if whole.ndim == 2:
            assert np.array_equal(whole[:cut], part[:cut], equal_nan=True)


@pytest.mark.parametrize(("name", "value"), [("close", -1.0), ("close", np.nan), ("open", np.inf), ("high", 0.1), ("volume", -1.0)])
def test_prices_that_are_none_are_refused(forex: MarketConfig, name: str, value: float) -> None:
    values = bars()
    values[name][1, 2] = value
    with pytest.raises(ContractError, match=f"bars.{name}"):
        build(values, forex)


def test_bars_that_are_not_tradable_do_not_count(forex: MarketConfig) -> None:
    tradable = np.ones((N, T), bool)
    tradable[0, 5] = False
    values = bars()
    values["close"][0, 5] = -7.0
    arrays = build(values, forex, tradable)
    assert np.isnan(arrays.close[5, 0])
    assert arrays.volume[5, 0] == 0.0
    assert last_close(arrays)[5, 0] == arrays.close[4, 0]


def test_one_volume_in_the_wrong_unit_is_forgotten_after_the_bars_of_the_average(forex: MarketConfig) -> None:
    values = bars()
    values["volume"][0, 2] = 1e25
    arrays, plain = build(values, forex), build(bars(), forex)
    assert arrays.adv_ccy[4, 0] > 1e20
    assert np.array_equal(arrays.adv_ccy[5:], plain.adv_ccy[5:])
    assert np.array_equal(arrays.adv_ccy[:, 1], plain.adv_ccy[:, 1])


@given(seed=st.integers(0, 1_000), num_rows=st.integers(1, 40), num_bars=st.integers(1, 45), size=st.sampled_from([1.0, 1e200]))
def test_a_rolling_sum_is_that_of_its_rows_alone_and_of_none_that_come(seed: int, num_rows: int, num_bars: int, size: float) -> None:
    values = np.random.default_rng(seed).normal(size=(num_rows, 2))
    values[num_rows // 3] *= size
    found = rolling_sum(values, num_bars)
    for t in range(num_rows):
        assert found[t] == pytest.approx(values[max(t + 1 - num_bars, 0) : t + 1].sum(axis=0), rel=1e-9, abs=1e-12)
    assert np.array_equal(rolling_sum(values[: num_rows - 1], num_bars), found[:-1])


@pytest.mark.parametrize("rate", [np.inf, -np.inf])
def test_a_rate_of_funding_without_end_is_refused_not_made_a_number(forex: MarketConfig, rate: float) -> None:
    values = bars()
    values["funding"][1, 7] = rate
    with pytest.raises(ContractError, match=r"bars\.funding: 1 rates are not finite"):
        build(values, forex)
