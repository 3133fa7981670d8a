"""Returns and where the close stands, in units of the symbol's own volatility."""

import numpy as np

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.kernels import log, ratio


def log_return(close: Float64Array, starts: Int64Array, num_bars: int) -> Float64Array:
    """Log return over the last `num_bars` bars of the symbol.

    Shapes  close (N,); result (N,).
    Looks   back num_bars.
    NaN     the first num_bars rows of a symbol.
    """
    price = log(close)
    return price - kernels.shift(price, starts, num_bars)


def log_close(b: BarArrays) -> Float64Array:
    """Logarithm of the close."""
    return b.once("log_close", lambda: log(b.close))


def log_open(b: BarArrays) -> Float64Array:
    """Logarithm of the open."""
    return b.once("log_open", lambda: log(b.open))


def log_high(b: BarArrays) -> Float64Array:
    """Logarithm of the high."""
    return b.once("log_high", lambda: log(b.high))


def log_low(b: BarArrays) -> Float64Array:
    """Logarithm of the low."""
    return b.once("log_low", lambda: log(b.low))


def overnight(b: BarArrays) -> Float64Array:
    """Log of the open over the previous close."""
    return b.once("overnight", lambda: log_open(b) - kernels.shift(log_close(b), b.starts, 1))


def intraday(b: BarArrays) -> Float64Array:
    """Log of the close over the open of the bar."""
    return b.once("intraday", lambda: log_close(b) - log_open(b))


def in_sigmas(x: Float64Array, b: BarArrays, num_bars: int) -> Float64Array:
    """What moved over `num_bars` bars, in units of the volatility that a random walk has over as many."""
    return ratio(x, b.sigma * np.sqrt(num_bars))


def _moved(b: BarArrays, num_bars: int) -> Float64Array:
    return log_close(b) - kernels.shift(log_close(b), b.starts, num_bars)


def _scaled_return(b: BarArrays, num_bars: int) -> Float64Array:
    return in_sigmas(_moved(b, num_bars), b, num_bars)


def ret_1(b: BarArrays) -> Float64Array:
    """Log return of the bar over sigma."""
    return ratio(b.ret, b.sigma)


def ret_short(b: BarArrays) -> Float64Array:
    """Log return over `short` bars over sigma sqrt(short)."""
    return _scaled_return(b, b.short)


def ret_medium(b: BarArrays) -> Float64Array:
    """Log return over `medium` bars over sigma sqrt(medium)."""
    return _scaled_return(b, b.medium)


def ret_long(b: BarArrays) -> Float64Array:
    """Log return over `long` bars over sigma sqrt(long): momentum."""
    return _scaled_return(b, b.long)


def momentum_skip(b: BarArrays) -> Float64Array:
    """Log return from `long` to `short` bars ago over sigma sqrt(long - short): momentum without the last days.

    Source  Jegadeesh (1990), Jegadeesh & Titman (1993): short-term reversal is left out.
    """
    moved = kernels.shift(log_close(b), b.starts, b.short) - kernels.shift(log_close(b), b.starts, b.long)
    return in_sigmas(moved, b, b.long - b.short)


def gap_open(b: BarArrays) -> Float64Array:
    """Log of the open over the previous close, over sigma."""
    return ratio(overnight(b), b.sigma)


def body(b: BarArrays) -> Float64Array:
    """Log of the close over the open of the bar, over sigma."""
    return ratio(intraday(b), b.sigma)


def drawdown(b: BarArrays) -> Float64Array:
    """Log of the close over the highest close of `long` bars, over sigma sqrt(long); never above 0."""
    peak = kernels.rolling_max(log_close(b), b.starts, b.long, b.need(b.long), b.since)
    return in_sigmas(log_close(b) - peak, b, b.long)


def recovery(b: BarArrays) -> Float64Array:
    """Log of the close over the lowest close of `long` bars, over sigma sqrt(long); never below 0."""
    trough = kernels.rolling_max(-log_close(b), b.starts, b.long, b.need(b.long), b.since)
    return in_sigmas(log_close(b) + trough, b, b.long)


def max_return(b: BarArrays) -> Float64Array:
    """Largest log return of one bar among `medium` bars, over sigma: the lottery ticket.

    Source  Bali, Cakici & Whitelaw (2011), J. Financial Economics 99.
    """
    return ratio(kernels.rolling_max(b.ret, b.starts, b.medium, b.need(b.medium), b.since), b.sigma)


def min_return(b: BarArrays) -> Float64Array:
    """Smallest log return of one bar among `medium` bars, over sigma."""
    return ratio(-kernels.rolling_max(-b.ret, b.starts, b.medium, b.need(b.medium), b.since), b.sigma)


def overnight_drift(b: BarArrays) -> Float64Array:
    """Mean log return from close to open less that from open to close over `medium` bars, over sigma / sqrt(medium).

    Source  Lou, Polk & Skouras (2019), J. Financial Economics 134: a tug of war.
    """
    apart = kernels.rolling_mean(overnight(b) - intraday(b), b.starts, b.medium, b.need(b.medium), b.since)
    return ratio(apart * np.sqrt(b.medium), b.sigma)
