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


def signed(f: pd.DataFrame) -> pd.Series:
    return np.sign(ret(f)).fillna(0.0) * f.volume


def ema(x: pd.Series, window: int) -> pd.Series:
    return x.ewm(span=window, ignore_na=True, min_periods=max(2, int(np.ceil(0.8 * window)))).mean()


def force_index(f: pd.DataFrame) -> pd.Series:
    return (ema(f.close.diff() * f.volume, 10) / (ema(f.volume, 10) * f.close * sigma(f))).where(f.volume.notna())


def chaikin(f: pd.DataFrame) -> pd.Series:
    place = (2 * f.close - f.high - f.low) / (f.high - f.low)
    line = (place * f.volume).fillna(0.0).cumsum()
    weight = f.volume.where((place * f.volume).notna())
    return ((ema(line, 5) - ema(line, 10)) / mean(weight, 10)).where(weight.notna())


def mfi(f: pd.DataFrame) -> pd.Series:
    typical = (f.high + f.low + f.close) / 3
    flow = (typical * f.volume).where(typical.diff().notna())
    up, down = (
        mean(flow.where(typical.diff() > 0, 0.0).where(flow.notna()), 10),
        mean(flow.where(typical.diff() < 0, 0.0).where(flow.notna()), 10),
    )
    return (100 - 100 / (1 + up / down) - 50) / 50


def kyle_lambda(f: pd.DataFrame) -> pd.Series:
    size = (f.close * f.volume).where(ret(f).notna())
    return mean(ret(f) * np.sign(ret(f)) * size, 21) / mean(size**2, 21) * mean(size, 21) / sigma(f)


def corwin_schultz(f: pd.DataFrame) -> pd.Series:
    out = [np.nan]
    scale = 3 - 2 * 2**0.5
    for (_, one), (_, two) in zip(f.iloc[:-1].iterrows(), f.iloc[1:].iterrows(), strict=True):
        factor = max(one.close / two.high, 1.0) * min(one.close / two.low, 1.0)
        high, low = two.high * factor, two.low * factor
        beta = np.log(one.high / one.low) ** 2 + np.log(high / low) ** 2
        gamma = np.log(max(one.high, high) / min(one.low, low)) ** 2
        alpha = ((2 * beta) ** 0.5 - beta**0.5) / scale - (gamma / scale) ** 0.5
        out.append(max(2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha)), 0.0) if np.isfinite(beta + gamma) else np.nan)
    return mean(pd.Series(out), 10) / sigma(f)


SLOW = {
    "volume_z": volume_z,
    "amihud": lambda f: np.log(mean(price_of_volume(f), 10)),
    "amihud_change": lambda f: np.log(mean(price_of_volume(f), 10) / mean(price_of_volume(f), 21)),
    "obv_slope": obv_slope,
    "cmf": cmf,
    "vwap_ratio": vwap_ratio,
    "turnover_ratio": lambda f: np.log(mean(f.close * f.volume, 5) / mean(f.close * f.volume, 21)),
    "obv_balance": lambda f: mean(signed(f), 21) / mean(f.volume, 21),
    "force_index": force_index,
    "chaikin_oscillator": chaikin,
    "mfi": mfi,
    "kyle_lambda": kyle_lambda,
    "volume_trend": lambda f: log_volume(f).rolling(21).apply(lambda v: float(np.corrcoef(np.arange(21), v)[0, 1]), raw=True),
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


FROM_PRICES = {
    "roll_spread": lambda f: 2 * np.sqrt((-mean(ret(f) * ret(f).shift(1), 10)).clip(lower=0)) / sigma(f),
    "corwin_schultz_spread": corwin_schultz,
}


@pytest.mark.parametrize("name", FROM_PRICES)
def test_spread_is_its_formula(agree: Check, name: str) -> None:
    agree(name, FROM_PRICES[name])


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_null_for_a_symbol_without_volume(built: pl.DataFrame, name: str) -> None:
    last = built["symbol"].max()
    assert built.filter(pl.col("symbol") == last)[name].null_count() == built.filter(pl.col("symbol") == last).height


def bounced(num: int, half_spread: float) -> pl.DataFrame:
    """Bars of forty trades each at bid or ask around a middle that walks."""
    rng = np.random.default_rng(8)
    middle = np.cumsum(0.0005 * rng.standard_normal((num, 40)).ravel())
    price = 50.0 * np.exp(middle + half_spread * rng.choice([-1.0, 1.0], middle.size)).reshape(num, 40)
    values = {"open": price[:, 0], "high": price.max(1), "low": price.min(1), "close": price[:, -1], "volume": np.full(num, 100.0)}
    ts_ns = 1_451_682_000_000_000_000 + 86_400_000_000_000 * np.arange(num)
    frame = pl.DataFrame({"symbol": ["A"] * num, "ts_ns": ts_ns, "known_ns": ts_ns, "gap_bars": np.zeros(num, dtype=np.int32)})
    return frame.with_columns(pl.Series(f"{name}_adj", value) for name, value in values.items())


def test_spread_of_ranges_is_near_the_planted_one(exact: Callable[..., pl.DataFrame]) -> None:
    for spread in (0.01, 0.02):
        features = exact(bounced(800, spread / 2))
        sigma_bar = features["vol_ewma"] / 252**0.5
        found = (features["corwin_schultz_spread"] * sigma_bar).drop_nans().mean()
        assert found == pytest.approx(spread, rel=0.35)


def test_bounce_between_bid_and_ask_shows_as_the_spread_of_roll(exact: Callable[..., pl.DataFrame]) -> None:
    features = exact(bounced(800, 0.02))
    found = (features["roll_spread"] * features["vol_ewma"] / 252**0.5).drop_nans().mean()
    assert found == pytest.approx(0.04, rel=0.25)


def test_all_volume_on_one_side_is_a_balance_of_one(exact: Callable[..., pl.DataFrame]) -> None:
    rising = bounced(60, 0.01).with_columns((pl.int_range(pl.len()) + 10.0).alias("close_adj"))
    last = exact(rising).row(-1, named=True)
    assert last["obv_balance"] == 1.0 and last["obv_slope"] == pytest.approx(1.0)


def test_where_nothing_has_traded_for_long_the_balance_of_what_traded_before_is_not_made_up(
    make_bars: Callable[..., pl.DataFrame], exact: Callable[..., pl.DataFrame]
) -> None:
    bars = make_bars(seed=2, num_symbols=1, num_times=120, gap_share=0.0)
    silent = pl.col("ts_ns").rank("dense") > 60
    bars = bars.with_columns(volume_adj=pl.when(silent).then(0.0).otherwise(pl.col("volume_adj").fill_null(1e5)))
    found = exact(bars)[60 + 10 :]  # windows of 5, 10 and 21 bars
    for name in ("cmf", "mfi", "vwap_ratio", "obv_slope"):
        assert np.isnan(found[name].to_numpy()).all(), name
    for name in ("obv_balance", "turnover_ratio", "kyle_lambda"):
        assert np.isnan(found[name].to_numpy()[11:]).all(), name
