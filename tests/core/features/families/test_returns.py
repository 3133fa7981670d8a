"""Returns against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def ret(f: pd.DataFrame, bars: int = 1) -> pd.Series:
    return np.log(f.close).diff(bars)


def sigma(f: pd.DataFrame) -> pd.Series:
    return np.sqrt((ret(f) ** 2).ewm(halflife=10, min_periods=10).mean())


def peak(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).rolling(21, min_periods=17).max()


SLOW = {
    "ret_1": lambda f: ret(f) / sigma(f),
    "ret_short": lambda f: ret(f, 5) / sigma(f) / 5**0.5,
    "ret_medium": lambda f: ret(f, 10) / sigma(f) / 10**0.5,
    "ret_long": lambda f: ret(f, 21) / sigma(f) / 21**0.5,
    "momentum_skip": lambda f: (np.log(f.close).shift(5) - np.log(f.close).shift(21)) / sigma(f) / 16**0.5,
    "gap_open": lambda f: np.log(f.open / f.close.shift(1)) / sigma(f),
    "body": lambda f: np.log(f.close / f.open) / sigma(f),
    "drawdown": lambda f: (np.log(f.close) - peak(f)) / sigma(f) / 21**0.5,
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])
