"""Where a symbol stands among the class at the same moment, from -.5 (lowest) to .5 (highest).

A bar is ranked among the bars of its ts_ns that were known by the time it was.
"""

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families import returns, volume

_MIN_PEERS = 3


def rank_ret_short(b: BarArrays) -> Float64Array:
    """Rank of ret_short in the class, in (-.5, .5).

    Source  Jegadeesh (1990), J. Finance 45: last week's winners and losers.
    """
    return b.cross_rank(returns.ret_short(b), _MIN_PEERS)


def rank_ret_medium(b: BarArrays) -> Float64Array:
    """Rank of ret_medium in the class, in (-.5, .5)."""
    return b.cross_rank(returns.ret_medium(b), _MIN_PEERS)


def rank_ret_long(b: BarArrays) -> Float64Array:
    """Rank of ret_long in the class, in (-.5, .5).

    Source  Jegadeesh & Titman (1993), J. Finance 48: relative strength.
    """
    return b.cross_rank(returns.ret_long(b), _MIN_PEERS)


def rank_vol(b: BarArrays) -> Float64Array:
    """Rank of the EWMA volatility in the class, in (-.5, .5).

    Source  Ang, Hodrick, Xing & Zhang (2006), J. Finance 61.
    """
    return b.cross_rank(b.sigma, _MIN_PEERS)


def rank_turnover(b: BarArrays) -> Float64Array:
    """Rank of mean traded notional over `medium` bars in the class, in (-.5, .5), in the currency of the account."""
    size = volume.money(b)
    return b.cross_rank(kernels.rolling_mean(size, b.starts, b.medium, b.need(b.medium), b.since), _MIN_PEERS)


def rank_amihud(b: BarArrays) -> Float64Array:
    """Rank of Amihud illiquidity over `medium` bars in the class, in (-.5, .5), in the currency of the account.

    Source  Amihud (2002), J. Financial Markets 5.
    """
    return b.cross_rank(volume.illiquidity(b, b.medium), _MIN_PEERS)
