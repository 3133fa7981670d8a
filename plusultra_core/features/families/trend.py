"""Direction and persistence: averages, channels and slopes, all without unit."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import indicators, kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.returns import in_sigmas, log_close
from plusultra_core.features.families.volatility import true_range
from plusultra_core.features.kernels import log, ratio

_SLOWEST, _FASTEST = 2.0 / 31.0, 2.0 / 3.0  # Kaufman's averages of 30 and of 2 bars


def wilder(name: str, x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    """Wilder's mean: exponential, each bar 1 / window."""
    return b.ewma(name, x, 1.0 / window, b.need(window))


def exponential(name: str, x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    """Exponential moving average of `window` bars, each bar 2 / (window + 1); normalised weights in place of a start."""
    return b.ewma(name, x, 2.0 / (window + 1.0), b.need(window))


def close_mean(b: BarArrays, window: int) -> Float64Array:
    """Exponential moving average of the close."""
    return exponential(f"close_mean.{window}", b.close, b, window)


def close_change(b: BarArrays) -> Float64Array:
    """The close less the close of the bar before, in price."""
    return b.once("close_change", lambda: b.close - kernels.shift(b.close, b.starts, 1))


def highest(b: BarArrays, window: int) -> Float64Array:
    """Highest high of `window` bars."""
    return b.once(f"highest.{window}", lambda: kernels.rolling_max(b.high, b.starts, window, b.need(window)))


def lowest(b: BarArrays, window: int) -> Float64Array:
    """Lowest low of `window` bars."""
    return b.once(f"lowest.{window}", lambda: -kernels.rolling_max(-b.low, b.starts, window, b.need(window)))


def _macd_line(b: BarArrays) -> Float64Array:
    return b.once("macd_line", lambda: ratio(close_mean(b, b.short) - close_mean(b, b.medium), b.close))


def macd(b: BarArrays) -> Float64Array:
    """EMA(short) - EMA(medium) of the close, over the close and sigma sqrt(medium).

    Source  Appel (1979), The Moving Average Convergence-Divergence Method.
    """
    return in_sigmas(_macd_line(b), b, b.medium)


def macd_histogram(b: BarArrays) -> Float64Array:
    """The price-normalised MACD line less its EMA(short), over sigma sqrt(medium)."""
    line = _macd_line(b)
    return in_sigmas(line - exponential("macd_histogram.signal", line, b, b.short), b, b.medium)


def ppo_value(b: BarArrays) -> Float64Array:
    """Percentage price oscillator: 100 (EMA(medium) - EMA(long)) / EMA(long) of the close."""
    slow = close_mean(b, b.long)
    return 100.0 * ratio(close_mean(b, b.medium) - slow, slow)


def ppo(b: BarArrays) -> Float64Array:
    """EMA(medium) over EMA(long) of the close, less 1, over sigma sqrt(long)."""
    return in_sigmas(0.01 * ppo_value(b), b, b.long)


def trix_value(b: BarArrays) -> Float64Array:
    """Change of the EMA(medium) of the EMA of the EMA of the close in one bar, percent.

    Source  Hutson (1983), Technical Analysis of Stocks & Commodities 1.
    """
    twice = exponential("trix.two", close_mean(b, b.medium), b, b.medium)
    thrice = exponential("trix.three", twice, b, b.medium)
    return 100.0 * (ratio(thrice, kernels.shift(thrice, b.starts, 1)) - 1.0)


def trix(b: BarArrays) -> Float64Array:
    """Relative change in one bar of the close smoothed thrice by EMA(medium), over sigma.

    Source  Hutson (1983), Technical Analysis of Stocks & Commodities 1.
    """
    return ratio(0.01 * trix_value(b), b.sigma)


def kama(b: BarArrays) -> Float64Array:
    """Kaufman's adaptive moving average: the straighter `medium` bars were, the faster it follows.

    Units   price.
    Source  Kaufman (1995), Smarter Trading; averages of 2 and 30 bars.
    """
    moved = np.abs(b.close - kernels.shift(b.close, b.starts, b.medium))
    path = kernels.rolling_mean(np.abs(close_change(b)), b.starts, b.medium, b.medium, b.since) * b.medium
    pace = ratio(moved, path) * (_FASTEST - _SLOWEST) + _SLOWEST
    return b.follow("kama", b.close, pace * pace)


def kama_distance(b: BarArrays) -> Float64Array:
    """Log of the close over Kaufman's adaptive average (efficiency over `medium` bars), over sigma sqrt(medium).

    Source  Kaufman (1995), Smarter Trading; averages of 2 and 30 bars.
    """
    return in_sigmas(log_close(b) - log(kama(b)), b, b.medium)


def bollinger_bands(b: BarArrays) -> tuple[Float64Array, Float64Array]:
    """Mean and population standard deviation of the close over `medium` bars."""
    return b.once("bollinger_bands", lambda: kernels.rolling_mean_std(b.close, b.starts, b.medium, b.need(b.medium), b.since))


def bollinger_z(b: BarArrays) -> Float64Array:
    """Distance of the close from its mean over `medium` bars, in its standard deviations.

    Source  Bollinger (2001), Bollinger on Bollinger Bands.
    """
    mean, std = bollinger_bands(b)
    return ratio(b.close - mean, std)


def bollinger_bandwidth(b: BarArrays) -> Float64Array:
    """Width of the bands (4 standard deviations) over the mean of the close, `medium` bars, over sigma sqrt(medium).

    Source  Bollinger (2001), Bollinger on Bollinger Bands.
    """
    mean, std = bollinger_bands(b)
    return in_sigmas(4.0 * ratio(std, mean), b, b.medium)


def directional_indicators(b: BarArrays) -> tuple[Float64Array, Float64Array]:
    """Wilder's means over `medium` bars of +DM and of -DM, in price.

    NaN     where high or low of the bar or the one before is missing.
    """

    def make() -> tuple[Float64Array, Float64Array]:
        plus, minus = b.once("directional_moves", lambda: indicators.directional_moves(b.high, b.low, b.starts))
        missing = np.isnan(plus)
        up, down = wilder("adx.plus", plus, b, b.medium).copy(), wilder("adx.minus", minus, b, b.medium).copy()
        up[missing] = np.nan
        down[missing] = np.nan
        return up, down

    return b.once("directional_indicators", make)


def adx(b: BarArrays) -> Float64Array:
    """Average directional index over `medium` bars, in [0, 1].

    Source  Wilder (1978); normalised weights.
    """
    plus, minus = directional_indicators(b)
    strength = ratio(np.abs(plus - minus), plus + minus)
    return np.where(np.isnan(plus), np.nan, wilder("adx.strength", strength, b, b.medium))


def directional_move(b: BarArrays) -> Float64Array:
    """(+DI - -DI) / 100 over `medium` bars: signed directional movement in [-1, 1].

    Source  Wilder (1978); normalised weights.
    """
    plus, minus = directional_indicators(b)
    known, _ = b.once("directional_moves", lambda: indicators.directional_moves(b.high, b.low, b.starts))
    span = wilder("directional_move.span", np.where(np.isnan(known), np.nan, true_range(b)), b, b.medium)
    return ratio(plus - minus, span)


def aroon(b: BarArrays) -> Float64Array:
    """Bars since the lowest low less bars since the highest high, of `medium` + 1 bars, over `medium`, in [-1, 1].

    Source  Chande (1995), Technical Analysis of Stocks & Commodities 13: Aroon up less Aroon down.
    """
    since_low = indicators.bars_since_max(-b.low, b.starts, b.medium + 1, b.need(b.medium + 1))
    since_high = indicators.bars_since_max(b.high, b.starts, b.medium + 1, b.need(b.medium + 1))
    return np.where(np.isnan(b.high - b.low), np.nan, (since_low - since_high) / b.medium)


def donchian_position(b: BarArrays) -> Float64Array:
    """Place of the close in the channel of the `long` bars before it, beyond [-.5, .5] where it breaks out.

    Source  Donchian (1960), Commodity Year Book: the channel.
    """
    top = kernels.shift(highest(b, b.long), b.starts, 1)
    bottom = kernels.shift(lowest(b, b.long), b.starts, 1)
    return ratio(b.close - bottom, top - bottom) - 0.5


def ichimoku_distance(b: BarArrays) -> Float64Array:
    """Log of the close over the middle between high and low of `long` bars, over sigma sqrt(long).

    Source  Hosoda (1969), Ichimoku Kinko Hyo: the slow line, not displaced.
    """
    return in_sigmas(log_close(b) - log(0.5 * (highest(b, b.long) + lowest(b, b.long))), b, b.long)


def trend_slope(b: BarArrays) -> Float64Array:
    """Least-squares slope of the log close over `medium` bars, a bar, over sigma."""
    return ratio(kernels.rolling_slope(log_close(b), b.starts, b.medium)[0], b.sigma)


def trend_fit(b: BarArrays) -> Float64Array:
    """Correlation of the log close with time over `long` bars, in [-1, 1]."""
    return kernels.rolling_slope(log_close(b), b.starts, b.long)[1]


def efficiency(b: BarArrays) -> Float64Array:
    """Net log return over `medium` bars over the sum of absolute ones, in [-1, 1].

    Source  Kaufman (1995), Smarter Trading.
    """
    path = kernels.rolling_mean(np.abs(b.ret), b.starts, b.medium, b.medium, b.since) * b.medium
    return ratio(log_close(b) - kernels.shift(log_close(b), b.starts, b.medium), path)
