"""What the tables beside the bars say: funding, implied volatility, rates, events, open interest, chains.

Everything was joined as it was known at each bar (sides.py). A table that the dump does not have leaves its features null.
"""

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families.volatility import vol_ewma
from plusultra_core.features.kernels import log, ratio


def _z(x: Float64Array, b: BarArrays) -> Float64Array:
    mean, std = kernels.rolling_mean_std(x, b.starts, b.long, b.need(b.long), b.since)
    return ratio(x - mean, std)


def funding_carry(b: BarArrays) -> Float64Array:
    """Mean funding rate of the last `medium` bars, a year; longs pay when above 0."""
    return kernels.rolling_mean(b.side["funding"], b.starts, b.medium, b.need(b.medium), b.since)


def funding_z(b: BarArrays) -> Float64Array:
    """Funding rate in standard deviations from its mean over `long` bars."""
    return _z(b.side["funding"], b)


def implied_spread(b: BarArrays) -> Float64Array:
    """Implied volatility of the symbol less its EWMA volatility, both a year: the price of variance."""
    return b.side["implied_vol"] - vol_ewma(b)


def implied_change(b: BarArrays) -> Float64Array:
    """Log change of the symbol's implied volatility over `short` bars."""
    implied = log(b.side["implied_vol"])
    return implied - kernels.shift(implied, b.starts, b.short)


def implied_z(b: BarArrays) -> Float64Array:
    """Log implied volatility of the symbol in standard deviations from its mean over `long` bars."""
    return _z(log(b.side["implied_vol"]), b)


def market_vol_level(b: BarArrays) -> Float64Array:
    """Log of the market's implied volatility."""
    return log(b.side["market_vol"])


def market_vol_change(b: BarArrays) -> Float64Array:
    """Log change of the market's implied volatility over `short` bars."""
    implied = log(b.side["market_vol"])
    return implied - kernels.shift(implied, b.starts, b.short)


def rate_level(b: BarArrays) -> Float64Array:
    """Short interest rate, a fraction a year."""
    return b.side["rate_short"]


def rate_change(b: BarArrays) -> Float64Array:
    """Change of the long rate (the short one where there is none) over `medium` bars, a fraction."""
    rate = np.where(np.isnan(b.side["rate_long"]), b.side["rate_short"], b.side["rate_long"])
    return rate - kernels.shift(rate, b.starts, b.medium)


def rate_slope(b: BarArrays) -> Float64Array:
    """Long less short interest rate, a fraction a year."""
    return b.side["rate_long"] - b.side["rate_short"]


def macro_age(b: BarArrays) -> Float64Array:
    """log(1 + days since the newest macro event was known)."""
    return np.log1p(b.side["macro_age_days"])


def macro_surprise(b: BarArrays) -> Float64Array:
    """Change in the newest macro event, in root mean squares of that event's changes so far."""
    return b.side["macro_surprise"]


def open_interest_change(b: BarArrays) -> Float64Array:
    """Log change of open interest over `short` bars."""
    held = log(b.side["open_interest"])
    return held - kernels.shift(held, b.starts, b.short)


def onchain_activity(b: BarArrays) -> Float64Array:
    """Log activity on the symbol's chain in standard deviations from its mean over `long` bars."""
    return _z(log(b.side["onchain"]), b)
