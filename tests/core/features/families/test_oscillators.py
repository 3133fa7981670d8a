"""Oscillators against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

Of = Callable[..., pl.DataFrame]
Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def wilder(x: pd.Series) -> pd.Series:
    return x.ewm(alpha=1 / 10, ignore_na=True, min_periods=8).mean()


def ema(x: pd.Series, window: int) -> pd.Series:
    return x.ewm(span=window, ignore_na=True, min_periods=max(2, int(np.ceil(0.8 * window)))).mean()


def rsi(f: pd.DataFrame) -> pd.Series:
    change = f.close.diff()
    return (100 - 100 / (1 + wilder(change.clip(lower=0)) / wilder(-change.clip(upper=0))) - 50) / 50


def fast_k(f: pd.DataFrame, window: int) -> pd.Series:
    need = max(2, int(np.ceil(0.8 * window)))
    low, high = f.low.rolling(window, min_periods=need).min(), f.high.rolling(window, min_periods=need).max()
    return ((f.close - low) / (high - low)).where(f.high.notna())


def cci(f: pd.DataFrame) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    away = typical.rolling(10, min_periods=8).apply(lambda v: (v.dropna() - v.mean()).abs().mean(), raw=False)
    return (typical - typical.rolling(10, min_periods=8).mean()) / (0.015 * away) / 100


def tsi(f: pd.DataFrame) -> pd.Series:
    change = f.close.diff()
    return ema(ema(change, 10), 5) / ema(ema(change.abs(), 10), 5)


def ultimate(f: pd.DataFrame) -> pd.Series:
    before = f.close.shift(1)
    floor, top = np.fmin(f.low, before).where(f.low.notna()), np.fmax(f.high, before).where(f.high.notna())
    total = 0.0
    for weight, window in ((4, 5), (2, 10), (1, 21)):
        need = max(2, int(np.ceil(0.8 * window)))
        bought, spread = (x.rolling(window, min_periods=need).mean() for x in (f.close - floor, top - floor))
        total = total + weight / 7 * bought / spread
    return (total - 0.5).where(f.high.notna())


SLOW = {
    "rsi": rsi,
    "stochastic": lambda f: fast_k(f, 10) - 0.5,
    "stochastic_d": lambda f: fast_k(f, 10).rolling(3).mean().rolling(3).mean() - 0.5,
    "williams_r": lambda f: fast_k(f, 5) - 0.5,
    "cci": cci,
    "tsi": tsi,
    "ultimate_oscillator": ultimate,
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


def test_a_price_that_only_rises_is_as_strong_as_can_be(make_bars: Of, exact: Of) -> None:
    bars = make_bars(num_symbols=1, num_times=60, gap_share=0.0)
    close = 10.0 * 1.01 ** np.arange(60)
    rising = bars.with_columns(pl.Series(name, close) for name in ("open_adj", "high_adj", "low_adj", "close_adj"))
    last = exact(rising).row(-1, named=True)
    assert last["rsi"] == pytest.approx(1.0) and last["tsi"] == pytest.approx(1.0)
    assert last["stochastic"] == last["williams_r"] == last["stochastic_d"] == 0.5
    assert last["ultimate_oscillator"] == pytest.approx(0.5)
