"""Trading activity and what it costs to move a price. All null where the dump has no volume."""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import indicators, kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.oscillators import typical
from plusultra_core.features.families.returns import in_sigmas, log_close, log_high, log_low
from plusultra_core.features.families.trend import close_change, exponential
from plusultra_core.features.families.volatility import ret_times_before
from plusultra_core.features.kernels import log, ratio


def _mean(x: Float64Array, b: BarArrays, window: int) -> Float64Array:
    return kernels.rolling_mean(x, b.starts, window, b.need(window), b.since)


def log_volume(b: BarArrays) -> Float64Array:
    """Logarithm of the volume; none where nothing was traded."""
    return b.once("log_volume", lambda: log(b.volume))


def notional(b: BarArrays) -> Float64Array:
    """Traded notional: close times volume."""
    return b.once("notional", lambda: b.close * b.volume)


def money(b: BarArrays) -> Float64Array:
    """Traded notional in the currency of the account, at the rate known at the bar: what symbols may be compared by."""
    return b.once("money", lambda: notional(b) * b.side["money"])


def illiquidity(b: BarArrays, window: int) -> Float64Array:
    """Mean of |log return| over traded notional, account currency."""
    return b.once(f"illiquidity.{window}", lambda: _mean(ratio(np.abs(b.ret), money(b)), b, window))


def signed_volume(b: BarArrays) -> Float64Array:
    """Volume with the sign of the bar's return; 0 on a symbol's first bar and where the close stands."""
    return b.once("signed_volume", lambda: np.sign(np.nan_to_num(b.ret)) * b.volume)


def obv(b: BarArrays) -> Float64Array:
    """On-balance volume: signed volume summed from the symbol's first bar, where it is 0.

    Source  Granville (1963), New Key to Stock Market Profits.
    """
    return b.cumulative("obv", signed_volume(b))


def _accumulation(b: BarArrays) -> tuple[Float64Array, Float64Array]:
    return b.once("accumulation", lambda: indicators.accumulation(b.high, b.low, b.close, b.volume))


def accumulation_line(b: BarArrays) -> Float64Array:
    """Chaikin's accumulation / distribution line, summed from the symbol's first bar."""
    return b.cumulative("accumulation_line", _accumulation(b)[0])


def volume_z(b: BarArrays) -> Float64Array:
    """Log volume in standard deviations from its mean over `long` bars."""
    mean, std = kernels.rolling_mean_std(log_volume(b), b.starts, b.long, b.need(b.long), b.since)
    return ratio(log_volume(b) - mean, std)


def amihud(b: BarArrays) -> Float64Array:
    """Log of the mean of |log return| over traded notional, over `medium` bars: illiquidity.

    Units   log of 1 / currency of the account.
    Source  Amihud (2002), J. Financial Markets 5.
    """
    return log(illiquidity(b, b.medium))


def amihud_change(b: BarArrays) -> Float64Array:
    """Log of Amihud illiquidity over `medium` bars over that of `long` bars."""
    return log(ratio(illiquidity(b, b.medium), illiquidity(b, b.long)))


def obv_slope(b: BarArrays) -> Float64Array:
    """Least-squares slope of on-balance volume over `medium` bars over the mean volume of these bars.

    Source  Granville (1963); the slope is ours.
    """
    slope, _ = kernels.rolling_slope(obv(b), b.starts, b.medium)
    return ratio(slope, _mean(b.volume, b, b.medium))


def obv_balance(b: BarArrays) -> Float64Array:
    """On-balance volume that starts `long` bars ago over the volume of these bars, in [-1, 1].

    Source  Granville (1963); the start is ours: a sum from the first bar of a dump depends on where the dump starts.
    """
    return ratio(_mean(signed_volume(b), b, b.long), _mean(b.volume, b, b.long))


def force_index(b: BarArrays) -> Float64Array:
    """EMA(medium) of change of the close times volume, over EMA(medium) of volume, the close and sigma.

    Source  Elder (1993), Trading for a Living: the force index.
    """
    force = exponential("force_index.force", close_change(b) * b.volume, b, b.medium)
    size = exponential("force_index.volume", b.volume, b, b.medium)
    return np.where(np.isnan(b.volume), np.nan, ratio(force, size * b.close * b.sigma))


