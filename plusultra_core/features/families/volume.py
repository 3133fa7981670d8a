"""Trading activity and what it costs to move a price. All null where the dump has no volume."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.kernels import log, ratio


def _mean(x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    return kernels.rolling_mean(x, b.starts, window, b.need(window))


def volume_z(b: BarArrays) -> Float64Array:
    """Log volume in standard deviations from its mean over `long` bars."""
    activity = log(b.volume)
    mean, std = kernels.rolling_mean_std(activity, b.starts, b.long, b.need(b.long))
    return ratio(activity - mean, std)


def amihud(b: BarArrays) -> Float64Array:
    """Log of the mean of |log return| over traded notional, over `medium` bars: illiquidity.

    Units   log of 1 / currency; compare within a symbol, or across symbols of one currency.
    Source  Amihud (2002), J. Financial Markets 5.
    """
    return log(_mean(ratio(np.abs(b.ret), b.close * b.volume), b, b.medium))


def amihud_change(b: BarArrays) -> Float64Array:
    """Log of Amihud illiquidity over `medium` bars over that of `long` bars."""
    illiquidity = ratio(np.abs(b.ret), b.close * b.volume)
    return log(_mean(illiquidity, b, b.medium)) - log(_mean(illiquidity, b, b.long))


def obv_slope(b: BarArrays) -> Float64Array:
    """Least-squares slope of on-balance volume over `medium` bars over the mean volume of these bars.

    Source  Granville (1963); the slope is ours.
    """
    signed = np.where(np.isnan(b.ret), 0.0, np.sign(b.ret)) * b.volume
    slope, _ = kernels.rolling_slope(b.cumulative("obv_slope.obv", signed), b.starts, b.medium)
    return ratio(slope, _mean(b.volume, b, b.medium))


def cmf(b: BarArrays) -> Float64Array:
    """Chaikin money flow over `medium` bars, in [-1, 1]; a bar without range weighs 0.

    Source  Chaikin, after Williams' accumulation / distribution.
    """
    spread = b.high - b.low
    place = np.where(spread == 0.0, 0.0, ratio(2.0 * b.close - b.high - b.low, spread))
    weight = np.where(np.isnan(place), np.nan, b.volume)
    return ratio(_mean(place * weight, b, b.medium), _mean(weight, b, b.medium))


def vwap_ratio(b: BarArrays) -> Float64Array:
    """Log of the close over the volume-weighted typical price of `medium` bars, over sigma sqrt(medium)."""
    typical = (b.high + b.low + b.close) / 3.0
    weight = np.where(np.isnan(typical), np.nan, b.volume)
    vwap = ratio(_mean(typical * weight, b, b.medium), _mean(weight, b, b.medium))
    return ratio(log(b.close) - log(vwap), b.sigma * np.sqrt(b.medium))


def turnover_ratio(b: BarArrays) -> Float64Array:
    """Log of mean traded notional over `short` bars over that of `long` bars."""
    notional = b.close * b.volume
    return log(_mean(notional, b, b.short)) - log(_mean(notional, b, b.long))


def volume_trend(b: BarArrays) -> Float64Array:
    """Correlation of log volume with time over `long` bars."""
    return kernels.rolling_slope(log(b.volume), b.starts, b.long)[1]
