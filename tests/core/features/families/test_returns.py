"""Returns against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

Of = Callable[..., pl.DataFrame]
Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def ret(f: pd.DataFrame, bars: int = 1) -> pd.Series:
    return np.log(f.close).diff(bars)


def sigma(f: pd.DataFrame) -> pd.Series:
    return np.sqrt((ret(f) ** 2).ewm(halflife=10, min_periods=10).mean())


def peak(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).rolling(21, min_periods=17).max()


def tug(f: pd.DataFrame) -> pd.Series:
    return np.log(f.open / f.close.shift(1)) - np.log(f.close / f.open)


SLOW = {
    "ret_1": lambda f: ret(f) / sigma(f),
    "ret_short": lambda f: ret(f, 5) / sigma(f) / 5**0.5,
    "ret_medium": lambda f: ret(f, 10) / sigma(f) / 10**0.5,
    "ret_long": lambda f: ret(f, 21) / sigma(f) / 21**0.5,
    "momentum_skip": lambda f: (np.log(f.close).shift(5) - np.log(f.close).shift(21)) / sigma(f) / 16**0.5,
    "gap_open": lambda f: np.log(f.open / f.close.shift(1)) / sigma(f),
    "body": lambda f: np.log(f.close / f.open) / sigma(f),
    "drawdown": lambda f: (np.log(f.close) - peak(f)) / sigma(f) / 21**0.5,
    "recovery": lambda f: np.log(f.close / f.close.rolling(21, min_periods=17).min()) / sigma(f) / 21**0.5,
    "max_return": lambda f: ret(f).rolling(10, min_periods=8).max() / sigma(f),
    "min_return": lambda f: ret(f).rolling(10, min_periods=8).min() / sigma(f),
    "overnight_drift": lambda f: tug(f).rolling(10, min_periods=8).mean() * 10**0.5 / sigma(f),
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


def test_a_price_that_only_rises_stands_at_its_peak_and_above_its_trough(make_bars: Callable[..., pl.DataFrame], exact: Of) -> None:
    bars = make_bars(num_symbols=1, num_times=80, gap_share=0.0)
    rising = exact(bars.with_columns((1.01 ** pl.int_range(pl.len())).alias("close_adj")))
    assert rising["drawdown"][-1] == pytest.approx(0.0, abs=1e-12)
    assert rising["recovery"][-1] == pytest.approx(20.0 / 21**0.5) and rising["max_return"][-1] == pytest.approx(1.0)