def cmf(b: BarArrays) -> Float64Array:
    """Chaikin money flow over `medium` bars, in [-1, 1]; a bar without range weighs 0.

    Source  Chaikin, after Williams' accumulation / distribution.
    """
    flow, weight = _accumulation(b)
    return ratio(_mean(flow, b, b.medium), _mean(weight, b, b.medium))


def chaikin_oscillator_value(b: BarArrays) -> Float64Array:
    """EMA(short) less EMA(medium) of the accumulation / distribution line, in volume."""
    line = accumulation_line(b)
    return exponential("chaikin.fast", line, b, b.short) - exponential("chaikin.slow", line, b, b.medium)


def chaikin_oscillator(b: BarArrays) -> Float64Array:
    """EMA(short) less EMA(medium) of accumulation / distribution, over the mean volume of `medium` bars.

    Source  Chaikin; the scale is ours.
    """
    flow, weight = _accumulation(b)
    return np.where(np.isnan(flow), np.nan, ratio(chaikin_oscillator_value(b), _mean(weight, b, b.medium)))


def mfi(b: BarArrays) -> Float64Array:
    """Money flow index over `medium` bars, (MFI - 50) / 50 in [-1, 1].

    Source  Quong & Soudack (1989), Technical Analysis of Stocks & Commodities 7.
    """
    signed, size = indicators.money_flow(typical(b), b.volume, b.starts)
    return ratio(_mean(signed, b, b.medium), _mean(size, b, b.medium))


def vwap_ratio(b: BarArrays) -> Float64Array:
    """Log of the close over the volume-weighted typical price of `medium` bars, over sigma sqrt(medium)."""
    flow = typical(b) * b.volume
    weight = np.where(np.isnan(flow), np.nan, b.volume)
    vwap = ratio(_mean(flow, b, b.medium), _mean(weight, b, b.medium))
    return in_sigmas(log_close(b) - log(vwap), b, b.medium)


def turnover_ratio(b: BarArrays) -> Float64Array:
    """Log of mean traded notional over `short` bars over that of `long` bars."""
    return log(ratio(_mean(notional(b), b, b.short), _mean(notional(b), b, b.long)))


def volume_trend(b: BarArrays) -> Float64Array:
    """Correlation of log volume with time over `long` bars."""
    return kernels.rolling_slope(log_volume(b), b.starts, b.long)[1]


def kyle_lambda(b: BarArrays) -> Float64Array:
    """Slope of log returns on signed notional over `long` bars, times the mean notional, over sigma.

    Mean of |r| n over mean of n^2, times mean n: the move, in sigma, that one bar's usual trading comes with.
    Source  Kyle (1985), Econometrica 53; signed by the return of the bar, for want of a side.
    """
    size = np.where(np.isnan(b.ret), np.nan, notional(b))
    slope = ratio(_mean(np.abs(b.ret) * size, b, b.long), _mean(size * size, b, b.long))
    return ratio(slope * _mean(size, b, b.long), b.sigma)


def roll_spread(b: BarArrays) -> Float64Array:
    """2 sqrt(-mean of r_t r_(t-1)) over `medium` bars, 0 where that mean is above 0, over sigma: the bounce between bid and ask.

    Source  Roll (1984), J. Finance 39; log returns about zero.
    """
    bounce = np.maximum(-_mean(ret_times_before(b), b, b.medium), 0.0)
    return ratio(2.0 * np.sqrt(bounce), b.sigma)


def corwin_schultz_spread(b: BarArrays) -> Float64Array:
    """Mean of the bid-ask spread that ranges of two bars tell, over `medium` bars, over sigma.

    Source  Corwin & Schultz (2012), J. Finance 67; estimates below 0 count 0, overnight gaps are taken out.
    """
    return ratio(_mean(indicators.corwin_schultz(log_high(b), log_low(b), log_close(b), b.starts), b, b.medium), b.sigma)
