"""Features as one would write them with pandas and `ta`: symbol by symbol, a rolling call or a library class each.

Windows are those of configs/base/features.yaml. What `ta` has is taken from it; the rest is plain pandas.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from ta import momentum, trend, volatility, volume

SHORT, MEDIUM, LONG, YEAR = 5, 21, 63, 252.0
Frame = pd.DataFrame
Column = pd.Series


def sigma(f: Frame) -> Column:
    """EWMA volatility of one-bar log returns."""
    squares = np.log(f.close).diff() ** 2
    return np.sqrt(squares.ewm(halflife=33.0, adjust=True, ignore_na=True, min_periods=21).mean())


def ret(f: Frame, bars: int) -> Column:
    """Log return over some bars."""
    return np.log(f.close).diff(bars)


def _slope(values: np.ndarray) -> float:
    return float(np.polyfit(np.arange(values.size), values, 1)[0])


def _fit(values: np.ndarray) -> float:
    return float(np.corrcoef(np.arange(values.size), values)[0, 1])


def _spectrum(values: np.ndarray) -> np.ndarray:
    energy = np.abs(np.fft.rfft(values)[1:]) ** 2
    return energy / energy.sum()


def _orders(values: np.ndarray) -> float:
    triples = np.lib.stride_tricks.sliding_window_view(values, 3).argsort(axis=1)
    share = np.unique(triples @ np.array([9, 3, 1]), return_counts=True)[1] / triples.shape[0]
    return float(-(share * np.log(share)).sum() / np.log(6))


def _typical(f: Frame) -> Column:
    return (f.high + f.low + f.close) / 3


def _range(f: Frame) -> Column:
    return np.log(f.high / f.low) ** 2 / (4 * np.log(2))


def _need(window: int) -> int:
    return int(np.ceil(0.8 * window))


def _mean(x: Column, window: int) -> Column:
    return x.rolling(window, min_periods=_need(window)).mean()


def _std(x: Column, window: int) -> Column:
    return x.rolling(window, min_periods=_need(window)).std(ddof=0)


def _ema(x: Column, window: int) -> Column:
    return x.ewm(span=window, adjust=True, ignore_na=True, min_periods=_need(window)).mean()


def _macd(f: Frame) -> Column:
    return (_ema(f.close, SHORT) - _ema(f.close, MEDIUM)) / f.close


def _ohlc(f: Frame) -> tuple[Column, Column, Column]:
    return np.log(f.high / f.open), np.log(f.low / f.open), np.log(f.close / f.open)


def _rogers_satchell(f: Frame) -> Column:
    up, down, move = _ohlc(f)
    return _mean(up * (up - move) + down * (down - move), MEDIUM)


def _yang_zhang(f: Frame) -> Column:
    k = 0.34 / (1.34 + (MEDIUM + 1) / (MEDIUM - 1))
    gap, move = np.log(f.open / f.close.shift()), np.log(f.close / f.open)
    bessel = MEDIUM / (MEDIUM - 1)
    variance = bessel * _std(gap, MEDIUM) ** 2 + k * bessel * _std(move, MEDIUM) ** 2 + (1 - k) * _rogers_satchell(f)
    return np.sqrt(variance * YEAR)


def _obv_slope(f: Frame) -> Column:
    obv = volume.OnBalanceVolumeIndicator(f.close, f.volume).on_balance_volume()
    return obv.rolling(MEDIUM).apply(_slope, raw=True) / _mean(f.volume, MEDIUM)


def _illiquidity(f: Frame) -> Column:
    return ret(f, 1).abs() / (f.close * f.volume)


def _donchian(f: Frame) -> Column:
    top, bottom = (x.rolling(LONG, min_periods=_need(LONG)) for x in (f.high.shift(), f.low.shift()))
    return (f.close - bottom.min()) / (top.max() - bottom.min()) - 0.5


def _aroon(f: Frame) -> Column:
    found = trend.AroonIndicator(f.high, f.low, MEDIUM)
    return (found.aroon_up() - found.aroon_down()) / 100


def _directional(f: Frame) -> Column:
    found = trend.ADXIndicator(f.high, f.low, f.close, MEDIUM)
    return (found.adx_pos() - found.adx_neg()) / 100


def _weekday(f: Frame) -> Column:
    return 2 * np.pi * (f.time.dt.tz_convert("America/New_York").dt.dayofweek + 1) / 7


def _spectral(f: Frame, of: Callable[[np.ndarray], float]) -> Column:
    return ret(f, 1).rolling(LONG).apply(of, raw=True)


TWINS: dict[str, Callable[[Frame], Column]] = {
    "ret_1": lambda f: ret(f, 1) / sigma(f),
    "ret_short": lambda f: ret(f, SHORT) / (sigma(f) * np.sqrt(SHORT)),
    "ret_medium": lambda f: ret(f, MEDIUM) / (sigma(f) * np.sqrt(MEDIUM)),
    "ret_long": lambda f: ret(f, LONG) / (sigma(f) * np.sqrt(LONG)),
    "momentum_skip": lambda f: (ret(f, LONG) - ret(f, SHORT)) / (sigma(f) * np.sqrt(LONG - SHORT)),
    "gap_open": lambda f: np.log(f.open / f.close.shift()) / sigma(f),
    "body": lambda f: np.log(f.close / f.open) / sigma(f),
    "drawdown": lambda f: np.log(f.close / f.close.rolling(LONG, min_periods=_need(LONG)).max()) / (sigma(f) * np.sqrt(LONG)),
    "recovery": lambda f: np.log(f.close / f.close.rolling(LONG, min_periods=_need(LONG)).min()) / (sigma(f) * np.sqrt(LONG)),
    "max_return": lambda f: ret(f, 1).rolling(MEDIUM, min_periods=_need(MEDIUM)).max() / sigma(f),
    "min_return": lambda f: ret(f, 1).rolling(MEDIUM, min_periods=_need(MEDIUM)).min() / sigma(f),
    "vol_ewma": lambda f: sigma(f) * np.sqrt(YEAR),
    "vol_realised": lambda f: np.sqrt(_mean(ret(f, 1) ** 2, MEDIUM) * YEAR),
    "vol_down": lambda f: np.sqrt(_mean(ret(f, 1).clip(upper=0) ** 2, MEDIUM) * YEAR),
    "vol_parkinson": lambda f: np.sqrt(_mean(_range(f), MEDIUM) * YEAR),
    "vol_garman_klass": lambda f: np.sqrt(
        _mean(0.5 * np.log(f.high / f.low) ** 2 - (2 * np.log(2) - 1) * np.log(f.close / f.open) ** 2, MEDIUM) * YEAR
    ),
    "vol_rogers_satchell": lambda f: np.sqrt(_rogers_satchell(f) * YEAR),
    "vol_yang_zhang": _yang_zhang,
    "vol_ratio": lambda f: 0.5 * np.log(_mean(ret(f, 1) ** 2, SHORT) / _mean(ret(f, 1) ** 2, LONG)),
    "vol_of_vol": lambda f: _std(np.log(sigma(f)), MEDIUM),
    "range_vol_ratio": lambda f: 0.5 * np.log(_mean(_range(f), MEDIUM) / _mean(ret(f, 1) ** 2, MEDIUM)),
    "atr_ratio": lambda f: volatility.AverageTrueRange(f.high, f.low, f.close, MEDIUM).average_true_range() / f.close / sigma(f),
    "skew": lambda f: ret(f, 1).rolling(LONG, min_periods=_need(LONG)).skew(),
    "kurtosis": lambda f: ret(f, 1).rolling(LONG, min_periods=_need(LONG)).kurt(),
    "macd": lambda f: _macd(f) / (sigma(f) * np.sqrt(MEDIUM)),
    "macd_histogram": lambda f: (_macd(f) - _ema(_macd(f), SHORT)) / (sigma(f) * np.sqrt(MEDIUM)),
    "ppo": lambda f: (_ema(f.close, MEDIUM) / _ema(f.close, LONG) - 1) / (sigma(f) * np.sqrt(LONG)),
    "trix": lambda f: trend.TRIXIndicator(f.close, MEDIUM).trix() / 100 / sigma(f),
    "kama_distance": lambda f: np.log(f.close / momentum.KAMAIndicator(f.close, MEDIUM, 2, 30).kama()) / (sigma(f) * np.sqrt(MEDIUM)),
    "bollinger_z": lambda f: (f.close - _mean(f.close, MEDIUM)) / _std(f.close, MEDIUM),
    "bollinger_bandwidth": lambda f: volatility.BollingerBands(f.close, MEDIUM, 2).bollinger_wband() / 100 / (sigma(f) * np.sqrt(MEDIUM)),
    "adx": lambda f: trend.ADXIndicator(f.high, f.low, f.close, MEDIUM).adx() / 100,
    "directional_move": _directional,
    "aroon": _aroon,
    "donchian_position": _donchian,
    "trend_slope": lambda f: np.log(f.close).rolling(MEDIUM).apply(_slope, raw=True) / sigma(f),
    "trend_fit": lambda f: np.log(f.close).rolling(LONG).apply(_fit, raw=True),
    "efficiency": lambda f: ret(f, MEDIUM) / ret(f, 1).abs().rolling(MEDIUM).sum(),
    "rsi": lambda f: (momentum.RSIIndicator(f.close, MEDIUM).rsi() - 50) / 50,
    "stochastic": lambda f: momentum.StochasticOscillator(f.high, f.low, f.close, MEDIUM).stoch() / 100 - 0.5,
    "williams_r": lambda f: (momentum.WilliamsRIndicator(f.high, f.low, f.close, SHORT).williams_r() + 50) / 100,
    "cci": lambda f: trend.CCIIndicator(f.high, f.low, f.close, MEDIUM).cci() / 100,
    "tsi": lambda f: momentum.TSIIndicator(f.close, MEDIUM, SHORT).tsi() / 100,
    "ultimate_oscillator": lambda f: (
        momentum.UltimateOscillator(f.high, f.low, f.close, SHORT, MEDIUM, LONG).ultimate_oscillator() / 100 - 0.5
    ),
    "volume_z": lambda f: (np.log(f.volume) - _mean(np.log(f.volume), LONG)) / _std(np.log(f.volume), LONG),
    "volume_trend": lambda f: np.log(f.volume).rolling(LONG).apply(_fit, raw=True),
    "turnover_ratio": lambda f: np.log(_mean(f.close * f.volume, SHORT) / _mean(f.close * f.volume, LONG)),
    "obv_slope": _obv_slope,
    "cmf": lambda f: volume.ChaikinMoneyFlowIndicator(f.high, f.low, f.close, f.volume, MEDIUM).chaikin_money_flow(),
    "mfi": lambda f: (volume.MFIIndicator(f.high, f.low, f.close, f.volume, MEDIUM).money_flow_index() - 50) / 50,
    "vwap_ratio": lambda f: (
        np.log(f.close / (_mean(_typical(f) * f.volume, MEDIUM) / _mean(f.volume, MEDIUM))) / (sigma(f) * np.sqrt(MEDIUM))
    ),
    "amihud": lambda f: np.log(_mean(_illiquidity(f), MEDIUM)),
    "amihud_change": lambda f: np.log(_mean(_illiquidity(f), MEDIUM) / _mean(_illiquidity(f), LONG)),
    "spectral_low": lambda f: _spectral(f, lambda v: float(_spectrum(v)[:7].sum())),
    "spectral_high": lambda f: _spectral(f, lambda v: float(_spectrum(v)[15:].sum())),
    "spectral_entropy": lambda f: _spectral(f, lambda v: float(-(_spectrum(v) * np.log(_spectrum(v))).sum() / np.log(31))),
    "order_entropy": lambda f: ret(f, 1).rolling(LONG + 2).apply(_orders, raw=True),
    "day_of_week_sin": lambda f: np.sin(_weekday(f)),
    "day_of_week_cos": lambda f: np.cos(_weekday(f)),
}
"""Each feature of one symbol's bars: open, high, low, close, volume, time."""
