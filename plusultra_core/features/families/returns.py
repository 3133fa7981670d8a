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


def _scaled_return(b: BarArrays, num_bars: int) -> Float64Array:
    return ratio(log_return(b.close, b.starts, num_bars), b.sigma * np.sqrt(num_bars))


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
    moved = log_return(b.close, b.starts, b.long) - log_return(b.close, b.starts, b.short)
    return ratio(moved, b.sigma * np.sqrt(b.long - b.short))


def gap_open(b: BarArrays) -> Float64Array:
    """Log of the open over the previous close, over sigma."""
    return ratio(log(b.open) - kernels.shift(log(b.close), b.starts, 1), b.sigma)


def body(b: BarArrays) -> Float64Array:
    """Log of the close over the open of the bar, over sigma."""
    return ratio(log(b.close) - log(b.open), b.sigma)


def drawdown(b: BarArrays) -> Float64Array:
    """Log of the close over the highest close of `long` bars, over sigma sqrt(long); never above 0."""
    price = log(b.close)
    peak = kernels.rolling_max(price, b.starts, b.long, b.need(b.long))
    return ratio(price - peak, b.sigma * np.sqrt(b.long))
