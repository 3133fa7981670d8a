"""Volume against pandas."""

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


def mean(x: pd.Series, window: int) -> pd.Series:
    return x.rolling(window, min_periods=max(2, int(np.ceil(0.8 * window)))).mean()


def log_volume(f: pd.DataFrame) -> pd.Series:
    return np.log(f.volume.where(f.volume > 0))


def volume_z(f: pd.DataFrame) -> pd.Series:
    rolled = log_volume(f).rolling(21, min_periods=17)
    return (log_volume(f) - rolled.mean()) / rolled.std(ddof=0)


def price_of_volume(f: pd.DataFrame) -> pd.Series:
    notional = f.close * f.volume
    return ret(f).abs() / notional.where(notional > 0)


def obv_slope(f: pd.DataFrame) -> pd.Series:
    obv = (np.sign(ret(f)).fillna(0.0) * f.volume).fillna(0.0).cumsum()
    slope = obv.rolling(10).apply(lambda v: float(np.polyfit(np.arange(10), v, 1)[0]), raw=True)
    return slope / mean(f.volume, 10)


def cmf(f: pd.DataFrame) -> pd.Series:
    place = ((f.close - f.low) - (f.high - f.close)) / (f.high - f.low)
    weight = f.volume.where(place.notna())
    return mean(place * weight, 10) / mean(weight, 10)


def vwap_ratio(f: pd.DataFrame) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    weight = f.volume.where(typical.notna())
    return np.log(f.close / (mean(typical * weight, 10) / mean(weight, 10))) / sigma(f) / 10**0.5


SLOW = {
    "volume_z": volume_z,
    "amihud": lambda f: np.log(mean(price_of_volume(f), 10)),
    "amihud_change": lambda f: np.log(mean(price_of_volume(f), 10) / mean(price_of_volume(f), 21)),
    "obv_slope": obv_slope,
    "cmf": cmf,
    "vwap_ratio": vwap_ratio,
    "turnover_ratio": lambda f: np.log(mean(f.close * f.volume, 5) / mean(f.close * f.volume, 21)),
    "volume_trend": lambda f: log_volume(f).rolling(21).apply(lambda v: float(np.corrcoef(np.arange(21), v)[0, 1]), raw=True),
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_null_for_a_symbol_without_volume(built: pl.DataFrame, name: str) -> None:
    last = built["symbol"].max()
    assert built.filter(pl.col("symbol") == last)[name].null_count() == built.filter(pl.col("symbol") == last).height
