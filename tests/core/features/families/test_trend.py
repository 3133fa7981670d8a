"""Trend against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def ret(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).diff()


def sigma(f: pd.DataFrame) -> pd.Series:
    return np.sqrt((ret(f) ** 2).ewm(halflife=10, min_periods=10).mean())


def wilder(x: pd.Series) -> pd.Series:
    return x.ewm(alpha=1 / 10, ignore_na=True, min_periods=8).mean()


def line(f: pd.DataFrame) -> pd.Series:
    return (f.close.ewm(span=5, min_periods=4).mean() - f.close.ewm(span=10, min_periods=8).mean()) / f.close


def moves(f: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    rise, fall = f.high.diff(), -f.low.diff()
    known = (rise + fall).notna()
    return rise.where((rise > fall) & (rise > 0), 0.0).where(known), fall.where((fall > rise) & (fall > 0), 0.0).where(known)


def adx(f: pd.DataFrame) -> pd.Series:
    plus, minus = (wilder(x) for x in moves(f))
    return wilder(((plus - minus).abs() / (plus + minus)).where(moves(f)[0].notna())).where(moves(f)[0].notna())


def directional_move(f: pd.DataFrame) -> pd.Series:
    plus, minus = moves(f)
    before = f.close.shift(1)
    spread = np.fmax(f.high, before) - np.fmin(f.low, before)
    return (wilder(plus - minus) / wilder(spread.where(plus.notna()))).where(plus.notna())


def stochastic(f: pd.DataFrame) -> pd.Series:
    low, high = f.low.rolling(10, min_periods=8).min(), f.high.rolling(10, min_periods=8).max()
    return ((f.close - low) / (high - low) - 0.5).where(f.high.notna())


def cci(f: pd.DataFrame) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    away = typical.rolling(10, min_periods=8).apply(lambda v: (v.dropna() - v.mean()).abs().mean(), raw=False)
    return (typical - typical.rolling(10, min_periods=8).mean()) / (0.015 * away) / 100


def slope(window: int, of: Callable[[np.ndarray], float]) -> Callable[[pd.DataFrame], pd.Series]:  # type: ignore[type-arg]
    return lambda f: np.log(f.close).rolling(window).apply(of, raw=True)


SLOW = {
    "rsi": lambda f: (100 - 100 / (1 + wilder(f.close.diff().clip(lower=0)) / wilder(-f.close.diff().clip(upper=0))) - 50) / 50,
    "macd": lambda f: line(f) / sigma(f) / 10**0.5,
    "macd_histogram": lambda f: (line(f) - line(f).ewm(span=5, min_periods=4).mean()) / sigma(f) / 10**0.5,
    "bollinger_z": lambda f: (f.close - f.close.rolling(10, min_periods=8).mean()) / f.close.rolling(10, min_periods=8).std(ddof=0),
    "adx": adx,
    "directional_move": directional_move,
    "stochastic": stochastic,
    "cci": cci,
    "trend_slope": lambda f: slope(10, lambda v: float(np.polyfit(np.arange(10), v, 1)[0]))(f) / sigma(f),
    "trend_fit": slope(21, lambda v: float(np.corrcoef(np.arange(21), v)[0, 1])),
    "efficiency": lambda f: np.log(f.close).diff(10) / ret(f).abs().rolling(10).sum(),
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])
