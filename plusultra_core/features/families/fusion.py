"""What a table beside the bars and the bars say together, that neither says alone.

Null where either side is. A product has the sign of agreement; both factors are without unit.
"""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families import alternative, returns, volatility
from plusultra_core.features.kernels import log, ratio


def carry_momentum(b: BarArrays) -> Float64Array:
    """funding_carry over vol_ewma, times ret_medium: above 0 the crowd pays to follow the trend."""
    return ratio(alternative.funding_carry(b), volatility.vol_ewma(b)) * returns.ret_medium(b)


def implied_trend(b: BarArrays) -> Float64Array:
    """Log of implied over EWMA volatility, times ret_long: below 0 options fear for a rise, or do not believe a fall is over."""
    return log(ratio(b.side["implied_vol"], volatility.vol_ewma(b))) * returns.ret_long(b)


def open_interest_confirmation(b: BarArrays) -> Float64Array:
    """open_interest_change times the sign of the return over the same `short` bars: above 0 new money follows a rise.

    Source  Murphy (1999), Technical Analysis of the Financial Markets, chapter 7.
    """
    return alternative.open_interest_change(b) * np.sign(returns.ret_short(b))


def rate_momentum(b: BarArrays) -> Float64Array:
    """rate_slope in percentage points, times ret_long: momentum, with the sign of the yield curve."""
    return 100.0 * alternative.rate_slope(b) * returns.ret_long(b)


def onchain_divergence(b: BarArrays) -> Float64Array:
    """onchain_activity less the log close in standard deviations from its mean over `long` bars: use without price."""
    price = returns.log_close(b)
    mean, std = kernels.rolling_mean_std(price, b.starts, b.long, b.need(b.long), b.since)
    return alternative.onchain_activity(b) - ratio(price - mean, std)


def macro_vol_response(b: BarArrays) -> Float64Array:
    """vol_ratio over 1 + days since the newest macro event: how the news of late shook the price."""
    return volatility.vol_ratio(b) / (1.0 + b.side["macro_age_days"])


def fear_response(b: BarArrays) -> Float64Array:
    """market_vol_change times ret_short: below 0 the symbol moved against the market's fear, as most do."""
    return alternative.market_vol_change(b) * returns.ret_short(b)


def market_vol_spread(b: BarArrays) -> Float64Array:
    """Log of the market's implied volatility over the symbol's EWMA volatility, both a year."""
    return log(ratio(b.side["market_vol"], volatility.vol_ewma(b)))
