"""Where the close stands between extremes: bounded swings, all without unit."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.trend import close_change, exponential, highest, lowest, wilder
from plusultra_core.features.families.volatility import ranges
from plusultra_core.features.kernels import ratio

_SMOOTH = 3  # bars of the means in %D


def typical(b: BarArrays) -> Float64Array:
    """Typical price: mean of high, low and close."""
    return b.once("typical", lambda: (b.high + b.low + b.close) / 3.0)


def rsi(b: BarArrays) -> Float64Array:
    """Relative strength index over `medium` bars, (RSI - 50) / 50 in [-1, 1].

    Source  Wilder (1978); normalised weights.
    """
    change = close_change(b)
    net = wilder("rsi.net", change, b, b.medium)
    return ratio(net, wilder("rsi.size", np.abs(change), b, b.medium))


def stochastic_k(b: BarArrays, window: int) -> Float64Array:
    """Fast %K: place of the close between low and high of `window` bars, 0 to 100.

    NaN     where high or low is missing.
    """

    def make() -> Float64Array:
        bottom = lowest(b, window)
        place = 100.0 * ratio(b.close - bottom, highest(b, window) - bottom)
        place[np.isnan(b.high - b.low)] = np.nan
        return place

    return b.once(f"stochastic_k.{window}", make)


def stochastic(b: BarArrays) -> Float64Array:
    """Place of the close between low and high of `medium` bars (fast %K), in [-.5, .5].

    Source  Lane (1984), Technical Analysis of Stocks & Commodities 2.
    """
    return 0.01 * stochastic_k(b, b.medium) - 0.5


def stochastic_d(b: BarArrays) -> Float64Array:
    """Slow %D over `medium` bars: mean of 3 bars of the mean of 3 bars of fast %K, in [-.5, .5].

    Source  Lane (1984), Technical Analysis of Stocks & Commodities 2.
    """
    slow = kernels.rolling_mean(stochastic_k(b, b.medium), b.starts, _SMOOTH, _SMOOTH)
    return 0.01 * kernels.rolling_mean(slow, b.starts, _SMOOTH, _SMOOTH, b.since) - 0.5


def williams_r(b: BarArrays) -> Float64Array:
    """Williams %R over `short` bars, (%R + 50) / 100 in [-.5, .5].

    Source  Williams (1979), How I Made One Million Dollars.
    """
    return 0.01 * stochastic_k(b, b.short) - 0.5


def cci(b: BarArrays) -> Float64Array:
    """Commodity channel index over `medium` bars, / 100: (TP - mean TP) / (1.5 mean absolute deviation).

    Source  Lambert (1980), Commodities.
    """
    mean = kernels.rolling_mean(typical(b), b.starts, b.medium, b.need(b.medium), b.since)
    deviation = kernels.rolling_mean_abs_dev(typical(b), b.starts, b.medium, b.need(b.medium))
    return ratio(typical(b) - mean, 1.5 * np.where(deviation > 1e-12 * np.abs(mean), deviation, np.nan))


def tsi(b: BarArrays) -> Float64Array:
    """True strength index: EMA(short) of EMA(medium) of changes of the close over that of their sizes, in [-1, 1].

    Source  Blau (1991), Technical Analysis of Stocks & Commodities 9.
    """
    change = close_change(b)
    net = exponential("tsi.net.once", change, b, b.medium)
    size = exponential("tsi.size.once", np.abs(change), b, b.medium)
    return ratio(exponential("tsi.net.twice", net, b, b.short), exponential("tsi.size.twice", size, b, b.short))


def ultimate_oscillator(b: BarArrays) -> Float64Array:
    """Buying pressure over true range of `short`, `medium` and `long` bars, weighted 4 : 2 : 1, less one half.

    Source  Williams (1985), Technical Analysis of Stocks & Commodities 3.
    """
    spread, bought = ranges(b)
    total = np.zeros(b.close.size)
    for weight, window in ((4.0, b.short), (2.0, b.medium), (1.0, b.long)):
        need = b.need(window)
        share = ratio(*(kernels.rolling_mean(x, b.starts, window, need, b.since) for x in (bought, spread)))
        total += weight / 7.0 * share
    total[np.isnan(spread)] = np.nan
    return total - 0.5
