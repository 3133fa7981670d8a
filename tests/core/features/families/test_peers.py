"""Indicators against TA-Lib and ta, to nine digits.

Exponential means are normalised here, and begin with a simple mean or a first value there; the two are one once the start
has been forgotten. The slowest, Wilder's over 14 bars thrice, keeps (13 / 14) ** 1000 = 7e-33 of it after 1,000 bars,
Kaufman's at its slowest (1 - (2 / 31) ** 2) ** 2000 = 2e-4 and at its usual pace nothing: these rows are not compared.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.data.contract.frames import empty
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.build import FeaturesConfig, arrays_of
from plusultra_core.features.families import oscillators, returns, trend, volatility, volume
from plusultra_core.market import MarketConfig

talib = pytest.importorskip("talib")
momentum = pytest.importorskip("ta.momentum")
ta_volume = pytest.importorskip("ta.volume")
ta_volatility = pytest.importorskip("ta.volatility")

Array = np.ndarray[Any, Any]
SHORT, MEDIUM, LONG = 7, 14, 28
FORGOTTEN, SLOWLY = 1_000, 2_000


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    """Six thousand whole daily bars of a price that trends, rests and swings."""
    rng = np.random.default_rng(11)
    num = 6_000
    sigma = 0.012 * np.exp(0.5 * np.sin(np.arange(num) / 90.0))
    close = 80.0 * np.exp(np.cumsum(sigma * rng.standard_normal(num) + 0.002 * np.sin(np.arange(num) / 37.0)))
    open_ = close * np.exp(0.4 * sigma * rng.standard_normal(num))
    high = np.maximum(open_, close) * np.exp(0.6 * sigma * np.abs(rng.standard_normal(num)))
    low = np.minimum(open_, close) * np.exp(-0.6 * sigma * np.abs(rng.standard_normal(num)))
    values = {"open": open_, "high": high, "low": low, "close": close, "volume": np.exp(12.0 + 0.5 * rng.standard_normal(num))}
    ts_ns = 946_760_400_000_000_000 + 86_400_000_000_000 * np.arange(num)
    frame = pl.DataFrame({"symbol": ["A"] * num, "ts_ns": ts_ns, "known_ns": ts_ns, "gap_bars": np.zeros(num, dtype=np.int32)})
    return frame.with_columns(pl.Series(f"{name}_adj", value) for name, value in values.items())


@pytest.fixture(scope="module")
def b(bars: pl.DataFrame, smoke: FeaturesConfig, market: Callable[[str], MarketConfig]) -> BarArrays:
    windows = dataclasses.replace(smoke.windows, short=SHORT, medium=MEDIUM, long=LONG)
    return arrays_of(bars, empty("indicators"), empty("side_tables"), market("crypto"), dataclasses.replace(smoke, windows=windows))


def unit(x: Array, b: BarArrays, num_bars: int) -> Array:
    """Out of sigmas again."""
    return np.asarray(x * b.sigma * np.sqrt(num_bars))


def stochastic_d(b: BarArrays) -> Array:
    return np.asarray(talib.STOCH(b.high, b.low, b.close, fastk_period=MEDIUM, slowk_period=3, slowd_period=3)[1])


def directional(b: BarArrays) -> Array:
    span = b.high, b.low, b.close
    return np.asarray(talib.PLUS_DI(*span, MEDIUM) - talib.MINUS_DI(*span, MEDIUM))


def s(x: Array) -> pd.Series:
    return pd.Series(x)


Pair = tuple[Callable[[BarArrays], Array], Callable[[BarArrays], Any], int]
PAIRS: dict[str, Pair] = {
    "EMA": (lambda b: trend.close_mean(b, MEDIUM), lambda b: talib.EMA(b.close, MEDIUM), FORGOTTEN),
    "MACD": (
        lambda b: unit(trend.macd(b), b, MEDIUM) * b.close,
        lambda b: talib.MACD(b.close, SHORT, MEDIUM, SHORT)[0],
        FORGOTTEN,
    ),
    "PPO": (trend.ppo_value, lambda b: talib.PPO(b.close, MEDIUM, LONG, matype=1), FORGOTTEN),
    "TRIX": (trend.trix_value, lambda b: talib.TRIX(b.close, MEDIUM), FORGOTTEN),
    "KAMA": (trend.kama, lambda b: talib.KAMA(b.close, MEDIUM), SLOWLY),
    "BBANDS": (
        lambda b: trend.bollinger_bands(b)[0] + 2.0 * trend.bollinger_bands(b)[1],
        lambda b: talib.BBANDS(b.close, MEDIUM, 2.0, 2.0)[0],
        MEDIUM,
    ),
    "STDDEV": (lambda b: trend.bollinger_bands(b)[1], lambda b: talib.STDDEV(b.close, MEDIUM), MEDIUM),
    "ADX": (lambda b: 100.0 * trend.adx(b), lambda b: talib.ADX(b.high, b.low, b.close, MEDIUM), FORGOTTEN),
    "DI": (lambda b: 100.0 * trend.directional_move(b), directional, FORGOTTEN),
    "AROONOSC": (lambda b: 100.0 * trend.aroon(b), lambda b: talib.AROONOSC(b.high, b.low, MEDIUM), MEDIUM + 1),
    "MIDPRICE": (
        lambda b: b.close / np.exp(unit(trend.ichimoku_distance(b), b, LONG)),
        lambda b: talib.MIDPRICE(b.high, b.low, LONG),
        LONG,
    ),
    "LINEARREG_SLOPE": (
        lambda b: unit(trend.trend_slope(b), b, 1),
        lambda b: talib.LINEARREG_SLOPE(np.log(b.close), MEDIUM),
        MEDIUM,
    ),
    "CORREL": (trend.trend_fit, lambda b: talib.CORREL(np.log(b.close), np.arange(b.close.size, dtype=float), LONG), LONG),
    "ROC": (
        lambda b: 100.0 * np.expm1(unit(returns.ret_medium(b), b, MEDIUM)),
        lambda b: talib.ROC(b.close, MEDIUM),
        MEDIUM,
    ),
    "RSI": (lambda b: 50.0 + 50.0 * oscillators.rsi(b), lambda b: talib.RSI(b.close, MEDIUM), FORGOTTEN),
    "STOCHF": (
        lambda b: 50.0 + 100.0 * oscillators.stochastic(b),
        lambda b: talib.STOCHF(b.high, b.low, b.close, fastk_period=MEDIUM, fastd_period=1)[0],
        MEDIUM,
    ),
    "STOCH": (lambda b: 50.0 + 100.0 * oscillators.stochastic_d(b), stochastic_d, MEDIUM + 4),
    "WILLR": (lambda b: 100.0 * oscillators.williams_r(b) - 50.0, lambda b: talib.WILLR(b.high, b.low, b.close, SHORT), SHORT),
    "CCI": (lambda b: 100.0 * oscillators.cci(b), lambda b: talib.CCI(b.high, b.low, b.close, MEDIUM), MEDIUM),
    "TYPPRICE": (oscillators.typical, lambda b: talib.TYPPRICE(b.high, b.low, b.close), 0),
    "ULTOSC": (
        lambda b: 50.0 + 100.0 * oscillators.ultimate_oscillator(b),
        lambda b: talib.ULTOSC(b.high, b.low, b.close, SHORT, MEDIUM, LONG),
        LONG + 1,
    ),
    "TRANGE": (volatility.true_range, lambda b: talib.TRANGE(b.high, b.low, b.close), 1),
    "ATR": (volatility.atr, lambda b: talib.ATR(b.high, b.low, b.close, MEDIUM), FORGOTTEN),
    "NATR": (
        lambda b: 100.0 * unit(volatility.atr_ratio(b), b, 1),
        lambda b: talib.NATR(b.high, b.low, b.close, MEDIUM),
        FORGOTTEN,
    ),
    "MFI": (lambda b: 50.0 + 50.0 * volume.mfi(b), lambda b: talib.MFI(b.high, b.low, b.close, b.volume, MEDIUM), MEDIUM + 1),
    "OBV": (volume.obv, lambda b: talib.OBV(b.close, b.volume) - b.volume[0], 0),
    "AD": (volume.accumulation_line, lambda b: talib.AD(b.high, b.low, b.close, b.volume), 0),
    "ADOSC": (
        volume.chaikin_oscillator_value,
        lambda b: talib.ADOSC(b.high, b.low, b.close, b.volume, SHORT, MEDIUM),
        FORGOTTEN,
    ),
    "ta TSI": (lambda b: 100.0 * oscillators.tsi(b), lambda b: momentum.tsi(s(b.close), MEDIUM, SHORT), FORGOTTEN),
    "ta CMF": (
        volume.cmf,
        lambda b: ta_volume.chaikin_money_flow(s(b.high), s(b.low), s(b.close), s(b.volume), MEDIUM),
        MEDIUM,
    ),
    "ta VWAP": (
        lambda b: b.close / np.exp(unit(volume.vwap_ratio(b), b, MEDIUM)),
        lambda b: ta_volume.volume_weighted_average_price(s(b.high), s(b.low), s(b.close), s(b.volume), MEDIUM),
        MEDIUM,
    ),
    "ta force index": (
        lambda b: volume.force_index(b) * trend.exponential("force_index.volume", b.volume, b, MEDIUM) * b.close * b.sigma,
        lambda b: ta_volume.force_index(s(b.close), s(b.volume), MEDIUM),
        FORGOTTEN,
    ),
    "ta Donchian": (
        lambda b: trend.highest(b, LONG) - trend.lowest(b, LONG),
        lambda b: (
            ta_volatility.DonchianChannel(s(b.high), s(b.low), s(b.close), LONG).donchian_channel_hband()
            - ta_volatility.DonchianChannel(s(b.high), s(b.low), s(b.close), LONG).donchian_channel_lband()
        ),
        LONG,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_indicator_is_that_of_its_peer(b: BarArrays, name: str) -> None:
    ours, theirs, first = PAIRS[name]
    first = max(first, 30)  # sigma, in whose units features come, is known by then
    found, expected = np.asarray(ours(b))[first:], np.asarray(theirs(b), dtype=float)[first:]
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * float(np.abs(expected).mean()))


def test_before_its_start_is_forgotten_a_mean_is_not_yet_that_of_its_peer(b: BarArrays) -> None:
    ours, theirs = 50.0 + 50.0 * oscillators.rsi(b), talib.RSI(b.close, MEDIUM)
    apart = np.abs(ours - theirs)
    assert apart[20] > 1e-2 and apart[600:].max() < 1e-9


def test_the_page_of_the_station_names_every_peer(root: Path) -> None:
    page = (root / "docs" / "stations" / "features.md").read_text()
    assert [name for name in PAIRS if name not in ("DI",) and not name.startswith("ta ") and name not in page] == []
