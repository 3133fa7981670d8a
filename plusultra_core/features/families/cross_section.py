"""Where a symbol stands among the class at the same moment, from -.5 (lowest) to .5 (highest).

A bar is ranked among the bars of its ts_ns that were known by the time it was.
"""

from plusultra_core.arrays import Float64Array
from plusultra_core.features import kernels
from plusultra_core.features.arrays import BarArrays
from plusultra_core.features.families import returns, volume

_MIN_PEERS = 3


def _rank(name: str, x: Float64Array, b: BarArrays) -> Float64Array:
    return b.cross_rank(name, x, _MIN_PEERS) - 0.5


def rank_ret_short(b: BarArrays) -> Float64Array:
    """Rank of ret_short in the class, in (-.5, .5).

    Source  Jegadeesh (1990), J. Finance 45: last week's winners and losers.
    """
    return _rank("rank_ret_short", returns.ret_short(b), b)


def rank_ret_medium(b: BarArrays) -> Float64Array:
    """Rank of ret_medium in the class, in (-.5, .5)."""
    return _rank("rank_ret_medium", returns.ret_medium(b), b)


def rank_ret_long(b: BarArrays) -> Float64Array:
    """Rank of ret_long in the class, in (-.5, .5).

    Source  Jegadeesh & Titman (1993), J. Finance 48: relative strength.
    """
    return _rank("rank_ret_long", returns.ret_long(b), b)


def rank_vol(b: BarArrays) -> Float64Array:
    """Rank of the EWMA volatility in the class, in (-.5, .5).

    Source  Ang, Hodrick, Xing & Zhang (2006), J. Finance 61.
    """
    return _rank("rank_vol", b.sigma, b)


def rank_turnover(b: BarArrays) -> Float64Array:
    """Rank of mean traded notional over `medium` bars in the class, in (-.5, .5); all in one currency."""
    size = volume.notional(b)
    return _rank("rank_turnover", kernels.rolling_mean(size, b.starts, b.medium, b.need(b.medium)), b)


def rank_amihud(b: BarArrays) -> Float64Array:
    """Rank of Amihud illiquidity over `medium` bars in the class, in (-.5, .5); all in one currency.

    Source  Amihud (2002), J. Financial Markets 5.
    """
    return _rank("rank_amihud", volume.illiquidity(b, b.medium), b)
