"""How much a price moves: estimators of volatility, their ratios and the shape of returns."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.kernels import log, ratio

_FOUR_LOG_2 = 4.0 * np.log(2.0)


def _annual(variance: Float64Array, b: BarArrays) -> Float64Array:
    root: Float64Array = np.sqrt(np.maximum(variance, 0.0) * b.periods_per_year)
    return root


def _mean(x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    return kernels.rolling_mean(x, b.starts, window, b.need(window))


def true_range(b: BarArrays) -> Float64Array:
    """max(high, previous close) - min(low, previous close); high - low on a symbol's first bar."""
    before = kernels.shift(b.close, b.starts, 1)
    spread: Float64Array = np.where(np.isnan(b.high - b.low), np.nan, np.fmax(b.high, before) - np.fmin(b.low, before))
    return spread


def vol_ewma(b: BarArrays) -> Float64Array:
    """EWMA volatility of log returns, a year."""
    yearly: Float64Array = b.sigma * np.sqrt(b.periods_per_year)
    return yearly


def vol_parkinson(b: BarArrays) -> Float64Array:
    """High-low volatility over `medium` bars, a year: mean of ln(H/L)^2 / (4 ln 2).

    Source  Parkinson (1980), J. Business 53.
    """
    return _annual(_mean((log(b.high) - log(b.low)) ** 2 / _FOUR_LOG_2, b, b.medium), b)


def vol_garman_klass(b: BarArrays) -> Float64Array:
    """Open-high-low-close volatility over `medium` bars, a year: mean of ln(H/L)^2 / 2 - (2 ln 2 - 1) ln(C/O)^2.

    Source  Garman & Klass (1980), J. Business 53.
    """
    spread, move = log(b.high) - log(b.low), log(b.close) - log(b.open)
    return _annual(_mean(0.5 * spread**2 - (0.5 * _FOUR_LOG_2 - 1.0) * move**2, b, b.medium), b)


def vol_yang_zhang(b: BarArrays) -> Float64Array:
    """Volatility with overnight gaps and drift over `medium` bars, a year.

    var(open gap) + k var(close / open) + (1 - k) mean of Rogers-Satchell, sample variances,
    k = .34 / (1.34 + (n + 1) / (n - 1)), n = medium.
    Source  Yang & Zhang (2000), J. Business 73.
    """
    n = float(b.medium)
    gap = log(b.open) - kernels.shift(log(b.close), b.starts, 1)
    up, down, move = log(b.high) - log(b.open), log(b.low) - log(b.open), log(b.close) - log(b.open)
    rogers_satchell = _mean(up * (up - move) + down * (down - move), b, b.medium)
    k = 0.34 / (1.34 + (n + 1.0) / (n - 1.0))
    bessel = n / (n - 1.0)
    _, gap_std = kernels.rolling_mean_std(gap, b.starts, b.medium, b.need(b.medium))
    _, move_std = kernels.rolling_mean_std(move, b.starts, b.medium, b.need(b.medium))
    return _annual(bessel * gap_std**2 + k * bessel * move_std**2 + (1.0 - k) * rogers_satchell, b)


def vol_ratio(b: BarArrays) -> Float64Array:
    """Log of realised volatility over `short` bars over that of `long` bars."""
    squares = b.ret * b.ret
    return 0.5 * (log(_mean(squares, b, b.short)) - log(_mean(squares, b, b.long)))


def vol_of_vol(b: BarArrays) -> Float64Array:
    """Standard deviation of log sigma over `medium` bars."""
    _, std = kernels.rolling_mean_std(log(b.sigma), b.starts, b.medium, b.need(b.medium))
    return std


def range_vol_ratio(b: BarArrays) -> Float64Array:
    """Log of Parkinson over close-to-close volatility, both over `medium` bars: movement that the close does not show."""
    spread = (log(b.high) - log(b.low)) ** 2 / _FOUR_LOG_2
    return 0.5 * (log(_mean(spread, b, b.medium)) - log(_mean(b.ret * b.ret, b, b.medium)))


def atr_ratio(b: BarArrays) -> Float64Array:
    """Average true range (Wilder, `medium` bars) over the close, over sigma.

    Source  Wilder (1978), New Concepts in Technical Trading Systems; normalised weights.
    """
    atr = b.ewma("atr_ratio.atr", true_range(b), 1.0 / b.medium, b.need(b.medium))
    atr = np.where(np.isnan(b.high - b.low), np.nan, atr)
    return ratio(ratio(atr, b.close), b.sigma)


def downside_share(b: BarArrays) -> Float64Array:
    """Share of squared returns over `long` bars that came from falls, less one half."""
    squares = b.ret * b.ret
    falls = np.where(b.ret < 0.0, squares, np.where(np.isnan(b.ret), np.nan, 0.0))
    return ratio(_mean(falls, b, b.long), _mean(squares, b, b.long)) - 0.5


def _shape(b: BarArrays, row: int) -> Float64Array:
    if "shape" not in b.shared:
        b.shared["shape"] = np.stack(kernels.rolling_shape(b.ret, b.starts, b.long, b.need(b.long)))
    out: Float64Array = b.shared["shape"][row]
    return out


def skew(b: BarArrays) -> Float64Array:
    """Skewness of log returns over `long` bars."""
    return _shape(b, 0)


def kurtosis(b: BarArrays) -> Float64Array:
    """Excess kurtosis of log returns over `long` bars."""
    return _shape(b, 1)
