"""Trend against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
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


def aroon(f: pd.DataFrame) -> pd.Series:
    def since(x: pd.Series) -> pd.Series:
        return x.rolling(11, min_periods=9).apply(lambda v: float(np.nanargmax(v[::-1])), raw=True)

    return ((since(-f.low) - since(f.high)) / 10).where(f.high.notna())


def donchian(f: pd.DataFrame) -> pd.Series:
    low, high = f.low.rolling(21, min_periods=17).min().shift(1), f.high.rolling(21, min_periods=17).max().shift(1)
    return (f.close - low) / (high - low) - 0.5


def ichimoku(f: pd.DataFrame) -> pd.Series:
    return (f.low.rolling(21, min_periods=17).min() + f.high.rolling(21, min_periods=17).max()) / 2


def ema(x: pd.Series, window: int) -> pd.Series:
    return x.ewm(span=window, ignore_na=True, min_periods=max(2, int(np.ceil(0.8 * window)))).mean()


def kama(f: pd.DataFrame) -> pd.Series:
    pace = (f.close.diff(10).abs() / f.close.diff().abs().rolling(10).sum() * (2 / 3 - 2 / 31) + 2 / 31) ** 2
    out, y = [], np.nan
    for x, step in zip(f.close, pace, strict=True):
        if np.isfinite(step):
            y = x if np.isnan(y) else y + step * (x - y)
        out.append(y)
    return pd.Series(out)


def slope(window: int, of: Callable[[np.ndarray], float]) -> Callable[[pd.DataFrame], pd.Series]:  # type: ignore[type-arg]
    return lambda f: np.log(f.close).rolling(window).apply(of, raw=True)


SLOW = {
    "macd": lambda f: line(f) / sigma(f) / 10**0.5,
    "macd_histogram": lambda f: (line(f) - line(f).ewm(span=5, min_periods=4).mean()) / sigma(f) / 10**0.5,
    "bollinger_z": lambda f: (f.close - f.close.rolling(10, min_periods=8).mean()) / f.close.rolling(10, min_periods=8).std(ddof=0),
    "adx": adx,
    "directional_move": directional_move,
    "ppo": lambda f: (ema(f.close, 10) / ema(f.close, 21) - 1) / sigma(f) / 21**0.5,
    "trix": lambda f: ema(ema(ema(f.close, 10), 10), 10).pct_change(fill_method=None) / sigma(f),
    "kama_distance": lambda f: np.log(f.close / kama(f)) / sigma(f) / 10**0.5,
    "bollinger_bandwidth": lambda f: (
        4 * f.close.rolling(10, min_periods=8).std(ddof=0) / f.close.rolling(10, min_periods=8).mean() / sigma(f) / 10**0.5
    ),
    "aroon": aroon,
    "donchian_position": donchian,
    "ichimoku_distance": lambda f: np.log(f.close / ichimoku(f)) / sigma(f) / 21**0.5,
    "trend_slope": lambda f: slope(10, lambda v: float(np.polyfit(np.arange(10), v, 1)[0]))(f) / sigma(f),
    "trend_fit": slope(21, lambda v: float(np.corrcoef(np.arange(21), v)[0, 1])),
    "efficiency": lambda f: np.log(f.close).diff(10) / ret(f).abs().rolling(10).sum(),
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


def test_the_last_bar_that_breaks_its_channel_stands_outside(
    make_bars: Callable[..., pl.DataFrame], exact: Callable[..., pl.DataFrame]
) -> None:
    bars = make_bars(num_symbols=1, num_times=60, gap_share=0.0)
    flat = bars.with_columns(pl.lit(9.0).alias("low_adj"), pl.lit(11.0).alias("high_adj"), pl.lit(10.0).alias("close_adj"))
    last = pl.int_range(pl.len()) == pl.len() - 1
    up = exact(
        flat.with_columns(
            pl.when(last).then(14.0).otherwise("high_adj").alias("high_adj"),
            pl.when(last).then(13.0).otherwise("close_adj").alias("close_adj"),
        )
    )
    assert up["donchian_position"][-2] == 0.0 and up["donchian_position"][-1] == 1.5
    assert up["aroon"][-1] == 0.0, "a bar with the newest of equal lows and the highest high is the newest of both"
