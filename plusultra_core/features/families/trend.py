"""Direction and persistence: oscillators and slopes, all without unit."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.returns import log_return
from plusultra_core.features.families.volatility import true_range
from plusultra_core.features.kernels import log, ratio


def _wilder(name: str, x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    return b.ewma(name, x, 1.0 / window, b.need(window))


def rsi(b: BarArrays) -> Float64Array:
    """Relative strength index over `medium` bars, (RSI - 50) / 50 in [-1, 1].

    Source  Wilder (1978); normalised weights.
    """
    up = _wilder("rsi.up", np.where(np.isnan(b.ret), np.nan, np.maximum(b.ret, 0.0)), b, b.medium)
    down = _wilder("rsi.down", np.where(np.isnan(b.ret), np.nan, np.maximum(-b.ret, 0.0)), b, b.medium)
    return ratio(up - down, up + down)


def _macd_line(b: BarArrays) -> Float64Array:
    def make() -> Float64Array:
        fast = b.ewma("macd.fast", b.close, 2.0 / (b.short + 1.0), b.need(b.short))
        slow = b.ewma("macd.slow", b.close, 2.0 / (b.medium + 1.0), b.need(b.medium))
        return ratio(fast - slow, b.close)

    return b.once("macd_line", make)


def macd(b: BarArrays) -> Float64Array:
    """EMA(short) - EMA(medium) of the close, over the close and sigma sqrt(medium)."""
    return ratio(_macd_line(b), b.sigma * np.sqrt(b.medium))


def macd_histogram(b: BarArrays) -> Float64Array:
    """The price-normalised MACD line less its EMA(short), over sigma sqrt(medium)."""
    line = _macd_line(b)
    signal = b.ewma("macd_histogram.signal", line, 2.0 / (b.short + 1.0), b.need(b.short))
    return ratio(line - signal, b.sigma * np.sqrt(b.medium))


def bollinger_z(b: BarArrays) -> Float64Array:
    """Distance of the close from its mean over `medium` bars, in its standard deviations."""
    mean, std = kernels.rolling_mean_std(b.close, b.starts, b.medium, b.need(b.medium))
    return ratio(b.close - mean, std)


def adx(b: BarArrays) -> Float64Array:
    """Average directional index over `medium` bars, in [0, 1].

    Source  Wilder (1978); normalised weights.
    """
    rise = b.high - kernels.shift(b.high, b.starts, 1)
    fall = kernels.shift(b.low, b.starts, 1) - b.low
    known = ~np.isnan(rise + fall)
    plus = _wilder("adx.plus", np.where(known, np.where((rise > fall) & (rise > 0.0), rise, 0.0), np.nan), b, b.medium)
    minus = _wilder("adx.minus", np.where(known, np.where((fall > rise) & (fall > 0.0), fall, 0.0), np.nan), b, b.medium)
    strength = ratio(np.abs(plus - minus), plus + minus)
    return np.where(known, _wilder("adx.strength", strength, b, b.medium), np.nan)


def directional_move(b: BarArrays) -> Float64Array:
    """(+DI - -DI) / 100 over `medium` bars: signed directional movement in [-1, 1].

    Source  Wilder (1978); normalised weights.
    """
    rise = b.high - kernels.shift(b.high, b.starts, 1)
    fall = kernels.shift(b.low, b.starts, 1) - b.low
    known = ~np.isnan(rise + fall)
    moved = np.where((rise > fall) & (rise > 0.0), rise, 0.0) - np.where((fall > rise) & (fall > 0.0), fall, 0.0)
    net = _wilder("directional_move.net", np.where(known, moved, np.nan), b, b.medium)
    span = _wilder("directional_move.span", np.where(known, true_range(b), np.nan), b, b.medium)
    return np.where(known, ratio(net, span), np.nan)


def stochastic(b: BarArrays) -> Float64Array:
    """Place of the close between low and high of `medium` bars, in [-.5, .5]."""
    top = kernels.rolling_max(b.high, b.starts, b.medium, b.need(b.medium))
    bottom = -kernels.rolling_max(-b.low, b.starts, b.medium, b.need(b.medium))
    return np.where(np.isnan(b.high - b.low), np.nan, ratio(b.close - bottom, top - bottom) - 0.5)


def cci(b: BarArrays) -> Float64Array:
    """Commodity channel index over `medium` bars, / 100: (TP - mean TP) / (1.5 mean absolute deviation).

    Source  Lambert (1980), Commodities.
    """
    typical = (b.high + b.low + b.close) / 3.0
    mean = kernels.rolling_mean(typical, b.starts, b.medium, b.need(b.medium))
    deviation = kernels.rolling_mean_abs_dev(typical, b.starts, b.medium, b.need(b.medium))
    return ratio(typical - mean, 1.5 * np.where(deviation > 1e-12 * np.abs(mean), deviation, np.nan))


def trend_slope(b: BarArrays) -> Float64Array:
    """Least-squares slope of the log close over `medium` bars, a bar, over sigma."""
    return ratio(kernels.rolling_slope(log(b.close), b.starts, b.medium)[0], b.sigma)


def trend_fit(b: BarArrays) -> Float64Array:
    """Correlation of the log close with time over `long` bars, in [-1, 1]."""
    return kernels.rolling_slope(log(b.close), b.starts, b.long)[1]


def efficiency(b: BarArrays) -> Float64Array:
    """Net log return over `medium` bars over the sum of absolute ones, in [-1, 1].

    Source  Kaufman (1995), Smarter Trading.
    """
    path = kernels.rolling_mean(np.abs(b.ret), b.starts, b.medium, b.medium) * b.medium
    return ratio(log_return(b.close, b.starts, b.medium), path)
