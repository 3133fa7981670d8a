"""Volatility against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.market import MarketConfig

Of = Callable[..., pl.DataFrame]
Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]
YEAR = 252.0


def ret(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).diff()


def sigma(f: pd.DataFrame) -> pd.Series:
    return np.sqrt((ret(f) ** 2).ewm(halflife=10, min_periods=10).mean())


def mean(x: pd.Series, window: int) -> pd.Series:
    return x.rolling(window, min_periods=max(2, int(np.ceil(0.8 * window)))).mean()


def var(x: pd.Series, window: int) -> pd.Series:
    return x.rolling(window, min_periods=max(2, int(np.ceil(0.8 * window)))).var(ddof=0) * window / (window - 1)


def parkinson(f: pd.DataFrame) -> pd.Series:
    return np.log(f.high / f.low) ** 2 / (4 * np.log(2))


def garman_klass(f: pd.DataFrame) -> pd.Series:
    return 0.5 * np.log(f.high / f.low) ** 2 - (2 * np.log(2) - 1) * np.log(f.close / f.open) ** 2


def rogers_satchell(f: pd.DataFrame) -> pd.Series:
    return np.log(f.high / f.open) * np.log(f.high / f.close) + np.log(f.low / f.open) * np.log(f.low / f.close)


def overnight_share(f: pd.DataFrame) -> pd.Series:
    night, day = mean(np.log(f.open / f.close.shift(1)) ** 2, 10), mean(np.log(f.close / f.open) ** 2, 10)
    return night / (night + day) - 0.5


def product(f: pd.DataFrame) -> pd.Series:
    return (ret(f) * ret(f).shift(1)).abs().rolling(20, min_periods=16).mean()


def clustering(f: pd.DataFrame) -> pd.Series:
    size = ret(f).abs().rolling(21, min_periods=17)
    return (product(f) - size.mean() ** 2) / size.var(ddof=0)


def yang_zhang(f: pd.DataFrame) -> pd.Series:
    k = 0.34 / (1.34 + 11 / 9)
    return var(np.log(f.open / f.close.shift(1)), 10) + k * var(np.log(f.close / f.open), 10) + (1 - k) * mean(rogers_satchell(f), 10)


def atr_ratio(f: pd.DataFrame) -> pd.Series:
    spread = pd.concat([f.high - f.low, (f.high - f.close.shift(1)).abs(), (f.low - f.close.shift(1)).abs()], axis=1).max(axis=1)
    spread = spread.where(f.high.notna())
    atr = spread.ewm(alpha=1 / 10, ignore_na=True, min_periods=8).mean()
    return (atr / f.close / sigma(f)).where(f.high.notna())


SLOW = {
    "vol_ewma": lambda f: sigma(f) * YEAR**0.5,
    "vol_parkinson": lambda f: np.sqrt(YEAR * mean(parkinson(f), 10)),
    "vol_garman_klass": lambda f: np.sqrt(YEAR * mean(garman_klass(f), 10).clip(lower=0)),
    "vol_realised": lambda f: np.sqrt(YEAR * mean(ret(f) ** 2, 10)),
    "vol_down": lambda f: np.sqrt(YEAR * mean(ret(f).clip(upper=0) ** 2, 10)),
    "vol_rogers_satchell": lambda f: np.sqrt(YEAR * mean(rogers_satchell(f), 10).clip(lower=0)),
    "jump_share": lambda f: 1 - np.pi / 2 * product(f) / mean(ret(f) ** 2, 21),
    "overnight_share": overnight_share,
    "vol_clustering": clustering,
    "vol_yang_zhang": lambda f: np.sqrt(YEAR * yang_zhang(f).clip(lower=0)),
    "vol_ratio": lambda f: 0.5 * np.log(mean(ret(f) ** 2, 5) / mean(ret(f) ** 2, 21)),
    "vol_of_vol": lambda f: np.log(sigma(f)).rolling(10, min_periods=8).std(ddof=0),
    "range_vol_ratio": lambda f: 0.5 * np.log(mean(parkinson(f), 10) / mean(ret(f) ** 2, 10)),
    "atr_ratio": atr_ratio,
    "downside_share": lambda f: mean((ret(f) ** 2).where(ret(f) < 0, 0.0).where(ret(f).notna()), 21) / mean(ret(f) ** 2, 21) - 0.5,
    "skew": lambda f: ret(f).rolling(21, min_periods=17).apply(lambda v: ((v - v.mean()) ** 3).mean() / v.std(ddof=0) ** 3),
    "kurtosis": lambda f: ret(f).rolling(21, min_periods=17).apply(lambda v: ((v - v.mean()) ** 4).mean() / v.std(ddof=0) ** 4) - 3,
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


@pytest.mark.parametrize("asset_class", ["equity", "crypto", "crypto_perpetual", "forex"])
def test_volatility_is_annualised_by_the_market(
    panel: pl.DataFrame,
    of: Of,
    market: Callable[[str], MarketConfig],
    asset_class: str,
) -> None:
    here = market(asset_class)
    features = of(panel, asset_class=asset_class)
    yearly = features.filter(pl.col("symbol") == "S00")["vol_ewma"].drop_nulls()
    close = panel.filter(pl.col("symbol") == "S00")["close_adj"].to_numpy()
    per_bar = sigma(pd.DataFrame({"close": close})).dropna()
    np.testing.assert_allclose(yearly.to_numpy(), per_bar.to_numpy() * np.sqrt(here.periods_per_year), rtol=1e-6)


def test_one_jump_among_small_moves_is_nearly_all_of_the_variance(make_bars: Of, exact: Of) -> None:
    bars = make_bars(num_symbols=1, num_times=60, gap_share=0.0)
    moves = np.where(np.arange(60) % 2, 1e-4, -1e-4)
    moves[50] = 0.2
    features = exact(bars.with_columns(pl.Series("close_adj", 10.0 * np.exp(np.cumsum(moves)))))
    assert features["jump_share"][55] > 0.99
    # all moves of one size: mean |r_t| |r_(t-1)| is mean r^2
    assert features["jump_share"][49] == pytest.approx(1.0 - np.pi / 2.0)
