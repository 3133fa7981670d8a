"""Spectra and lags against numpy and pandas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

Of = Callable[..., pl.DataFrame]
Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]
Array = np.ndarray[Any, Any]


def ret(f: pd.DataFrame) -> pd.Series:
    return np.log(f.close).diff()


def shares(v: Array) -> Array:
    energy = np.abs(np.fft.rfft(v)[1:]) ** 2
    return np.asarray(energy / energy.sum())


def spectrum(of: Callable[[Array], float]) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda f: ret(f).rolling(21).apply(lambda v: of(shares(v)), raw=True)


def mean(x: pd.Series, need: int) -> pd.Series:
    return x.rolling(21, min_periods=need).mean()


def autocorrelation(f: pd.DataFrame, lag: int) -> pd.Series:
    pairs = (ret(f) * ret(f).shift(lag)).rolling(21 - lag, min_periods=17 - lag).mean()
    return pairs * (21 - lag) / 21 / mean(ret(f) ** 2, 17)


def return_entropy(f: pd.DataFrame) -> pd.Series:
    z = ret(f) / np.sqrt((ret(f) ** 2).ewm(halflife=10, min_periods=10).mean())

    def entropy(v: Array) -> float:
        v = v[np.isfinite(v)]
        share = np.histogram(v, [-np.inf, -1.5, -0.5, 0.5, 1.5, np.inf])[0] / v.size
        share = share[share > 0]
        return float(-(share * np.log(share)).sum() / np.log(5))

    return z.rolling(21, min_periods=17).apply(entropy, raw=True)


SLOW = {
    "spectral_low": spectrum(lambda share: share[:2].sum()),
    "spectral_high": spectrum(lambda share: share[5:].sum()),
    "spectral_entropy": spectrum(lambda share: -(share * np.log(share)).sum() / np.log(10)),
    "autocorr_1": lambda f: autocorrelation(f, 1),
    "autocorr_short": lambda f: autocorrelation(f, 5),
    "return_entropy": return_entropy,
    "variance_ratio": lambda f: (ret(f).rolling(5).sum() ** 2).rolling(17, min_periods=13).mean() / (5 * mean(ret(f) ** 2, 17)) - 1,
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


def test_order_entropy_of_returns_is_its_formula(agree: Check) -> None:
    def slow(f: pd.DataFrame) -> pd.Series:
        x = ret(f).to_numpy()
        codes = [str(np.argsort(x[i - 2 : i + 1], kind="stable")) if i > 2 else "" for i in range(x.size)]
        out = []
        for i in range(x.size):
            seen = [code for code in codes[max(0, i - 20) : i + 1] if code]
            share = np.unique(seen, return_counts=True)[1] / max(1, len(seen))
            out.append(-(share * np.log(share)).sum() / np.log(6) if len(seen) >= 15 else np.nan)
        return pd.Series(out)

    agree("order_entropy", slow)


def test_a_jump_that_leaves_the_window_takes_its_products_along(make_bars: Of, exact: Of) -> None:
    bars = make_bars(num_symbols=1, num_times=90, gap_share=0.0)
    moves = 1e-3 * np.random.default_rng(1).standard_normal(90)
    moves[40:42] = 0.5, -0.4
    features = exact(bars.with_columns(pl.Series("close_adj", 10.0 * np.exp(np.cumsum(moves)))))
    for name in ("autocorr_1", "autocorr_short"):
        assert features[name].drop_nans().abs().max() <= 1.0, name
    assert features["variance_ratio"].drop_nans().max() < 5 * 21 / 17 - 1 and features["jump_share"].drop_nans().min() > -1.0
